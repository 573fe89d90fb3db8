package policy

import (
	"fmt"

	"go.yaml.in/yaml/v4"
)

func (d *decoder) perimeter(n *yaml.Node) Perimeter {
	p := Perimeter{At: d.at(n)}
	names := perimeterNames{
		profiles:       newScope("profile", " of this perimeter"),
		associations:   newScope("association", " of this perimeter"),
		links:          newScope("link", " of this perimeter"),
		linkReferences: newScope("link reference", " of this perimeter"),
		linked:         map[string]Position{},
		referenced:     map[string]Position{},
	}
	d.mapping(n, "a perimeter",
		field{key: "name", required: true, read: func(v *yaml.Node) {
			p.Name = parsed(d, v, "name", parseName)
			d.perimeters.declare(&d.problems, p.Name, d.at(v))
		}},
		field{key: "location", read: func(v *yaml.Node) {
			p.Location = parsed(d, v, "location", parseDescription)
		}},
		field{key: "profiles", read: func(v *yaml.Node) {
			for _, item := range d.list(v, "profiles") {
				p.Profiles = append(p.Profiles, d.profile(item, &names))
			}
		}},
		field{key: "associations", read: func(v *yaml.Node) {
			for _, item := range d.list(v, "associations") {
				p.Associations = append(p.Associations, d.association(item, &names))
			}
		}},
		field{key: "links", read: func(v *yaml.Node) {
			for _, item := range d.list(v, "links") {
				p.Links = append(p.Links, d.link(item, &p, &names))
			}
		}},
		field{key: "linkReferences", read: func(v *yaml.Node) {
			for _, item := range d.list(v, "linkReferences") {
				p.LinkReferences = append(p.LinkReferences, d.linkReference(item, &p, &names))
			}
		}},
	)
	return p
}

// perimeterNames holds what must be unique within one perimeter.
type perimeterNames struct {
	profiles, associations, links, linkReferences scope
	// linked and referenced are where each remote perimeter was first named by
	// a link and by a linkReference.
	linked, referenced map[string]Position
}

func (d *decoder) profile(n *yaml.Node, names *perimeterNames) Profile {
	p := Profile{At: d.at(n)}
	rules := newScope("access rule", " of this profile")
	d.mapping(n, "a profile",
		field{key: "name", required: true, read: func(v *yaml.Node) {
			p.Name = parsed(d, v, "name", parseName)
			names.profiles.declare(&d.problems, p.Name, d.at(v))
		}},
		field{key: "accessRules", read: func(v *yaml.Node) {
			for _, item := range d.list(v, "accessRules") {
				p.AccessRules = append(p.AccessRules, d.rule(item, accessRule, &rules))
			}
		}},
	)
	return p
}

func (d *decoder) association(n *yaml.Node, names *perimeterNames) Association {
	a := Association{At: d.at(n), AccessMode: Learning}
	before := d.problems.total
	d.mapping(n, "an association",
		field{key: "name", required: true, read: func(v *yaml.Node) {
			a.Name = parsed(d, v, "name", parseName)
			names.associations.declare(&d.problems, a.Name, d.at(v))
		}},
		field{key: "resource", required: true, read: func(v *yaml.Node) {
			a.Resource = parsed(d, v, "resource", parseName)
			resource, at := a.Resource, d.at(v)
			d.checks = append(d.checks, func() { d.associate(resource, at) })
		}},
		field{key: "profile", required: true, read: func(v *yaml.Node) {
			a.Profile = parsed(d, v, "profile", parseName)
			profile, at := a.Profile, d.at(v)
			d.checks = append(d.checks, func() {
				if !names.profiles.has(&d.problems, profile, "", at) {
					d.flawed[a.Resource] = true
				}
			})
		}},
		field{key: "accessMode", read: func(v *yaml.Node) {
			a.AccessMode = d.accessMode(v)
		}},
	)
	if d.problems.total > before {
		d.flawed[a.Resource] = true
	}
	return a
}

// associate checks that a resource is in one perimeter, and only once.
func (d *decoder) associate(resource string, at Position) {
	if !d.resources.has(&d.problems, resource, "", at) {
		return
	}
	if first, ok := d.associated[resource]; ok {
		d.flawed[resource] = true
		d.problems.add(at, fmt.Sprintf("resource %s is already associated (%s)", quote(resource), first), "keep one association; a resource is in at most one perimeter, with one profile")
		return
	}
	d.associated[resource] = at
}

func (d *decoder) accessMode(n *yaml.Node) AccessMode {
	if n.Kind == yaml.ScalarNode && n.Value == "Transition" {
		return Learning
	}
	mode, ok := choice(d, n, "accessMode", Learning, Enforced, Audit)
	if !ok {
		return Learning
	}
	return mode
}

func (d *decoder) link(n *yaml.Node, p *Perimeter, names *perimeterNames) Link {
	l := Link{At: d.at(n)}
	d.mapping(n, "a link",
		field{key: "name", required: true, read: func(v *yaml.Node) {
			l.Name = parsed(d, v, "name", parseName)
			names.links.declare(&d.problems, l.Name, d.at(v))
		}},
		field{key: "remotePerimeter", required: true, read: func(v *yaml.Node) {
			l.RemotePerimeter = d.remotePerimeter(v, p, names.linked)
		}},
		field{key: "localInboundProfiles", required: true, read: func(v *yaml.Node) {
			l.LocalInboundProfiles = d.localInboundProfiles(v, names)
		}},
		field{key: "description", read: func(v *yaml.Node) {
			l.Description = parsed(d, v, "description", parseDescription)
		}},
	)
	return l
}

func (d *decoder) linkReference(n *yaml.Node, p *Perimeter, names *perimeterNames) LinkReference {
	l := LinkReference{At: d.at(n)}
	d.mapping(n, "a link reference",
		field{key: "name", required: true, read: func(v *yaml.Node) {
			l.Name = parsed(d, v, "name", parseName)
			names.linkReferences.declare(&d.problems, l.Name, d.at(v))
		}},
		field{key: "remotePerimeter", required: true, read: func(v *yaml.Node) {
			l.RemotePerimeter = d.remotePerimeter(v, p, names.referenced)
		}},
		field{key: "localInboundProfiles", required: true, read: func(v *yaml.Node) {
			l.LocalInboundProfiles = d.localInboundProfiles(v, names)
		}},
		field{key: "status", read: func(v *yaml.Node) {
			l.Status, _ = choice(d, v, "status", Pending, Approved, Rejected, Disconnected)
		}},
		field{key: "description", read: func(v *yaml.Node) {
			l.Description = parsed(d, v, "description", parseDescription)
		}},
	)
	return l
}

// remotePerimeter reads the other end of a link or link reference of p. seen
// holds the other ends of those before it: two statements about one remote
// perimeter could contradict each other.
func (d *decoder) remotePerimeter(n *yaml.Node, p *Perimeter, seen map[string]Position) string {
	remote, at := parsed(d, n, "remotePerimeter", parseName), d.at(n)
	if first, ok := seen[remote]; ok && remote != "" {
		d.add(n, fmt.Sprintf("perimeter %s is named as remotePerimeter twice (first in line %d)", quote(remote), first.Line), "keep one")
	} else {
		seen[remote] = at
	}
	d.checks = append(d.checks, func() {
		if remote == p.Name && remote != "" {
			d.problems.add(at, fmt.Sprintf("perimeter %s is linked to itself", quote(remote)), "name another perimeter; members of one perimeter need no link")
			return
		}
		d.perimeters.has(&d.problems, remote, p.Name, at)
	})
	return remote
}

// localInboundProfiles reads the profiles that accept inbound traffic over a
// link. None is a legitimate choice: the link is then for outbound traffic only.
func (d *decoder) localInboundProfiles(n *yaml.Node, names *perimeterNames) []string {
	profiles := elements(d, n, "localInboundProfiles", func(s string) (string, error) {
		if s == "*" {
			return s, nil
		}
		return parseName(s)
	})
	for _, item := range n.Content {
		if item.Kind == yaml.ScalarNode && item.Value == "*" && len(n.Content) > 1 {
			d.add(item, `"*" stands for every profile`, `write ["*"] alone, or only names`)
			break
		}
	}
	d.refer(n, &names.profiles)
	return profiles
}
