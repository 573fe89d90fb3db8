package datapath

import (
	"bytes"
	"slices"
	"testing"
)

// Frames in a fuzzing input follow each other, each behind the way it goes, at
// the beginning or behind a newline. So what a mutation moves or cuts away costs
// no more than the frame it is in. MAC addresses are left out, since no verdict
// depends on them: a frame begins with its EtherType. What holds a newline and
// one of these ways is cut there.
const (
	waySeparator  = '\n'
	wayTowards    = '>' // towards the member, judged at TC
	wayFrom       = '<' // from the member, at TC
	wayTowardsXDP = ')' // the same, judged at XDP before
	wayFromXDP    = '('
)

// Bounds that keep an input fast. Nothing is read beyond 600 bytes.
const (
	crossingsMax  = 32
	frameBytesMax = 1514
)

// macs are the addresses of every frame.
const macs = "\x02\x00\x00\x00\x00\x02\x02\x00\x00\x00\x00\x01"

// decodeCrossings reads a fuzzing input. One that begins with no way goes towards
// the member.
func decodeCrossings(input []byte) []crossing {
	if !isWay(input, 0) {
		input = append([]byte{wayTowards}, input...)
	}
	var out []crossing
	for len(input) > 0 && len(out) < crossingsMax {
		way, end := input[0], 1
		for end < len(input) && !(input[end] == waySeparator && isWay(input, end+1)) {
			end++
		}
		frame := slices.Concat([]byte(macs), input[1:end])
		out = append(out, crossing{
			frame:   frame[:min(len(frame), frameBytesMax)],
			towards: way == wayTowards || way == wayTowardsXDP,
			xdp:     way == wayTowardsXDP || way == wayFromXDP,
		})
		input = input[min(end+1, len(input)):]
	}
	return out
}

func isWay(input []byte, at int) bool {
	return at < len(input) && bytes.IndexByte([]byte{wayTowards, wayFrom, wayTowardsXDP, wayFromXDP}, input[at]) >= 0
}

// encodeCrossings writes a fuzzing input.
func encodeCrossings(crossings []crossing) []byte {
	ways := map[[2]bool]byte{ // towards, at XDP
		{true, false}: wayTowards, {false, false}: wayFrom, {true, true}: wayTowardsXDP, {false, true}: wayFromXDP,
	}
	var out []byte
	for i, c := range crossings {
		if i > 0 {
			out = append(out, waySeparator)
		}
		out = append(append(out, ways[[2]bool{c.towards, c.xdp}]), c.frame[len(macs):]...)
	}
	return out
}

// FuzzPacketPath has the kernel and the reference judge the same frames, in
// order. The reference is also what tells the fuzzer where it has been, since
// nothing sees the ways through the kernel's program.
//
// Inputs that fuzzing found, because they made a difference or go new ways, are in
// testdata/fuzz/FuzzPacketPath; they and the seeds run with every go test.
func FuzzPacketPath(f *testing.F) {
	p, facts := everything(f)
	both := newPair(f, 256) // in tables that are emptied in no time
	both.put(f, p, facts)
	for _, row := range parserRows() {
		f.Add(encodeCrossings([]crossing{{frame: row.packet.Frame(), towards: true}}))
	}
	for _, conversation := range conversations() {
		f.Add(encodeCrossings(conversation))
		f.Add(encodeCrossings(atXDP(conversation)))
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		both.play(t, decodeCrossings(input))
	})
}

// atXDP is the conversation on an uplink that has XDP.
func atXDP(crossings []crossing) []crossing {
	out := slices.Clone(crossings)
	for i := range out {
		out[i].xdp = out[i].towards
	}
	return out
}

// TestCrossingsAreReadAsWritten holds what reads fuzzing inputs against what writes them.
func TestCrossingsAreReadAsWritten(t *testing.T) {
	for _, conversation := range conversations() {
		for _, want := range [][]crossing{conversation, atXDP(conversation)} {
			got := decodeCrossings(encodeCrossings(want))
			same := slices.EqualFunc(want, got, func(a, b crossing) bool {
				return a.towards == b.towards && a.xdp == b.xdp && bytes.Equal(a.frame[len(macs):], b.frame[len(macs):])
			})
			if !same {
				t.Errorf("written\n%s\nread\n%s", told(want), told(got))
			}
		}
	}
}
