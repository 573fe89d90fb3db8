package policy

import (
	"encoding/json"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

// TestPrefixSet: sets, however they came about, hold what a map of the same history
// does, and know what is between them.
func TestPrefixSet(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	drawn := func() netip.Prefix {
		a := netip.AddrFrom4([4]byte{10, byte(r.IntN(4)), byte(r.IntN(256)), byte(r.IntN(256))})
		if r.IntN(3) == 0 {
			a = netip.AddrFrom16([16]byte{0x20, 0x01, byte(r.IntN(256)), byte(r.IntN(256)), 15: byte(r.IntN(2))})
		}
		return netip.PrefixFrom(a, r.IntN(a.BitLen()+1)).Masked()
	}
	type known struct {
		set  *PrefixSet
		want map[netip.Prefix]bool
	}
	sorted := func(want map[netip.Prefix]bool) []netip.Prefix {
		return slices.SortedFunc(maps.Keys(want), netip.Prefix.Compare)
	}
	kept := 0
	for range 20 {
		all := []known{{NewPrefixSet(nil), map[netip.Prefix]bool{}}}
		var some []netip.Prefix
		want := map[netip.Prefix]bool{}
		for range r.IntN(3000) {
			p := drawn()
			some, want[p] = append(some, p), true
		}
		all = append(all, known{NewPrefixSet(some), want})
		for range 30 {
			from := all[r.IntN(len(all))]
			want := maps.Clone(from.want)
			var added, removed []netip.Prefix
			for range r.IntN(20) {
				if p := drawn(); !want[p] && !slices.Contains(removed, p) {
					added, want[p] = append(added, p), true
				}
				if held := sorted(from.want); len(held) > 0 {
					if p := held[r.IntN(len(held))]; want[p] && from.want[p] {
						removed = append(removed, p)
						delete(want, p)
					}
				}
			}
			set := from.set.Edit(added, removed)
			if set.Origin() == from.set.Origin() && len(added) > 0 {
				kept++
			}
			all = append(all, known{set, want})
		}
		for _, k := range all {
			want := sorted(k.want)
			if got := slices.Collect(k.set.All()); !slices.Equal(got, want) || k.set.Len() != len(want) {
				t.Fatalf("%d of %v, want %d of %v", k.set.Len(), got, len(want), want)
			}
			anew := NewPrefixSet(want)
			if !k.set.Equal(anew) || k.set.Fingerprint() != anew.Fingerprint() {
				t.Fatal("a set is not that of its prefixes")
			}
			var again PrefixSet
			if text, err := json.Marshal(k.set); err != nil || json.Unmarshal(text, &again) != nil || !again.Equal(k.set) {
				t.Fatalf("written as %s (%v) and read again it is another set", text, err)
			}
			for range 20 {
				p := drawn()
				if k.set.Has(p) != k.want[p] {
					t.Fatalf("has %s: %t", p, !k.want[p])
				}
				inside := slices.DeleteFunc(slices.Clone(want), func(q netip.Prefix) bool { return q.Bits() < p.Bits() || !p.Contains(q.Addr()) })
				if got := slices.Collect(k.set.Inside(p)); !slices.Equal(got, inside) || k.set.LenInside(p) != len(inside) {
					t.Fatalf("inside %s: %d of %v, want %v", p, k.set.LenInside(p), got, inside)
				}
			}
			other := all[r.IntN(len(all))]
			gone := slices.DeleteFunc(sorted(other.want), func(p netip.Prefix) bool { return k.want[p] })
			came := slices.DeleteFunc(sorted(k.want), func(p netip.Prefix) bool { return other.want[p] })
			edits := len(gone) + len(came)
			added, removed, few := k.set.Since(other.set, edits)
			if !few || !slices.Equal(added, came) || !slices.Equal(removed, gone) {
				t.Fatalf("since another: +%v -%v (few: %t), want +%v -%v", added, removed, few, came, gone)
			}
			if _, _, few := k.set.Since(other.set, edits-1); edits > 0 && few {
				t.Fatalf("%d edits are no more than %d", edits, edits-1)
			}
			if k.set.Equal(other.set) != (edits == 0) {
				t.Fatalf("with %d edits between them, two sets are equal: %t", edits, edits > 0)
			}
		}
	}
	if kept < 50 {
		t.Errorf("%d sets shared the memory of another: too few to prove anything", kept)
	}
}

// TestChangedLines: the lines of one text are those of another after the changes.
func TestChangedLines(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	text := func(length, kinds int) (out []byte) {
		for range length {
			out = append(out, byte('a'+r.IntN(kinds)))
			if r.IntN(3) > 0 {
				out = append(out, '\n')
			}
		}
		return out
	}
	count := func(text []byte) map[string]int {
		lines := map[string]int{}
		for len(text) > 0 {
			lines[string(cutLine(&text))]++
		}
		return lines
	}
	for range 20_000 {
		before := text(r.IntN(40), 1+r.IntN(5))
		after := slices.Concat(before[:r.IntN(len(before)+1)], text(r.IntN(5), 3), before[r.IntN(len(before)+1):])
		removed, added, few := changedLines(before, after, 1000)
		if !few {
			t.Fatalf("%q and %q are too different", before, after)
		}
		lines := count(before)
		for _, line := range removed {
			lines[string(line)]--
		}
		for _, line := range added {
			lines[string(line)]++
		}
		maps.DeleteFunc(lines, func(_ string, n int) bool { return n == 0 })
		if !maps.Equal(lines, count(after)) {
			t.Fatalf("%q with %q gone and %q come is not %q", before, removed, added, after)
		}
		if n := len(removed) + len(added); n > 0 {
			if _, _, few := changedLines(before, after, n-1); few {
				t.Fatalf("%q to %q: %d changes are no more than %d", before, after, n, n-1)
			}
		}
	}
}
