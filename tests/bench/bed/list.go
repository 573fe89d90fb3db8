package bed

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"
)

// Kind is what the prefixes of a list are.
type Kind string

const (
	Hosts Kind = "hosts" // full length
	Mixed Kind = "mixed" // lengths as in a routing table, many inside others
	Apart Kind = "apart" // lengths as in a list of networks, none inside another
)

// List is distinct prefixes of one family, sorted by address, then length.
type List struct {
	Family   int
	Prefixes []netip.Prefix
	table    *bart.Lite
}

// NewList draws a list. The same random numbers give the same list.
func NewList(kind Kind, family, size int, random *rand.Rand) *List {
	seen := make(map[netip.Prefix]bool, size)
	list := make([]netip.Prefix, 0, size)
	var taken bart.Lite
	for len(list) < size {
		p := netip.PrefixFrom(randomAddress(family, random), kind.length(family, random)).Masked()
		if seen[p] || kind == Apart && taken.OverlapsPrefix(p) {
			continue
		}
		seen[p] = true
		list = append(list, p)
		if kind == Apart {
			taken.Insert(p)
		}
	}
	return ListOf(family, list)
}

// ListOf makes a list of given prefixes.
func ListOf(family int, prefixes []netip.Prefix) *List {
	slices.SortFunc(prefixes, netip.Prefix.Compare)
	l := &List{Family: family, Prefixes: slices.Compact(prefixes), table: &bart.Lite{}}
	for _, p := range l.Prefixes {
		l.table.Insert(p)
	}
	return l
}

// length draws a prefix length. Mixed: 55 % /24, 6.5 % hosts, the rest from /16 to
// /23 and a few longer ones. Apart: the same without those that are shorter. In
// IPv6 a /24 is a /40, and so on.
func (k Kind) length(family int, random *rand.Rand) int {
	bits := 32
	if k != Hosts {
		switch n := random.IntN(1000); {
		case n < 550:
			bits = 24
		case n < 615:
			bits = 32
		case n < 925 && k == Mixed:
			bits = 16 + random.IntN(8)
		default:
			bits = 25 + random.IntN(7)
		}
	}
	switch {
	case family == 4:
		return bits
	case bits == 32:
		return 128
	default:
		return 16 + bits
	}
}

// randomAddress draws from all that a peer may have, but for the members' own
// networks: 10.0.0.0/8 and groups, and in IPv6 from 2000::/4.
func randomAddress(family int, random *rand.Rand) netip.Addr {
	if family == 6 {
		var a [16]byte
		for i := range a {
			a[i] = byte(random.Uint32())
		}
		a[0] = 0x20 | a[0]&0x0f
		return netip.AddrFrom16(a)
	}
	for {
		n := random.Uint32()
		first := byte(n >> 24)
		if first == 0 || first == 10 || first == 127 || first >= 224 {
			continue
		}
		return netip.AddrFrom4([4]byte{first, byte(n >> 16), byte(n >> 8), byte(n)})
	}
}

// Inside draws an address in the i-th prefix.
func (l *List) Inside(i int, random *rand.Rand) netip.Addr {
	p := l.Prefixes[i]
	address := p.Addr().AsSlice()
	other := randomAddress(l.Family, random).AsSlice()
	for bit := p.Bits(); bit < 8*len(address); bit++ {
		mask := byte(0x80) >> (bit % 8)
		address[bit/8] = address[bit/8]&^mask | other[bit/8]&mask
	}
	out, ok := netip.AddrFromSlice(address)
	if !ok {
		panic(fmt.Sprintf("bed: no address of %d bytes", len(address)))
	}
	return out
}

// Outside draws an address in no prefix.
func (l *List) Outside(random *rand.Rand) netip.Addr {
	for {
		if a := randomAddress(l.Family, random); !l.table.Contains(a) {
			return a
		}
	}
}
