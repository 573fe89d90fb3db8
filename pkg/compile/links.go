package compile

import (
	"slices"

	"github.com/perimeterd/perimeterd/pkg/policy"
)

// linkedPeers is who a link lets through.
type linkedPeers struct {
	name  string // of the link or linkReference on the member's own side
	peers []listID
}

// connection is a link and the approved linkReference that answers it, seen
// from one of the two perimeters.
type connection struct {
	name   string   // of the link or linkReference on the own side
	own    []string // profiles of the own side that accept inbound traffic
	theirs []string // profiles of the other side that do
	remote *policy.Perimeter
}

// connections returns a perimeter's approved links in either role.
func (b *builder) connections(p *policy.Perimeter) []connection {
	var out []connection
	for i := range p.Links {
		link := &p.Links[i]
		remote := b.perimeters[link.RemotePerimeter]
		for j := range remote.LinkReferences {
			if r := &remote.LinkReferences[j]; r.RemotePerimeter == p.Name && r.Status == policy.Approved {
				out = append(out, connection{link.Name, link.LocalInboundProfiles, r.LocalInboundProfiles, remote})
			}
		}
	}
	for i := range p.LinkReferences {
		reference := &p.LinkReferences[i]
		if reference.Status != policy.Approved {
			continue
		}
		remote := b.perimeters[reference.RemotePerimeter]
		for j := range remote.Links {
			if l := &remote.Links[j]; l.RemotePerimeter == p.Name {
				out = append(out, connection{reference.Name, reference.LocalInboundProfiles, l.LocalInboundProfiles, remote})
			}
		}
	}
	return out
}

// linksOf returns who the links of a perimeter let through for a member of this
// profile. A link restricts which profiles accept inbound traffic, on each
// side; outbound traffic is from all.
func (b *builder) linksOf(p *policy.Perimeter, profile string, direction policy.Direction) []linkedPeers {
	var out []linkedPeers
	for _, c := range b.connections(p) {
		if direction == policy.Inbound && !listsProfile(c.own, profile) {
			continue
		}
		l := linkedPeers{name: c.name}
		for i := range c.remote.Profiles {
			if name := c.remote.Profiles[i].Name; direction == policy.Inbound || listsProfile(c.theirs, name) {
				l.peers = append(l.peers, b.profileList(c.remote.Name, name))
			}
		}
		if len(l.peers) > 0 {
			out = append(out, l)
		}
	}
	return out
}

func listsProfile(profiles []string, profile string) bool {
	return slices.ContainsFunc(profiles, func(p string) bool { return p == "*" || p == profile })
}
