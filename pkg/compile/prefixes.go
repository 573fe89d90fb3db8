package compile

import (
	"net/netip"
	"slices"

	"github.com/perimeterd/perimeterd/pkg/policy"
)

// PrefixClass gives a prefix its class.
type PrefixClass struct {
	Prefix netip.Prefix
	Class  uint32
}

// Prefixes gives the addresses of a family their classes: an address is of the class
// of the longest prefix in Changes that holds it, if there is none of the longest in
// Base, else of class 0. Both are sorted by address, then length.
//
// A Compiler keeps the Base of many prefixes while few of them change, the same slice.
// Changes has each prefix that is new, gone or of another class, and all that lie
// inside it.
type Prefixes struct {
	Base, Changes []PrefixClass

	outer   []PrefixClass // those of Base that have others inside
	classes []uint32      // of Base, each once
}

// newPrefixes makes prefixes of a base.
func newPrefixes(base []PrefixClass) Prefixes {
	p := Prefixes{Base: base}
	var known []bool // by class
	for i, c := range base {
		if i > 0 && policy.Holds(base[i-1].Prefix, c.Prefix) {
			p.outer = append(p.outer, base[i-1])
		}
		for int(c.Class) >= len(known) {
			known = append(known, false)
		}
		if !known[c.Class] {
			known[c.Class] = true
			p.classes = append(p.classes, c.Class)
		}
	}
	return p
}

// Same reports whether two say the same in the same way, at once where they share a
// base.
func (p Prefixes) Same(other Prefixes) bool {
	return SameClasses(p.Base, other.Base) && slices.Equal(p.Changes, other.Changes)
}

// SameClasses reports whether two lists are equal, at once if they are one.
func SameClasses(a, b []PrefixClass) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0] || slices.Equal(a, b))
}

// Len returns how many prefixes are of another class than what is around them.
func (p Prefixes) Len() int {
	count := 0
	covered := p.walkChanges(func(c PrefixClass, around []PrefixClass, first int) {
		if class := p.around(c.Prefix, around, first); class != c.Class {
			count++
		}
	})
	return len(p.Base) - covered + count
}

// walkChanges calls f for each change, with those around it and where in Base it stands
// or would. It returns how many prefixes of Base do not count, for changes.
func (p Prefixes) walkChanges(f func(c PrefixClass, around []PrefixClass, first int)) (covered int) {
	var around []PrefixClass
	first := 0
	for _, c := range p.Changes {
		around = onlyAround(around, c.Prefix)
		first = seek(p.Base, first, c.Prefix)
		f(c, around, first)
		if len(around) == 0 {
			covered += endInside(p.Base, first, c.Prefix) - first
		}
		around = append(around, c)
	}
	return covered
}

// around returns the class of what is around a prefix, given the changes that are and
// where in Base it stands or would.
func (p Prefixes) around(inner netip.Prefix, changes []PrefixClass, first int) uint32 {
	if n := len(changes); n > 0 {
		return changes[n-1].Class
	}
	if first > 0 && policy.Holds(p.Base[first-1].Prefix, inner) {
		return p.Base[first-1].Class
	}
	// What is right before it is not around it, so what is has that inside too.
	if i := closestAround(p.outer, func(c *PrefixClass) netip.Prefix { return c.Prefix }, inner); i >= 0 {
		return p.outer[i].Class
	}
	return 0
}

// onlyAround leaves of prefixes, each inside the one before, those around another.
func onlyAround(open []PrefixClass, inner netip.Prefix) []PrefixClass {
	for len(open) > 0 && !policy.Holds(open[len(open)-1].Prefix, inner) {
		open = open[:len(open)-1]
	}
	return open
}

// seek returns where in a sorted list a prefix stands or would, which is not before
// from and rather close to it.
func seek(sorted []PrefixClass, from int, p netip.Prefix) int {
	step := 1
	for from+step < len(sorted) && policy.ComparePrefixes(sorted[from+step].Prefix, p) < 0 {
		from += step
		step *= 2
	}
	at, _ := slices.BinarySearchFunc(sorted[from:min(from+step+1, len(sorted))], p, func(c PrefixClass, p netip.Prefix) int { return policy.ComparePrefixes(c.Prefix, p) })
	return from + at
}

// endInside returns where in a sorted list what is a prefix, or inside it, ends.
func endInside(sorted []PrefixClass, first int, outer netip.Prefix) int {
	for first < len(sorted) && policy.Holds(outer, sorted[first].Prefix) {
		first++
	}
	return first
}

// closestAround returns where, in a list sorted by prefix, the longest is that holds
// another and is wider; -1 if none is.
func closestAround[E any](sorted []E, prefixOf func(*E) netip.Prefix, inner netip.Prefix) int {
	for bits := inner.Bits() - 1; bits >= 0; {
		wider := netip.PrefixFrom(inner.Addr(), bits).Masked()
		at, found := slices.BinarySearchFunc(sorted, wider, func(e E, p netip.Prefix) int { return policy.ComparePrefixes(prefixOf(&e), p) })
		if found {
			return at
		}
		if at == 0 {
			return -1
		}
		// Whatever holds it and is wider still holds what stands before it too.
		bits = min(bits-1, blockOf(prefixOf(&sorted[at-1])).common(blockOf(wider)))
	}
	return -1
}
