package reference

import (
	"net/netip"
	"slices"

	"github.com/perimeterd/perimeterd/pkg/policy"
)

// connection is a link of one perimeter and the approved linkReference of
// another that answers it, seen from one of the two.
type connection struct {
	name   string   // of the link or linkReference on the own side
	own    []string // profiles of the own side that accept inbound traffic
	remote []string // profiles of the other side that do
}

// connections returns what links two perimeters, seen from the first.
func connections(own, remote *policy.Perimeter) []connection {
	var out []connection
	for _, link := range own.Links {
		for _, reference := range remote.LinkReferences {
			if answers(reference, remote, link, own) {
				out = append(out, connection{link.Name, link.LocalInboundProfiles, reference.LocalInboundProfiles})
			}
		}
	}
	for _, reference := range own.LinkReferences {
		for _, link := range remote.Links {
			if answers(reference, own, link, remote) {
				out = append(out, connection{reference.Name, reference.LocalInboundProfiles, link.LocalInboundProfiles})
			}
		}
	}
	return out
}

// answers reports whether the linkReference of one perimeter approves the link
// of another.
func answers(reference policy.LinkReference, referring *policy.Perimeter, link policy.Link, linking *policy.Perimeter) bool {
	return reference.Status == policy.Approved &&
		reference.RemotePerimeter == linking.Name &&
		link.RemotePerimeter == referring.Name
}

// linked names the first by name of the connections between member and peer
// that allow the direction: the inbound side's profile must be listed.
func (e *Evaluator) linked(m *member, direction policy.Direction, peer netip.Addr) (string, bool) {
	name, found := "", false
	for _, other := range e.carriedMembers(peer) {
		if !other.associated() || other.perimeter == m.perimeter {
			continue
		}
		for _, c := range connections(m.perimeter, other.perimeter) {
			listed := lists(c.own, m.profile)
			if direction == policy.Outbound {
				listed = lists(c.remote, other.profile)
			}
			if listed && (!found || c.name < name) {
				name, found = c.name, true
			}
		}
	}
	return name, found
}

// lists reports whether a list of inbound profiles contains the profile.
func lists(inboundProfiles []string, profile *policy.Profile) bool {
	return slices.Contains(inboundProfiles, "*") || slices.Contains(inboundProfiles, profile.Name)
}
