package compile

import (
	"cmp"
	"encoding/binary"
	"math/bits"
	"net/netip"
	"slices"
)

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

// everyAddress is the prefix that holds all of a family.
func everyAddress(family int) netip.Prefix { return block{}.prefix(family) }

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

// common is how many bits two blocks have in common at their beginning.
func (b block) common(other block) int {
	n := bits.LeadingZeros64(b.high ^ other.high)
	if n == 64 {
		n += bits.LeadingZeros64(b.low ^ other.low)
	}
	return min(n, int(b.bits), int(other.bits))
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

// mark says that a list, or a resource, has a prefix.
type mark struct {
	block
	owner uint32 // a listID, or ofResource with an index into Policy.Resources
}

const ofResource = 1 << 31

func compareMarks(a, b mark) int {
	if c := compareBlocks(a.block, b.block); c != 0 {
		return c
	}
	return cmp.Compare(a.owner, b.owner)
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
