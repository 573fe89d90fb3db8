// Package measure owns how things are compared: in short slices in random order,
// each between two slices of a baseline, with medians and quartiles of what each
// round gives, and the table and file that tell it. It knows nothing of what is
// measured, and runs nothing of its own accord.
package measure

import (
	"fmt"
	"math/rand/v2"
)

// Slice runs something for a short while and returns its cost or its rate, in
// whatever unit. It fails if what ran is not what was to be measured.
type Slice func() (float64, error)

// Entrant is one of the things that are compared in the same rounds.
type Entrant struct {
	Name  string
	Slice Slice
}

// Pairs makes one slice of many pairs of short ones: by how much a is more than b, as
// the median of the pairs, in which they come first by turns. It is for a difference
// that is small beside either, and less than what the machine does between two rounds.
func Pairs(a, b Slice, pairs int) Slice {
	return func() (float64, error) {
		differences := make(Series, pairs)
		for i := range differences {
			first, second, sign := a, b, 1.0
			if i%2 == 1 {
				first, second, sign = b, a, -1.0
			}
			x, err := first()
			if err != nil {
				return 0, err
			}
			y, err := second()
			if err != nil {
				return 0, err
			}
			differences[i] = sign * (x - y)
		}
		return differences.Spread().Median, nil
	}
}

// Contest compares entrants with each other and with a baseline.
type Contest struct {
	Baseline Slice
	Entrants []Entrant
}

// Sample is one slice and the baseline around it.
type Sample struct{ Value, Before, After float64 }

// baseline is what the baseline was at the time of the slice.
func (s Sample) baseline() float64 { return (s.Before + s.After) / 2 }

// Samples are those of a contest: by entrant, one of each round in the order of rounds.
type Samples map[string][]Sample

// Run runs so many rounds. In each, every entrant has one slice, in an order drawn
// anew, with a slice of the baseline before, between and after them.
func (c Contest) Run(rounds int, random *rand.Rand) (Samples, error) {
	samples := Samples{}
	for range rounds {
		before, err := c.Baseline()
		if err != nil {
			return nil, fmt.Errorf("baseline: %w", err)
		}
		for _, i := range random.Perm(len(c.Entrants)) {
			e := c.Entrants[i]
			value, err := e.Slice()
			if err != nil {
				return nil, fmt.Errorf("%s: %w", e.Name, err)
			}
			after, err := c.Baseline()
			if err != nil {
				return nil, fmt.Errorf("baseline: %w", err)
			}
			samples[e.Name] = append(samples[e.Name], Sample{value, before, after})
			before = after
		}
	}
	return samples, nil
}

// Net is what an entrant costs above the baseline, by round.
func (s Samples) Net(entrant string) Series {
	return s.series(entrant, func(x Sample) float64 { return x.Value - x.baseline() })
}

// Relative is an entrant's share of the baseline, by round.
func (s Samples) Relative(entrant string) Series {
	return s.series(entrant, func(x Sample) float64 { return x.Value / x.baseline() })
}

// Baseline is what the baseline was around an entrant's slices, by round.
func (s Samples) Baseline(entrant string) Series {
	return s.series(entrant, Sample.baseline)
}

// Absolute is what an entrant's slices gave, by round.
func (s Samples) Absolute(entrant string) Series {
	return s.series(entrant, func(x Sample) float64 { return x.Value })
}

func (s Samples) series(entrant string, f func(Sample) float64) Series {
	samples, ok := s[entrant]
	if !ok {
		panic("measure: nobody of the name " + entrant + " took part")
	}
	series := make(Series, len(samples))
	for i, x := range samples {
		series[i] = f(x)
	}
	return series
}
