package datapath

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/gaissmai/bart"

	"github.com/perimeterd/perimeterd/pkg/compile"
	"github.com/perimeterd/perimeterd/pkg/policy"
)

// classed gives prefixes classes, and sorts them. Like compile.Tables it leaves out
// what is of the class around it.
func classed(source *rand.Rand, classes uint32, prefixes []netip.Prefix) []compile.PrefixClass {
	slices.SortFunc(prefixes, netip.Prefix.Compare)
	var out []compile.PrefixClass
	var table bart.Table[uint32]
	for _, p := range slices.Compact(prefixes) {
		class := source.Uint32N(classes)
		if around, _ := table.LookupPrefix(p); around == class {
			continue
		}
		table.Insert(p, class)
		out = append(out, compile.PrefixClass{Prefix: p, Class: class})
	}
	return out
}

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

func tableOf(prefixes []compile.PrefixClass) *bart.Table[uint32] {
	table := new(bart.Table[uint32])
	for _, p := range prefixes {
		table.Insert(p.Prefix, p.Class)
	}
	return table
}

// TestChangesOf: an address is of the class that the changes give it, or else of
// the one that the tables built before do.
func TestChangesOf(t *testing.T) {
	source := seeded(t)
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
		built := classed(source, 4, drawn)
		if len(built) == 0 {
			continue
		}
		wanted := edited(source, built, source.IntN(8), another)
		changes, few := changesOf(built, wanted, len(built)+len(wanted))
		if !few {
			t.Fatalf("%d changes of %d and %d prefixes are more than all", len(changes), len(built), len(wanted))
		}
		if !slices.IsSortedFunc(changes, func(a, b compile.PrefixClass) int { return a.Prefix.Compare(b.Prefix) }) {
			t.Fatalf("the changes are out of order: %v", changes)
		}
		was, is, change := tableOf(built), tableOf(wanted), tableOf(changes)
		for range 200 {
			all := slices.Concat(built, wanted)
			a := around(source, all[source.IntN(len(all))].Prefix)
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
			if _, few := changesOf(built, wanted, len(changes)-1); few {
				t.Fatalf("%d changes are no more than %d", len(changes), len(changes)-1)
			}
		}
		if changes, few := changesOf(wanted, slices.Clone(wanted), 0); len(changes) > 0 || !few {
			t.Fatalf("%v are changes of nothing", changes)
		}
	}
	if differ < 1000 {
		t.Errorf("%d addresses changed their class: too few to prove anything", differ)
	}
}

// TestChangesInForce: policies that differ little from the one that the tables were
// made for share its tables and are judged by as if they had tables of their own.
func TestChangesInForce(t *testing.T) {
	source := seeded(t)
	for _, k := range []prefixKind{
		{name: "runs", v4: true, many: 70_000, lengths: []int{16, 20, 24, 24, 28, 32}},
		{name: "lengths", v4: true, many: 20_000, lengths: []int{16, 20, 24, 24, 28, 32}},
		{name: "hosts", v4: true, many: 20_000, lengths: []int{32}, short: 40, shortBits: 14},
		{name: "hosts IPv6", many: 20_000, lengths: []int{128}},
		{name: "lengths IPv6", many: 20_000, lengths: []int{32, 40, 48, 56, 64}},
	} {
		t.Run(k.name, func(t *testing.T) {
			r := newRig(t, Options{})
			outer, built := "prefixes6", func() builtPrefixes { return r.inForce.built6 }
			if k.v4 {
				outer, built = "prefixes4", func() builtPrefixes { return r.inForce.built4 }
			}
			id := func() (id any) {
				info, err := r.inForce.maps[outer].Info()
				must(t, err)
				id, _ = info.ID()
				return id
			}
			hold := func(all []netip.Prefix) {
				// By halves of the address space, so that no class is numbered anew.
				rules, lists := dealt(func(p netip.Prefix) int { return int(p.Addr().AsSlice()[0] >> 7) }, all)
				r.holdAgainstLists(t, source, memberPolicy(policy.Enforced, rules...), lists, all, 5**packetsFlag)
			}
			original := k.make(source)
			all := slices.Clone(original)
			hold(all)
			first := id()
			if built().index.Changes != 0 {
				t.Error("new tables have changes")
			}
			for round := range 3 {
				others := k.make(source)
				for range 20 { // one goes, one comes
					all[source.IntN(len(all))] = others[source.IntN(len(others))]
				}
				slices.SortFunc(all, netip.Prefix.Compare)
				all = slices.Compact(all)
				hold(all)
				if id() != first || built().index.Changes != 1 {
					t.Errorf("round %d: few changes have made new tables", round)
				}
				// One that fails at the last moment has changed nothing that the next builds on.
				tables, legend := compiled(t, memberPolicy(policy.Enforced, partnersOn5432()), hereFacts())
				refused := errors.New("refused")
				if _, err := r.Apply(tables, legend, nil, func(*compile.Legend) error { return refused }); !errors.Is(err, refused) {
					t.Fatalf("Apply: %v", err)
				}
			}
			hold(slices.Clone(original))
			if id() != first || built().index.Changes != 0 {
				t.Error("what the tables were made for still has changes")
			}
			hold(original[:k.many/3])
			if id() == first {
				t.Error("a table of many is kept for a third of them")
			}
			all = k.make(source)
			hold(all)
			if id() == first || built().index.Changes != 0 {
				t.Error("a policy of quite other prefixes shares tables")
			}
		})
	}
}
