package reference

import (
	"net/netip"
	"slices"

	"github.com/perimeterd/perimeterd/pkg/policy"
)

// isMulticast reports a packet for several hosts at once. What a host sends in the
// name of all hosts of its network, which only a forger does, is judged like what
// is sent to them.
func (e *Evaluator) isMulticast(pkt Packet) bool {
	if slices.Contains(e.broadcasts, pkt.Local) {
		return true
	}
	for _, prefix := range []netip.Prefix{
		netip.MustParsePrefix("224.0.0.0/4"),
		netip.MustParsePrefix("255.255.255.255/32"),
		netip.MustParsePrefix("0.0.0.0/32"), // the oldest form of broadcast
		netip.MustParsePrefix("ff00::/8"),
	} {
		if pkt.Towards && prefix.Contains(pkt.Local) {
			return true
		}
	}
	return false
}

// broadcastsOf returns the directed broadcast addresses of the host. Where nobody
// lives there is nobody to judge them for; then they are addresses like others.
func (e *Evaluator) broadcastsOf(facts *policy.Facts) []netip.Addr {
	if len(e.livingHere()) == 0 {
		return nil
	}
	var out []netip.Addr
	for _, i := range facts.Interfaces {
		out = append(out, i.Broadcasts...)
	}
	return out
}

// judgeMulticast judges for every resource that lives on this host and, inbound,
// serves the port: denied if any of them denies.
func (e *Evaluator) judgeMulticast(direction policy.Direction, pkt Packet) Decision {
	first := ungoverned(direction)
	for _, m := range e.livingHere() {
		if direction == policy.Inbound && len(m.resource.Services) > 0 && !serves(m.resource.Services, pkt.Protocol, pkt.localPort()) {
			continue
		}
		d := e.judgeFor(m, direction, pkt)
		if d.Verdict == policy.Deny {
			return d
		}
		if !first.Governed {
			first = d
		}
	}
	return first
}

// isOwn reports whether a member has the address on this host itself, and not
// behind it.
func (e *Evaluator) isOwn(addr netip.Addr) bool {
	if len(e.carriedMembers(addr)) == 0 {
		return false // nobody's: whoever uses it is judged as any peer
	}
	for _, i := range e.facts.Interfaces {
		if !i.Workload && !i.Loopback && slices.Contains(i.Addresses, addr) {
			return true
		}
	}
	return false
}

// livingHere returns the members that may be on this host, by name.
func (e *Evaluator) livingHere() []*member {
	var out []*member
	for _, m := range e.members {
		if e.facts.LivesHere(m.prefixes) {
			out = append(out, m)
		}
	}
	return out
}
