package policy

import "go.yaml.in/yaml/v4"

// decoder turns trees of nodes into a policy and never stops at a problem: it
// notes it and goes on with what it can read.
type decoder struct {
	policy   Policy
	problems collector

	// file is the file that is read at the moment.
	file string
	// incomplete is set when a file could not be read. What looks missing may
	// then be in that file, so nothing is said about missing things.
	// tagsIncomplete is the same for service tags.
	incomplete, tagsIncomplete bool

	resources        scope
	subscriptions    scope
	perimeters       scope
	privateEndpoints scope

	// checks holds the checks of references, which need everything to have
	// been read.
	checks []func()

	// flawed holds the resources with a problem of their own, whose attribution
	// says nothing until that is repaired.
	flawed map[string]bool
	// associated is where each resource was associated.
	associated map[string]Position

	tagFiles []tagFile
	tagUses  []tagUse
}

func newDecoder() *decoder {
	return &decoder{
		resources:        newScope("resource", ""),
		subscriptions:    newScope("subscription", ""),
		perimeters:       newScope("perimeter", ""),
		privateEndpoints: newScope("private endpoint", ""),
		flawed:           map[string]bool{},
		associated:       map[string]Position{},
	}
}

// decode adds what one file says to the policy.
func (d *decoder) decode(file string, text []byte) {
	d.file = file
	root, ok := d.compose(text)
	if !ok {
		d.incomplete = true
		return
	}
	if root == nil || root.Tag == nullTag {
		return
	}
	// What stands under a key that is misspelled, or is no list, is not read.
	items := func(n *yaml.Node, key string) []*yaml.Node {
		if n.Kind != yaml.SequenceNode && n.Tag != nullTag {
			d.incomplete = true
		}
		return d.list(n, key)
	}
	understood := d.mapping(root, "a policy",
		field{key: "resources", read: func(n *yaml.Node) {
			for _, item := range items(n, "resources") {
				d.policy.Resources = append(d.policy.Resources, d.resource(item))
			}
		}},
		field{key: "perimeters", read: func(n *yaml.Node) {
			for _, item := range items(n, "perimeters") {
				d.policy.Perimeters = append(d.policy.Perimeters, d.perimeter(item))
			}
		}},
		field{key: "privateEndpoints", read: func(n *yaml.Node) {
			for _, item := range items(n, "privateEndpoints") {
				d.policy.PrivateEndpoints = append(d.policy.PrivateEndpoints, d.privateEndpoint(item))
			}
		}},
		field{key: "serviceTags", read: func(n *yaml.Node) {
			for _, item := range items(n, "serviceTags") {
				d.tagFile(item)
			}
		}},
	)
	if !understood {
		d.incomplete = true
	}
}

// at is the position of a node in the file that is read.
func (d *decoder) at(n *yaml.Node) Position {
	return Position{File: d.file, Line: n.Line, Column: n.Column}
}

func (d *decoder) add(n *yaml.Node, wrong, instead string) {
	d.problems.add(d.at(n), wrong, instead)
}
