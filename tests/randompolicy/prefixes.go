package randompolicy

import (
	"math/rand/v2"
	"net/netip"
)

// family is what prefixes of one address family are drawn from.
type family struct {
	anchors []string // addresses in or at the edge of many prefixes
	lengths []int
}

// families returns both. The anchors are chosen so that short prefixes of
// several coincide and long ones touch; 32.1.13.184 has the first four bytes
// of 2001:db8::.
func families() (v4, v6 family) {
	v4 = family{
		anchors: []string{
			"10.20.0.0", "10.20.0.5", "10.20.0.255", "10.20.1.0", "10.19.255.255",
			"32.1.13.184", "127.255.255.255", "128.0.0.0", "203.0.113.128",
		},
		lengths: []int{0, 1, 8, 15, 16, 17, 23, 24, 24, 25, 28, 30, 31, 31, 32, 32, 32, 32},
	}
	v6 = family{
		anchors: []string{
			"2001:db8::", "2001:db8::5", "2001:db8::ff", "2001:db8::100",
			"2001:db8:0:1::", "2001:db8:0:0:ffff:ffff:ffff:ffff",
			"2001:db7:ffff:ffff:ffff:ffff:ffff:ffff", "fd20::", "7fff:ffff::",
		},
		lengths: []int{0, 1, 16, 31, 32, 33, 48, 63, 64, 64, 65, 112, 120, 126, 127, 127, 128, 128, 128, 128},
	}
	return v4, v6
}

// pick returns one element of a list that is not empty.
func pick[T any](r *rand.Rand, list []T) T { return list[r.IntN(len(list))] }

// chance is true so many times in a hundred.
func chance(r *rand.Rand, percent int) bool { return r.IntN(100) < percent }

// randomPrefix draws a masked prefix of at least the given share of its
// address's length, in percent.
func randomPrefix(r *rand.Rand, atLeast int) netip.Prefix {
	from, v6 := families()
	if chance(r, 45) {
		from = v6
	}
	addr := netip.MustParseAddr(pick(r, from.anchors))
	for {
		if bits := pick(r, from.lengths); bits*100 >= addr.BitLen()*atLeast {
			return netip.PrefixFrom(addr, bits).Masked()
		}
	}
}

// randomPrefixes draws one to three different prefixes.
func randomPrefixes(r *rand.Rand, atLeast int) []netip.Prefix {
	var list []netip.Prefix
	seen := make(map[netip.Prefix]bool)
	for range 1 + r.IntN(3) {
		if p := randomPrefix(r, atLeast); !seen[p] {
			seen[p] = true
			list = append(list, p)
		}
	}
	return list
}

// within draws a prefix inside another, now and then the same one.
func within(r *rand.Rand, outer netip.Prefix) netip.Prefix {
	length := outer.Addr().BitLen()
	if outer.Bits() == length || chance(r, 40) {
		return outer
	}
	bits := min(length, outer.Bits()+1+r.IntN(8))
	return netip.PrefixFrom(randomAddrIn(r, outer), bits).Masked()
}

// randomAddrIn draws any address of the prefix.
func randomAddrIn(r *rand.Rand, p netip.Prefix) netip.Addr {
	bytes := p.Masked().Addr().AsSlice()
	for bit := p.Bits(); bit < len(bytes)*8; bit++ {
		if chance(r, 50) {
			bytes[bit/8] |= 0x80 >> (bit % 8)
		}
	}
	addr, _ := netip.AddrFromSlice(bytes)
	return addr
}

// lastOf returns the last address of the prefix.
func lastOf(p netip.Prefix) netip.Addr {
	bytes := p.Masked().Addr().AsSlice()
	for bit := p.Bits(); bit < len(bytes)*8; bit++ {
		bytes[bit/8] |= 0x80 >> (bit % 8)
	}
	addr, _ := netip.AddrFromSlice(bytes)
	return addr
}

// edgeOf draws an address where an off-by-one shows: the first and the last of
// the prefix, their neighbours outside, and now and then any inside.
func edgeOf(r *rand.Rand, p netip.Prefix) netip.Addr {
	first, last := p.Masked().Addr(), lastOf(p)
	var addr netip.Addr
	switch r.IntN(12) {
	case 0:
		addr = first.Prev()
	case 1:
		addr = last.Next()
	case 2, 3, 4, 5:
		addr = first
	case 6, 7, 8, 9:
		addr = last
	default:
		addr = randomAddrIn(r, p)
	}
	if !addr.IsValid() || addr.Is4() != first.Is4() { // before the first or after the last of all
		return first
	}
	return addr
}

// isMulticast reports a destination that several hosts share.
func isMulticast(addr netip.Addr) bool {
	return netip.MustParsePrefix("224.0.0.0/4").Contains(addr) ||
		netip.MustParsePrefix("ff00::/8").Contains(addr) ||
		addr == netip.MustParseAddr("255.255.255.255") || addr == netip.IPv4Unspecified()
}
