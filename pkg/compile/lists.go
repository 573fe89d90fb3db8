package compile

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"
)

// listID numbers a prefix list, from 1: the peers that one selector means.
// Equal lists have one number, so that members of many profiles that trust the
// same prefixes cost the kernel these prefixes once.
type listID uint32

// Tables by family are indexed with these.
const (
	family4 = iota
	family6
)

func familyOf(a netip.Addr) int {
	if a.Is4() {
		return family4
	}
	return family6
}

// block is a prefix as sorting and nesting see it: the address left-aligned in
// 128 bits. Blocks of the two families are never mixed.
type block struct {
	high, low uint64
	bits      uint8
}

func blockOf(p netip.Prefix) block {
	a := p.Addr()
	if a.Is4() {
		four := a.As4()
		return block{high: uint64(binary.BigEndian.Uint32(four[:])) << 32, bits: uint8(p.Bits())}
	}
	sixteen := a.As16()
	return block{
		high: binary.BigEndian.Uint64(sixteen[:8]),
		low:  binary.BigEndian.Uint64(sixteen[8:]),
		bits: uint8(p.Bits()),
	}
}

// prefix is the block as a prefix of a family.
func (b block) prefix(family int) netip.Prefix {
	var sixteen [16]byte
	binary.BigEndian.PutUint64(sixteen[:8], b.high)
	binary.BigEndian.PutUint64(sixteen[8:], b.low)
	if family == family4 {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte(sixteen[:4])), int(b.bits))
	}
	return netip.PrefixFrom(netip.AddrFrom16(sixteen), int(b.bits))
}

// contains reports whether other is b or inside it.
func (b block) contains(other block) bool {
	if b.bits > other.bits {
		return false
	}
	if b.bits <= 64 {
		return (b.high^other.high)>>(64-b.bits) == 0
	}
	return b.high == other.high && (b.low^other.low)>>(128-b.bits) == 0
}

// compareBlocks orders by address, and of one address the wider first: so that
// a prefix comes right before all it contains.
func compareBlocks(a, b block) int {
	if c := cmp.Compare(a.high, b.high); c != 0 {
		return c
	}
	if c := cmp.Compare(a.low, b.low); c != 0 {
		return c
	}
	return cmp.Compare(a.bits, b.bits)
}

// comparePrefixes orders by family, then as compareBlocks.
func comparePrefixes(a, b netip.Prefix) int {
	if c := cmp.Compare(a.Addr().BitLen(), b.Addr().BitLen()); c != 0 {
		return c
	}
	return compareBlocks(blockOf(a), blockOf(b))
}

// owned is the prefixes that a list, or a resource, has.
type owned struct {
	owner    uint32 // a listID, or ofResource with an index into Policy.Resources
	prefixes []netip.Prefix
}

// mark says that a list, or a resource, has a prefix.
type mark struct {
	block
	owner uint32 // as in owned
}

const ofResource = 1 << 31

func compareMarks(a, b mark) int {
	if c := compareBlocks(a.block, b.block); c != 0 {
		return c
	}
	return cmp.Compare(a.owner, b.owner)
}

// marksOf sorts the prefixes of a family by place.
func marksOf(all []owned, family int) []mark {
	count := 0
	for _, o := range all {
		for _, p := range o.prefixes {
			if familyOf(p.Addr()) == family {
				count++
			}
		}
	}
	marks := make([]mark, 0, count)
	for _, o := range all {
		for _, p := range o.prefixes {
			if familyOf(p.Addr()) == family {
				marks = append(marks, mark{blockOf(p), o.owner})
			}
		}
	}
	return sortedMarks(marks)
}

// sortedMarks sorts marks, which it may change, by merging what is in order already:
// lists come sorted, and a million of them with a few before and behind would be
// all but unsorted to an ordinary sort.
func sortedMarks(marks []mark) []mark {
	ends := []int{0} // of what is in order
	for i := 1; i <= len(marks); i++ {
		if i == len(marks) || compareMarks(marks[i-1], marks[i]) > 0 {
			ends = append(ends, i)
		}
	}
	if len(ends) > len(marks)/8 {
		slices.SortFunc(marks, compareMarks)
		return marks
	}
	from, to := marks, make([]mark, len(marks))
	for len(ends) > 2 {
		kept := ends[:1]
		for i := 2; i <= len(ends); i += 2 {
			first, middle, end := ends[i-2], ends[i-1], ends[min(i, len(ends)-1)]
			merge(to[first:first:end], from[first:middle], from[middle:end])
			kept = append(kept, end)
		}
		ends = kept
		from, to = to, from
	}
	return from
}

// merge appends the marks of two sorted lists to one.
func merge(to, a, b []mark) {
	for len(a) > 0 && len(b) > 0 {
		if compareMarks(a[0], b[0]) <= 0 {
			to, a = append(to, a[0]), a[1:]
		} else {
			to, b = append(to, b[0]), b[1:]
		}
	}
	_ = append(append(to, a...), b...) // within its capacity
}

// lists numbers every prefix list of the policy and collects the prefixes.
type lists struct {
	bySlice   map[sliceKey]listID
	byContent map[uint64][]knownList // by fingerprint
	byName    map[string]listID
	next      listID
	owned     []owned
	before    map[sliceKey]uint64 // fingerprints from an earlier compilation
	taken     map[sliceKey]uint64 // fingerprints of this one
}

// sliceKey tells a slice of the policy, which nobody changes, from any other.
type sliceKey struct {
	first *netip.Prefix
	count int
}

func keyOf(prefixes []netip.Prefix) sliceKey {
	if len(prefixes) == 0 {
		return sliceKey{}
	}
	return sliceKey{&prefixes[0], len(prefixes)}
}

type knownList struct {
	prefixes []netip.Prefix
	id       listID
}

// newLists takes the fingerprints that an earlier compilation took, if there was one.
func newLists(before map[sliceKey]uint64) *lists {
	return &lists{
		bySlice: map[sliceKey]listID{}, byContent: map[uint64][]knownList{}, byName: map[string]listID{},
		before: before, taken: map[sliceKey]uint64{},
	}
}

// ofPrefixes returns the list of exactly these prefixes, in whatever order. The
// slice must not change afterwards.
func (l *lists) ofPrefixes(prefixes []netip.Prefix) listID {
	// Rules are asked about once for each scope they are part of.
	key := keyOf(prefixes)
	id, ok := l.bySlice[key]
	if !ok {
		id = l.byPrefixes(key, prefixes)
		l.bySlice[key] = id
	}
	return id
}

func (l *lists) byPrefixes(key sliceKey, prefixes []netip.Prefix) listID {
	fingerprint, known := l.before[key]
	if !known {
		fingerprint = fingerprintOf(prefixes)
	}
	l.taken[key] = fingerprint
	for _, known := range l.byContent[fingerprint] {
		if sameSet(known.prefixes, prefixes) {
			return known.id
		}
	}
	id := l.allocate()
	l.byContent[fingerprint] = append(l.byContent[fingerprint], knownList{prefixes, id})
	l.owned = append(l.owned, owned{uint32(id), prefixes})
	return id
}

// ofIdentity returns the list of the resources that share a name: a
// subscription, a perimeter, or a profile of one. Its prefixes are not entered
// here: which resource an address carries depends on the others around it.
func (l *lists) ofIdentity(kind, name string) listID {
	key := identityKey(kind, name)
	id, ok := l.byName[key]
	if !ok {
		id = l.allocate()
		l.byName[key] = id
	}
	return id
}

// knownIdentity is ofIdentity for a list that somebody asked for before.
func (l *lists) knownIdentity(kind, name string) (listID, bool) {
	id, ok := l.byName[identityKey(kind, name)]
	return id, ok
}

func identityKey(kind, name string) string { return kind + "\x00" + name }

func (l *lists) allocate() listID {
	l.next++
	return l.next
}

// addResource enters the prefixes of a resource.
func (l *lists) addResource(resource int, prefixes []netip.Prefix) {
	l.owned = append(l.owned, owned{ofResource | uint32(resource), prefixes})
}

// fingerprintOf is equal for equal sets of prefixes, whatever their order, and
// hardly ever for others. It is the same in every process.
func fingerprintOf(prefixes []netip.Prefix) uint64 {
	sum := uint64(len(prefixes))
	for _, p := range prefixes {
		b := blockOf(p)
		h := scramble(b.high)
		h = scramble(h ^ b.low)
		sum += scramble(h ^ uint64(b.bits)<<1 ^ uint64(familyOf(p.Addr())))
	}
	return sum
}

// scramble is the finalizer of SplitMix64: every bit of x moves every bit of the
// result.
func scramble(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// sameSet reports whether two lists hold the same prefixes in any order.
func sameSet(a, b []netip.Prefix) bool {
	if len(a) != len(b) {
		return false
	}
	return slices.Equal(a, b) || slices.Equal(
		slices.SortedFunc(slices.Values(a), comparePrefixes),
		slices.SortedFunc(slices.Values(b), comparePrefixes))
}
