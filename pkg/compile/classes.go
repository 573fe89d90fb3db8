package compile

import (
	"encoding/binary"
	"slices"

	"github.com/perimeterd/perimeterd/pkg/policy"
)

// group is what covers an address by prefixes of one length: the prefix lists,
// and the resources. Both sorted.
type group struct {
	lists     []listID
	resources []int
}

// cover is all that covers an address, longest prefix first. A list stands only
// in the first group that has it, since only its longest prefix counts. The
// resources are those the address carries.
type cover []group

// coverID numbers a cover. 0 is that of an address in no prefix.
type coverID uint32

// covers numbers covers, and remembers what a prefix makes of the cover around
// it: prefixes come by the million, but few combinations do.
type covers struct {
	all    []cover
	ids    map[string]coverID
	nested map[string]coverID
	policy *policy.Policy
	key    []byte
}

func newCovers(p *policy.Policy) *covers {
	return &covers{all: []cover{nil}, ids: map[string]coverID{"": 0}, nested: map[string]coverID{}, policy: p}
}

// within returns the cover of a prefix with these marks inside an outer cover.
func (c *covers) within(outer coverID, own group) coverID {
	c.key = binary.LittleEndian.AppendUint32(c.key[:0], uint32(outer))
	c.key = appendGroup(c.key, own)
	if id, ok := c.nested[string(c.key)]; ok {
		return id
	}
	key := string(c.key)
	id := c.intern(c.nest(c.all[outer], own))
	c.nested[key] = id
	return id
}

// nest puts the marks of a longer prefix in front of what covers it from
// outside. Its lists no longer count outside; a resource that takes all traffic
// hides all wider resources.
func (c *covers) nest(outer cover, own group) cover {
	hides := slices.ContainsFunc(own.resources, func(i int) bool { return len(c.policy.Resources[i].Services) == 0 })
	// The group outlives the caller's buffers.
	out := cover{group{lists: slices.Clone(own.lists), resources: slices.Clone(own.resources)}}
	for _, g := range outer {
		var kept group
		for _, l := range g.lists {
			if !slices.Contains(own.lists, l) {
				kept.lists = append(kept.lists, l)
			}
		}
		if !hides {
			for _, r := range g.resources {
				if !slices.Contains(own.resources, r) {
					kept.resources = append(kept.resources, r)
				}
			}
		}
		if len(kept.lists)+len(kept.resources) > 0 {
			out = append(out, kept)
		}
	}
	return out
}

func (c *covers) intern(cv cover) coverID {
	var key []byte
	for _, g := range cv {
		key = appendGroup(key, g)
	}
	if id, ok := c.ids[string(key)]; ok {
		return id
	}
	id := coverID(len(c.all))
	c.all = append(c.all, cv)
	c.ids[string(key)] = id
	return id
}

func appendGroup(key []byte, g group) []byte {
	key = binary.LittleEndian.AppendUint32(key, uint32(len(g.lists)))
	for _, l := range g.lists {
		key = binary.LittleEndian.AppendUint32(key, uint32(l))
	}
	key = binary.LittleEndian.AppendUint32(key, uint32(len(g.resources)))
	for _, r := range g.resources {
		key = binary.LittleEndian.AppendUint32(key, uint32(r))
	}
	return key
}

// covered is a prefix with its cover.
type covered struct {
	mark  mark // the prefix; list and resource mean nothing
	cover coverID
	outer coverID // of the next wider prefix around it
	own   bool    // resources have this very prefix
}

// sweep walks the prefixes of one family in order, the open ones around the
// current one on a stack, and returns each with its cover. root is the cover of
// an address that no prefix longer than 0 covers.
func (c *covers) sweep(marks []mark) (root coverID, out []covered) {
	slices.SortFunc(marks, func(a, b mark) int { return compareBlocks(a.block, b.block) })
	out = make([]covered, 0, len(marks))
	var open []covered
	var own group
	for i := 0; i < len(marks); {
		here := marks[i]
		own.lists, own.resources = own.lists[:0], own.resources[:0]
		for ; i < len(marks) && marks[i].block == here.block; i++ {
			if marks[i].resource >= 0 {
				own.resources = append(own.resources, marks[i].resource)
			} else {
				own.lists = append(own.lists, marks[i].list)
			}
		}
		slices.Sort(own.lists)
		own.lists = slices.Compact(own.lists)
		slices.Sort(own.resources)
		own.resources = slices.Compact(own.resources)

		for len(open) > 0 && !open[len(open)-1].mark.contains(here.block) {
			open = open[:len(open)-1]
		}
		var outer coverID
		if len(open) > 0 {
			outer = open[len(open)-1].cover
		}
		at := covered{mark: here, cover: c.within(outer, own), outer: outer, own: len(own.resources) > 0}
		open = append(open, at)
		out = append(out, at)
	}
	if len(out) > 0 && out[0].mark.bits == 0 {
		root = out[0].cover
	}
	return root, out
}

// ranking is what rules see of a cover: lists only, those of the resources'
// identities included, longest prefix first.
type ranking [][]listID

// rank turns a cover into a ranking. A resource stands for its identity lists,
// each in the first group that has it.
func rank(cv cover, identities [][]listID) ranking {
	var out ranking
	seen := map[listID]bool{}
	for _, g := range cv {
		var here []listID
		take := func(l listID) {
			if !seen[l] {
				seen[l] = true
				here = append(here, l)
			}
		}
		for _, l := range g.lists {
			take(l)
		}
		for _, r := range g.resources {
			for _, l := range identities[r] {
				take(l)
			}
		}
		if len(here) > 0 {
			slices.Sort(here)
			out = append(out, here)
		}
	}
	return out
}

func (r ranking) key() string {
	var key []byte
	for _, lists := range r {
		key = appendGroup(key, group{lists: lists})
	}
	return string(key)
}

// classes numbers rankings. Number 0 is set aside: in each family it stands for
// the addresses that only a prefix of length 0 covers, if any.
type classes struct {
	ids      map[string]uint32
	rankings []ranking
	root     [2]ranking  // by family index
	used     [][2]bool   // by class, by family index
	ofCover  [2][]uint32 // by family index, by coverID; memo, notYet = not asked
}

const notYet = ^uint32(0)

const (
	family4 = iota
	family6
)

func newClasses(root4, root6 ranking) *classes {
	return &classes{
		ids:      map[string]uint32{},
		rankings: []ranking{nil},
		root:     [2]ranking{root4, root6},
		used:     [][2]bool{{}},
	}
}

// of returns the class of a cover in a family.
func (c *classes) of(family int, id coverID, cv cover, identities [][]listID) uint32 {
	for len(c.ofCover[family]) <= int(id) {
		c.ofCover[family] = append(c.ofCover[family], notYet)
	}
	if n := c.ofCover[family][id]; n != notYet {
		return n
	}
	r := rank(cv, identities)
	n := c.number(family, r)
	c.ofCover[family][id] = n
	return n
}

func (c *classes) number(family int, r ranking) uint32 {
	key := r.key()
	if key == c.root[family].key() {
		return 0
	}
	id, ok := c.ids[key]
	if !ok {
		id = uint32(len(c.rankings))
		c.rankings = append(c.rankings, r)
		c.used = append(c.used, [2]bool{})
		c.ids[key] = id
	}
	c.used[id][family] = true
	return id
}
