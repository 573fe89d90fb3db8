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

// untilTheyMeet cuts lines off two texts until both begin with what follows the same
// line, or have ended, or more than most are gone, and returns those before that line.
// It cuts a line off each that has one.
func untilTheyMeet(before, after *[]byte, most int) (removed, added [][]byte) {
	old, young := newCutLines(before), newCutLines(after)
	for len(old.lines)+len(young.lines) <= 2*most && (len(*before) > 0 || len(*after) > 0) {
		for _, one := range []*cutLines{old, young} {
			other := old
			if one == old {
				other = young
			}
			if len(*one.text) == 0 {
				continue
			}
			line := one.cut()
			if at, met := other.at[line]; met {
				one.lines = one.lines[:len(one.lines)-1]
				other.lines, *other.text = other.lines[:at], other.rests[at]
				return old.lines, young.lines
			}
		}
	}
	return old.lines, young.lines
}

// cutLines is what was cut off a text.
type cutLines struct {
	text  *[]byte
	lines [][]byte
	rests [][]byte       // by line: what follows it
	at    map[string]int // which line, the first of equal ones, says this
}

func newCutLines(text *[]byte) *cutLines { return &cutLines{text: text, at: map[string]int{}} }

// cut cuts one more line off.
func (c *cutLines) cut() string {
	line := cutLine(c.text)
	if _, twice := c.at[string(line)]; !twice {
		c.at[string(line)] = len(c.lines)
	}
	c.lines, c.rests = append(c.lines, line), append(c.rests, *c.text)
	return string(line)
}

// cutLine cuts the first line off a text.
func cutLine(text *[]byte) []byte {
	line, rest, _ := bytes.Cut(*text, []byte("\n"))
	*text = rest
	return line
}
