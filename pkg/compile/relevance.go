package compile

import (
	"slices"
)

// relevance knows which scopes ask about which lists, so that a class is held
// against those scopes only to which it can mean something.
type relevance struct {
	lists  []map[listID]bool   // by scope: the lists its items name
	scopes map[listID][]uint32 // by list: the scopes that name it
}

func (b *builder) scopesByList() *relevance {
	r := &relevance{lists: make([]map[listID]bool, len(b.scopes)), scopes: map[listID][]uint32{}}
	note := func(sc uint32, items []item) {
		for i := range items {
			for _, l := range items[i].lists {
				if !r.lists[sc][l] {
					r.lists[sc][l] = true
					r.scopes[l] = append(r.scopes[l], sc)
				}
			}
		}
	}
	for i := range b.scopes {
		sc := uint32(i)
		r.lists[sc] = map[listID]bool{}
		note(sc, b.scopes[i].items)
		for _, p := range b.scopes[i].parts {
			note(sc, b.scopes[p.scope].items)
		}
	}
	return r
}

// known returns the part of a ranking that a scope asks about. Ranks that are
// left empty are dropped: only the order matters.
func (r *relevance) known(sc uint32, of ranking) ranking {
	var out ranking
	for _, lists := range of {
		var here []listID
		for _, l := range lists {
			if r.lists[sc][l] {
				here = append(here, l)
			}
		}
		if len(here) > 0 {
			out = append(out, here)
		}
	}
	return out
}

// touched returns the scopes, in order, to which the ranking may mean something
// else than the roots of its families: those that name a list which a root does
// not have, or has at another place, or which only a root has (a resource that
// takes all traffic hides the wider ones around it).
func (r *relevance) touched(of ranking, roots [2]ranking, used [2]bool) []uint32 {
	var out []uint32
	differs := func(l listID) { out = append(out, r.scopes[l]...) }
	last := len(of) - 1
	for i, lists := range of {
		for _, l := range lists {
			if i < last || !inRoots(l, roots, used) {
				differs(l)
			}
		}
	}
	for family, root := range roots {
		for _, lists := range root {
			for _, l := range lists {
				if used[family] && !of.has(l) {
					differs(l)
				}
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// inRoots reports whether the roots of all families used have the list.
func inRoots(l listID, roots [2]ranking, used [2]bool) bool {
	for family, root := range roots {
		if used[family] && !root.has(l) {
			return false
		}
	}
	return true
}

func (r ranking) has(l listID) bool {
	return slices.ContainsFunc(r, func(lists []listID) bool { return slices.Contains(lists, l) })
}
