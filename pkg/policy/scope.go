package policy

import (
	"fmt"
	"slices"
	"strings"
)

// scope holds the names of one kind of thing. Two names that differ only in
// case are one name too many, as in NSP, whose ids are compared without case;
// a reference must be spelled as the name is.
type scope struct {
	kind  string // what a name in it stands for
	of    string // what that belongs to, " of this perimeter", or ""
	names map[string]declaration
}

type declaration struct {
	name string
	at   Position
}

func newScope(kind, of string) scope {
	return scope{kind: kind, of: of, names: map[string]declaration{}}
}

// declare adds a name that must be new.
func (s *scope) declare(c *collector, name string, at Position) {
	if name == "" {
		return // reported where it was read
	}
	folded := strings.ToLower(name)
	old, ok := s.names[folded]
	switch {
	case !ok:
		s.names[folded] = declaration{name, at}
	case old.name == name:
		c.add(at, fmt.Sprintf("%s %s%s is already defined (%s)", s.kind, quote(name), s.of, old.at), "choose another name")
	default:
		c.add(at, fmt.Sprintf("%s %s%s differs only in case from %s (%s)", s.kind, quote(name), s.of, quote(old.name), old.at), "choose another name")
	}
}

// use adds a name that stands for the same thing wherever it is written.
func (s *scope) use(c *collector, name string, at Position) {
	if name == "" {
		return
	}
	folded := strings.ToLower(name)
	if old, ok := s.names[folded]; !ok {
		s.names[folded] = declaration{name, at}
	} else if old.name != name {
		c.add(at, fmt.Sprintf("%s %s is spelled %s elsewhere (%s)", s.kind, quote(name), quote(old.name), old.at), fmt.Sprintf("write %q", old.name))
	}
}

// has reports whether the name is known, and a problem if it is not. self is a
// name that would be no help there. An empty name was reported where it was
// read.
func (s *scope) has(c *collector, name, self string, at Position) bool {
	if d, ok := s.names[strings.ToLower(name)]; ok && d.name == name {
		return true
	}
	if name != "" {
		c.add(at, fmt.Sprintf("no %s%s is named %s", s.kind, s.of, quote(name)), s.insteadOf(c, name, self))
	}
	return false
}

func (s *scope) insteadOf(c *collector, name, self string) string {
	if c.full() {
		return ""
	}
	known := slices.DeleteFunc(s.sorted(), func(k string) bool { return k == self })
	if near := nearest(name, known); near != "" {
		return "write " + quote(near)
	}
	if len(known) == 0 {
		return "define it; there is no other"
	}
	return "define it, or write " + oneOf(quoted(known))
}

// sorted returns the names as they were declared, in order.
func (s *scope) sorted() []string {
	out := make([]string, 0, len(s.names))
	for _, d := range s.names {
		out = append(out, d.name)
	}
	slices.Sort(out)
	return out
}
