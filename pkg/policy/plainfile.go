package policy

import (
	"bytes"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// plainFile is a service tag file in plain format that was understood. Lists of the
// Internet's bad addresses have a million lines of which some hundred change each
// hour: those alone are understood again.
type plainFile struct {
	text     []byte // without byteOrderMark
	prefixes *PrefixSet
	lines    int                  // that have a prefix
	again    map[netip.Prefix]int // how many lines have it, beyond one
}

const (
	// plainFileMin is from how many bytes on a file is kept, which takes as much memory.
	plainFileMin = 64 << 10
	// repeatsMost bounds the prefixes that several lines of a file that is kept may have.
	repeatsMost = 10_000
)

const byteOrderMark = "\ufeff"

// plainLine is what is written in a line, and "" if that is nothing. What follows a
// "#" is a comment.
func plainLine(line string) string {
	line, _, _ = strings.Cut(line, "#")
	return strings.TrimSpace(line)
}

// newPlainFile keeps a file without problems, whose lines have these prefixes, unless
// that is not worth it.
func newPlainFile(text []byte, lines []netip.Prefix, prefixes *PrefixSet) *plainFile {
	repeats := len(lines) - prefixes.Len()
	if len(text) < plainFileMin || repeats > repeatsMost {
		return nil
	}
	f := &plainFile{bytes.TrimPrefix(text, []byte(byteOrderMark)), prefixes, len(lines), map[netip.Prefix]int{}}
	if repeats > 0 { // found by sorting, since a map of millions takes more time and memory
		sorted := slices.Clone(lines)
		slices.SortFunc(sorted, ComparePrefixes)
		for i := 1; i < len(sorted); i++ {
			if sorted[i] == sorted[i-1] {
				f.again[sorted[i]]++
			}
		}
	}
	return f
}

// edit understands a file by what it says otherwise than this one. False: that is too
// much, or wrong.
func (f *plainFile) edit(text []byte) (*plainFile, bool) {
	text = bytes.TrimPrefix(text, []byte(byteOrderMark))
	removed, added, few := changedLines(f.text, text, editsMost(f.lines))
	if !few {
		return nil, false
	}
	lines := map[netip.Prefix]int{} // how many more have it than before
	count := func(texts [][]byte, each int) bool {
		for _, text := range texts {
			if s := plainLine(string(text)); s != "" {
				p, err := ParsePrefix(s)
				if err != nil {
					return false
				}
				lines[p] += each
			}
		}
		return true
	}
	if !count(added, 1) || !count(removed, -1) {
		return nil, false
	}
	maps.DeleteFunc(lines, func(_ netip.Prefix, more int) bool { return more == 0 })
	edited := &plainFile{text: text, lines: f.lines, again: maps.Clone(f.again)}
	var came, gone []netip.Prefix
	for p, more := range lines {
		had := 1 + f.again[p] // where a line is gone, there was one
		if more > 0 && !f.prefixes.Has(p) {
			had = 0
		}
		has := had + more
		switch {
		case had == 0:
			came = append(came, p)
		case has == 0:
			gone = append(gone, p)
		}
		edited.lines += more
		if delete(edited.again, p); has > 1 {
			edited.again[p] = has - 1
		}
	}
	if edited.lines > maxTagPrefixes || len(edited.again) > repeatsMost {
		return nil, false
	}
	edited.prefixes = f.prefixes.Edit(came, gone)
	return edited, true
}
