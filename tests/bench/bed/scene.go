package bed

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/tests/bench/floor"
)

// ServicePort is the one port that the rule of ListPolicy is of.
const ServicePort = 5432

// MemberAddress is the member that ListPolicy governs, OtherAddress one of nobody.
func MemberAddress(family int) netip.Addr {
	return netip.MustParseAddr(map[int]string{4: "10.20.0.5", 6: "fd20::5"}[family])
}

func OtherAddress(family int) netip.Addr {
	return netip.MustParseAddr(map[int]string{4: "10.99.0.7", 6: "fd99::7"}[family])
}

// listRules is over how many rules ListPolicy spreads a list. Of one inside another
// in the same rule the inner one says nothing, and need not be in any table.
const listRules = 16

// ListPolicy has one member, Enforced, and rules that let the prefixes in, to one
// port.
func ListPolicy(prefixes []netip.Prefix) *policy.Policy {
	var addresses []netip.Prefix
	for _, family := range []int{4, 6} {
		a := MemberAddress(family)
		addresses = append(addresses, netip.PrefixFrom(a, a.BitLen()))
	}
	rules := make([]policy.AccessRule, min(listRules, len(prefixes)))
	for i := range rules {
		rules[i] = ListRule(fmt.Sprintf("listed-%d", i), ServicePort, nil)
	}
	for i, p := range prefixes {
		rule := &rules[i%len(rules)]
		rule.AddressPrefixes = append(rule.AddressPrefixes, p)
	}
	return &policy.Policy{
		Resources: []policy.Resource{{Name: "orders-db", Addresses: addresses}},
		Perimeters: []policy.Perimeter{{
			Name:         "payments",
			Profiles:     []policy.Profile{{Name: "data", AccessRules: rules}},
			Associations: []policy.Association{{Name: "orders-db", Resource: "orders-db", Profile: "data", AccessMode: policy.Enforced}},
		}},
	}
}

// ListRule lets prefixes in, to one port.
func ListRule(name string, port uint16, prefixes []netip.Prefix) policy.AccessRule {
	return policy.AccessRule{
		Name: name, Direction: policy.Inbound, AddressPrefixes: prefixes,
		Ports: []policy.Ports{
			{Protocol: policy.ProtocolTCP, First: port, Last: port},
			{Protocol: policy.ProtocolUDP, First: port, Last: port},
		},
	}
}

// Facts say that the member lives on this host.
func Facts() *policy.Facts {
	return &policy.Facts{
		Now: time.Now(), Hostname: "host",
		Interfaces: []policy.Interface{{Name: "eth0", Addresses: []netip.Addr{MemberAddress(4), MemberAddress(6)}}},
	}
}

// To is a tuple from a peer to a service of a local address.
func To(local, peer netip.Addr, port uint16) floor.Tuple {
	return floor.Tuple{Source: peer, Destination: local, SourcePort: port, DestinationPort: ServicePort}
}

// Replies are the same flows the other way.
func Replies(tuples []floor.Tuple) []floor.Tuple {
	out := make([]floor.Tuple, len(tuples))
	for i, t := range tuples {
		out[i] = floor.Tuple{Source: t.Destination, Destination: t.Source, SourcePort: t.DestinationPort, DestinationPort: t.SourcePort}
	}
	return out
}

// HostPrefixes are prefixes of one address each.
func HostPrefixes(addresses ...netip.Addr) []netip.Prefix {
	var out []netip.Prefix
	for _, a := range addresses {
		out = append(out, netip.PrefixFrom(a, a.BitLen()))
	}
	return out
}
