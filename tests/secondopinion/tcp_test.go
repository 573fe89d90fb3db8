package secondopinion_test

import (
	"math/rand/v2"
	"strings"

	"github.com/perimeterd/perimeterd/tests/packet"
)

// segment is what a step's TCP header says.
type segment struct {
	flags           packet.Flags
	sequence        uint32
	acknowledgement uint32
	length          int
	rogue           bool // it is not what its sender would send now
}

const (
	synAck = packet.SYN | packet.ACK
	finAck = packet.FIN | packet.ACK
	rstAck = packet.RST | packet.ACK
	ack    = packet.ACK
	syn    = packet.SYN
	rst    = packet.RST
)

// isn are the initial sequence numbers, near the wrap so that it is met.
var isn = [2]uint32{peer: 0xffffff00, member: 0x7fffffe0}

// send appends the segment that a side would send now.
func (s *session) send(from side, flags packet.Flags, length int) *step {
	st := s.put(from, segment{flags: flags, sequence: s.next[from], length: length})
	s.next[from] += uint32(length)
	if flags&(packet.SYN|packet.FIN) != 0 {
		s.next[from]++
	}
	return st
}

// stray appends a segment whose numbers are so far off what its sender would
// send now. It moves nothing.
func (s *session) stray(from side, flags packet.Flags, length int, sequence, acknowledgement int32) *step {
	return s.put(from, segment{
		flags: flags, length: length, rogue: true,
		sequence:        s.next[from] + uint32(sequence),
		acknowledgement: uint32(acknowledgement),
	})
}

// put appends a segment; its acknowledgement is relative to all that the
// other side has sent.
func (s *session) put(from side, g segment) *step {
	if g.flags&packet.ACK != 0 {
		g.acknowledgement += s.next[from.other()]
	}
	source, destination, sourcePort, destinationPort := s.addressed(from)
	st := s.add(from, packet.TCP(source, destination, sourcePort, destinationPort, g.flags).
		Sequence(g.sequence, g.acknowledgement).Payload(strings.Repeat("x", g.length)))
	st.segment = g
	return st
}

// again appends a segment for the second time.
func (s *session) again(st *step) *step {
	again := &step{sending: st.sending, ends: st.ends, flaw: st.flaw, segment: st.segment}
	again.segment.rogue = true
	s.steps = append(s.steps, again)
	return again
}

// randomTCP draws the life of a connection. Some are left in peace; others lose
// segments and meet some that do not belong there, of either side.
func randomTCP(r *rand.Rand, s *session) {
	s.next = isn
	opener := side(r.IntN(2))
	if !s.allowed[opener] && s.allowed[opener.other()] && chance(r, 60) {
		opener = opener.other()
	}
	trouble := pick(r, 0, 0, 5, 10, 25)
	disturb := func() {
		for chance(r, trouble) {
			randomStray(r, s)
		}
	}
	honest := func(from side, flags packet.Flags, length int) {
		s.send(from, flags, length).lost = chance(r, trouble/3)
		if chance(r, 5) {
			s.again(pick(r, s.steps...))
		}
		disturb()
	}
	disturb()
	for {
		if !chance(r, 15) { // else the router sees none of the opening
			randomOpening(r, s, opener, honest)
		}
		for range r.IntN(5) {
			from := side(r.IntN(2))
			honest(from, packet.ACK|pick(r, 0, packet.PSH), pick(r, 0, 1, 100, 1000))
			if chance(r, 60) {
				honest(from.other(), ack, 0)
			}
		}
		randomClosing(r, honest)
		if !chance(r, 35) {
			return
		}
		// The same ports again, by either side, with new numbers.
		s.next[peer] += uint32(r.IntN(1 << 20))
		s.next[member] += uint32(r.IntN(1 << 20))
		if chance(r, 30) {
			opener = opener.other()
		}
	}
}

type sender func(from side, flags packet.Flags, length int)

func randomOpening(r *rand.Rand, s *session, opener side, honest sender) {
	answer := opener.other()
	honest(opener, syn, 0)
	switch r.IntN(12) {
	case 0: // simultaneous
		honest(answer, syn, 0)
		s.next[opener]-- // the SYN again, with the same number
		honest(opener, synAck, 0)
		s.next[answer]--
		honest(answer, synAck, 0)
	case 1: // refused
		honest(answer, rstAck, 0)
		return
	case 2: // split handshake
		honest(answer, ack, 0)
		honest(answer, syn, 0)
		s.next[opener]--
		honest(opener, synAck, 0)
	default:
		honest(answer, synAck, 0)
	}
	honest(opener, ack, 0)
}

func randomClosing(r *rand.Rand, honest sender) {
	first := side(r.IntN(2))
	other := first.other()
	switch r.IntN(8) {
	case 0: // not at all
	case 1, 2:
		honest(first, pick(r, rst, rstAck), 0)
		if chance(r, 50) {
			honest(other, pick(r, rst, ack), 0)
		}
	case 3: // at the same time
		honest(first, finAck, 0)
		honest(other, finAck, 0)
		honest(first, ack, 0)
		honest(other, ack, 0)
	case 4: // half
		honest(first, finAck, 0)
		honest(other, ack, 0)
		for range 1 + r.IntN(3) {
			honest(other, ack, 100)
			honest(first, ack, 0)
		}
		honest(other, finAck, 0)
		honest(first, ack, 0)
	default:
		honest(first, finAck, pick(r, 0, 10))
		honest(other, pick(r, ack, finAck), 0)
		if chance(r, 70) {
			honest(other, finAck, 0)
		}
		honest(first, ack, 0)
	}
}

// randomStray draws a segment of either side with flags and numbers that fit or
// do not.
func randomStray(r *rand.Rand, s *session) {
	flags := pick(r, ack, ack, ack, rst, rst, rst, rstAck, rstAck, syn, syn, syn, synAck, synAck, finAck, finAck,
		0, packet.FIN, packet.FIN|packet.PSH|packet.URG, packet.PSH, packet.URG|packet.ACK, packet.SYN|packet.FIN,
		packet.SYN|packet.RST, packet.SYN|packet.ECE|packet.CWR, packet.SYN|packet.URG, packet.RST|packet.PSH|packet.ACK)
	off := func() int32 {
		return pick[int32](r, 0, 0, 0, 0, 1, -1, 100, -100, 65000, -65000, 66000, -67000, 131000, -131000, 1<<20, -(1 << 20), 1<<30, -(1 << 30))
	}
	length := 0
	if chance(r, 30) {
		length = 1 + r.IntN(500)
	}
	st := s.stray(side(r.IntN(2)), flags, length, off(), off())
	switch r.IntN(20) {
	case 0:
		st.withChecksum(0x1234)
	case 1:
		words := pick[uint16](r, 0, 4, 15)
		if 20+length < int(words)*4 || words < 5 {
			st.flaw, st.whole = badLength, st.whole.With(packet.SegmentHeaderLength, words)
		}
	}
}
