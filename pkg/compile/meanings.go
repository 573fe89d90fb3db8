package compile

import (
	"fmt"
	"slices"
)

// What classes mean to scopes. A scope asks about a few lists; of a class only
// the order of these matters to it.

// known is the lists of a class, or of a root, that one scope asks about, in the
// class's order: each group is followed by endOfGroup, and groups that are left
// empty are dropped.
type known []listID

const endOfGroup listID = 0

// ask says that an item of a scope names a list.
type ask struct {
	list listID
	item int
}

// index notes which lists each scope asks about, and which scopes ask about each
// list, so that a class is held against those scopes only to which it can mean
// something.
func (b *builder) index() {
	b.askers = make([][]uint32, b.lists.next+1)
	for number := range b.scopes {
		s := &b.scopes[number]
		for i := range s.items {
			for _, l := range s.items[i].lists {
				s.asks = append(s.asks, ask{l, i})
			}
			if s.items[i].every {
				s.always = append(s.always, i)
			}
		}
		slices.SortStableFunc(s.asks, func(x, y ask) int { return int(x.list) - int(y.list) })
		for i, a := range s.asks {
			if i == 0 || a.list != s.asks[i-1].list {
				b.askers[a.list] = append(b.askers[a.list], uint32(number))
			}
		}
	}
}

// firstAsk returns where the asks about a list begin.
func (s *scope) firstAsk(l listID) (int, bool) {
	return slices.BinarySearchFunc(s.asks, l, func(a ask, l listID) int { return int(a.list) - int(l) })
}

// appendShared appends the lists of a group, which is sorted, that the scope asks
// about. Either may be long, seldom both.
func (s *scope) appendShared(out known, group []listID) known {
	if len(group) <= 4*len(s.asks) {
		for _, l := range group {
			if _, asked := s.firstAsk(l); asked {
				out = append(out, l)
			}
		}
		return out
	}
	for i, a := range s.asks {
		if i > 0 && a.list == s.asks[i-1].list {
			continue
		}
		if _, found := slices.BinarySearch(group, a.list); found {
			out = append(out, a.list)
		}
	}
	return out
}

// peers is the addresses of a class, or if that is 0 those that nothing but a
// root covers.
type peers struct {
	root  int
	class uint32
}

// appendKnown appends what the scope knows of these peers.
func (b *builder) appendKnown(out known, s *scope, of peers) known {
	cl := &b.cover.classes.all[of.class]
	start := len(out)
	for _, group := range cl.ranking {
		before := len(out)
		if out = s.appendShared(out, group); len(out) > before {
			out = append(out, endOfGroup)
		}
	}
	ofRoot := len(out)
	out = s.appendShared(out, b.cover.classes.roots[of.root])
	inside := out[start:ofRoot]
	kept := slices.DeleteFunc(out[ofRoot:], func(l listID) bool {
		_, hidden := slices.BinarySearch(cl.hidden, l)
		return hidden || slices.Contains(inside, l)
	})
	if out = out[:ofRoot+len(kept)]; len(kept) > 0 {
		out = append(out, endOfGroup)
	}
	return out
}

// touched returns the scopes, in order, to which a class may mean something else
// than its parent: those that ask about a list that is at another place in it,
// or gone. What lies inside the parent stands in front; all else is where it was.
func (b *builder) touched(number uint32) []uint32 {
	cl := &b.cover.classes.all[number]
	parent := &b.cover.classes.all[cl.parent]
	out := b.touchedScopes[:0]
	for i, group := range cl.ranking {
		for _, l := range group {
			if cl.parent == 0 || i == 0 || !parent.ranking.has(l) {
				out = append(out, b.askers[l]...)
			}
		}
	}
	for _, group := range parent.ranking {
		for _, l := range group {
			if cl.parent != 0 && !cl.ranking.has(l) {
				out = append(out, b.askers[l]...)
			}
		}
	}
	for _, l := range cl.hidden {
		if _, before := slices.BinarySearch(parent.hidden, l); !before {
			out = append(out, b.askers[l]...)
		}
	}
	slices.Sort(out)
	out = slices.Compact(out)
	b.touchedScopes = out
	return out
}

// addMeanings writes down what the classes mean to the scopes, and what all else
// does to the members.
func (b *builder) addMeanings() error {
	classesOf, err := b.classesByScope()
	if err != nil {
		return err
	}
	otherwise := make([][2]SpanList, len(b.scopes)) // by family
	var key []byte
	for number := range b.scopes {
		sc, s := uint32(number), &b.scopes[number]
		for family, root := range b.cover.roots {
			otherwise[sc][family] = otherwise[sc][family4]
			if family == family4 || root != b.cover.roots[family4] {
				otherwise[sc][family] = b.meaning(s, peers{root: root})
			}
		}
		memo := map[string]SpanList{}    // the scope cannot tell all classes apart
		written := map[uint32]SpanList{} // by class
		for _, class := range classesOf[sc] {
			of := peers{b.cover.classes.all[class].root, class}
			b.known = b.appendKnown(b.known[:0], s, of)
			key = appendLists(key[:0], b.known)
			meaning, ok := memo[string(key)]
			if !ok || s.assembly != nil {
				meaning = b.meaning(s, of)
				memo[string(key)] = meaning
			}
			asParent, ok := b.writtenFor(written, b.cover.classes.all[class].parent)
			if !ok {
				asParent = otherwise[sc][b.familyOf(of.root)]
			}
			if meaning != asParent {
				written[class] = meaning
				b.tables.ScopeClasses = append(b.tables.ScopeClasses, ScopeClass{sc, class, meaning})
			}
		}
	}
	for i := range b.tables.Members[1:] {
		m := &b.tables.Members[i+1]
		for direction, sc := range m.Scope {
			m.Otherwise4[direction] = otherwise[sc][family4]
			m.Otherwise6[direction] = otherwise[sc][family6]
		}
	}
	return nil
}

// writtenFor returns what is written down for a class, or for the nearest of its
// parents for which something is.
func (b *builder) writtenFor(written map[uint32]SpanList, class uint32) (SpanList, bool) {
	for ; class != 0; class = b.cover.classes.all[class].parent {
		if meaning, ok := written[class]; ok {
			return meaning, true
		}
	}
	return SpanList{}, false
}

// classesByScope returns, for each scope, the classes in which it finds its lists
// in another order than in their parent.
func (b *builder) classesByScope() ([][]uint32, error) {
	out := make([][]uint32, len(b.scopes))
	var inClass, inParent known
	var differs []uint32
	count := 0
	for number, used := range b.used {
		if !used || number == 0 {
			continue
		}
		class := uint32(number)
		root := b.cover.classes.all[class].root
		differs = differs[:0]
		for _, sc := range b.touched(class) {
			s := &b.scopes[sc]
			inClass = b.appendKnown(inClass[:0], s, peers{root, class})
			inParent = b.appendKnown(inParent[:0], s, peers{root, b.cover.classes.all[class].parent})
			if !slices.Equal(inClass, inParent) {
				differs = append(differs, sc)
			}
		}
		for _, sc := range b.together {
			if len(b.scopes[sc].assembly.behind(differs)) > 0 {
				differs = append(differs, sc)
			}
		}
		if count += len(differs); count > MeaningsMax {
			return nil, fmt.Errorf("the policy needs more than %d combinations of members' rules and overlapping prefixes: nest fewer prefixes in each other, or let members share profiles", MeaningsMax)
		}
		for _, sc := range differs {
			out[sc] = append(out[sc], class)
		}
	}
	return out, nil
}

// familyOf returns a family that has the root.
func (b *builder) familyOf(root int) int {
	if root == b.cover.roots[family4] {
		return family4
	}
	return family6
}

// meaning returns the spans of a scope for these peers.
func (b *builder) meaning(s *scope, of peers) SpanList {
	if s.assembly != nil {
		return b.spansOf(b.assemble(s.assembly, of))
	}
	b.known = b.appendKnown(b.known[:0], s, of)
	b.claims = b.appendClaimsOf(b.claims[:0], s, b.known)
	return b.spansOf(b.flattener.flatten(b.claims))
}

// spansOf stores what segments say.
func (b *builder) spansOf(segments []segment) SpanList {
	spans := b.spanBuffer[:0]
	for _, s := range segments {
		spans = append(spans, Span{s.from, b.outcomes.chain(s.chain)})
	}
	b.spanBuffer = spans
	return b.spans.add(spans)
}

// appendClaimsOf appends what the scope's items claim for peers of which it knows
// this. An item that names several of the lists claims the same several times,
// of which the first counts.
func (b *builder) appendClaimsOf(claims []claim, s *scope, what known) []claim {
	rank := 0
	for _, l := range what {
		if l == endOfGroup {
			rank++
			continue
		}
		for i, _ := s.firstAsk(l); i < len(s.asks) && s.asks[i].list == l; i++ {
			claims = appendClaims(claims, &s.items[s.asks[i].item], rank)
		}
	}
	for _, item := range s.always {
		claims = appendClaims(claims, &s.items[item], rank)
	}
	return claims
}
