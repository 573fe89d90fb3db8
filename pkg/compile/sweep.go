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

// cover is what the prefixes of a policy make of the addresses: the classes of
// peers, and what local addresses carry. It follows from coverInput alone.
type cover struct {
	from     coverInput
	prefixes [2][]PrefixClass // by family, as in Tables
	places   [2][]carriedPlace
	classes  *classes
	roots    [2]int // by family: index into classes.roots
	carriers *carriers
}

// carriedPlace is a prefix that resources have, and what its addresses carry.
type carriedPlace struct {
	prefix  netip.Prefix
	carried carriedID
}

// coverInput is all that a cover depends on.
type coverInput struct {
	owned      []owned
	identities [][]listID // by resource: the lists it stands in as a peer
	serving    []bool     // by resource: it takes traffic to some ports only
}

// equal is quick where the slices of prefixes are the same, whatever their length.
func (in *coverInput) equal(other *coverInput) bool {
	return slices.Equal(in.serving, other.serving) &&
		slices.EqualFunc(in.identities, other.identities, slices.Equal[[]listID]) &&
		slices.EqualFunc(in.owned, other.owned, func(x, y owned) bool {
			return x.owner == y.owner && (keyOf(x.prefixes) == keyOf(y.prefixes) || slices.Equal(x.prefixes, y.prefixes))
		})
}

func newCover(from coverInput) *cover {
	c := &cover{from: from, classes: newClasses(), carriers: newCarriers(from.serving)}
	for _, family := range []int{family4, family6} {
		c.sweep(family)
	}
	return c
}

// sweep walks the prefixes of a family in order, those around the present one on
// a stack. It notes each that is of another class than what is around it, with
// its class, and those that resources have.
func (c *cover) sweep(family int) {
	marks := marksOf(c.from.owned, family)
	out := make([]PrefixClass, 0, len(marks))
	root := c.classes.rootOf(nil)
	open := []place{{}} // around everything, of no class
	var own ownMarks
	for len(marks) > 0 {
		at := marks[0].block
		marks = own.take(marks)
		for !open[len(open)-1].contains(at) {
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
			c.places[family] = append(c.places[family], carriedPlace{at.prefix(family), here.carried})
		}
		if at.bits == 0 {
			root = c.classes.rootOf(own.lists)
		} else {
			here.class = c.classes.within(root, outer.class, own.lists, hidden)
		}
		if here.class != outer.class {
			out = append(out, PrefixClass{at.prefix(family), here.class})
		}
		open = append(open, here)
	}
	c.prefixes[family], c.roots[family] = out, root
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
		switch owner := marks[n].owner; {
		case n > 0 && owner == marks[n-1].owner: // said twice
		case owner&ofResource != 0:
			o.resources = append(o.resources, int(owner&^ofResource))
		default:
			o.lists = append(o.lists, listID(owner))
		}
	}
	return marks[n:]
}
