package reference

import (
	"net/netip"

	"github.com/perimeterd/perimeterd/pkg/policy"
)

// Tracker decides packets with the memory of those before them. It is not safe
// for use by several goroutines. Flows have no timeouts: they last until Forget
// or Flush, until a connection that is over begins anew, or until a changed
// policy denies them, or makes nobody's what was a member's or the reverse.
type Tracker struct {
	evaluator *Evaluator
	flows     map[flowKey]flow
}

// flowKey is the same for both directions of a flow. A flow between two
// members on one host has two entries, one from each end's view.
type flowKey struct {
	local, peer         netip.Addr
	localPort, peerPort uint16
	protocol            uint8
}

// flow is what is remembered of a flow: the decision that let it in, the
// generation that took it, and what its packets said since then of its end.
type flow struct {
	opened    Decision
	evaluator *Evaluator

	reset                 bool
	finByPeer, finByLocal bool
	midStream             bool    // it was met without its opening
	answered              bool    // TCP: the side that did not open it acknowledged something
	local, peer           numbers // of what the resource sends, and its peer
}

// over reports a connection after which a SYN begins a new one.
func (f flow) over() bool { return f.reset || f.finByPeer && f.finByLocal }

// note remembers what a packet of the flow says of its state.
func (f *flow) note(pkt Packet) {
	if pkt.Protocol != policy.ProtocolTCP {
		return
	}
	if pkt.TCPFlags&RST != 0 {
		f.reset = f.reset || f.isReset(pkt)
		return
	}
	f.answered = f.answered || pkt.Direction() != f.opened.Direction && pkt.TCPFlags&ACK != 0
	fin := pkt.TCPFlags&FIN != 0
	if pkt.Towards {
		f.finByPeer = f.finByPeer || fin && f.isFIN(pkt)
	} else {
		f.finByLocal = f.finByLocal || fin
	}
	f.follow(pkt)
}

// crosses reports whether the packet opens a flow the other way than this one
// went, which is another one: an echo request, or a SYN unless both sides open at
// the same time. Who opened a flow that was met in mid-stream is a guess, on which
// nobody may open another.
func (f flow) crosses(pkt Packet) bool {
	if pkt.Direction() == f.opened.Direction {
		return false
	}
	return pkt.isEcho() && !pkt.isEchoReply() || pkt.opensTCP() && (f.midStream || f.answered)
}

// NewTracker starts without flows.
func NewTracker(e *Evaluator) *Tracker {
	return &Tracker{evaluator: e, flows: make(map[flowKey]flow)}
}

// Replace puts another generation in force. Flows stay and are judged again at
// their next packet.
func (t *Tracker) Replace(e *Evaluator) { t.evaluator = e }

// Forget ends the flow the packet belongs to, if there is one.
func (t *Tracker) Forget(pkt Packet) { delete(t.flows, keyOf(pkt)) }

// Flush ends all flows.
func (t *Tracker) Flush() { clear(t.flows) }

// Flows returns the number of flows.
func (t *Tracker) Flows() int { return len(t.flows) }

// Decide decides one packet.
func (t *Tracker) Decide(pkt Packet) Decision {
	if pkt.Unjudgeable != "" {
		return t.evaluator.Unjudged(pkt)
	}
	key := keyOf(pkt)
	if f, ok := t.flows[key]; ok {
		if d, ok := t.decideTracked(key, f, pkt); ok {
			return d
		}
	}
	if pkt.NeededByLink {
		return withoutPolicy(pkt, ReasonLinkFailsafe)
	}
	if pkt.Towards && pkt.Arrives && t.evaluator.isOwn(pkt.Peer) {
		// Whomever it reaches, errors about it would come back to this host: so it
		// is as if it had no addresses.
		return t.evaluator.Unjudged(Packet{Towards: true, Interface: pkt.Interface, Unjudgeable: ReasonForgedSource})
	}
	if pkt.isICMPError() {
		if d, ok := t.decideRelated(pkt); ok {
			return d
		}
	}
	d := t.open(pkt)
	if t.makesFlow(d, pkt) {
		f := flow{opened: d, evaluator: t.evaluator, midStream: pkt.isMidStream()}
		f.note(pkt)
		t.flows[key] = f
	}
	return d
}

// makesFlow reports whether the packet, decided so, begins a flow. One to a
// port that none of the address's resources lists does too: its answers leave
// from an address whose outbound traffic is a resource's.
func (t *Tracker) makesFlow(d Decision, pkt Packet) bool {
	if !d.Governed {
		return !pkt.isMidStream() && t.evaluator.unlisted(d.Direction, pkt)
	}
	return d.Verdict == policy.Allow && !(pkt.isMidStream() && pkt.TCPFlags&RST != 0)
}

// decideTracked decides a packet of a flow: allowed, whichever way it goes. If
// another generation took the flow, it is judged again as it was opened. False:
// the packet is none of the flow's, or the flow is over: it is as if it had
// never been.
func (t *Tracker) decideTracked(key flowKey, f flow, pkt Packet) (Decision, bool) {
	if f.evaluator != t.evaluator {
		d := t.evaluator.Judge(f.opened.Direction, pkt)
		if d.Verdict == policy.Deny {
			delete(t.flows, key)
			d.Cut = true
			return d, true
		}
		stays := d.Governed && f.opened.Governed
		if !f.opened.Governed {
			stays = !d.Governed && t.evaluator.unlisted(f.opened.Direction, pkt)
		}
		if !stays {
			delete(t.flows, key)
			return d, false
		}
		f.opened, f.evaluator = d, t.evaluator
	}
	if f.crosses(pkt) || pkt.opensTCP() && f.over() {
		t.flows[key] = f
		return Decision{}, false // if it is denied, the flow stays
	}
	f.note(pkt)
	t.flows[key] = f
	return f.pass(ReasonEstablished), true
}

// decideRelated passes an ICMP error that comes to the sender of a packet of a
// flow, if the flow is still allowed.
func (t *Tracker) decideRelated(pkt Packet) (Decision, bool) {
	quoted := pkt.Quoted
	if quoted == nil {
		return Decision{}, false
	}
	reachesSender := quoted.Local == pkt.Local
	if !pkt.Towards {
		reachesSender = quoted.Peer == pkt.Peer
	}
	f, ok := t.flows[keyOf(*quoted)]
	if !ok || !reachesSender {
		return Decision{}, false
	}
	if f.evaluator != t.evaluator {
		crossing := *quoted
		crossing.Interface = pkt.Interface
		if t.evaluator.Judge(f.opened.Direction, crossing).Verdict == policy.Deny {
			return Decision{}, false
		}
	}
	return f.pass(ReasonRelated), true
}

// open decides a packet that belongs to no flow.
func (t *Tracker) open(pkt Packet) Decision {
	if !pkt.isMidStream() {
		return t.evaluator.Judge(pkt.Direction(), pkt)
	}
	// Nobody knows who opened the connection, so both directions are asked and
	// one that allows is enough. In Audit that is asked of the verdicts that
	// Enforced would give, so that what Enforced would let pass is not told as
	// a denial.
	in := t.evaluator.Judge(policy.Inbound, pkt)
	out := t.evaluator.Judge(policy.Outbound, pkt)
	switch {
	case !in.Governed && out.WouldBe == policy.Deny && pkt.LocalPort >= pkt.PeerPort:
		// To a port that nobody lists, but likelier from one that the member
		// opened: what it may not open does not pass as an answer.
		return out
	case in.WouldBe == policy.Allow && out.WouldBe == policy.Deny:
		return in
	case in.WouldBe == policy.Deny && out.WouldBe == policy.Allow:
		return out
	case in.WouldBe == policy.Deny && pkt.Towards:
		return in
	case in.WouldBe == policy.Deny:
		return out
	case pkt.LocalPort < pkt.PeerPort: // the lower port is likelier the server's
		return in
	default:
		return out
	}
}

// pass is the decision about a packet that passes because of a flow. It has
// the flow's member, direction and rule, and is not logged.
func (f flow) pass(reason policy.Reason) Decision {
	d := f.opened
	d.Reason = reason
	d.Category = ""
	return d
}

// keyOf is the key of the flow the packet belongs to. Instead of ports, ICMP has
// what the message is about and which side opened: of an echo its identifier,
// so that only a reply answers a request; of all else its type and code.
func keyOf(pkt Packet) flowKey {
	key := flowKey{
		local:     pkt.Local,
		peer:      pkt.Peer,
		localPort: pkt.localPort(),
		peerPort:  pkt.peerPort(),
		protocol:  pkt.Protocol,
	}
	if !pkt.isICMP() {
		return key
	}
	const byPeer, byLocal, notEcho = 1, 2, 2
	key.localPort, key.peerPort = pkt.EchoID, byLocal
	if pkt.Towards != pkt.isEchoReply() {
		key.peerPort = byPeer
	}
	if !pkt.isEcho() {
		key.localPort = uint16(pkt.ICMPType)<<8 | uint16(pkt.ICMPCode)
		key.peerPort += notEcho
	}
	return key
}
