package compile_test

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/perimeterd/perimeterd/pkg/compile"
	"github.com/perimeterd/perimeterd/tests/classed"
)

// edited is prefixes with some gone, some new, and some of another class.
func edited(source *rand.Rand, prefixes []compile.PrefixClass, edits int, another func() netip.Prefix) []compile.PrefixClass {
	table := map[netip.Prefix]uint32{}
	for _, p := range prefixes {
		table[p.Prefix] = p.Class
	}
	for range edits {
		p := prefixes[source.IntN(len(prefixes))]
		switch source.IntN(3) {
		case 0:
			delete(table, p.Prefix)
		case 1:
			table[p.Prefix] = 1 + source.Uint32N(3)
		case 2:
			table[another()] = 1 + source.Uint32N(3)
		}
	}
	var out []compile.PrefixClass
	for p, class := range table {
		out = append(out, compile.PrefixClass{Prefix: p, Class: class})
	}
	slices.SortFunc(out, func(a, b compile.PrefixClass) int { return a.Prefix.Compare(b.Prefix) })
	return out
}

func anywhere(source *rand.Rand, v4 bool) netip.Addr {
	var b [16]byte
	for i := range b {
		b[i] = byte(source.Uint32())
	}
	if v4 {
		return netip.AddrFrom4([4]byte(b[:4]))
	}
	b[0] = 0x20
	return netip.AddrFrom16(b)
}

// edgeOf is the first address of a prefix or the one before, or the last or the one after.
func edgeOf(source *rand.Rand, p netip.Prefix) netip.Addr {
	a := p.Addr()
	if source.IntN(2) == 0 {
		b := a.AsSlice()
		for bit := p.Bits(); bit < a.BitLen(); bit++ {
			b[bit/8] |= 0x80 >> (bit % 8)
		}
		last, _ := netip.AddrFromSlice(b)
		if next := last.Next(); next.IsValid() && source.IntN(2) == 0 {
			return next
		}
		return last
	}
	if before := a.Prev(); before.IsValid() && source.IntN(2) == 0 {
		return before
	}
	return a
}

// TestChangesOf: an address is of the class that the changes give it, or else of
// the one that the tables built before do.
func TestChangesOf(t *testing.T) {
	source := rand.New(rand.NewPCG(compile.Seed(t), 0))
	differ := 0
	for range 3000 {
		v4, dense := source.IntN(2) == 0, source.IntN(2) == 0
		another := func() netip.Prefix {
			a := anywhere(source, v4)
			if dense { // all within sixteen bits
				b := a.AsSlice()
				copy(b, []byte{10, 1})
				if !v4 {
					copy(b, "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")
				}
				a, _ = netip.AddrFromSlice(b)
			}
			return netip.PrefixFrom(a, source.IntN(a.BitLen()+1)).Masked()
		}
		var drawn []netip.Prefix
		for range 1 + source.IntN(40) {
			drawn = append(drawn, another())
		}
		built := classed.Prefixes(source, 4, drawn)
		if len(built) == 0 {
			continue
		}
		wanted := edited(source, built, source.IntN(8), another)
		changes, few := compile.ChangesOf(built, wanted, len(built)+len(wanted))
		if !few {
			t.Fatalf("%d changes of %d and %d prefixes are more than all", len(changes), len(built), len(wanted))
		}
		if !slices.IsSortedFunc(changes, func(a, b compile.PrefixClass) int { return a.Prefix.Compare(b.Prefix) }) {
			t.Fatalf("the changes are out of order: %v", changes)
		}
		was, is, change := classed.Table(built), classed.Table(wanted), classed.Table(changes)
		for range 200 {
			all := slices.Concat(built, wanted)
			a := edgeOf(source, all[source.IntN(len(all))].Prefix)
			before, _ := was.Lookup(a)
			want, _ := is.Lookup(a)
			got, changed := change.Lookup(a)
			if !changed {
				got = before
			}
			if got != want {
				t.Fatalf("%s is of class %d (changed: %t), want %d\nbuilt   %v\nwanted  %v\nchanges %v", a, got, changed, want, built, wanted, changes)
			}
			if before != want {
				differ++
			}
		}
		if len(changes) > 0 {
			if _, few := compile.ChangesOf(built, wanted, len(changes)-1); few {
				t.Fatalf("%d changes are no more than %d", len(changes), len(changes)-1)
			}
		}
		if changes, few := compile.ChangesOf(wanted, slices.Clone(wanted), 0); len(changes) > 0 || !few {
			t.Fatalf("%v are changes of nothing", changes)
		}
	}
	if differ < 1000 {
		t.Errorf("%d addresses changed their class: too few to prove anything", differ)
	}
}
