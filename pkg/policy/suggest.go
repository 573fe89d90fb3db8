package policy

import (
	"fmt"
	"strconv"
	"strings"
)

// nearest returns the candidate that word is most likely a misspelling of, or
// "" if none is near.
func nearest(word string, candidates []string) string {
	const longest = 255 // beyond it the search costs more than it helps
	if len(word) > longest {
		return ""
	}
	// Words of one or two letters are near each other without being meant.
	best, bestDistance := "", 1+len(word)/3
	folded := strings.ToLower(word)
	for _, c := range candidates {
		if n := len(c) - len(word); n >= bestDistance || -n >= bestDistance {
			continue
		}
		if d := distance(folded, strings.ToLower(c)); d < bestDistance {
			best, bestDistance = c, d
		}
	}
	return best
}

// distance counts the insertions, deletions, replacements and swaps of
// neighbours that turn a into b.
func distance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row[0] = i + 1
		for j := range len(b) {
			replace := last[j]
			if a[i] != b[j] {
				replace++
			}
			row[j+1] = min(replace, last[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}

// oneOf writes the words as a choice, "a, b or c", and stops where a reader
// would.
func oneOf(words []string) string {
	const enough = 16
	switch n := len(words); {
	case n == 0:
		return "nothing"
	case n == 1:
		return words[0]
	case n > enough:
		return fmt.Sprintf("%s or one of %d more", strings.Join(words[:enough], ", "), n-enough)
	default:
		return strings.Join(words[:n-1], ", ") + " or " + words[n-1]
	}
}

// quoted puts every word in quotes.
func quoted(words []string) []string {
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = quote(w)
	}
	return out
}

// quote puts a text from a policy in quotes, shortened where it would fill the
// screen.
func quote(s string) string {
	const enough = 100
	runes := 0
	for i := range s {
		if runes++; runes > enough {
			s = s[:i] + "…"
			break
		}
	}
	return strconv.Quote(s)
}
