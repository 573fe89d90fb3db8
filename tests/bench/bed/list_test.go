package bed

import (
	"math/rand/v2"
	"net/netip"
	"testing"
)

func TestLists(t *testing.T) {
	for _, family := range []int{4, 6} {
		for _, kind := range []Kind{Hosts, Mixed, Apart} {
			random := rand.New(rand.NewPCG(1, uint64(family)))
			const size = 3000
			list := NewList(kind, family, size, random)
			if len(list.Prefixes) != size {
				t.Fatalf("%s of IPv%d: %d prefixes, want %d", kind, family, len(list.Prefixes), size)
			}
			inside := 0
			var before netip.Prefix
			for i, p := range list.Prefixes {
				if p != p.Masked() || p.Addr().Is4() != (family == 4) || kind == Hosts && !p.IsSingleIP() {
					t.Errorf("%s of IPv%d has %v", kind, family, p)
				}
				if i > 0 && before.Compare(p) >= 0 {
					t.Errorf("%v comes after %v", p, before)
				}
				if i > 0 && before.Overlaps(p) {
					inside++
				}
				before = p
				if a := list.Inside(i, random); !p.Contains(a) {
					t.Errorf("%v is not inside %v", a, p)
				}
			}
			if kind != Mixed && inside > 0 {
				t.Errorf("%s of IPv%d has %d prefixes inside others", kind, family, inside)
			}
			for range 1000 {
				a := list.Outside(random)
				for _, p := range list.Prefixes {
					if p.Contains(a) {
						t.Fatalf("%v is inside %v", a, p)
					}
				}
			}
		}
	}
}

func TestTheSameSeedDrawsTheSameList(t *testing.T) {
	draw := func(seed uint64) *List { return NewList(Mixed, 4, 100, rand.New(rand.NewPCG(seed, 0))) }
	one, same, other := draw(1), draw(1), draw(2)
	different := 0
	for i := range one.Prefixes {
		if one.Prefixes[i] != same.Prefixes[i] {
			t.Errorf("%v and %v of one seed", one.Prefixes[i], same.Prefixes[i])
		}
		if one.Prefixes[i] != other.Prefixes[i] {
			different++
		}
	}
	if different == 0 {
		t.Error("two seeds drew the same list")
	}
}
