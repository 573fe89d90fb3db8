package secondopinion_test

import (
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/perimeterd/perimeterd/pkg/policy"
)

// rulesOf are the access rules of a member's profile.
func rulesOf(p *policy.Policy, resource string) []policy.AccessRule {
	for i := range p.Perimeters {
		perimeter := &p.Perimeters[i]
		for _, association := range perimeter.Associations {
			for _, profile := range perimeter.Profiles {
				if association.Resource == resource && association.Profile == profile.Name {
					return profile.AccessRules
				}
			}
		}
	}
	return nil
}

// enforced is a policy of one perimeter whose members, one for each list of
// rules, are Enforced.
func enforced(members [][]netip.Prefix, rules [][]policy.AccessRule) *policy.Policy {
	perimeter := policy.Perimeter{Name: "perimeter"}
	p := &policy.Policy{}
	for i := range members {
		name := string(rune('a' + i))
		p.Resources = append(p.Resources, policy.Resource{Name: name, Addresses: members[i]})
		perimeter.Profiles = append(perimeter.Profiles, policy.Profile{Name: name, AccessRules: rules[i]})
		perimeter.Associations = append(perimeter.Associations, policy.Association{
			Name: name, Resource: name, Profile: name, AccessMode: policy.Enforced,
		})
	}
	p.Perimeters = []policy.Perimeter{perimeter}
	return p
}

// memberPrefixes are those of the members, who live in 10.20.0.0/16 and
// fd20::/16.
func memberPrefixes() [][]netip.Prefix {
	return [][]netip.Prefix{
		{netip.MustParsePrefix("10.20.0.5/32"), netip.MustParsePrefix("fd20::5/128")},
		{netip.MustParsePrefix("10.20.1.0/29"), netip.MustParsePrefix("fd20::100/125")},
	}
}

// randomPolicy draws few rules whose prefixes and ports nest, touch and repeat.
func randomPolicy(r *rand.Rand) *policy.Policy {
	members := memberPrefixes()
	rules := make([][]policy.AccessRule, len(members))
	for i := range rules {
		for n := range 2 + r.IntN(5) {
			rule := policy.AccessRule{Name: string(rune('a' + n)), Direction: policy.Direction(r.IntN(2))}
			for range 1 + r.IntN(3) {
				if prefix := randomPrefix(r); !slices.Contains(rule.AddressPrefixes, prefix) {
					rule.AddressPrefixes = append(rule.AddressPrefixes, prefix)
				}
			}
			for range r.IntN(4) {
				if ports := randomPorts(r); !slices.Contains(rule.Ports, ports) {
					rule.Ports = append(rule.Ports, ports)
				}
			}
			rules[i] = append(rules[i], rule)
		}
	}
	return enforced(members, rules)
}

func pick[T any](r *rand.Rand, list ...T) T { return list[r.IntN(len(list))] }

// chance is true so many times in a hundred.
func chance(r *rand.Rand, percent int) bool { return r.IntN(100) < percent }

func randomPrefix(r *rand.Rand) netip.Prefix {
	if chance(r, 50) {
		addr := netip.MustParseAddr(pick(r, "198.51.100.0", "198.51.100.7", "198.51.100.128", "203.0.113.255", "172.16.0.0"))
		return netip.PrefixFrom(addr, pick(r, 0, 1, 8, 16, 24, 24, 25, 28, 31, 32, 32)).Masked()
	}
	addr := netip.MustParseAddr(pick(r, "2001:db8::", "2001:db8::7", "2001:db8:1::", "2001:db8::ff", "3fff::1"))
	return netip.PrefixFrom(addr, pick(r, 0, 1, 16, 32, 48, 64, 64, 120, 127, 128, 128)).Masked()
}

func randomPorts(r *rand.Rand) policy.Ports {
	protocol := pick(r,
		policy.ProtocolTCP, policy.ProtocolTCP, policy.ProtocolTCP, policy.ProtocolTCP, policy.ProtocolUDP, policy.ProtocolUDP,
		policy.ProtocolICMP, policy.ProtocolSCTP, policy.ProtocolDCCP, policy.ProtocolUDPLite, policy.ProtocolGRE, policy.ProtocolESP, 89)
	ports := policy.Ports{Protocol: uint8(protocol), First: 0, Last: 65535}
	if policy.HasPorts(ports.Protocol) && chance(r, 80) {
		ports.First = pick[uint16](r, 0, 53, 443, 443, 1000, 5432, 5432, 40000)
		ports.Last = pick(r, ports.First, ports.First, ports.First+1, ports.First+1000, 65535)
	}
	return ports
}

func lastOf(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for bit := p.Bits(); bit < len(b)*8; bit++ {
		b[bit/8] |= 0x80 >> (bit % 8)
	}
	last, _ := netip.AddrFromSlice(b)
	return last
}

// ends are those of a session: who may open it is what the policy says.
type ends struct {
	protocol             uint8
	peer, member         netip.Addr
	peerPort, memberPort uint16
	allowed              [2]bool // whether this side may open it
}

// allows asks the policy itself, rule by rule.
func allows(p *policy.Policy, e *ends, opener side) bool {
	direction, port := policy.Inbound, e.memberPort
	if opener == member {
		direction, port = policy.Outbound, e.peerPort
	}
	for i := range p.Resources {
		if !contains(p.Resources[i].Addresses, e.member) {
			continue
		}
		for _, rule := range rulesOf(p, p.Resources[i].Name) {
			matches := func(ports policy.Ports) bool { return ports.Contains(e.protocol, port) }
			if rule.Direction == direction && contains(rule.AddressPrefixes, e.peer) &&
				(len(rule.Ports) == 0 || slices.ContainsFunc(rule.Ports, matches)) {
				return true
			}
		}
	}
	return false
}

func contains(prefixes []netip.Prefix, addr netip.Addr) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(addr) })
}
