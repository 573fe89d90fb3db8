package compile

import (
	"encoding/binary"
	"slices"
)

// ranking is the prefix lists that cover an address, those with the longest
// prefix first; each group sorted. A list stands only in the first group that
// has it, since only its longest prefix counts.
type ranking [][]listID

// class is one way for an address to be covered. The lists of the prefix of
// length 0 stand apart, in classes.roots: they cover every address and may be
// many, while what lies inside is few.
type class struct {
	ranking ranking  // inside the root
	root    int      // index into classes.roots
	hidden  []listID // of the root, which do not count here; sorted

	// parent is the class of the next wider prefix around it, where the class was
	// first met, and has a lower number; 0 = the root. To most scopes a class
	// means what its parent means, so only what differs is written down. depth is
	// how many parents there are up to the root.
	parent uint32
	depth  int
}

// parentsMax bounds how many parents the kernel looks through for one packet
// (PARENTS_MAX, bpf/settings.h). A class further inside has the root for parent.
const parentsMax = 8

// classes numbers classes by what they mean, so that addresses that the same
// lists cover share one, wherever they are. Number 0 is set aside: in each
// family it stands for the addresses that only a prefix of length 0 covers, if
// any.
type classes struct {
	roots  [][]listID // each sorted
	all    []class
	ids    map[string]uint32
	nested map[string]uint32 // what a prefix makes of the class around it
	key    []byte
}

func newClasses() *classes {
	return &classes{all: []class{{}}, ids: map[string]uint32{}, nested: map[string]uint32{}}
}

// rootOf returns the root of these lists, which are sorted. Families with the
// same lists have one root, and so may share classes.
func (c *classes) rootOf(lists []listID) int {
	for i, root := range c.roots {
		if slices.Equal(root, lists) {
			return i
		}
	}
	c.roots = append(c.roots, slices.Clone(lists))
	return len(c.roots) - 1
}

// within returns the class of a prefix that these lists have, inside a prefix of
// class outer. The lists in hidden, if no longer prefix has them, do not count
// inside. Both are sorted.
func (c *classes) within(root int, outer uint32, own, hidden []listID) uint32 {
	if len(hidden) == 0 {
		around := c.all[outer].ranking
		if len(own) == 0 || len(around) > 0 && slices.Equal(own, around[0]) {
			return outer
		}
	}
	// Prefixes come by the million, but few combinations do.
	c.key = binary.LittleEndian.AppendUint32(c.key[:0], uint32(root))
	c.key = binary.LittleEndian.AppendUint32(c.key, outer)
	c.key = appendLists(c.key, own)
	c.key = appendLists(c.key, hidden)
	if id, ok := c.nested[string(c.key)]; ok {
		return id
	}
	memo := string(c.key)
	id := c.number(c.nest(root, outer, own, hidden), outer)
	c.nested[memo] = id
	return id
}

// nest puts the lists of a longer prefix in front of those of the class around
// it, where they no longer count, and takes out the hidden ones.
func (c *classes) nest(root int, outer uint32, own, hidden []listID) class {
	around := &c.all[outer]
	inside := class{root: root}
	if len(own) > 0 {
		inside.ranking = append(inside.ranking, slices.Clone(own))
	}
	for _, group := range around.ranking {
		if rest := without(without(group, own), hidden); len(rest) > 0 {
			inside.ranking = append(inside.ranking, rest)
		}
	}
	if len(around.hidden)+len(hidden) > 0 {
		gone := slices.Concat(around.hidden, hidden)
		slices.Sort(gone)
		for _, l := range slices.Compact(gone) {
			if _, ofRoot := slices.BinarySearch(c.roots[root], l); ofRoot && !inside.ranking.has(l) {
				inside.hidden = append(inside.hidden, l)
			}
		}
	}
	return inside
}

func (c *classes) number(cl class, outer uint32) uint32 {
	if len(cl.ranking)+len(cl.hidden) == 0 {
		return 0
	}
	c.key = binary.LittleEndian.AppendUint32(c.key[:0], uint32(cl.root))
	c.key = appendLists(c.key, cl.hidden)
	for _, group := range cl.ranking {
		c.key = appendLists(c.key, group)
	}
	id, ok := c.ids[string(c.key)]
	if !ok {
		id = uint32(len(c.all))
		if depth := c.all[outer].depth + 1; outer != 0 && depth <= parentsMax {
			cl.parent, cl.depth = outer, depth
		}
		c.all = append(c.all, cl)
		c.ids[string(c.key)] = id
	}
	return id
}

func (r ranking) has(l listID) bool {
	return slices.ContainsFunc(r, func(group []listID) bool {
		_, found := slices.BinarySearch(group, l)
		return found
	})
}

func appendLists(key []byte, lists []listID) []byte {
	key = binary.LittleEndian.AppendUint32(key, uint32(len(lists)))
	for _, l := range lists {
		key = binary.LittleEndian.AppendUint32(key, uint32(l))
	}
	return key
}
