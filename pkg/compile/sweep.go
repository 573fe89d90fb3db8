package compile

import (
	"net/netip"
	"slices"
)

// place is a prefix of the policy, and what is true of the addresses that are in
// it and in no longer one.
type place struct {
	block
	class   uint32
	carried carriedID
}

// carriedPlace is a prefix that resources have, and what its addresses carry.
type carriedPlace struct {
	prefix  netip.Prefix
	carried carriedID
}

// sweep walks all prefixes of a family.
func (c *cover) sweep(family int) {
	c.roots[family] = c.classes.rootOf(nil)
	prefixes, places := c.walk(family, place{}, marksOf(c.from.owned, family))
	c.places[family] = places
	c.prefixes[family] = c.prefixes[family].changedTo(prefixes, c.changesMost)
}

// walk takes sorted prefixes of a family, those around the present one on a stack,
// the first of which holds them all. It returns each that is of another class than
// what is around it, with its class, and those that resources have.
func (c *cover) walk(family int, around place, marks []mark) (prefixes []PrefixClass, places []carriedPlace) {
	prefixes = make([]PrefixClass, 0, len(marks))
	open := []place{around}
	var own ownMarks
	for len(marks) > 0 {
		at := marks[0].block
		marks = own.take(marks)
		for len(open) > 1 && !open[len(open)-1].contains(at) {
			open = open[:len(open)-1]
		}
		outer := open[len(open)-1]
		here := place{block: at, carried: outer.carried}
		var hidden []listID
		if len(own.resources) > 0 {
			var hides bool
			here.carried, hides = c.carriers.within(outer.carried, own.resources)
			for _, i := range own.resources {
				own.lists = append(own.lists, c.from.identities[i]...)
			}
			slices.Sort(own.lists)
			own.lists = slices.Compact(own.lists)
			if hides {
				hidden = without(c.identitiesOf(outer.carried), own.lists)
			}
			places = append(places, carriedPlace{at.prefix(family), here.carried})
		}
		if at.bits == 0 {
			c.roots[family] = c.classes.rootOf(own.lists)
		} else {
			here.class = c.classes.within(c.roots[family], outer.class, own.lists, hidden)
		}
		if here.class != outer.class {
			prefixes = append(prefixes, PrefixClass{at.prefix(family), here.class})
		}
		open = append(open, here)
	}
	return prefixes, places
}

// identitiesOf returns the lists in which addresses that carry this stand as
// peers, sorted.
func (c *cover) identitiesOf(id carriedID) []listID {
	var out []listID
	for _, group := range c.carriers.all[id].groups {
		for _, i := range group {
			out = append(out, c.from.identities[i]...)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// ownMarks is who has one prefix. Both sorted.
type ownMarks struct {
	lists     []listID
	resources []int
}

// take reads the marks of the first prefix off sorted marks.
func (o *ownMarks) take(marks []mark) (rest []mark) {
	o.lists, o.resources = o.lists[:0], o.resources[:0]
	n := 0
	for ; n < len(marks) && marks[n].block == marks[0].block; n++ {
		if owner := marks[n].owner; owner&ofResource != 0 {
			o.resources = append(o.resources, int(owner&^ofResource))
		} else {
			o.lists = append(o.lists, listID(owner))
		}
	}
	return marks[n:]
}
