package policy

import (
	"fmt"
	"strings"

	"go.yaml.in/yaml/v4"
)

// The tags the YAML library resolves values to.
const (
	textTag      = "!!str"
	nullTag      = "!!null"
	boolTag      = "!!bool"
	intTag       = "!!int"
	floatTag     = "!!float"
	timestampTag = "!!timestamp"
	mergeTag     = "!!merge"
)

// field is a key that a mapping may have and what to do with its value.
type field struct {
	key      string
	required bool
	read     func(value *yaml.Node)
}

// mapping reads a mapping, what, in which only these fields may stand, each
// once. Fields are read in the order of the file. The result is false where
// nothing can be said about fields that are not there, because some key was not
// understood.
func (d *decoder) mapping(n *yaml.Node, what string, fields ...field) bool {
	if !d.kind(n, yaml.MappingNode, what, "write it as KEY: VALUE pairs") {
		return false
	}
	understood, merged := true, false
	seen := make([]*yaml.Node, len(fields))
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Kind == yaml.AliasNode || key.Tag == mergeTag {
			understood, merged = false, true
			continue
		}
		index := -1
		for j := range fields {
			if key.Kind == yaml.ScalarNode && fields[j].key == key.Value {
				index = j
			}
		}
		switch {
		case index < 0:
			understood = false
			if near := d.unknownKey(key, what, fields); near >= 0 && seen[near] == nil {
				// It is not missing, it is misspelled.
				seen[near] = key
			}
		case seen[index] != nil && seen[index].Value == key.Value:
			d.add(key, fmt.Sprintf("%q stands twice in %s (first in line %d)", key.Value, what, seen[index].Line), "keep one")
		default:
			seen[index] = key
			fields[index].read(value)
		}
	}
	for i := range fields {
		if fields[i].required && seen[i] == nil && !merged {
			d.add(n, fmt.Sprintf("%s has no %q", what, fields[i].key), "add it")
		}
	}
	return understood
}

// unknownKey reports a key and returns the field it probably stands for, or -1.
func (d *decoder) unknownKey(key *yaml.Node, what string, fields []field) int {
	if key.Kind != yaml.ScalarNode {
		d.add(key, fmt.Sprintf("%s has %s as a key", what, describe(key)), "write a word")
		return -1
	}
	known := make([]string, len(fields))
	for i := range fields {
		known[i] = fields[i].key
	}
	near := nearest(key.Value, known)
	instead := fmt.Sprintf("write %q", near)
	if near == "" {
		instead = "write " + oneOf(known)
	}
	d.add(key, fmt.Sprintf("%s has no key %s", what, quote(key.Value)), instead)
	for i := range fields {
		if fields[i].key == near {
			return i
		}
	}
	return -1
}

// keyNode returns the key of a mapping, or nil.
func keyNode(n *yaml.Node, key string) *yaml.Node {
	if n.Kind == yaml.MappingNode {
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Kind == yaml.ScalarNode && n.Content[i].Value == key {
				return n.Content[i]
			}
		}
	}
	return nil
}

// list reads the elements of a list. A key without a value is an empty list.
func (d *decoder) list(n *yaml.Node, what string) []*yaml.Node {
	if n.Tag == nullTag || !d.kind(n, yaml.SequenceNode, what, "write it as a list, [A, B] or a \"- \" line for each element") {
		return nil
	}
	return n.Content
}

// text reads a scalar that is text. What YAML takes for a number or a boolean
// is refused: that 010 is eight has surprised enough operators.
func (d *decoder) text(n *yaml.Node, what string) (string, bool) {
	switch {
	case n.Kind == yaml.AliasNode:
		return "", false
	case n.Tag == textTag || n.Tag == timestampTag:
		return n.Value, true
	case n.Style&yaml.TaggedStyle != 0 || n.Tag == "!" || n.Tag == mergeTag:
		return "", false // reported by refuseExtras
	case n.Tag == nullTag:
		d.add(n, what+" has no value", "write text")
	case n.Kind == yaml.ScalarNode:
		d.add(n, fmt.Sprintf("%s must be text, not %s", what, describe(n)), "put it in quotes: "+quote(n.Value))
	case n.Kind == yaml.MappingNode:
		d.add(n, fmt.Sprintf("%s must be text, not %s", what, describe(n)), `write text, in quotes where it begins with "{" or ends with ":"`)
	default:
		d.add(n, fmt.Sprintf("%s must be text, not %s", what, describe(n)), "write text, without brackets and dashes")
	}
	return "", false
}

// parse reads a scalar with one of this package's parse functions.
func parse[T any](d *decoder, n *yaml.Node, what string, parser func(string) (T, error)) (value T, ok bool) {
	// A plain 443 among ports lacks more than quotes.
	if n.Tag != textTag && isNumberOrBoolean(n) {
		if _, err := parser(n.Value); err != nil {
			d.problems.addFault(d.at(n), err)
			return value, false
		}
	}
	s, ok := d.text(n, what)
	if !ok {
		return value, false
	}
	value, err := parser(s)
	if err != nil {
		d.problems.addFault(d.at(n), err)
		var zero T
		return zero, false
	}
	return value, true
}

// parsed is parse for one value. With a problem, the result is the zero value.
func parsed[T any](d *decoder, n *yaml.Node, what string, parser func(string) (T, error)) T {
	value, _ := parse(d, n, what, parser)
	return value
}

// elements reads a list of different scalars. Elements with problems are left
// out of the result.
func elements[T comparable](d *decoder, n *yaml.Node, what string, parser func(string) (T, error)) []T {
	items := d.list(n, what)
	if len(items) == 0 {
		return nil
	}
	out := make([]T, 0, len(items))
	first := make(map[T]int32, len(items))
	element := "an element of " + what
	for i, item := range items {
		value, ok := parse(d, item, element, parser)
		if !ok {
			continue
		}
		if j, ok := first[value]; ok {
			d.add(item, fmt.Sprintf("%s stands twice in %s (first in line %d)", quote(item.Value), what, items[j].Line), "keep one")
			continue
		}
		first[value] = int32(i)
		out = append(out, value)
	}
	return out
}

// filled is elements for a list that means something else when it is left out,
// so that an empty one is more likely a slip than a wish.
func filled[T comparable](d *decoder, n *yaml.Node, what, without string, parser func(string) (T, error)) []T {
	d.notEmpty(n, what, without)
	return elements(d, n, what, parser)
}

func (d *decoder) notEmpty(n *yaml.Node, what, without string) {
	if n.Tag == nullTag || n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
		d.add(n, what+" is empty", without)
	}
}

// choice reads one of a few words, by the names the values give themselves.
func choice[T fmt.Stringer](d *decoder, n *yaml.Node, what string, values ...T) (value T, ok bool) {
	s, ok := d.text(n, what)
	if !ok {
		return value, false
	}
	words := make([]string, len(values))
	for i, v := range values {
		if words[i] = v.String(); words[i] == s {
			return v, true
		}
	}
	instead := "write " + oneOf(words)
	if near := nearest(s, words); near != "" {
		instead = fmt.Sprintf("write %q", near)
	}
	d.add(n, fmt.Sprintf("%s is no %s", quote(s), what), instead)
	return value, false
}

// kind reports whether the node is of the kind, and a problem if it is not.
func (d *decoder) kind(n *yaml.Node, kind yaml.Kind, what, instead string) bool {
	if n.Kind == kind {
		return true
	}
	if n.Kind != yaml.AliasNode {
		verb := "is"
		if strings.HasPrefix(what, "a ") || strings.HasPrefix(what, "an ") {
			verb = "cannot be"
		}
		d.add(n, fmt.Sprintf("%s %s %s", what, verb, describe(n)), instead)
	}
	return false
}

func isNumberOrBoolean(n *yaml.Node) bool {
	return n.Style&yaml.TaggedStyle == 0 && (n.Tag == intTag || n.Tag == floatTag || n.Tag == boolTag)
}

func describe(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	}
	switch n.Tag {
	case nullTag:
		return "empty"
	case boolTag:
		return "a boolean"
	case intTag, floatTag:
		return "a number"
	}
	return "text"
}
