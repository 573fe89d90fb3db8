package datapath

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/perimeterd/perimeterd/pkg/compile"
	"github.com/perimeterd/perimeterd/pkg/policy"
)

// TestChangesInForce: policies that differ little from the one that the tables were
// made for share its tables and are judged by as if they had tables of their own.
func TestChangesInForce(t *testing.T) {
	source := seeded(t)
	r := newRig(t, Options{})
	for _, k := range []prefixKind{
		{name: "runs", v4: true, many: 70_000, lengths: []int{16, 20, 24, 24, 28, 32}},
		{name: "lengths", v4: true, many: 20_000, lengths: []int{16, 20, 24, 24, 28, 32}},
		{name: "hosts", v4: true, many: 20_000, lengths: []int{32}, short: 40, shortBits: 14},
		{name: "hosts IPv6", many: 20_000, lengths: []int{128}},
		{name: "lengths IPv6", many: 20_000, lengths: []int{32, 40, 48, 56, 64}},
	} {
		t.Run(k.name, func(t *testing.T) {
			outer, index := "prefixes6", func() perimeterFamilyIndex { return r.inForce.index6 }
			if k.v4 {
				outer, index = "prefixes4", func() perimeterFamilyIndex { return r.inForce.index4 }
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
			if index().Changes != 0 {
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
				if id() != first || index().Changes != 1 {
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
			if id() != first || index().Changes != 0 {
				t.Error("what the tables were made for still has changes")
			}
			hold(original[:k.many/3])
			if id() == first {
				t.Error("a table of many is kept for a third of them")
			}
			all = k.make(source)
			hold(all)
			if id() == first || index().Changes != 0 {
				t.Error("a policy of quite other prefixes shares tables")
			}
		})
	}
}
