package reference

import (
	"net/netip"

	"github.com/perimeterd/perimeterd/pkg/policy"
)

// Reasons of later fragments, spelled as the data path spells them.
const (
	// ReasonFragmentFollows: a later fragment, whose first was allowed.
	ReasonFragmentFollows policy.Reason = "fragment-follows"
	// ReasonFragmentDenied: a later fragment, whose first was denied.
	ReasonFragmentDenied policy.Reason = "fragment-denied"
	// ReasonFragmentOverlap: a later fragment that gives headers anew which its
	// first was judged by. It cannot be judged.
	ReasonFragmentOverlap policy.Reason = "fragment-overlap"
	// ReasonFragmentUnknown: a later fragment, whose first was not seen. It
	// cannot be judged.
	ReasonFragmentUnknown policy.Reason = "fragment-unknown"
)

// Session decides whole frames in the order in which they cross a hook: a
// Tracker with a parser in front of it and a memory of first fragments. It has
// no timeouts and is not safe for use by several goroutines.
type Session struct {
	tracker *Tracker
	firsts  map[datagram]first
}

// datagram is what tells the fragments of one datagram from those of others.
type datagram struct {
	local, peer netip.Addr
	towards     bool
	id          uint32
	protocol    uint8 // 0 in IPv6, whose receivers do not ask for it
}

// first is what is remembered of a first fragment.
type first struct {
	verdict policy.Verdict
	headers int
}

// NewSession starts without flows and fragments.
func NewSession(e *Evaluator) *Session {
	return &Session{tracker: NewTracker(e), firsts: make(map[datagram]first)}
}

// Replace puts another generation in force. Flows and fragments stay.
func (s *Session) Replace(e *Evaluator) { s.tracker.Replace(e) }

// Decide decides one frame that crosses an interface on its way towards a
// member, or from one.
func (s *Session) Decide(frame []byte, towards bool, interfaceName string) Decision {
	f := ReadFrame(frame, towards)
	f.Packet.Interface = interfaceName
	return s.decide(f)
}

// Arrive decides one frame that comes in from a wire by an uplink, and so is on
// its way towards a member.
func (s *Session) Arrive(frame []byte, interfaceName string) Decision {
	f := ReadFrame(frame, true)
	f.Packet.Interface, f.Packet.Arrives = interfaceName, true
	return s.decide(f)
}

func (s *Session) decide(f Frame) Decision {
	if f.NotIP {
		return withoutPolicy(f.Packet, ReasonNotIP)
	}
	if f.Fragment.Part == Later && f.Packet.Unjudgeable == "" {
		return s.decideLater(f)
	}
	f.Packet.NeededByLink = f.neededByLink()
	d := s.tracker.Decide(f.Packet)
	if f.Fragment.Part == First && s.remembers(d, f.Packet) {
		s.firsts[f.datagram()] = first{d.Verdict, f.Fragment.Headers}
	}
	return d
}

// decideLater decides a fragment that has no headers of its own by its first.
func (s *Session) decideLater(f Frame) Decision {
	first, known := s.firsts[f.datagram()]
	switch {
	case !known:
		f.Packet.Unjudgeable = ReasonFragmentUnknown
	case f.Fragment.Offset < first.headers:
		f.Packet.Unjudgeable = ReasonFragmentOverlap
	case first.verdict == policy.Allow:
		return withoutPolicy(f.Packet, ReasonFragmentFollows)
	default:
		return s.decideDenied(f)
	}
	return s.tracker.Decide(f.Packet)
}

// decideDenied denies the rest of a datagram, whichever member it is of. Only
// Audit drops nothing, even if it came into force in between.
func (s *Session) decideDenied(f Frame) Decision {
	f.Packet.Unjudgeable = ReasonFragmentDenied
	d := s.tracker.Decide(f.Packet)
	if d.Governed && d.AccessMode != policy.Audit {
		d.Verdict, d.WouldBe = policy.Deny, policy.Deny
		d.Category = policy.CategoryOf(d.Reason, d.Direction)
	}
	return d
}

// remembers reports whether the rest of a datagram will be decided by its
// first fragment. What is of no member leaves no trace, unless it made a flow,
// nor does what nobody sent.
func (s *Session) remembers(d Decision, pkt Packet) bool {
	switch d.Reason {
	case ReasonForgedSource:
		return false
	case ReasonUngoverned:
		return s.tracker.evaluator.unlisted(d.Direction, pkt)
	}
	return true
}

func (f Frame) datagram() datagram {
	key := datagram{
		local:   f.Packet.Local,
		peer:    f.Packet.Peer,
		towards: f.Packet.Towards,
		id:      f.Fragment.ID,
	}
	if key.local.Is4() {
		key.protocol = f.Packet.Protocol
	}
	return key
}

// neededByLink reports a packet without which a host loses its address, its
// router or its neighbours.
func (f Frame) neededByLink() bool {
	pkt := f.Packet
	if pkt.Unjudgeable != "" || f.Fragment.Part != Whole {
		return false
	}
	switch {
	case pkt.Local.Is6() && pkt.Protocol == policy.ProtocolICMPv6:
		// Neighbour and router discovery comes from the link, and so with a full
		// hop limit (RFC 4861); listener discovery does not leave it (RFC 2710,
		// RFC 3810).
		discovery := 133 <= pkt.ICMPType && pkt.ICMPType <= 137
		listeners := 130 <= pkt.ICMPType && pkt.ICMPType <= 132 || pkt.ICMPType == 143
		return discovery && f.HopLimit == 255 || listeners && f.HopLimit == 1
	case pkt.Local.Is4() && pkt.Protocol == policy.ProtocolIGMP:
		return f.HopLimit == 1 // RFC 3376
	case pkt.Protocol == policy.ProtocolUDP && pkt.Local.Is4():
		return pkt.LocalPort == 68 && pkt.PeerPort == 67 // DHCP, RFC 2131
	case pkt.Protocol == policy.ProtocolUDP:
		return pkt.LocalPort == 546 && pkt.PeerPort == 547 // DHCPv6, RFC 8415
	}
	return false
}

// Flow is what is remembered of an allowed flow.
type Flow struct {
	Local, Peer         netip.Addr
	LocalPort, PeerPort uint16 // 0 for protocols without ports
	Protocol            uint8
	Opened              Decision // that let it in
}

// Flows calls yield for each flow, in no order, until it returns false.
func (s *Session) Flows(yield func(Flow) bool) {
	for key, f := range s.tracker.flows {
		out := Flow{Local: key.local, Peer: key.peer, Protocol: key.protocol, Opened: f.opened}
		if policy.HasPorts(key.protocol) {
			out.LocalPort, out.PeerPort = key.localPort, key.peerPort
		}
		if !yield(out) {
			return
		}
	}
}
