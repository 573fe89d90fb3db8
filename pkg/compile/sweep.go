package compile

import (
	"slices"
)

// place is a prefix of the policy, and what is true of the addresses that are in
// it and in no longer one.
type place struct {
	block
	class   uint32
	carried carriedID
}

// sweep walks the prefixes of a family in order, those around the present one on
// a stack. It returns each that is of another class than what is around it, with
// its class, and adds those that resources have to the locals.
func (b *builder) sweep(family int) []PrefixClass {
	marks := b.lists.marks[family]
	slices.SortFunc(marks, compareMarks)
	out := make([]PrefixClass, 0, len(marks))
	root := b.classes.rootOf(nil)
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
			here.carried, hides = b.carriers.within(outer.carried, own.resources)
			for _, i := range own.resources {
				own.lists = append(own.lists, b.identities[i]...)
			}
			slices.Sort(own.lists)
			own.lists = slices.Compact(own.lists)
			if hides {
				hidden = without(b.identitiesOf(outer.carried), own.lists)
			}
			if prefix := at.prefix(family); !b.isBroadcast(prefix) {
				local := b.localOf(here.carried)
				local.Prefix = prefix
				b.tables.Locals = append(b.tables.Locals, local)
			}
		}
		if at.bits == 0 {
			root = b.classes.rootOf(own.lists)
		} else {
			here.class = b.classes.within(root, outer.class, own.lists, hidden)
		}
		if here.class != outer.class {
			out = append(out, PrefixClass{at.prefix(family), here.class})
		}
		open = append(open, here)
	}
	b.roots[family] = root
	return out
}

// identitiesOf returns the lists in which addresses that carry this stand as
// peers, sorted.
func (b *builder) identitiesOf(id carriedID) []listID {
	var out []listID
	for _, group := range b.carriers.all[id].groups {
		for _, i := range group {
			out = append(out, b.identities[i]...)
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
