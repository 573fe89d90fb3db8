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

// connect finds the approved links of all perimeters, from both sides.
func (b *builder) connect() {
	type ends struct{ from, to string }
	links := map[ends][]*policy.Link{}
	perimeters := map[string]*policy.Perimeter{}
	for i := range b.policy.Perimeters {
		p := &b.policy.Perimeters[i]
		perimeters[p.Name] = p
		for j := range p.Links {
			between := ends{p.Name, p.Links[j].RemotePerimeter}
			links[between] = append(links[between], &p.Links[j])
		}
	}
	for i := range b.policy.Perimeters {
		answering := &b.policy.Perimeters[i]
		for j := range answering.LinkReferences {
			r := &answering.LinkReferences[j]
			if r.Status != policy.Approved {
				continue
			}
			for _, l := range links[ends{r.RemotePerimeter, answering.Name}] {
				asking := perimeters[r.RemotePerimeter]
				b.connections[asking.Name] = append(b.connections[asking.Name], connection{l.Name, l.LocalInboundProfiles, r.LocalInboundProfiles, answering})
				b.connections[answering.Name] = append(b.connections[answering.Name], connection{r.Name, r.LocalInboundProfiles, l.LocalInboundProfiles, asking})
			}
		}
	}
}

// linksOf returns who the links of a perimeter let through for a member of this
// profile. A link restricts which profiles accept inbound traffic, on each
// side; outbound traffic is from all.
func (b *builder) linksOf(p *policy.Perimeter, profile string, direction policy.Direction) []linkedPeers {
	var out []linkedPeers
	for _, c := range b.connections[p.Name] {
		if direction == policy.Inbound && !listsProfile(c.own, profile) {
			continue
		}
		if peers := b.peersOf(c, direction); len(peers) > 0 {
			out = append(out, linkedPeers{c.name, peers})
		}
	}
	return out
}

// peersOf returns the lists of a connection's other side.
func (b *builder) peersOf(c connection, direction policy.Direction) []listID {
	if direction == policy.Inbound || slices.Contains(c.theirs, "*") {
		return []listID{b.perimeterList(c.remote.Name)}
	}
	var out []listID
	for _, profile := range c.theirs {
		out = append(out, b.profileList(c.remote.Name, profile))
	}
	return out
}

func listsProfile(profiles []string, profile string) bool {
	return slices.ContainsFunc(profiles, func(p string) bool { return p == "*" || p == profile })
}
