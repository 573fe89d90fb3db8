package policy

import (
	"encoding/binary"
	"encoding/json"
	"iter"
	"net/netip"
	"slices"
)

// PrefixSet is a set of prefixes, masked, of which there may be millions. Nobody
// changes one: Edit makes another, which shares the memory of the first, and what is
// between two of this kind is known without looking at all of them.
type PrefixSet struct {
	base           []netip.Prefix // sorted as ComparePrefixes has it, each once, as the next two
	added, removed []netip.Prefix // none of added is in base, all of removed are
	fingerprint    uint64
}

// ComparePrefixes orders masked prefixes by family, IPv4 first, then by address, and of
// one address the shorter first: so that a prefix comes right before all it contains.
// The order is that of netip.Prefix.Compare, which masks both again each time.
func ComparePrefixes(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return a.Bits() - b.Bits()
}

// Holds reports whether a prefix is another of its family, or inside it.
func Holds(outer, inner netip.Prefix) bool {
	return outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr())
}

// editsMost is how many edits are kept apart from so many prefixes. A set with more
// is stored anew.
func editsMost(prefixes int) int { return prefixes / 64 }

// NewPrefixSet makes a set of prefixes, in any order and perhaps some twice. The slice
// is not to be changed afterwards.
func NewPrefixSet(prefixes []netip.Prefix) *PrefixSet {
	s := &PrefixSet{base: sortedOnce(prefixes)}
	for _, p := range s.base {
		s.fingerprint += fingerprintOf(p)
	}
	return s
}

// sortedOnce returns the prefixes sorted, each once: the same slice if it is so.
func sortedOnce(prefixes []netip.Prefix) []netip.Prefix {
	for i := 1; i < len(prefixes); i++ {
		if ComparePrefixes(prefixes[i-1], prefixes[i]) >= 0 {
			prefixes = slices.Clone(prefixes)
			slices.SortFunc(prefixes, ComparePrefixes)
			return slices.Clip(slices.Compact(prefixes))
		}
	}
	return prefixes
}

// Edit returns a set with some more and some fewer prefixes. Neither the added may be
// in s nor the removed be missing there.
func (s *PrefixSet) Edit(added, removed []netip.Prefix) *PrefixSet {
	if len(added)+len(removed) == 0 {
		return s
	}
	added, removed = sortedOnce(added), sortedOnce(removed)
	edited := &PrefixSet{
		base: s.base,
		// What was removed and comes back is of the base, what was added and goes is not.
		added:       merged(without(s.added, removed), without(added, s.removed)),
		removed:     merged(without(s.removed, added), without(removed, s.added)),
		fingerprint: s.fingerprint,
	}
	for _, p := range added {
		edited.fingerprint += fingerprintOf(p)
	}
	for _, p := range removed {
		edited.fingerprint -= fingerprintOf(p)
	}
	if len(edited.added)+len(edited.removed) > editsMost(len(edited.base)) {
		edited.base = slices.AppendSeq(make([]netip.Prefix, 0, edited.Len()), edited.All())
		edited.added, edited.removed = nil, nil
	}
	return edited
}

// Len returns how many prefixes there are.
func (s *PrefixSet) Len() int { return len(s.base) + len(s.added) - len(s.removed) }

// Has reports whether a prefix is in the set. That it is inside one is another matter.
func (s *PrefixSet) Has(p netip.Prefix) bool {
	in := func(list []netip.Prefix) bool {
		_, found := slices.BinarySearchFunc(list, p, ComparePrefixes)
		return found
	}
	return in(s.added) || in(s.base) && !in(s.removed)
}

// All yields the prefixes sorted as ComparePrefixes has it: by family, then address, then
// length.
func (s *PrefixSet) All() iter.Seq[netip.Prefix] { return s.cursor().all() }

// Inside yields, likewise sorted, the prefixes that are p or lie inside it.
func (s *PrefixSet) Inside(p netip.Prefix) iter.Seq[netip.Prefix] {
	return cursor{inside(s.base, p), inside(s.added, p), inside(s.removed, p)}.all()
}

// LenInside returns how many Inside yields.
func (s *PrefixSet) LenInside(p netip.Prefix) int {
	return len(inside(s.base, p)) + len(inside(s.added, p)) - len(inside(s.removed, p))
}

// cursor goes through what is in base or added, but not in removed, sorted as they are.
type cursor struct{ base, added, removed []netip.Prefix }

func (s *PrefixSet) cursor() cursor { return cursor{s.base, s.added, s.removed} }

func (c cursor) all() iter.Seq[netip.Prefix] {
	return func(yield func(netip.Prefix) bool) {
		at := c // the sequence may be asked for again
		for p, ok := at.next(); ok && yield(p); p, ok = at.next() {
		}
	}
}

// next returns the next prefix, or false after the last.
func (c *cursor) next() (p netip.Prefix, ok bool) {
	for len(c.base) > 0 && len(c.removed) > 0 && c.base[0] == c.removed[0] {
		c.base, c.removed = c.base[1:], c.removed[1:]
	}
	switch {
	case len(c.base) > 0 && (len(c.added) == 0 || ComparePrefixes(c.base[0], c.added[0]) < 0):
		p, c.base = c.base[0], c.base[1:]
	case len(c.added) > 0:
		p, c.added = c.added[0], c.added[1:]
	default:
		return p, false
	}
	return p, true
}

// inside is the part of a sorted list that is p or lies inside it.
func inside(list []netip.Prefix, p netip.Prefix) []netip.Prefix {
	first, _ := slices.BinarySearchFunc(list, p, ComparePrefixes)
	list = list[first:]
	end, _ := slices.BinarySearchFunc(list, p, func(other, p netip.Prefix) int {
		if p.Contains(other.Addr()) { // and it is no shorter, for it comes after p
			return -1
		}
		return 1
	})
	return list[:end]
}

// Equal reports whether two sets hold the same.
func (s *PrefixSet) Equal(other *PrefixSet) bool {
	if s == other {
		return true
	}
	if s.fingerprint != other.fingerprint || s.Len() != other.Len() {
		return false
	}
	if len(s.added)+len(s.removed)+len(other.added)+len(other.removed) == 0 {
		return slices.Equal(s.base, other.base)
	}
	_, _, same := s.Since(other, 0)
	return same
}

// Since returns the edits that make this set of another. False: there are more than
// most.
func (s *PrefixSet) Since(before *PrefixSet, most int) (added, removed []netip.Prefix, few bool) {
	if s == before {
		return nil, nil, true
	}
	if s.Origin() == before.Origin() {
		added = merged(without(s.added, before.added), without(before.removed, s.removed))
		removed = merged(without(s.removed, before.removed), without(before.added, s.added))
		return added, removed, len(added)+len(removed) <= most
	}
	from := before.cursor()
	old, more := from.next()
	for p := range s.All() {
		for ; more && ComparePrefixes(old, p) < 0 && len(removed) <= most; old, more = from.next() {
			removed = append(removed, old)
		}
		if more && old == p {
			old, more = from.next()
		} else {
			added = append(added, p)
		}
		if len(added)+len(removed) > most {
			return nil, nil, false
		}
	}
	for ; more && len(removed) <= most; old, more = from.next() {
		removed = append(removed, old)
	}
	return added, removed, len(added)+len(removed) <= most
}

// Origin tells a slice of prefixes, which nobody changes, from any other.
type Origin struct {
	first *netip.Prefix
	count int
}

// OriginOf is the zero Origin for all slices without prefixes.
func OriginOf(prefixes []netip.Prefix) Origin {
	if len(prefixes) == 0 {
		return Origin{}
	}
	return Origin{&prefixes[0], len(prefixes)}
}

// Origin is the same for a set and for those that were made from it, as long as they
// differ little.
func (s *PrefixSet) Origin() Origin { return OriginOf(s.base) }

// MarshalJSON writes the prefixes as a list.
func (s *PrefixSet) MarshalJSON() ([]byte, error) {
	text := []byte{'['}
	for p := range s.All() {
		if len(text) > 1 {
			text = append(text, ',')
		}
		text = append(p.AppendTo(append(text, '"')), '"')
	}
	return append(text, ']'), nil
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (s *PrefixSet) UnmarshalJSON(text []byte) error {
	var prefixes []netip.Prefix
	if err := json.Unmarshal(text, &prefixes); err != nil {
		return err
	}
	*s = *NewPrefixSet(prefixes)
	return nil
}

// Fingerprint is equal for equal sets, and hardly ever for others. It is the same in
// every process.
func (s *PrefixSet) Fingerprint() uint64 { return s.fingerprint + uint64(s.Len()) }

// fingerprintOf is what a prefix adds to the fingerprint of a set.
func fingerprintOf(p netip.Prefix) uint64 {
	var high, low, family uint64
	if a := p.Addr(); a.Is4() {
		four := a.As4()
		high = uint64(binary.BigEndian.Uint32(four[:])) << 32
	} else {
		sixteen := a.As16()
		high, low, family = binary.BigEndian.Uint64(sixteen[:8]), binary.BigEndian.Uint64(sixteen[8:]), 1
	}
	return scramble(scramble(scramble(high)^low) ^ uint64(p.Bits())<<1 ^ family)
}

// scramble is the finalizer of SplitMix64: every bit of x moves every bit of the
// result.
func scramble(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// merged returns two sorted lists, which have nothing in common, as one.
func merged(a, b []netip.Prefix) []netip.Prefix {
	if len(a) == 0 || len(b) == 0 {
		return append(a[:len(a):len(a)], b...)
	}
	out := slices.Concat(a, b)
	slices.SortFunc(out, ComparePrefixes)
	return out
}

// without returns what is in a sorted list and not in another.
func without(list, other []netip.Prefix) []netip.Prefix {
	if len(list) == 0 || len(other) == 0 {
		return list
	}
	return slices.DeleteFunc(slices.Clone(list), func(p netip.Prefix) bool {
		_, found := slices.BinarySearchFunc(other, p, ComparePrefixes)
		return found
	})
}
