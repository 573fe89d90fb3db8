package randompolicy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/perimeterd/perimeterd/pkg/policy"
)

// Size bounds a drawn policy. Zero means none.
type Size struct {
	Resources  int // at most; those that would make the policy invalid are left out
	Perimeters int // exactly
	Rules      int // at most, in each profile, and half as many own ones per resource
}

// Typical is a size at which everything meets everything else.
func Typical() Size { return Size{Resources: 12, Perimeters: 3, Rules: 6} }

// Policy draws a valid policy and the facts to judge it by.
func Policy(r *rand.Rand, size Size) (*policy.Policy, policy.Facts) {
	d := &draw{r: r, size: size, policy: &policy.Policy{}}
	d.facts = d.drawFacts()
	for range size.Perimeters {
		d.policy.Perimeters = append(d.policy.Perimeters, d.drawPerimeter())
	}
	d.drawLinks()
	for range size.Resources {
		d.addResource()
	}
	d.drawSelectors()
	d.drawOwnRules()
	d.drawAccessRules()
	d.drawPrivateEndpoints()
	d.facts.Failsafe = d.drawFailsafe()
	return d.policy, d.facts
}

// draw is one policy in the making.
type draw struct {
	r      *rand.Rand
	size   Size
	policy *policy.Policy
	facts  policy.Facts
	serial int

	subscriptions []string // that some resource has
	tags          map[string]*policy.PrefixSet
	tagNames      []string
	names         []string
}

// name draws a name that is unique in the policy, also without regard to case.
// Its beginning is random, so that the order by name is not that of making.
func (d *draw) name() string {
	const letters = "ABYZabyz09"
	d.serial++
	return fmt.Sprintf("%c%c-%d", letters[d.r.IntN(len(letters))], letters[d.r.IntN(len(letters))], d.serial)
}

func (d *draw) drawFacts() policy.Facts {
	addrs := func(words ...string) []netip.Addr {
		var list []netip.Addr
		for _, word := range words {
			if chance(d.r, 70) {
				list = append(list, netip.MustParseAddr(word))
			}
		}
		return list
	}
	facts := policy.Facts{
		Now:      time.Date(2026, 11, 20, 9, 15, d.r.IntN(60), 0, time.UTC),
		Hostname: "host-1",
		Names:    make(map[string][]netip.Addr),
		Interfaces: []policy.Interface{
			{Name: "lo", Loopback: true, Addresses: addrs("127.0.0.1", "::1")},
			{Name: "eth0", Addresses: addrs("10.20.0.5", "10.20.1.0", "2001:db8::5"), Broadcasts: addrs("10.20.0.255")},
			{Name: "eth1", Addresses: addrs("203.0.113.128", "2001:db8::100", "fe80::1%eth1"), Broadcasts: addrs("203.0.113.255", "10.19.255.255")},
			{Name: "wg0", Addresses: addrs("10.20.0.255", "fd20::1")},
		},
	}
	if chance(d.r, 25) {
		facts.Interfaces = append(facts.Interfaces, policy.Interface{Name: "lxc1", Workload: true})
	}
	return facts
}

func (d *draw) drawPerimeter() policy.Perimeter {
	perimeter := policy.Perimeter{Name: d.name()}
	for range 1 + d.r.IntN(3) {
		perimeter.Profiles = append(perimeter.Profiles, policy.Profile{Name: d.name()})
	}
	return perimeter
}

// drawLinks gives pairs of perimeters links and linkReferences in all states,
// also one without the other.
func (d *draw) drawLinks() {
	profiles := func(of *policy.Perimeter) []string {
		if chance(d.r, 40) {
			return []string{"*"}
		}
		list := []string{pick(d.r, of.Profiles).Name}
		if other := pick(d.r, of.Profiles).Name; other != list[0] {
			list = append(list, other)
		}
		return list
	}
	statuses := []policy.LinkStatus{
		policy.Approved, policy.Approved, policy.Approved, policy.Approved,
		policy.Pending, policy.Rejected, policy.Disconnected,
	}
	for i := range d.policy.Perimeters {
		for j := range d.policy.Perimeters {
			local, remote := &d.policy.Perimeters[i], &d.policy.Perimeters[j]
			if i == j || chance(d.r, 40) {
				continue
			}
			if chance(d.r, 90) {
				local.Links = append(local.Links, policy.Link{
					Name:                 d.name(),
					RemotePerimeter:      remote.Name,
					LocalInboundProfiles: profiles(local),
				})
			}
			if chance(d.r, 85) {
				remote.LinkReferences = append(remote.LinkReferences, policy.LinkReference{
					Name:                 d.name(),
					RemotePerimeter:      local.Name,
					LocalInboundProfiles: profiles(remote),
					Status:               pick(d.r, statuses),
				})
			}
		}
	}
}

// drawPrivateEndpoints declares few and small private paths, since everything
// behind one is decided before any rule is asked.
func (d *draw) drawPrivateEndpoints() {
	if chance(d.r, 50) {
		endpoint := policy.PrivateEndpoint{Name: d.name(), Interfaces: []string{"wg0"}}
		if chance(d.r, 50) {
			endpoint.Interfaces = []string{"wg*", "tun?"}
		}
		d.policy.PrivateEndpoints = append(d.policy.PrivateEndpoints, endpoint)
	}
	if chance(d.r, 50) {
		d.policy.PrivateEndpoints = append(d.policy.PrivateEndpoints, policy.PrivateEndpoint{
			Name:            d.name(),
			AddressPrefixes: randomPrefixes(d.r, 95),
		})
	}
}

// drawFailsafe draws a short list, for one peer or for all.
func (d *draw) drawFailsafe() []policy.AccessRule {
	var list []policy.AccessRule
	if chance(d.r, 70) {
		list = append(list, policy.AccessRule{
			Name:      d.name(),
			Direction: policy.Inbound,
			Ports:     []policy.Ports{{Protocol: policy.ProtocolTCP, First: 22, Last: 22}},
		})
	}
	for range d.r.IntN(3) {
		list = append(list, policy.AccessRule{
			Name:            d.name(),
			Direction:       policy.Direction(d.r.IntN(2)),
			AddressPrefixes: randomPrefixes(d.r, 70),
			Ports:           randomPorts(d.r),
		})
	}
	return list
}
