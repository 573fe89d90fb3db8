package compile

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/perimeterd/perimeterd/pkg/policy"
)

// listID numbers a prefix list: the peers that one selector means. Equal lists
// have one number, so that members of many profiles that trust the same
// prefixes cost the kernel these prefixes once.
type listID uint32

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

// mark says that a list, or a resource, has a prefix.
type mark struct {
	block
	list     listID
	resource int // index into Policy.Resources; -1 = this is of a list
	prefix   netip.Prefix
}

// lists collects every prefix list of the policy.
type lists struct {
	byContent map[[sha256.Size]byte]listID
	byName    map[string]listID
	next      listID
	marks4    []mark
	marks6    []mark
}

func newLists() *lists {
	return &lists{byContent: map[[sha256.Size]byte]listID{}, byName: map[string]listID{}}
}

// ofPrefixes returns the list of exactly these prefixes.
func (l *lists) ofPrefixes(prefixes []netip.Prefix) listID {
	digest := digestOf(prefixes)
	if id, ok := l.byContent[digest]; ok {
		return id
	}
	id := l.allocate()
	l.byContent[digest] = id
	for _, p := range prefixes {
		l.add(mark{block: blockOf(p), list: id, resource: -1, prefix: p})
	}
	return id
}

// ofIdentity returns the list of the resources that share a name: a
// subscription, or a profile of a perimeter. Its prefixes are not entered here:
// which resource an address carries depends on the others around it.
func (l *lists) ofIdentity(kind, name string) listID {
	key := kind + "\x00" + name
	id, ok := l.byName[key]
	if !ok {
		id = l.allocate()
		l.byName[key] = id
	}
	return id
}

func (l *lists) allocate() listID {
	l.next++
	return l.next
}

// addResource enters a prefix of a resource.
func (l *lists) addResource(resource int, p netip.Prefix) {
	l.add(mark{block: blockOf(p), resource: resource, prefix: p})
}

func (l *lists) add(m mark) {
	if m.prefix.Addr().Is4() {
		l.marks4 = append(l.marks4, m)
	} else {
		l.marks6 = append(l.marks6, m)
	}
}

// digestOf identifies a set of prefixes, whatever their order.
func digestOf(prefixes []netip.Prefix) [sha256.Size]byte {
	sorted := prefixes
	order := func(a, b netip.Prefix) int {
		if c := cmp.Compare(a.Addr().BitLen(), b.Addr().BitLen()); c != 0 {
			return c
		}
		return compareBlocks(blockOf(a), blockOf(b))
	}
	if !slices.IsSortedFunc(sorted, order) {
		sorted = slices.SortedFunc(slices.Values(prefixes), order)
	}
	h := sha256.New()
	var buf [18]byte
	for _, p := range sorted {
		sixteen := p.Addr().As16()
		copy(buf[:], sixteen[:])
		buf[16] = uint8(p.Bits())
		buf[17] = uint8(p.Addr().BitLen())
		h.Write(buf[:])
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// prefixesOfNames returns the addresses of fully qualified domain names, as
// prefixes.
func prefixesOfNames(names []string, facts *policy.Facts) []netip.Prefix {
	var out []netip.Prefix
	for _, name := range names {
		for _, a := range facts.Names[name] {
			a = a.Unmap().WithZone("")
			out = append(out, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	return out
}
