package measure

import (
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"text/tabwriter"
)

// WriteTable writes rows for people: medians with their quartiles.
func WriteTable(w io.Writer, rows []Row) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "what\tunit\tours\tfloor\tof floor\tpeer\tof peer\ttarget\t")
	for _, r := range rows {
		floor := withSpread(r.Floor)
		if r.FloorIs != "" && r.Floor != nil {
			floor += " " + r.FloorIs
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", r.Name, r.Unit, withSpread(r.Ours), floor,
			withSpread(r.ratioFloor()), withSpread(r.Peer), withSpread(r.ratioPeer()), r.verdicts())
	}
	return table.Flush()
}

// verdicts says of each target whether it is met.
func (r *Row) verdicts() string {
	var words []string
	for _, t := range r.Targets {
		word := "MISSED"
		if r.Met(t) {
			word = "met"
		}
		words = append(words, t.String()+" "+word)
	}
	return strings.Join(words, ", ")
}

func withSpread(s Series) string {
	if s == nil {
		return "-"
	}
	spread := s.Spread()
	if len(s) == 1 {
		return short(spread.Median)
	}
	return fmt.Sprintf("%s (%s..%s)", short(spread.Median), short(spread.Low), short(spread.High))
}

// short shows three digits that count.
func short(x float64) string {
	switch a := math.Abs(x); {
	case math.IsNaN(x) || math.IsInf(x, 0):
		return "none"
	case a >= 1e9:
		return strconv.FormatFloat(x/1e9, 'f', 2, 64) + "G"
	case a >= 1e6:
		return strconv.FormatFloat(x/1e6, 'f', 2, 64) + "M"
	case a >= 1e5:
		return strconv.FormatFloat(x/1e3, 'f', 0, 64) + "k"
	case a >= 100:
		return strconv.FormatFloat(x, 'f', 0, 64)
	case a >= 10:
		return strconv.FormatFloat(x, 'f', 1, 64)
	case a > 0.995 && a < 1: // almost all is not all
		return strconv.FormatFloat(math.Trunc(x*1e4)/1e4, 'f', 4, 64)
	default:
		return strconv.FormatFloat(x, 'f', 2, 64)
	}
}

// Missed counts the targets that are missed, and all.
func Missed(rows []Row) (missed, all int) {
	for _, r := range rows {
		for _, t := range r.Targets {
			all++
			if !r.Met(t) {
				missed++
			}
		}
	}
	return missed, all
}
