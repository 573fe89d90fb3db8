package datapath

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/gaissmai/bart"

	"github.com/perimeterd/perimeterd/pkg/compile"
	"github.com/perimeterd/perimeterd/pkg/policy"
)

// prefixKind is a set of prefixes for which the tables have one of their forms.
type prefixKind struct {
	name string
	v4   bool
	many int
	// lengths the prefixes have, each as likely.
	lengths []int
	// short prefixes are beside them, so many.
	short, shortBits int
	// dense has all within a few networks, one in another.
	dense bool

	runs, byLength, marks bool // what is expected of the index
}

func prefixKinds() []prefixKind {
	every := func(from, to int) (lengths []int) {
		for length := from; length <= to; length++ {
			lengths = append(lengths, length)
		}
		return lengths
	}
	mixed4 := []int{12, 16, 20, 22, 24, 24, 24, 24, 25, 28, 30, 31, 32}
	mixed6 := []int{29, 32, 36, 40, 44, 48, 48, 56, 64, 64, 96, 127, 128}
	return []prefixKind{
		{name: "few for their lengths", v4: true, many: 30, lengths: every(8, 32)},
		{name: "few for their lengths", many: 100, lengths: every(12, 128)},
		{name: "few", v4: true, many: 100, lengths: mixed4, byLength: true},
		{name: "few", many: 100, lengths: mixed6, byLength: true},
		{name: "many", v4: true, many: 600, lengths: mixed4, byLength: true, marks: true},
		{name: "many", many: 600, lengths: mixed6, byLength: true, marks: true},
		{name: "very many", v4: true, many: 6000, lengths: mixed4, byLength: true, marks: true},
		{name: "extremely many", v4: true, many: 70_000, lengths: mixed4[2:], runs: true, marks: true},
		{name: "very many, dense", v4: true, many: 9000, lengths: mixed4, dense: true, byLength: true, marks: true},
		{name: "very many", many: 6000, lengths: mixed6, byLength: true, marks: true},
		{name: "very many, dense", many: 6000, lengths: mixed6, dense: true, byLength: true, marks: true},
		{name: "very many, and a quarter of all", v4: true, many: 6000, lengths: mixed4, short: 1, shortBits: 2, byLength: true, marks: true},
		{name: "extremely many, and half of all", v4: true, many: 90_000, lengths: mixed4[2:], short: 1, shortBits: 1, runs: true},
		{name: "many, and a quarter of all", many: 600, lengths: mixed6, short: 1, shortBits: 6, byLength: true, marks: true},
		{name: "many, and some very short", many: 600, lengths: mixed6, short: 3, shortBits: 12, byLength: true, marks: true},
		{name: "hosts", v4: true, many: 3000, lengths: []int{32}, byLength: true, marks: true},
		{name: "hosts", many: 3000, lengths: []int{128}, byLength: true, marks: true},
		{name: "hosts, and networks around them", v4: true, many: 5000, lengths: []int{32}, short: 40, shortBits: 14, dense: true, byLength: true, marks: true},
		{name: "hosts, and networks around them", many: 3000, lengths: []int{128}, short: 40, shortBits: 34, dense: true, byLength: true, marks: true},
		{name: "hosts, and a few of every length", many: 3000, lengths: append(every(12, 127), slices.Repeat([]int{128}, 4000)...), byLength: true, marks: true},
		{name: "few hosts", v4: true, many: 2, lengths: []int{32}},
		{name: "few hosts", many: 8, lengths: []int{128}, byLength: true},
		{name: "hosts, and a quarter of all", v4: true, many: 3000, lengths: []int{32}, short: 1, shortBits: 2, byLength: true, marks: true},
	}
}

func (k *prefixKind) make(source *rand.Rand) []netip.Prefix {
	networks := make([]netip.Addr, 8)
	for i := range networks {
		networks[i] = anywhere(source, k.v4)
	}
	set := map[netip.Prefix]bool{}
	add := func(length int) {
		a := anywhere(source, k.v4)
		if k.dense {
			b, near := a.AsSlice(), networks[source.IntN(len(networks))].AsSlice()
			copy(b[:len(b)/4+source.IntN(len(b)/2)], near)
			a, _ = netip.AddrFromSlice(b)
		}
		if p := netip.PrefixFrom(a, length).Masked(); !p.Addr().IsMulticast() {
			set[p] = true
		}
	}
	for range k.short {
		add(k.shortBits)
	}
	for len(set) < k.many {
		add(k.lengths[source.IntN(len(k.lengths))])
	}
	out := make([]netip.Prefix, 0, len(set))
	for p := range set {
		out = append(out, p)
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return out
}

// toAny deals prefixes to any of four.
func toAny(source *rand.Rand) func(netip.Prefix) int {
	return func(netip.Prefix) int { return source.IntN(4) }
}

// dealt deals prefixes out to four rules, each with an independent table of its own.
func dealt(to func(netip.Prefix) int, all []netip.Prefix) (rules []policy.AccessRule, lists []listRule) {
	for i := range 4 {
		name := fmt.Sprintf("list-%d", i)
		rules = append(rules, policy.AccessRule{Name: name, Direction: policy.Inbound})
		lists = append(lists, listRule{name, new(bart.Lite)})
	}
	for _, p := range all {
		i := to(p)
		rules[i].AddressPrefixes = append(rules[i].AddressPrefixes, p)
		lists[i].table.Insert(p)
	}
	return rules, lists
}

// TestPrefixForms: whatever form the tables of prefixes have, an address has the
// rule of the longest prefix around it.
func TestPrefixForms(t *testing.T) {
	source := seeded(t)
	r := newRig(t, Options{})
	for _, k := range prefixKinds() {
		family := map[bool]string{true: "IPv4", false: "IPv6"}[k.v4]
		t.Run(k.name+" "+family, func(t *testing.T) {
			all := k.make(source)
			rules, lists := dealt(toAny(source), all)
			r.holdAgainstLists(t, source, memberPolicy(policy.Enforced, rules...), lists, all, 4000)
			index := r.inForce.index4
			if !k.v4 {
				index = r.inForce.index6
			}
			if index.Runs == 1 != k.runs || index.LengthBlocks > 0 != k.byLength || index.Marks.Bits != 0 != k.marks {
				t.Errorf("the tables have another form than this test is for: %d of runs, %d blocks by length, marks of %d bits",
					index.Runs, index.LengthBlocks, index.Marks.Bits)
			}
		})
	}
}

// lookUpRun is prefix_run4 of bpf/prefix.h.
func lookUpRun(blocks []perimeterRunBlock, a netip.Addr) uint32 {
	leaf := func(node uint32, network byte) uint32 {
		w := &blocks[node].Words
		i := w[perimeterRunWordRUN_FIRST] + w[perimeterRunWordRUN_BEFORE+perimeterRunWord(network/128)]>>(8*(network/32%4))&0xff +
			uint32(bits.OnesCount32(w[network/32]&(^uint32(0)>>(31-network%32)))) - 1
		return blocks[i/16].Words[i%16]
	}
	four := a.As4()
	at := leaf(uint32(binary.BigEndian.Uint16(four[:])), four[2])
	if at&uint32(perimeterRunLeafRUN_NODE) != 0 {
		at = leaf(at&^uint32(perimeterRunLeafRUN_NODE), four[3])
	}
	return at
}

// TestDerivedPrefixes holds runs, lengths and marks against an independent
// longest-prefix match: the first two tell each address's class, and no address in a
// prefix lacks its mark.
func TestDerivedPrefixes(t *testing.T) {
	source := seeded(t)
	for _, k := range prefixKinds() {
		var prefixes []compile.PrefixClass
		var table bart.Table[uint32]
		for _, p := range k.make(source) {
			class := source.Uint32N(4) // 0: of none, whatever is around it
			prefixes = append(prefixes, compile.PrefixClass{Prefix: p, Class: class})
			table.Insert(p, class)
		}
		var blocks []perimeterRunBlock
		if k.v4 {
			blocks = runsOf(prefixes, 1<<30)
			if runsOf(prefixes, 0) != nil {
				t.Errorf("%s: runs of no bytes", k.name)
			}
		}
		tree := lengthTreeOf(prefixes)
		byLength := tree.blocks(prefixes, 1<<30)
		shape, marks := marksOf(prefixes)
		for range 50_000 {
			a := around(source, prefixes[source.IntN(len(prefixes))].Prefix)
			if source.IntN(8) == 0 {
				a = anywhere(source, k.v4)
			}
			class, found := table.Lookup(a)
			if blocks != nil {
				if got := lookUpRun(blocks, a); got != class {
					t.Fatalf("%s: %s is of class %d by its runs, want %d", k.name, a, got, class)
				}
			}
			if got := lookUpLengths(tree, byLength, a); got != class {
				t.Fatalf("%s: %s is of class %d by its lengths, want %d", k.name, a, got, class)
			}
			if found && marks != nil {
				mark := prefixHash(a, int(shape.Bits)) >> (32 - shape.CountLog2)
				if marks[mark/64]>>(mark%64)&1 == 0 {
					t.Fatalf("%s: %s is in a prefix and has no mark", k.name, a)
				}
			}
		}
	}
}

// TestRunsAtTheEdges of the address space, and of networks.
func TestRunsAtTheEdges(t *testing.T) {
	prefixes := func(text ...string) []compile.PrefixClass {
		var out []compile.PrefixClass
		for i, s := range text {
			out = append(out, compile.PrefixClass{Prefix: netip.MustParsePrefix(s), Class: uint32(i + 1)})
		}
		return out
	}
	for _, row := range []struct {
		prefixes []compile.PrefixClass
		address  string
		class    uint32
	}{
		{nil, "0.0.0.0", 0},
		{nil, "255.255.255.255", 0},
		{prefixes("0.0.0.0/0"), "0.0.0.0", 1},
		{prefixes("0.0.0.0/0"), "255.255.255.255", 1},
		{prefixes("0.0.0.0/0", "0.0.0.0/32"), "0.0.0.0", 2},
		{prefixes("0.0.0.0/0", "0.0.0.0/32"), "0.0.0.1", 1},
		{prefixes("0.0.0.0/0", "255.255.255.255/32"), "255.255.255.255", 2},
		{prefixes("0.0.0.0/0", "255.255.255.255/32"), "255.255.255.254", 1},
		{prefixes("255.255.255.255/32"), "255.255.255.254", 0},
		{prefixes("10.0.0.0/8", "10.0.0.0/24", "10.0.0.255/32"), "10.0.0.254", 2},
		{prefixes("10.0.0.0/8", "10.0.0.0/24", "10.0.0.255/32"), "10.0.0.255", 3},
		{prefixes("10.0.0.0/8", "10.0.0.0/24", "10.0.0.255/32"), "10.0.1.0", 1},
		{prefixes("10.0.0.0/8", "10.0.0.0/24", "10.0.0.255/32"), "11.0.0.0", 0},
		{prefixes("10.0.0.0/8", "10.0.0.0/24", "10.0.0.255/32"), "9.255.255.255", 0},
	} {
		if got := lookUpRun(runsOf(row.prefixes, 1<<30), netip.MustParseAddr(row.address)); got != row.class {
			t.Errorf("%s in %v: class %d, want %d", row.address, row.prefixes, got, row.class)
		}
	}
}
