package compile

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// TestSortedMarks: whatever is in order already, the outcome is that of an ordinary
// sort.
func TestSortedMarks(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 2000 {
		var marks []mark
		for range r.IntN(6) {
			run := make([]mark, r.IntN(40))
			for i := range run {
				run[i] = mark{block{high: r.Uint64N(8), low: r.Uint64N(4), bits: uint8(r.IntN(3))}, r.Uint32N(4)}
			}
			if r.IntN(4) > 0 {
				slices.SortFunc(run, compareMarks)
			}
			marks = append(marks, run...)
		}
		want := slices.SortedFunc(slices.Values(marks), compareMarks)
		if got := sortedMarks(slices.Clone(marks)); !slices.Equal(got, want) {
			t.Fatalf("%v is sorted as %v", marks, got)
		}
	}
}
