package reference

import (
	"net/netip"
	"slices"
	"strings"

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

// selector reports whether a rule's selector contains the peer, and the length of
// the longest prefix that does.
type selector func(rule policy.AccessRule, peer netip.Addr) (bits int, ok bool)

// bestRule returns the name of the rule that allows the packet. Any rule that
// matches is enough; of several, the closest is named. Names are asked only where
// no rule allows without them, and not of what goes to many.
func (e *Evaluator) bestRule(rules []policy.AccessRule, direction policy.Direction, pkt Packet) (string, bool) {
	rule, ok := e.bestRuleBy(e.selects, rules, direction, pkt)
	if !ok && !e.isMulticast(pkt) {
		rule, ok = e.bestRuleBy(e.selectsByName, rules, direction, pkt)
	}
	return rule, ok
}

func (e *Evaluator) bestRuleBy(selects selector, rules []policy.AccessRule, direction policy.Direction, pkt Packet) (string, bool) {
	var best match
	found := false
	for _, rule := range rules {
		if rule.Direction != direction || e.expired(rule) {
			continue
		}
		bits, ok := selects(rule, pkt.Peer)
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
// length of the longest prefix that does. A resource of a subscription has the
// prefix it matches by.
func (e *Evaluator) selects(rule policy.AccessRule, peer netip.Addr) (bits int, ok bool) {
	prefixes := slices.Clone(rule.AddressPrefixes)
	for _, tag := range rule.ServiceTags {
		prefixes = slices.AppendSeq(prefixes, e.policy.ServiceTags[tag].All())
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

// selectsByName is selects for what names have opened. Each address is a
// full-length prefix.
func (e *Evaluator) selectsByName(rule policy.AccessRule, peer netip.Addr) (bits int, ok bool) {
	for asked, addresses := range e.facts.Names {
		covers := func(written string) bool { return covers(written, asked) }
		if slices.ContainsFunc(rule.FullyQualifiedDomainNames, covers) && slices.Contains(addresses, peer) {
			return peer.BitLen(), true
		}
	}
	return 0, false
}

// covers reports whether a name of a rule covers one that was asked for, label by
// label: "*" in front stands for one label or more.
func covers(written, asked string) bool {
	wanted, labels := strings.Split(written, "."), strings.Split(asked, ".")
	if wanted[0] == "*" {
		wanted = wanted[1:]
		if len(labels) <= len(wanted) {
			return false
		}
		labels = labels[len(labels)-len(wanted):]
	}
	return slices.Equal(wanted, labels)
}

// resolverAccess reports whether the packet asks a resolver of the host, for a
// member some of whose outbound rules, of those that count, have names.
func (e *Evaluator) resolverAccess(m *member, direction policy.Direction, pkt Packet) bool {
	if direction != policy.Outbound || !slices.Contains(e.facts.Resolvers, pkt.Peer) || pkt.rulePort(direction) != 53 {
		return false
	}
	if pkt.Protocol != policy.ProtocolUDP && (pkt.Protocol != policy.ProtocolTCP || e.facts.StrictNames) {
		return false
	}
	var rules []policy.AccessRule
	if m.associated() {
		rules = append(rules, m.profile.AccessRules...)
	}
	if ownRulesCount(m) {
		rules = append(rules, m.resource.Firewall...)
	}
	return slices.ContainsFunc(rules, func(rule policy.AccessRule) bool {
		return rule.Direction == policy.Outbound && !e.expired(rule) && len(rule.FullyQualifiedDomainNames) > 0
	})
}

// ownRulesCount reports whether the resource's own rules decide what the steps
// before them leave open.
func ownRulesCount(m *member) bool {
	return (m.mode == policy.Learning || m.mode == policy.Unassociated) && m.resource.PublicNetworkAccess != policy.SecuredByPerimeter
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
