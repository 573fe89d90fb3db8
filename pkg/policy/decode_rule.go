package policy

import (
	"fmt"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
)

// ruleKind says whose rule it is.
type ruleKind string

const (
	accessRule   ruleKind = "an access rule"
	firewallRule ruleKind = "a firewall rule"
)

// selectors are the keys of which a rule has exactly one.
var selectors = [...]string{"addressPrefixes", "subscriptions", "fullyQualifiedDomainNames", "serviceTags"}

func (d *decoder) rule(n *yaml.Node, kind ruleKind, names *scope) AccessRule {
	r := AccessRule{At: d.at(n)}
	directed := false
	const one = "list at least one"
	understood := d.mapping(n, string(kind),
		field{key: "name", required: true, read: func(v *yaml.Node) {
			r.Name = parsed(d, v, "name", parseName)
			names.declare(&d.problems, r.Name, d.at(v))
		}},
		field{key: "direction", required: true, read: func(v *yaml.Node) {
			r.Direction, directed = choice(d, v, "direction", Inbound, Outbound)
		}},
		field{key: "addressPrefixes", read: func(v *yaml.Node) {
			r.AddressPrefixes = filled(d, v, "addressPrefixes", one, ParsePrefix)
		}},
		field{key: "subscriptions", read: func(v *yaml.Node) {
			r.Subscriptions = filled(d, v, "subscriptions", one, parseName)
			if kind == accessRule {
				d.refer(v, &d.subscriptions)
			}
		}},
		field{key: "fullyQualifiedDomainNames", read: func(v *yaml.Node) {
			r.FullyQualifiedDomainNames = filled(d, v, "fullyQualifiedDomainNames", one, parseDomainName)
		}},
		field{key: "serviceTags", read: func(v *yaml.Node) {
			r.ServiceTags = filled(d, v, "serviceTags", one, parseServiceTagName)
			d.useServiceTags(v)
		}},
		field{key: "ports", read: func(v *yaml.Node) {
			r.Ports = filled(d, v, "ports", "list the ports, or remove the key to allow every protocol and port", ParsePorts)
		}},
		field{key: "expires", read: func(v *yaml.Node) {
			r.Expires = parsed(d, v, "expires", parseExpires)
		}},
		field{key: "description", read: func(v *yaml.Node) {
			r.Description = parsed(d, v, "description", parseDescription)
		}},
	)
	if understood {
		d.selector(n, kind, r.Direction, directed)
	}
	return r
}

// selector checks that a rule has one kind of selector, which its direction can
// have.
func (d *decoder) selector(n *yaml.Node, kind ruleKind, direction Direction, directed bool) {
	var first *yaml.Node
	for i := 0; i < len(n.Content); i += 2 {
		key := n.Content[i]
		if !isSelector(key) || first != nil && first.Value == key.Value {
			continue
		}
		switch {
		case first == nil:
			first = key
		default:
			d.add(key, fmt.Sprintf("%s has two kinds of selector, %s and %s", kind, first.Value, key.Value), "write a rule for each")
		}
		switch {
		case key.Value == "subscriptions" && kind == firewallRule:
			d.add(key, "a firewall rule cannot name subscriptions", "write addressPrefixes, or an access rule in a profile")
		case key.Value == "subscriptions" && directed && direction == Outbound:
			d.add(key, "an outbound rule cannot name subscriptions", "write addressPrefixes, fullyQualifiedDomainNames or serviceTags")
		case key.Value == "fullyQualifiedDomainNames" && directed && direction == Inbound:
			d.add(key, "an inbound rule cannot name fullyQualifiedDomainNames, since a packet does not tell the name of its sender", "write addressPrefixes, serviceTags or subscriptions")
		}
	}
	if first == nil {
		d.add(n, fmt.Sprintf("%s selects no peer", kind), "add "+oneOf(selectors[:]))
	}
}

func isSelector(key *yaml.Node) bool {
	for _, s := range selectors {
		if key.Kind == yaml.ScalarNode && key.Value == s {
			return true
		}
	}
	return false
}

// refer checks, once all files are read, that the elements of a list are names
// in a scope. Elements that cannot be names are reported elsewhere.
func (d *decoder) refer(n *yaml.Node, s *scope) {
	if n.Kind != yaml.SequenceNode {
		return
	}
	for _, item := range n.Content {
		if _, err := parseName(item.Value); item.Tag == textTag && err == nil {
			name, at := item.Value, d.at(item)
			d.checks = append(d.checks, func() { s.has(&d.problems, name, "", at) })
		}
	}
}

func parseExpires(s string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339, s)
	switch {
	case err != nil:
		return t, &fault{
			fmt.Sprintf("%s is not a time", quote(strings.TrimSpace(s))),
			`write one in RFC 3339, such as "2027-01-31T18:00:00Z" or "2027-01-31T18:00:00+01:00"`,
		}
	case t.Year() < 1970:
		return t, &fault{fmt.Sprintf("%s is before 1970", quote(s)), "write when the rule ends, or remove the key if it does not"}
	}
	return t, nil
}
