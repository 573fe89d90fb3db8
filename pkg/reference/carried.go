package reference

import (
	"net/netip"
	"slices"

	"github.com/perimeterd/perimeterd/pkg/policy"
)

// Carried returns the resources an address carries: those whose prefixes
// contain it, grouped by their longest prefix that does, the longest first, up
// to and including the first group with a resource that has no services. So a
// more specific resource without services hides the wider ones, and one with
// services is laid over them. Within a group the order is by name.
func (e *Evaluator) Carried(addr netip.Addr) [][]*policy.Resource {
	var out [][]*policy.Resource
	for _, group := range e.carried(addr) {
		var resources []*policy.Resource
		for _, m := range group {
			resources = append(resources, m.resource)
		}
		out = append(out, resources)
	}
	return out
}

// carried is Carried with what the perimeters say of each resource.
func (e *Evaluator) carried(addr netip.Addr) [][]*member {
	byLength := make(map[int][]*member)
	for _, m := range e.members {
		if bits, ok := longestMatch(m.prefixes, addr); ok {
			byLength[bits] = append(byLength[bits], m)
		}
	}
	takesAll := func(m *member) bool { return len(m.resource.Services) == 0 }
	var groups [][]*member
	for bits := addr.BitLen(); bits >= 0; bits-- {
		group := byLength[bits]
		if len(group) == 0 {
			continue
		}
		groups = append(groups, group)
		if slices.ContainsFunc(group, takesAll) {
			break
		}
	}
	return groups
}

// carriedMembers is carried without the groups.
func (e *Evaluator) carriedMembers(addr netip.Addr) []*member {
	var out []*member
	for _, group := range e.carried(addr) {
		out = append(out, group...)
	}
	return out
}

// attribute finds the resource a packet belongs to; nil = it is of no member.
func (e *Evaluator) attribute(direction policy.Direction, pkt Packet) *member {
	groups := e.carried(pkt.Local)
	if direction == policy.Outbound {
		// The local port of an outbound flow means nothing: the address
		// decides. All that it carries have the same outbound policy.
		if len(groups) == 0 {
			return nil
		}
		return groups[0][0]
	}
	for _, group := range groups {
		for _, m := range group {
			if serves(m.resource.Services, pkt.Protocol, pkt.localPort()) {
				return m
			}
		}
		for _, m := range group {
			if len(m.resource.Services) == 0 {
				return m
			}
		}
	}
	return nil
}

// unlisted reports whether the packet is ungoverned for its port alone: there
// are resources at its local address, but none that lists the port.
func (e *Evaluator) unlisted(direction policy.Direction, pkt Packet) bool {
	if direction == policy.Outbound {
		return false
	}
	if e.isMulticast(pkt) {
		return len(e.livingHere()) > 0
	}
	return len(e.carried(pkt.Local)) > 0 && e.attribute(direction, pkt) == nil
}

// serves reports whether one of the services is of this protocol and port.
func serves(services []policy.Ports, protocol uint8, port uint16) bool {
	for _, s := range services {
		if s.Contains(protocol, port) {
			return true
		}
	}
	return false
}

// longestMatch returns the length of the longest prefix that contains the
// address. IPv4 and IPv6 never contain each other.
func longestMatch(prefixes []netip.Prefix, addr netip.Addr) (bits int, ok bool) {
	for _, p := range prefixes {
		if p.Contains(addr) && (!ok || p.Bits() > bits) {
			bits, ok = p.Bits(), true
		}
	}
	return bits, ok
}
