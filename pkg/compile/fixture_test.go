package compile_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/perimeterd/perimeterd/pkg/compile"
	"github.com/perimeterd/perimeterd/pkg/policy"
)

const (
	in  = policy.Inbound
	out = policy.Outbound
)

// now is the moment every test's policy is compiled at.
var now = time.Date(2026, 11, 20, 9, 15, 0, 0, time.UTC)

// prefixes reads prefixes and plain addresses, which are full-length prefixes.
func prefixes(words ...string) []netip.Prefix {
	var list []netip.Prefix
	for _, word := range words {
		if addr, err := netip.ParseAddr(word); err == nil {
			list = append(list, netip.PrefixFrom(addr, addr.BitLen()))
			continue
		}
		list = append(list, netip.MustParsePrefix(word))
	}
	return list
}

func tcp(first, last uint16) policy.Ports {
	return policy.Ports{Protocol: policy.ProtocolTCP, First: first, Last: last}
}

// rule is an inbound rule for address prefixes and every port.
func rule(name string, words ...string) policy.AccessRule {
	return policy.AccessRule{Name: name, Direction: in, AddressPrefixes: prefixes(words...)}
}

// limited is the rule, limited to ports.
func limited(r policy.AccessRule, ports ...policy.Ports) policy.AccessRule {
	r.Ports = ports
	return r
}

// outwards is the rule for outbound traffic.
func outwards(r policy.AccessRule) policy.AccessRule {
	r.Direction = out
	return r
}

// until is the rule, with an end so long after now.
func until(r policy.AccessRule, after time.Duration) policy.AccessRule {
	r.Expires = now.Add(after)
	return r
}

// host is a resource with all traffic of its addresses.
func host(name string, words ...string) policy.Resource {
	return policy.Resource{Name: name, Addresses: prefixes(words...)}
}

// onePerimeter is a policy of one perimeter with one profile of these rules, of
// which all the resources are Enforced members.
func onePerimeter(resources []policy.Resource, rules ...policy.AccessRule) *policy.Policy {
	p := &policy.Policy{Resources: resources, Perimeters: []policy.Perimeter{{
		Name: "perimeter", Profiles: []policy.Profile{{Name: "profile", AccessRules: rules}},
	}}}
	for _, r := range resources {
		p.Perimeters[0].Associations = append(p.Perimeters[0].Associations, associate(r.Name, "profile"))
	}
	return p
}

// associate is an Enforced association of a resource.
func associate(resource, profile string) policy.Association {
	return policy.Association{Name: resource, Resource: resource, Profile: profile, AccessMode: policy.Enforced}
}

// The member that rules are tried on. No rule of these tests is for its addresses.
const memberAddr, memberAddr6 = "192.168.0.1", "fd20::1"

// guarded is one member with these rules.
func guarded(rules ...policy.AccessRule) *policy.Policy {
	return onePerimeter([]policy.Resource{host("member", memberAddr, memberAddr6)}, rules...)
}

// elsewhere is a host that has none of the members' addresses.
func elsewhere() *policy.Facts {
	return &policy.Facts{Now: now, Hostname: "host-1"}
}

func compiled(t *testing.T, p *policy.Policy, facts *policy.Facts) (*compile.Tables, *compile.Legend) {
	t.Helper()
	tables, legend, err := compile.Compile(p, facts)
	if err != nil {
		t.Fatal(err)
	}
	return tables, legend
}
