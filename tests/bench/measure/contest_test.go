package measure

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

func TestEachSliceIsBetweenTwoOfTheBaseline(t *testing.T) {
	var ran []string
	slice := func(name string, cost float64) Slice {
		return func() (float64, error) {
			ran = append(ran, name)
			return cost, nil
		}
	}
	drift := 10.0
	contest := Contest{
		Baseline: func() (float64, error) {
			ran = append(ran, "-")
			drift += 2
			return drift, nil
		},
		Entrants: []Entrant{{"a", slice("a", 100)}, {"b", slice("b", 200)}},
	}
	samples, err := contest.Run(20, rand.New(rand.NewPCG(1, 2)))
	if err != nil {
		t.Fatal(err)
	}
	orders := map[string]int{}
	for round := range slices.Chunk(ran, 5) {
		orders[strings.Join(round, "")]++
	}
	if len(orders) != 2 || orders["-a-b-"] == 0 || orders["-b-a-"] == 0 {
		t.Errorf("rounds ran in the orders %v, want both of the two", orders)
	}
	first := samples["a"][0]
	if orders["-a-b-"] > 0 && first.After-first.Before != 2 {
		t.Errorf("the baselines of a slice are %+v, want two in a row", first)
	}
	if net := samples.Net("a"); len(net) != 20 || net[0] != 100-(first.Before+first.After)/2 {
		t.Errorf("net %v of %+v", net, first)
	}
	if share := samples.Relative("b"); share[0] != 200/((samples["b"][0].Before+samples["b"][0].After)/2) {
		t.Errorf("share %v of %+v", share[0], samples["b"][0])
	}
}

func TestAContestEndsWithTheFirstFailure(t *testing.T) {
	broken := errors.New("the wrong path")
	fine := func() (float64, error) { return 1, nil }
	contest := Contest{Baseline: fine, Entrants: []Entrant{{"a", fine}, {"b", func() (float64, error) { return 0, broken }}}}
	_, err := contest.Run(3, rand.New(rand.NewPCG(1, 2)))
	if !errors.Is(err, broken) || !strings.HasPrefix(err.Error(), "b: ") {
		t.Errorf("got %v, want the failure of b", err)
	}
}

// TestPairs: of a machine that gets slower all the time, and of a disturbance now and
// then, nothing is left in the median of pairs.
func TestPairs(t *testing.T) {
	drift, calls, order := 0.0, 0, ""
	slice := func(name string, cost float64) Slice {
		return func() (float64, error) {
			drift++
			calls++
			order += name
			if calls%15 == 0 {
				return cost + drift + 1000, nil
			}
			return cost + drift, nil
		}
	}
	got, err := Pairs(slice("a", 107), slice("b", 100), 16)()
	if err != nil || got < 6 || got > 8 {
		t.Errorf("got %v, %v, want 7 or so", got, err)
	}
	if want := strings.Repeat("abba", 8); order != want {
		t.Errorf("slices ran in the order %s, want %s", order, want)
	}
	broken := errors.New("the wrong path")
	fine := func() (float64, error) { return 1, nil }
	fails := func() (float64, error) { return 0, broken }
	for _, s := range []Slice{Pairs(fine, fails, 2), Pairs(fails, fine, 2)} {
		if _, err := s(); !errors.Is(err, broken) {
			t.Errorf("got %v, want the failure of a slice", err)
		}
	}
}
