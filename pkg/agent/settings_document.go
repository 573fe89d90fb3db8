package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
	"go.yaml.in/yaml/v4/plugin/loaderlimits"

	"github.com/perimeterd/perimeterd/pkg/policy"
)

// settingsDecoder reads a settings file strictly. It never stops at a problem.
type settingsDecoder struct {
	file     string
	settings *Settings
	problems policy.Problems
}

// keys are what a mapping may hold, and who reads each.
type keys map[string]func(*yaml.Node)

// nesting is more than the settings have levels.
const nesting = 16

// compose returns the root of the document, nil if there is nothing in it or it
// cannot be read.
func (d *settingsDecoder) compose(text []byte) *yaml.Node {
	loader, err := yaml.NewLoader(bytes.NewReader(text), yaml.WithPlugin(loaderlimits.New(loaderlimits.DepthValue(nesting))))
	if err != nil {
		d.addSyntax(err)
		return nil
	}
	var document, another yaml.Node
	switch err := loader.Load(&document); {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		d.addSyntax(err)
		return nil
	}
	switch err := loader.Load(&another); {
	case err == nil:
		d.add(&another, "a second document begins here", "keep one")
		return nil
	case !errors.Is(err, io.EOF):
		d.addSyntax(err)
		return nil
	}
	if len(document.Content) == 0 || document.Content[0].Tag == "!!null" {
		return nil
	}
	return document.Content[0]
}

// addSyntax adds an error of the YAML library, which stops at the first.
func (d *settingsDecoder) addSyntax(err error) {
	at := policy.Position{File: d.file, Line: 1, Column: 1}
	text := err.Error()
	var e *yaml.LoadError
	if errors.As(err, &e) {
		text = e.Message
		if e.Mark.Line > 0 {
			at.Line, at.Column = e.Mark.Line, e.Mark.Column
		}
	}
	d.problems = append(d.problems, policy.Problem{At: at, Wrong: "not valid YAML: " + text, Instead: "check quotes, brackets and indentation up to here"})
}

func (d *settingsDecoder) at(n *yaml.Node) policy.Position {
	return policy.Position{File: d.file, Line: n.Line, Column: n.Column}
}

func (d *settingsDecoder) add(n *yaml.Node, wrong, instead string) {
	d.problems = append(d.problems, policy.Problem{At: d.at(n), Wrong: wrong, Instead: instead})
}

func (d *settingsDecoder) check(n *yaml.Node, err error) {
	if err != nil {
		d.add(n, err.Error(), "")
	}
}

// mapping has each value read by its key's function.
func (d *settingsDecoder) mapping(n *yaml.Node, what string, of keys, required ...string) {
	if n.Kind != yaml.MappingNode {
		d.add(n, what+" must be keys with values", "write one of "+strings.Join(sortedKeys(of), ", "))
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		read := of[key.Value]
		switch {
		case read == nil:
			d.add(key, fmt.Sprintf("%s has no key %q", what, key.Value), "write one of "+strings.Join(sortedKeys(of), ", "))
		case seen[key.Value]:
			d.add(key, fmt.Sprintf("key %q is written twice", key.Value), "keep one")
		case value.Tag == "!!null":
			d.add(value, fmt.Sprintf("key %q has no value", key.Value), "write one, or remove the key for the default")
		default:
			read(value)
		}
		seen[key.Value] = true
	}
	for _, key := range required {
		if !seen[key] {
			d.add(n, fmt.Sprintf("%s needs the key %q", what, key), "add it")
		}
	}
}

func (d *settingsDecoder) keyOf(n *yaml.Node, key string) *yaml.Node {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i]
		}
	}
	return nil
}

func (d *settingsDecoder) each(n *yaml.Node, what string, read func(*yaml.Node)) {
	if n.Kind != yaml.SequenceNode {
		d.add(n, what+" must be a list", "write it as [a, b] or with a dash before each")
		return
	}
	for _, item := range n.Content {
		read(item)
	}
}

// text returns the value as written, "" if it is not a simple value.
func (d *settingsDecoder) text(n *yaml.Node) string {
	switch {
	case n.Kind != yaml.ScalarNode:
		d.add(n, "a simple value belongs here", "write text or a number")
		return ""
	case n.Value == "":
		d.add(n, "the value is empty", "write one, or remove the key for the default")
	}
	return n.Value
}

func (d *settingsDecoder) choice(n *yaml.Node, what string, words ...string) string {
	text := d.text(n)
	if text != "" && !slices.Contains(words, text) {
		d.add(n, fmt.Sprintf("%s cannot be %q", what, text), "write "+strings.Join(words, " or "))
		return ""
	}
	return text
}

func (d *settingsDecoder) number(n *yaml.Node, least, most int64) int64 {
	text := d.text(n)
	v, err := strconv.ParseInt(text, 10, 64)
	if text != "" && (err != nil || v < least || v > most) {
		d.add(n, fmt.Sprintf("%q is not a number that fits here", text), fmt.Sprintf("write one from %d to %d", least, most))
		return least
	}
	return v
}

func (d *settingsDecoder) duration(into *time.Duration, least, most time.Duration) func(*yaml.Node) {
	return func(n *yaml.Node) {
		text := d.text(n)
		v, err := time.ParseDuration(text)
		if text != "" && (err != nil || v < least || v > most) {
			d.add(n, fmt.Sprintf("%q is not a time that fits here", text), fmt.Sprintf(`write one such as "90s" or "1h30m", from %s to %s`, least, most))
			return
		}
		*into = v
	}
}

// sortedKeys is for messages: maps have no order.
func sortedKeys[V any](m map[string]V) []string {
	return slices.Sorted(maps.Keys(m))
}
