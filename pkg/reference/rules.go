package reference

import (
	"net/netip"
	"slices"

	"github.com/perimeterd/perimeterd/pkg/policy"
)

// Widths of what a rule's ports allow, for the choice between rules that match.
const (
	anyProtocolWidth = 1 << 24 // wider than every protocol
	protocolWidth    = 1 << 16 // every port of one protocol
)

// match is how closely a rule fits a packet.
type match struct {
	rule  string
	bits  int // length of the longest prefix of the selector around the peer
	width int // width of the narrowest item of the ports
}

// before reports whether a match is the one to name: the longest prefix, then
// the narrowest ports, then the first by name.
func (a match) before(b match) bool {
	if a.bits != b.bits {
		return a.bits > b.bits
	}
	if a.width != b.width {
		return a.width < b.width
	}
	return a.rule < b.rule
}

// bestRule returns the name of the rule that allows the packet. Any rule that
// matches is enough; of several, the closest is named.
func (e *Evaluator) bestRule(rules []policy.AccessRule, direction policy.Direction, pkt Packet) (string, bool) {
	var best match
	found := false
	for _, rule := range rules {
		if rule.Direction != direction || e.expired(rule) {
			continue
		}
		bits, ok := e.selects(rule, pkt.Peer)
		if !ok {
			continue
		}
		width, ok := narrowest(rule.Ports, pkt.Protocol, pkt.rulePort(direction))
		if !ok {
			continue
		}
		if m := (match{rule.Name, bits, width}); !found || m.before(best) {
			best, found = m, true
		}
	}
	return best.rule, found
}

// hasRules reports whether rules are written for a direction. A rule that has
// expired is still written: its end must not open what it narrowed.
func hasRules(rules []policy.AccessRule, direction policy.Direction) bool {
	for _, rule := range rules {
		if rule.Direction == direction {
			return true
		}
	}
	return false
}

func (e *Evaluator) expired(rule policy.AccessRule) bool {
	return !rule.Expires.IsZero() && !e.facts.Now.Before(rule.Expires)
}

// selects reports whether the rule's selector contains the peer, and the
// length of the longest prefix that does. An address of a name is a
// full-length prefix; a resource of a subscription has the prefix it matches by.
func (e *Evaluator) selects(rule policy.AccessRule, peer netip.Addr) (bits int, ok bool) {
	prefixes := slices.Clone(rule.AddressPrefixes)
	for _, tag := range rule.ServiceTags {
		prefixes = append(prefixes, e.policy.ServiceTags[tag]...)
	}
	for _, name := range rule.FullyQualifiedDomainNames {
		for _, addr := range e.facts.Names[name] {
			prefixes = append(prefixes, netip.PrefixFrom(addr, addr.BitLen()))
		}
	}
	if len(rule.Subscriptions) > 0 {
		for _, m := range e.carriedMembers(peer) {
			if slices.Contains(rule.Subscriptions, m.resource.Subscription) {
				prefixes = append(prefixes, m.prefixes...)
			}
		}
	}
	return longestMatch(prefixes, peer)
}

// narrowest returns the width of the narrowest item that contains protocol and
// port. No items at all contain everything.
func narrowest(ports []policy.Ports, protocol uint8, port uint16) (width int, ok bool) {
	if len(ports) == 0 {
		return anyProtocolWidth, true
	}
	width = protocolWidth
	for _, item := range ports {
		if item.Contains(protocol, port) {
			ok = true
			width = min(width, int(item.Last)-int(item.First)+1)
		}
	}
	return width, ok
}

// failsafeRules keeps of the operator's list what counts, and writes "every
// peer" out.
func failsafeRules(list []policy.AccessRule) []policy.AccessRule {
	everyPeer := []netip.Prefix{
		netip.PrefixFrom(netip.IPv4Unspecified(), 0),
		netip.PrefixFrom(netip.IPv6Unspecified(), 0),
	}
	var out []policy.AccessRule
	for _, rule := range list {
		prefixes := rule.AddressPrefixes
		if len(prefixes) == 0 {
			prefixes = everyPeer
		}
		out = append(out, policy.AccessRule{
			Name:            rule.Name,
			Direction:       rule.Direction,
			AddressPrefixes: prefixes,
			Ports:           rule.Ports,
		})
	}
	return out
}
