package randompolicy

import (
	"net/netip"
	"reflect"
	"slices"

	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/pkg/reference"
)

// Valid reports whether it is clear to which resource every packet belongs, by
// looking at every address where the answer may change: of the resources that
// an address carries no two of one group have no services or share one, and
// all have the same outbound policy.
func Valid(p *policy.Policy, facts policy.Facts) bool {
	for _, groups := range atEveryAddress(p, facts) {
		for _, group := range groups {
			for i, resource := range group {
				for _, other := range group[:i] {
					if claimTheSame(resource, other) {
						return false
					}
				}
			}
		}
		carried := slices.Concat(groups...)
		for _, resource := range carried[1:] {
			if !sameOutbound(p, carried[0], resource) {
				return false
			}
		}
	}
	return true
}

// claimTheSame reports two resources of one group that do not differ in their
// services.
func claimTheSame(a, b *policy.Resource) bool {
	if len(a.Services) == 0 || len(b.Services) == 0 {
		return len(a.Services) == len(b.Services)
	}
	return overlap(a.Services, b.Services)
}

// atEveryAddress returns what addresses carry, in groups, for all addresses
// that carry something. That changes only where a prefix begins or where one
// has ended.
func atEveryAddress(p *policy.Policy, facts policy.Facts) [][][]*policy.Resource {
	e := reference.New(p, facts)
	seen := make(map[netip.Addr]bool)
	var carried [][][]*policy.Resource
	for i := range p.Resources {
		for _, prefix := range p.Resources[i].AddressesOn(&facts) {
			for _, addr := range []netip.Addr{prefix.Addr(), lastOf(prefix).Next()} {
				if seen[addr] {
					continue
				}
				seen[addr] = true
				if groups := e.Carried(addr); len(groups) > 0 {
					carried = append(carried, groups)
				}
			}
		}
	}
	return carried
}

// sameOutbound reports whether two resources treat outbound packets alike.
func sameOutbound(p *policy.Policy, a, b *policy.Resource) bool {
	return a.PublicNetworkAccess == b.PublicNetworkAccess &&
		associationOf(p, a.Name) == associationOf(p, b.Name) &&
		reflect.DeepEqual(outboundRules(a), outboundRules(b))
}

// membership is where a resource belongs; the zero value is nowhere.
type membership struct {
	perimeter, profile string
	mode               policy.AccessMode
}

func associationOf(p *policy.Policy, resource string) membership {
	for _, perimeter := range p.Perimeters {
		for _, a := range perimeter.Associations {
			if a.Resource == resource {
				return membership{perimeter.Name, a.Profile, a.AccessMode}
			}
		}
	}
	return membership{}
}

func outboundRules(resource *policy.Resource) []policy.AccessRule {
	var list []policy.AccessRule
	for _, rule := range resource.Firewall {
		if rule.Direction == policy.Outbound {
			list = append(list, rule)
		}
	}
	return list
}

// sharing divides the resources into groups: those that share an address with
// another, directly or through a third, are in one.
func sharing(p *policy.Policy, facts policy.Facts) [][]*policy.Resource {
	var groups [][]*policy.Resource
	for i := range p.Resources {
		groups = append(groups, []*policy.Resource{&p.Resources[i]})
	}
	for _, carried := range atEveryAddress(p, facts) {
		set := slices.Concat(carried...)
		var merged []*policy.Resource
		groups = slices.DeleteFunc(groups, func(group []*policy.Resource) bool {
			for _, resource := range set {
				if slices.Contains(group, resource) {
					merged = append(merged, group...)
					return true
				}
			}
			return false
		})
		groups = append(groups, merged)
	}
	return groups
}
