package policy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
	"go.yaml.in/yaml/v4/plugin/loaderlimits"
)

// maxNesting is far above the nine levels a policy has and far below what a
// recursive walk could not take.
const maxNesting = 32

// maxNodes bounds the tree of one file. A node takes some 700 bytes, and a
// hostile text has one in every two of its own: without a bound, 64 MiB of it
// would take more memory than the host has. The nodes of a prefix list are its
// prefixes.
const maxNodes = 3_000_000

// compose turns the text of one file into a tree of nodes, nil for a text
// without content. The tree holds plain mappings, lists and scalars only:
// whatever else YAML offers is a problem, because a reader of the policy would
// have to expand it in their head, and aliases can expand without bound.
func (d *decoder) compose(text []byte) (*yaml.Node, bool) {
	if nodesAtMost(text) > maxNodes {
		d.problems.add(Position{File: d.file}, fmt.Sprintf("the policy file may hold more than %d values", maxNodes), "split it, and move long lists of prefixes to service tag files")
		return nil, false
	}
	loader, err := yaml.NewLoader(bytes.NewReader(text), yaml.WithPlugin(loaderlimits.New(loaderlimits.DepthValue(maxNesting))))
	if err != nil {
		d.problems.add(Position{File: d.file}, "the file cannot be read as YAML: "+err.Error(), "")
		return nil, false
	}
	var document, another yaml.Node
	switch err := load(loader, &document); {
	case errors.Is(err, io.EOF):
		return nil, true
	case err != nil:
		d.addSyntax(text, err)
		return nil, false
	}
	switch err := load(loader, &another); {
	case errors.Is(err, io.EOF):
	case err != nil:
		d.addSyntax(text, err)
		return nil, false
	default:
		d.add(&another, "a second document begins here", `write one document in each file and remove this "---"`)
		return nil, false
	}
	if len(document.Content) == 0 {
		return nil, true
	}
	root := document.Content[0]
	d.refuseExtras(root)
	return root, true
}

// nodesAtMost returns a number that the nodes in the tree of a text do not
// exceed. Every node but the first stands behind an indicator: an element of a
// list behind a "-", "[" or ",", and the key and value of a mapping around a ":",
// behind a "?", or, where both are left out, behind a "{" or ",". What only looks
// like an indicator, in a comment for instance, is counted too.
func nodesAtMost(text []byte) int {
	const pair = 2
	nodes := 1 + pair
	for i, c := range text {
		switch c {
		case ',', '[', '{':
			nodes += pair
		case '-':
			if !isWord(text, i+1) {
				nodes++
			}
		case ':', '?':
			if !isWord(text, i-1) || !isWord(text, i+1) {
				nodes += pair
			}
		}
	}
	return nodes
}

// isWord reports a character of those that names, numbers, addresses and times
// are made of. Between two of them, nothing indicates anything.
func isWord(text []byte, at int) bool {
	if at < 0 || at >= len(text) {
		return false
	}
	c := text[at]
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == ':' || c == '/' || c == '-'
}

// load reads one document. The library panics where it meets a state it takes
// for its own mistake; a policy file must not be able to stop the agent.
func load(loader *yaml.Loader, into *yaml.Node) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the YAML reader gave up: %v", p)
		}
	}()
	return loader.Load(into)
}

// refuseExtras reports anchors, aliases, merge keys and tags. What decodes the
// tree after it passes over aliases in silence.
func (d *decoder) refuseExtras(n *yaml.Node) {
	switch {
	case n.Kind == yaml.AliasNode:
		d.add(n, fmt.Sprintf("aliases such as %s are not supported", quote("*"+n.Value)), `write the value itself, or put text that begins with "*" in quotes`)
		return
	case n.Tag == mergeTag:
		d.add(n, `merge keys ("<<") are not supported`, "write the keys themselves")
	case n.Style&yaml.TaggedStyle != 0 || n.Tag == "!":
		d.add(n, fmt.Sprintf("tags such as %s are not supported", quote(n.Tag)), `remove it, and put text in quotes where it would be read as something else`)
	}
	if n.Anchor != "" {
		d.add(n, fmt.Sprintf("anchors such as %s are not supported", quote("&"+n.Anchor)), "remove it and write the value wherever it is needed")
	}
	for _, child := range n.Content {
		d.refuseExtras(child)
	}
}

// addSyntax adds an error of the YAML library, which stops at the first.
func (d *decoder) addSyntax(text []byte, err error) {
	at := Position{File: d.file, Line: 1, Column: 1}
	var e *yaml.LoadError
	if !errors.As(err, &e) {
		d.problems.add(at, "not valid YAML: "+err.Error(), "repair the syntax")
		return
	}
	message := e.Message
	if e.Mark.Line > 0 {
		at.Line, at.Column = e.Mark.Line, e.Mark.Column
	}
	if e.ContextMark.Line > 0 && e.ContextMark != e.Mark {
		if strings.Contains(message, "end of stream") {
			// The end of the file says nothing; what was left open does.
			at.Line, at.Column = e.ContextMark.Line, e.ContextMark.Column
			message += " " + e.ContextMsg
		} else {
			message += fmt.Sprintf(" %s that begins at %d:%d", e.ContextMsg, e.ContextMark.Line, e.ContextMark.Column)
		}
	}
	if e.Stage == yaml.ReaderStage {
		// The reader knows only that some character is bad, not where.
		at.Line, at.Column = lineAndColumn(text, firstUnreadable(text))
	}
	d.problems.add(at, "not valid YAML: "+message, repair(text, e))
}

// repair says what usually leads to a syntax error.
func repair(text []byte, e *yaml.LoadError) string {
	switch {
	case e.Stage == yaml.ReaderStage:
		return "save the file as UTF-8 without control characters"
	case strings.Contains(e.Message, "max depth"):
		return fmt.Sprintf("nest at most %d levels; a policy needs nine", maxNesting)
	case strings.Contains(e.Message, "unknown anchor"):
		return `put text that begins with "*" in quotes; aliases are not supported`
	case strings.Contains(e.Message, "cannot start any token"):
		if bytes.Contains(lineOf(text, e.Mark.Line), []byte("\t")) {
			return "indent with spaces, not with tabs"
		}
		return `put text that begins with a special character in quotes`
	case strings.Contains(e.Message, "mapping values are not allowed"):
		return `put text that holds ": " in quotes, or begin a new line with the key`
	case strings.Contains(e.Message, "incompatible YAML document"):
		return `remove the "%YAML" line`
	}
	return "check quotes, brackets and indentation up to here"
}

// firstUnreadable returns the offset of the first character YAML does not
// allow.
func firstUnreadable(text []byte) int {
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRune(text[i:])
		switch {
		case r == utf8.RuneError && size == 1,
			r < ' ' && r != '\t' && r != '\n' && r != '\r',
			r >= 0x7f && r < 0xa0 && r != 0x85:
			return i
		}
		i += size
	}
	return 0
}

// lineAndColumn turns an offset into a position, both counted from 1, columns
// in characters.
func lineAndColumn(text []byte, offset int) (line, column int) {
	before := text[:min(max(offset, 0), len(text))]
	line = 1 + bytes.Count(before, []byte("\n"))
	return line, 1 + utf8.RuneCount(before[bytes.LastIndexByte(before, '\n')+1:])
}

func lineOf(text []byte, line int) []byte {
	for ; line > 1; line-- {
		_, after, ok := bytes.Cut(text, []byte("\n"))
		if !ok {
			return nil
		}
		text = after
	}
	before, _, _ := bytes.Cut(text, []byte("\n"))
	return before
}
