package compile

import (
	"net/netip"
	"slices"

	"github.com/perimeterd/perimeterd/pkg/policy"
)

// cover is what the prefixes of a policy make of the addresses: the classes of
// peers, and what local addresses carry. It follows one policy after another. Where
// there are many prefixes and few have changed, it looks at these alone, and classes
// keep their numbers; else its prefixes and classes follow from coverInput alone.
type cover struct {
	from     coverInput
	prefixes [2]Prefixes // by family
	places   [2][]carriedPlace
	classes  *classes
	roots    [2]int // by family: index into classes.roots
	carriers *carriers

	classesAtFirst int                    // how many there were when numbers began
	changesMost    func(prefixes int) int // how many changes of so many prefixes are kept beside them
}

// coverInput is all that a cover depends on.
type coverInput struct {
	owned      []owned
	identities [][]listID // by resource: the lists it stands in as a peer
	serving    []bool     // by resource: it takes traffic to some ports only
}

// follow makes the cover that of another policy.
func (c *cover) follow(from coverInput) {
	most := c.editsMost()
	edits, few := from.since(&c.from, most)
	kept := c.carriers != nil && from.sameResources(&c.from)
	c.from = from
	if kept && few && len(edits[family4])+len(edits[family6]) == 0 {
		return
	}
	anew := most == 0
	if anew {
		c.classes, kept = newClasses(), false // numbered as if there had been no policy before
	}
	if !kept {
		c.carriers = newCarriers(from.serving)
	}
	for _, family := range []int{family4, family6} {
		switch edited := edits[family]; {
		case !kept || !few || len(edited) > c.changesMost(len(c.prefixes[family].Base)):
			c.sweep(family)
		case len(edited) == 0:
		case edited[0].Bits() == 0: // all classes are others
			c.sweep(family)
		default:
			c.edit(family, edited)
		}
	}
	if anew {
		c.classesAtFirst = len(c.classes.all)
	}
}

// forgotten reports whether most classes are those of policies that are no more.
func (c *cover) forgotten() bool {
	const few = 1 << 10
	return len(c.classes.all) > few+2*c.classesAtFirst
}

// used returns which classes are those of addresses, or parents of these, up to the last
// that is. The others are of policies that are no more.
func (c *cover) used() []bool {
	used := make([]bool, len(c.classes.all))
	for _, of := range c.prefixes {
		for _, class := range of.classes {
			used[class] = true
		}
		for _, change := range of.Changes {
			used[change.Class] = true
		}
	}
	last := 0
	for class := len(used) - 1; class > 0; class-- {
		if used[class] {
			used[c.classes.all[class].parent] = true
			last = max(last, class)
		}
	}
	return used[:last+1]
}

// editsMost is how many edited prefixes are looked at alone.
func (c *cover) editsMost() int {
	most := 0
	for i := range c.prefixes {
		most = max(most, c.changesMost(len(c.prefixes[i].Base)))
	}
	return most
}

// sameResources reports whether what depends on resources is as in another input.
func (in *coverInput) sameResources(other *coverInput) bool {
	resources := func(in *coverInput) []owned {
		return slices.DeleteFunc(slices.Clone(in.owned), func(o owned) bool { return o.owner&ofResource == 0 })
	}
	return slices.Equal(in.serving, other.serving) &&
		slices.EqualFunc(in.identities, other.identities, slices.Equal[[]listID]) &&
		slices.EqualFunc(resources(in), resources(other), func(x, y owned) bool { return x.owner == y.owner && x.set.Equal(y.set) })
}

// since returns, by family, the prefixes that lists have and had not before, or had and
// have no more: sorted, and none inside another. False: there are more than most.
func (in *coverInput) since(before *coverInput, most int) (edits [2][]netip.Prefix, few bool) {
	none := policy.NewPrefixSet(nil)
	had := make(map[uint32]*policy.PrefixSet, len(before.owned))
	for _, o := range before.owned {
		had[o.owner] = o.set
	}
	count := 0
	note := func(set, before *policy.PrefixSet) bool {
		added, removed, few := set.Since(before, most-count)
		for _, p := range slices.Concat(added, removed) {
			edits[familyOf(p.Addr())] = append(edits[familyOf(p.Addr())], p)
			count++
		}
		return few
	}
	for _, o := range in.owned {
		if o.owner&ofResource != 0 {
			continue
		}
		set, ok := had[o.owner]
		if !ok {
			set = none
		}
		delete(had, o.owner)
		if !note(o.set, set) {
			return edits, false
		}
	}
	for owner, set := range had {
		if owner&ofResource == 0 && !note(none, set) {
			return edits, false
		}
	}
	for family := range edits {
		edits[family] = outermost(edits[family])
	}
	return edits, true
}

// outermost sorts prefixes and leaves out those inside others.
func outermost(prefixes []netip.Prefix) []netip.Prefix {
	slices.SortFunc(prefixes, policy.ComparePrefixes)
	var out []netip.Prefix
	for _, p := range prefixes {
		if len(out) == 0 || !policy.Holds(out[len(out)-1], p) {
			out = append(out, p)
		}
	}
	return out
}

// edit brings the classes up to date inside these prefixes, none of length 0, which some
// lists have and had not before, or had and have no more. Resources have what they had.
func (c *cover) edit(family int, edited []netip.Prefix) {
	before, places := c.prefixes[family], c.places[family]
	marks := marksInside(c.from.owned, edited)
	var changes, open []PrefixClass // open: changes around where the walk is
	rest, first := before.Changes, 0
	for _, region := range edited {
		for len(rest) > 0 && policy.ComparePrefixes(rest[0].Prefix, region) < 0 {
			open = append(onlyAround(open, rest[0].Prefix), rest[0])
			changes, rest = append(changes, rest[0]), rest[1:]
		}
		rest = rest[endInside(rest, 0, region):]
		open = onlyAround(open, region)
		first = seek(before.Base, first, region)
		end := endInside(before.Base, first, region)

		around := place{class: before.around(region, open, first)}
		if i := closestAround(places, func(p *carriedPlace) netip.Prefix { return p.prefix }, region); i >= 0 {
			around.carried = places[i].carried
		}
		n := 0
		for at := blockOf(region); n < len(marks) && at.contains(marks[n].block); n++ {
		}
		inside, _ := c.walk(family, around, marks[:n])
		marks = marks[n:]
		if len(open) == 0 { // the base counts
			if slices.Equal(inside, before.Base[first:end]) {
				continue // as it was when the base was made
			}
			if len(inside) == 0 || inside[0].Prefix != region {
				changes = append(changes, PrefixClass{region, around.class})
			}
		}
		changes = append(changes, inside...)
	}
	c.prefixes[family].Changes = append(changes, rest...)
	if c.prefixes[family].tooMuch(c.changesMost) {
		c.sweep(family)
	}
}

// marksOf sorts the prefixes of a family by place.
func marksOf(all []owned, family int) []mark {
	every := everyAddress(family)
	count := 0
	for _, o := range all {
		count += o.set.LenInside(every)
	}
	marks := make([]mark, 0, count)
	for _, o := range all {
		for p := range o.set.Inside(every) {
			marks = append(marks, mark{blockOf(p), o.owner})
		}
	}
	return sortedMarks(marks)
}

// marksInside sorts by place the prefixes inside some of one family, which are sorted
// and apart from each other.
func marksInside(all []owned, edited []netip.Prefix) []mark {
	var marks []mark
	for _, o := range all {
		if o.set.Len() < 16*len(edited) {
			for p := range o.set.All() {
				i, found := slices.BinarySearchFunc(edited, p, policy.ComparePrefixes)
				if found || i > 0 && policy.Holds(edited[i-1], p) {
					marks = append(marks, mark{blockOf(p), o.owner})
				}
			}
			continue
		}
		for _, region := range edited {
			for p := range o.set.Inside(region) {
				marks = append(marks, mark{blockOf(p), o.owner})
			}
		}
	}
	return sortedMarks(marks)
}
