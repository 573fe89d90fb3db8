package measure

import (
	"math"
	"slices"
)

// Series is one figure for each round.
type Series []float64

// Over divides round by round: the two figures of a round were measured within a
// moment, those of different rounds were not.
func (s Series) Over(t Series) Series {
	return s.with(t, func(a, b float64) float64 { return a / b })
}

// Plus adds round by round.
func (s Series) Plus(t Series) Series {
	return s.with(t, func(a, b float64) float64 { return a + b })
}

// Minus subtracts round by round.
func (s Series) Minus(t Series) Series {
	return s.with(t, func(a, b float64) float64 { return a - b })
}

// Inverse divides a constant by each figure: of costs it makes rates.
func (s Series) Inverse(constant float64) Series {
	out := make(Series, len(s))
	for i := range s {
		out[i] = constant / s[i]
	}
	return out
}

func (s Series) with(t Series, f func(a, b float64) float64) Series {
	if len(s) != len(t) {
		panic("measure: two series of different rounds")
	}
	out := make(Series, len(s))
	for i := range s {
		out[i] = f(s[i], t[i])
	}
	return out
}

// Spread is the median of a series and its quartiles.
type Spread struct{ Median, Low, High float64 }

// Spread sums a series up. Rounds that gave no number, a ratio to nothing, count
// as the largest: they must not make a ratio look small.
func (s Series) Spread() Spread {
	sorted := slices.Clone(s)
	for i, x := range sorted {
		if math.IsNaN(x) {
			sorted[i] = math.Inf(1)
		}
	}
	slices.Sort(sorted)
	return Spread{quantile(sorted, 0.5), quantile(sorted, 0.25), quantile(sorted, 0.75)}
}

// Quantile is the figure that so large a share of them is below, between 0 and 1.
func (s Series) Quantile(share float64) float64 {
	sorted := slices.Clone(s)
	slices.Sort(sorted)
	return quantile(sorted, share)
}

// quantile is between the two nearest of a sorted series.
func quantile(sorted Series, q float64) float64 {
	if len(sorted) == 0 {
		return math.NaN()
	}
	at := q * float64(len(sorted)-1)
	low := int(at)
	if low+1 == len(sorted) || at == float64(low) {
		return sorted[low]
	}
	return sorted[low] + (at-float64(low))*(sorted[low+1]-sorted[low])
}
