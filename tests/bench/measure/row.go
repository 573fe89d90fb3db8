package measure

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
)

// Row is one line of the report.
type Row struct {
	Name string
	Unit string
	Ours Series
	// Floor and Peer are what it is compared with. Optional.
	Floor, Peer Series
	// FloorIs says what the floor is, in a few words.
	FloorIs string
	// RatioFloor and RatioPeer are by round, where they are not just the figures
	// divided by each other. Optional.
	RatioFloor, RatioPeer Series
	// Targets are what the row has to meet. Optional.
	Targets []Target
}

// Target is a bound of a median.
type Target struct {
	Of   Which
	Most float64 // at most so much; 0 = no such bound
	// Least is likewise a lower bound.
	Least float64
}

// Which figure of a row a target is of.
type Which int

const (
	OfRatioFloor Which = iota
	OfRatioPeer
	OfOurs
)

// AtMost bounds the ratio to the floor.
func AtMost(most float64) []Target { return []Target{{Of: OfRatioFloor, Most: most}} }

func (r *Row) ratioFloor() Series { return ratio(r.RatioFloor, r.Ours, r.Floor) }
func (r *Row) ratioPeer() Series  { return ratio(r.RatioPeer, r.Ours, r.Peer) }

func ratio(given, ours, other Series) Series {
	if given != nil || other == nil {
		return given
	}
	return ours.Over(other)
}

// figure returns the series a target is of.
func (r *Row) figure(w Which) Series {
	switch w {
	case OfRatioFloor:
		return r.ratioFloor()
	case OfRatioPeer:
		return r.ratioPeer()
	default:
		return r.Ours
	}
}

// Met reports whether the row meets a target; the median decides.
func (r *Row) Met(t Target) bool {
	median := r.figure(t.Of).Spread().Median
	return (t.Most == 0 || median <= t.Most) && (t.Least == 0 || median >= t.Least)
}

func (t Target) String() string {
	what := map[Which]string{OfRatioFloor: "", OfRatioPeer: " of peer", OfOurs: " abs"}[t.Of]
	if t.Least != 0 {
		return fmt.Sprintf(">=%s%s", short(t.Least), what)
	}
	return fmt.Sprintf("<=%s%s", short(t.Most), what)
}

// entry is a row as bench.json has it. What a row does not have is null.
type entry struct {
	Name       string   `json:"name"`
	Ours       *float64 `json:"ours"`
	Floor      *float64 `json:"floor"`
	Peer       *float64 `json:"peer"`
	Unit       string   `json:"unit"`
	RatioFloor *float64 `json:"ratio_floor"`
	RatioPeer  *float64 `json:"ratio_peer"`
}

// WriteJSON writes the medians of rows as a list.
func WriteJSON(w io.Writer, rows []Row) error {
	entries := make([]entry, len(rows))
	for i, r := range rows {
		entries[i] = entry{r.Name, median(r.Ours), median(r.Floor), median(r.Peer), r.Unit, median(r.ratioFloor()), median(r.ratioPeer())}
	}
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(entries)
}

// median is nil for what is no number, which JSON has no word for either.
func median(s Series) *float64 {
	m := s.Spread().Median
	if math.IsNaN(m) || math.IsInf(m, 0) {
		return nil
	}
	return &m
}
