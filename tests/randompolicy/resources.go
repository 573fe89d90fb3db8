package randompolicy

import (
	"net/netip"

	"github.com/perimeterd/perimeterd/pkg/policy"
)

// addResource draws resources until one can be added to the policy without
// making it invalid. It gives up after a few, and the policy is one smaller.
func (d *draw) addResource() {
	p := d.policy
	for range 10 {
		resource, association, perimeter := d.drawResource()
		p.Resources = append(p.Resources, resource)
		if perimeter != nil {
			perimeter.Associations = append(perimeter.Associations, association)
		}
		if Valid(p, d.facts) {
			return
		}
		p.Resources = p.Resources[:len(p.Resources)-1]
		if perimeter != nil {
			perimeter.Associations = perimeter.Associations[:len(perimeter.Associations)-1]
		}
	}
}

// drawResource draws a resource and, if it has one, its association and the
// perimeter to put it into. It may come out invalid beside the others.
func (d *draw) drawResource() (policy.Resource, policy.Association, *policy.Perimeter) {
	resource := policy.Resource{
		Name:                d.name(),
		Subscription:        pick(d.r, []string{"", "prod", "prod", "test", "Sub.3"}),
		PublicNetworkAccess: pick(d.r, []policy.PublicNetworkAccess{policy.Enabled, policy.Enabled, policy.Disabled, policy.SecuredByPerimeter}),
	}
	if len(d.policy.Resources) > 0 && chance(d.r, 40) {
		if base := pick(d.r, d.policy.Resources); len(base.Addresses) > 0 {
			return d.layOver(base, resource)
		}
	}
	if chance(d.r, 12) {
		resource.Interfaces = pick(d.r, [][]string{{"eth0"}, {"eth1"}, {"eth*"}, {"wg0", "lo"}, {"*"}})
		resource.Host = pick(d.r, []string{"", "host-1", "host-*", "elsewhere"})
	} else {
		// Mostly small, or every peer would be a member.
		resource.Addresses = randomPrefixes(d.r, pick(d.r, []int{0, 75, 90, 97, 97, 97}))
	}
	if chance(d.r, 30) {
		resource.Services = randomServices(d.r)
	}
	association, perimeter := d.drawAssociation(resource.Name)
	return resource, association, perimeter
}

// layOver makes of the resource a service on an address of another. The two
// share the address, and so have to share the outbound policy.
func (d *draw) layOver(base, resource policy.Resource) (policy.Resource, policy.Association, *policy.Perimeter) {
	resource.Addresses = []netip.Prefix{within(d.r, pick(d.r, base.Addresses))}
	resource.Services = randomServices(d.r)
	resource.PublicNetworkAccess = base.PublicNetworkAccess
	association, perimeter := d.likeThatOf(base.Name, resource.Name)
	return resource, association, perimeter
}

// drawAssociation puts four resources of five into a perimeter.
func (d *draw) drawAssociation(resource string) (policy.Association, *policy.Perimeter) {
	if len(d.policy.Perimeters) == 0 || chance(d.r, 20) {
		return policy.Association{}, nil
	}
	perimeter := &d.policy.Perimeters[d.r.IntN(len(d.policy.Perimeters))]
	return policy.Association{
		Name:       d.name(),
		Resource:   resource,
		Profile:    pick(d.r, perimeter.Profiles).Name,
		AccessMode: pick(d.r, []policy.AccessMode{policy.Learning, policy.Learning, policy.Enforced, policy.Audit}),
	}, perimeter
}

// likeThatOf is an association for a resource that says what the base's does.
func (d *draw) likeThatOf(base, resource string) (policy.Association, *policy.Perimeter) {
	for i := range d.policy.Perimeters {
		for _, a := range d.policy.Perimeters[i].Associations {
			if a.Resource == base {
				a.Name, a.Resource = d.name(), resource
				return a, &d.policy.Perimeters[i]
			}
		}
	}
	return policy.Association{}, nil
}
