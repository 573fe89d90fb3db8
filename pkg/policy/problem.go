package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// maxProblems bounds what one run reports. An operator repairs the first few
// and runs again; a million lines about a million bad prefixes help nobody.
const maxProblems = 200

// Problem is one thing that is wrong with a policy, told to the person who has
// to repair it.
type Problem struct {
	// At is where it was written. Line 0 means the file as a whole, the zero
	// Position means no place at all.
	At Position
	// Wrong says what is wrong.
	Wrong string
	// Instead says what to write instead; "" where there is nothing to write.
	Instead string
}

// String returns "file:line:column: what is wrong: what to write instead".
func (p Problem) String() string {
	var b strings.Builder
	switch {
	case p.At.Line > 0:
		b.WriteString(p.At.String())
		b.WriteString(": ")
	case p.At.File != "":
		b.WriteString(p.At.File)
		b.WriteString(": ")
	}
	b.WriteString(p.Wrong)
	if p.Instead != "" {
		b.WriteString(": ")
		b.WriteString(p.Instead)
	}
	return b.String()
}

// Problems is everything one run found wrong, sorted by position. Where there
// was more than one run reports, the last element has no position and says how
// many were left out.
type Problems []Problem

// Error returns one line for each problem.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i := range p {
		lines[i] = p[i].String()
	}
	return strings.Join(lines, "\n")
}

// collector gathers the problems of one run.
type collector struct {
	kept  Problems
	total int
}

func (c *collector) add(at Position, wrong, instead string) {
	if c.total++; c.total <= maxProblems {
		c.kept = append(c.kept, Problem{At: at, Wrong: wrong, Instead: instead})
	}
}

// addFault adds the error of one of this package's Parse functions.
func (c *collector) addFault(at Position, err error) {
	if f, ok := err.(*fault); ok {
		c.add(at, f.wrong, f.instead)
		return
	}
	c.add(at, err.Error(), "")
}

// full reports whether a further problem would only be counted. Callers ask
// before they work on a good text for it.
func (c *collector) full() bool {
	return c.total >= maxProblems
}

// sorted returns the problems in order of position, nil if there are none.
func (c *collector) sorted() Problems {
	if c.total == 0 {
		return nil
	}
	out := slices.Clone(c.kept)
	slices.SortStableFunc(out, func(a, b Problem) int { return comparePositions(a.At, b.At) })
	if more := c.total - len(out); more > 0 {
		out = append(out, Problem{Wrong: fmt.Sprintf("… and %d more", more)})
	}
	return out
}

func comparePositions(a, b Position) int {
	return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
}

// fault is a problem whose place only the caller knows.
type fault struct {
	wrong, instead string
}

func (f *fault) Error() string {
	return f.wrong + ": " + f.instead
}
