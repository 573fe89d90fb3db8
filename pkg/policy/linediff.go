package policy

import "bytes"

// changedLines returns lines to take from one text and to add to it so that it has
// the lines of another: not always the fewest, and the order of the lines is left
// aside. False: there are more than most.
func changedLines(before, after []byte, most int) (removed, added [][]byte, few bool) {
	for len(before) > 0 && len(after) > 0 {
		same := equalLines(before, after)
		before, after = before[same:], after[same:]
		gone, came := untilTheyMeet(&before, &after, most-len(removed)-len(added))
		removed, added = append(removed, gone...), append(added, came...)
		if len(removed)+len(added) > most {
			return nil, nil, false
		}
	}
	for len(before) > 0 && len(removed) <= most {
		removed = append(removed, cutLine(&before))
	}
	for len(after) > 0 && len(added) <= most {
		added = append(added, cutLine(&after))
	}
	return removed, added, len(removed)+len(added) <= most
}

// equalLines is how many bytes of whole lines two texts have in common at their
// beginning.
func equalLines(a, b []byte) int {
	n, end := 0, min(len(a), len(b))
	for step := 1 << 16; step > 0; {
		if n+step <= end && bytes.Equal(a[n:n+step], b[n:n+step]) {
			n += step
		} else {
			step /= 2
		}
	}
	return bytes.LastIndexByte(a[:n], '\n') + 1
}

// untilTheyMeet cuts lines off two texts until both begin with the same line, or one
// has ended, or more than most are gone. It cuts a line off each, or two equal ones,
// at least.
func untilTheyMeet(before, after *[]byte, most int) (removed, added [][]byte) {
	ofBefore, ofAfter := map[string]int{}, map[string]int{} // where a line is among those that were cut
	restOfBefore, restOfAfter := [][]byte{*before}, [][]byte{*after}
	for len(removed)+len(added) <= 2*most && (len(*before) > 0 || len(*after) > 0) {
		if len(*before) > 0 {
			line := cutLine(before)
			if _, twice := ofBefore[string(line)]; !twice {
				ofBefore[string(line)] = len(removed)
			}
			removed, restOfBefore = append(removed, line), append(restOfBefore, *before)
			if at, met := ofAfter[string(line)]; met {
				*after = restOfAfter[at+1]
				return removed[:len(removed)-1], added[:at]
			}
		}
		if len(*after) > 0 {
			line := cutLine(after)
			if _, twice := ofAfter[string(line)]; !twice {
				ofAfter[string(line)] = len(added)
			}
			added, restOfAfter = append(added, line), append(restOfAfter, *after)
			if at, met := ofBefore[string(line)]; met {
				*before = restOfBefore[at+1]
				return removed[:at], added[:len(added)-1]
			}
		}
	}
	return removed, added
}

// cutLine cuts the first line off a text.
func cutLine(text *[]byte) []byte {
	line, rest, _ := bytes.Cut(*text, []byte("\n"))
	*text = rest
	return line
}
