package datapath

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/perimeterd/perimeterd/pkg/compile"
	"github.com/perimeterd/perimeterd/tests/classed"
)

// lookUpLengths is prefix_by_lengths of bpf/prefix.h.
func lookUpLengths(tree *lengthTree, blocks []perimeterLengthBlock, a netip.Addr) uint32 {
	class, at := tree.class, uint8(0)
	address := lengthAddress(a)
	for range lengthLooksMost {
		node := tree.nodes[at]
		e := lengthEntry{address: [2]uint64{address[0] & node.MaskBe[0], address[1] & node.MaskBe[1]}, length: node.Length}
		if e.find(blocks) {
			class, at = e.value&^uint32(perimeterLengthEntryLENGTH_LONGER), node.Longer
			if class == e.value {
				break
			}
		} else {
			at = node.Shorter
		}
		if at == 0 {
			break
		}
	}
	return class
}

// find is prefix_length_entry of bpf/prefix.h: it reads the value.
func (e *lengthEntry) find(blocks []perimeterLengthBlock) bool {
	first, second := e.places(len(blocks))
	for _, number := range []int{first, second} {
		b := &blocks[number]
		for i := range b.Length {
			if b.Length[i] == e.length && b.AddressBe[i] == e.address {
				e.value = b.Value[i]
				return true
			}
		}
		if b.Spilled == 0 {
			break
		}
	}
	return false
}

// TestLengths holds lists of prefixes of any length, many inside others, against an
// independent longest-prefix match.
func TestLengths(t *testing.T) {
	source := seeded(t)
	deepest, markers := 0, 0
	for range 1000 {
		v4, dense := source.IntN(4) == 0, source.IntN(4) != 0
		another := func() netip.Prefix {
			a := anywhere(source, v4)
			if dense { // near one address, as far as a length drawn anew
				b := a.AsSlice()
				copy(b[:source.IntN(len(b)+1)], "\x20\x01\x0d\xb8\x00\x01\x00\x02\x00\x03\x00\x04\x00\x05\x00\x06")
				a, _ = netip.AddrFromSlice(b)
			}
			return netip.PrefixFrom(a, source.IntN(a.BitLen()+1)).Masked()
		}
		var drawn []netip.Prefix
		for range 1 + source.IntN(200) {
			drawn = append(drawn, another())
		}
		prefixes := classed.Prefixes(source, 4, slices.Clone(drawn))
		tree := lengthTreeOf(prefixes)
		if tree.looks == 0 {
			continue
		}
		blocks := tree.blocks(prefixes, 1<<20)
		if blocks == nil {
			t.Fatalf("no table of %v", prefixes)
		}
		table := classed.Table(prefixes)
		for range 300 {
			a := around(source, drawn[source.IntN(len(drawn))])
			want, _ := table.Lookup(a)
			if got := lookUpLengths(tree, blocks, a); got != want {
				t.Fatalf("%s is of class %d, want %d, in %v", a, got, want, prefixes)
			}
		}
		for _, m := range tree.markers {
			deepest = max(deepest, len(m))
		}
		markers += len(tree.entries(prefixes, 1<<20)) - len(prefixes)
	}
	if deepest < lengthLooksMost-2 || markers < 10_000 {
		t.Errorf("at most %d markers of a prefix and %d of all: too few to prove anything", deepest, markers)
	}
}

// TestLengthsAtTheEdges of the address space, and of markers.
func TestLengthsAtTheEdges(t *testing.T) {
	every := []string{"::/0"} // of every length, each inside the one before
	for length := 1; length <= 128; length++ {
		every = append(every, netip.PrefixFrom(netip.MustParseAddr("2001:db8:1:2:3:4:5:6"), length).Masked().String())
	}
	slices.SortFunc(every, func(a, b string) int { return netip.MustParsePrefix(a).Compare(netip.MustParsePrefix(b)) })
	// Of the lengths 32, 48 and 64 the second is asked first: 2001:db8:1::/48 is a marker.
	marked := []string{"2001:db8::/32", "2001:db8:1:1::/64", "2001:db8:2::/48"}
	for _, row := range []struct {
		prefixes []string
		address  string
		class    uint32
	}{
		{[]string{"::/128"}, "::", 1},
		{[]string{"::/128"}, "::1", 0},
		{[]string{"::/0", "::/128"}, "::", 2},
		{[]string{"::/0", "::/128"}, "::1", 1},
		{[]string{"::/1", "8000::/1"}, "7fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 1},
		{[]string{"::/1", "8000::/1"}, "8000::", 2},
		{[]string{"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128"}, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 1},
		{[]string{"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128"}, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe", 0},
		{[]string{"2001:db8::/127", "2001:db8::1/128"}, "2001:db8::", 1},
		{[]string{"2001:db8::/127", "2001:db8::1/128"}, "2001:db8::1", 2},
		{marked, "2001:db8:1:1::1", 2},
		{marked, "2001:db8:1:2::1", 1},
		{marked, "2001:db8:2:1::1", 3},
		{marked, "2001:db8:3::1", 1},
		{marked, "2001:db9:1:1::1", 0},
		{marked[1:], "2001:db8:1:2::1", 0},
		{every, "2001:db8:1:2:3:4:5:6", 129},
		{every, "2001:db8:1:2:3:4:5:7", 128},
		{every, "2001:db8:1:2:3:4:5:4", 127},
		{every, "2001:db8:1:2:3:4:5:0", 126},
		{every, "2001:db8:1:2:3:4:4::", 112},
		{every, "2001:db8::", 48},
		{every, "ffff::", 1},
		{[]string{"0.0.0.0/0", "255.255.255.255/32"}, "255.255.255.255", 2},
		{[]string{"0.0.0.0/0", "255.255.255.255/32"}, "255.255.255.254", 1},
		{[]string{"0.0.0.0/32"}, "0.0.0.0", 1},
		{[]string{"10.0.0.0/8", "10.0.0.0/24", "10.0.0.255/32"}, "10.0.0.254", 2},
		{[]string{"10.0.0.0/8", "10.0.0.0/24", "10.0.0.255/32"}, "10.0.1.0", 1},
		{[]string{"10.0.0.0/8", "10.0.0.0/24", "10.0.0.255/32"}, "11.0.0.0", 0},
	} {
		var prefixes []compile.PrefixClass
		for i, p := range row.prefixes {
			prefixes = append(prefixes, compile.PrefixClass{Prefix: netip.MustParsePrefix(p), Class: uint32(i + 1)})
		}
		tree := lengthTreeOf(prefixes)
		if got := lookUpLengths(tree, tree.blocks(prefixes, 1<<20), netip.MustParseAddr(row.address)); got != row.class {
			t.Errorf("%s in %v: class %d, want %d", row.address, row.prefixes, got, row.class)
		}
	}
}

// TestLengthsPay: a trie stays where a look at each of the lengths is no faster.
func TestLengthsPay(t *testing.T) {
	source := seeded(t)
	for _, k := range prefixKinds() {
		var prefixes []compile.PrefixClass
		for _, p := range k.make(source) {
			prefixes = append(prefixes, compile.PrefixClass{Prefix: p})
		}
		if !k.runs && lengthTreeOf(prefixes).pays(len(prefixes)) != k.byLength {
			t.Errorf("%s: %d prefixes", k.name, len(prefixes))
		}
	}
	for _, none := range [][]compile.PrefixClass{nil, {{Prefix: netip.MustParsePrefix("::/0"), Class: 1}}} {
		if lengthTreeOf(none).pays(len(none)) {
			t.Errorf("%v have no lengths to ask", none)
		}
	}
}

// TestLengthsBytes: the table has no more than it may have, and is not made where not
// all entries find a place.
func TestLengthsBytes(t *testing.T) {
	source := seeded(t)
	for _, k := range prefixKinds() {
		if !k.byLength {
			continue
		}
		prefixes := classed.Prefixes(source, 4, k.make(source))
		tree := lengthTreeOf(prefixes)
		most := lengthsBytesPerPrefix * len(prefixes)
		blocks := tree.blocks(prefixes, most)
		if blocks == nil || len(blocks)*lengthBlockBytes > most {
			t.Errorf("%s: %d prefixes have %d blocks of %d bytes", k.name, len(prefixes), len(blocks), lengthBlockBytes)
		}
		if got := tree.blocks(prefixes, len(prefixes)*lengthBlockBytes/lengthEntries); got != nil {
			t.Errorf("%s: %d prefixes fit into %d blocks", k.name, len(prefixes), len(got))
		}
	}
	same := slices.Repeat([]lengthEntry{{address: [2]uint64{1, 2}, length: 128}}, 2*lengthEntries+1)
	if blocksOf(same[1:], 1000) == nil {
		t.Error("two blocks do not hold what they have room for")
	}
	if blocksOf(same, 1000) != nil {
		t.Error("an entry is where nobody looks for it")
	}
}

// TestLengthsApart: prefixes of different lengths whose addresses make up for it, and
// many of every length, do not share their two blocks, which have no room for seven.
func TestLengthsApart(t *testing.T) {
	source := seeded(t)
	every := prefixKind{v4: true, many: 40_000}
	for length := 8; length <= 32; length++ {
		every.lengths = append(every.lengths, length)
	}
	lists := [][]netip.Prefix{every.make(source)}
	for _, row := range []struct {
		from, to int
		address  func(length int) netip.Addr
	}{
		{8, 32, func(length int) netip.Addr { return netip.AddrFrom4([4]byte{byte(60 - length)}) }},
		{8, 64, func(length int) netip.Addr { return netip.AddrFrom16([16]byte{byte(96 - length)}) }},
		{72, 128, func(length int) netip.Addr { return netip.AddrFrom16([16]byte{0x20, 8: byte(160 - length)}) }},
		{121, 128, func(length int) netip.Addr { return netip.AddrFrom16([16]byte{0x20, 15: byte(160 - length)}) }},
	} {
		var list []netip.Prefix
		for length := row.from; length <= row.to; length++ {
			list = append(list, netip.PrefixFrom(row.address(length), length).Masked())
		}
		lists = append(lists, list)
	}
	for _, list := range lists {
		prefixes := classed.Prefixes(source, 4, list)
		tree := lengthTreeOf(prefixes)
		if tree.blocks(prefixes, lengthsBytesPerPrefix*len(prefixes)) == nil {
			t.Errorf("no table of %d prefixes, the first %v", len(prefixes), prefixes[0])
		}
	}
}
