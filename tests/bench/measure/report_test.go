package measure

import (
	"bytes"
	"math"
	"strings"
	"testing"
)

func TestSpread(t *testing.T) {
	for _, c := range []struct {
		series            Series
		median, low, high float64
	}{
		{Series{5}, 5, 5, 5},
		{Series{3, 1, 2}, 2, 1.5, 2.5},
		{Series{4, 1, 3, 2}, 2.5, 1.75, 3.25},
		{Series{1, 2, math.NaN()}, 2, 1.5, math.Inf(1)},
	} {
		got := c.series.Spread()
		if got.Median != c.median || got.Low != c.low || got.High != c.high {
			t.Errorf("%v: got %+v, want %v (%v..%v)", c.series, got, c.median, c.low, c.high)
		}
	}
	if s := (Series{}).Spread(); !math.IsNaN(s.Median) {
		t.Errorf("of nothing: got %+v", s)
	}
}

// TestRatioIsByRound: where the machine slows down between two rounds, the ratio of
// the medians is not the median of the ratios.
func TestRatioIsByRound(t *testing.T) {
	row := Row{Ours: Series{10, 40, 30}, Floor: Series{5, 20, 30}, Targets: AtMost(1.9)}
	if got := row.ratioFloor().Spread().Median; got != 2 {
		t.Errorf("got %v, want 2", got)
	}
	if row.Met(row.Targets[0]) {
		t.Error("a target of 1.9 is met by 2")
	}
	if missed, all := Missed([]Row{row}); missed != 1 || all != 1 {
		t.Errorf("%d of %d missed", missed, all)
	}
}

func TestTargets(t *testing.T) {
	row := Row{Ours: Series{10}, Floor: Series{20}, Peer: Series{4}}
	for _, c := range []struct {
		target Target
		met    bool
	}{
		{Target{Of: OfRatioFloor, Most: 0.5}, true},
		{Target{Of: OfRatioFloor, Most: 0.49}, false},
		{Target{Of: OfRatioPeer, Least: 2.5}, true},
		{Target{Of: OfRatioPeer, Least: 2.6}, false},
		{Target{Of: OfOurs, Most: 10}, true},
		{Target{Of: OfOurs, Most: 9}, false},
	} {
		if got := row.Met(c.target); got != c.met {
			t.Errorf("%v: met is %t, want %t", c.target, got, c.met)
		}
	}
}

func TestJSON(t *testing.T) {
	var out bytes.Buffer
	err := WriteJSON(&out, []Row{
		{Name: "a", Unit: "ns", Ours: Series{1, 2, 3}, Floor: Series{2, 4, 6}},
		{Name: "b", Unit: "1/s", Ours: Series{6}, Peer: Series{0}},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := `[
  {
    "name": "a",
    "ours": 2,
    "floor": 4,
    "peer": null,
    "unit": "ns",
    "ratio_floor": 0.5,
    "ratio_peer": null
  },
  {
    "name": "b",
    "ours": 6,
    "floor": null,
    "peer": 0,
    "unit": "1/s",
    "ratio_floor": null,
    "ratio_peer": null
  }
]
`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}

func TestTable(t *testing.T) {
	var out bytes.Buffer
	err := WriteTable(&out, []Row{
		{Name: "packet", Unit: "ns", Ours: Series{1, 2, 3}, Floor: Series{2, 4, 6}, FloorIs: "H", Targets: append(AtMost(0.6), Target{Most: 0.4})},
		{Name: "share", Unit: "share", Ours: Series{999_999.0 / 1_000_000}, Targets: []Target{{Of: OfOurs, Least: 1}}},
		{Name: "rate", Unit: "1/s", Ours: Series{2.5e6}, Peer: Series{1.25e6}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"2.00 (1.50..2.50)", "4.00 (3.00..5.00) H", "0.50 (0.50..0.50)", "<=0.60 met, <=0.40 MISSED", "2.50M", "0.9999", ">=1.00 abs MISSED"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
}
