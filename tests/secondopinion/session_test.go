package secondopinion_test

import (
	"fmt"
	"strings"

	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/tests/packet"
)

// session is a conversation of a peer and a member, in the order in which its
// datagrams reach the router. It was written before: nobody waits for an answer.
type session struct {
	policy *policy.Policy
	ends
	steps []*step

	// TCP: the number of the next byte that each side sends, if all goes well.
	next [2]uint32
}

// step is one datagram.
type step struct {
	sending
	ends    // mostly the session's
	flaw    flaw
	shape   shape
	segment segment // of TCP, else zero
	message message // of ICMP, else zero
	chunk   chunk   // of SCTP
	liked   bool    // the checksum of UDP-Lite is what conntrack wants

	lost   bool // on its way to the router
	played bool
	ours   bool  // it came out of perimeterd's field
	theirs state // what nftables makes of it
}

// flaw is what the receiver's stack will not like.
type flaw uint8

const (
	sound flaw = iota
	badChecksum
	badLength // only L4 says so: IP's own lengths are right
)

// shape is how a datagram is cut in fragments.
type shape uint8

const (
	whole    shape = iota
	inOrder        // all fragments, the first one first
	reversed       // all fragments, the first one last
	tiny           // the first does not hold the whole L4 header
	partial        // one never comes
	overlap        // a later one covers what an earlier one brought
)

func (st *step) agreed() bool { return st.ours == st.theirs.passes() }

// difference is a step on whose verdict the two disagree, and what came before.
type difference struct {
	*session
	*step
	before []*step
}

func passOrDrop(passes bool) string {
	if passes {
		return "pass"
	}
	return "drop"
}

// madeApart reports a datagram of which perimeterd judged the fragments, and
// nftables the whole, so that what both dropped may have left something behind.
func (d *difference) madeApart() bool { return d.shape > inOrder && d.theirs == invalid }

// describe prints what was played of the session, with both verdicts, up to and
// including the step.
func (s *session) describe(until *step) string {
	var b strings.Builder
	fmt.Fprintf(&b, "peer %s may open: %v; member %s may open: %v\n", s.peer, s.allowed[peer], s.member, s.allowed[member])
	for i, st := range s.steps {
		if st.lost {
			fmt.Fprintf(&b, "  %2d from the %-6s %s -> lost on its way to the router\n", i, st.from, packet.Describe(st.whole.Frame()))
			continue
		}
		if !st.played {
			break
		}
		note := "  "
		if !st.agreed() {
			note = "≠ "
		}
		for j, p := range st.frames() {
			verdicts := ""
			if j == len(st.frames())-1 {
				verdicts = fmt.Sprintf(" -> perimeterd: %s; nftables: %s", passOrDrop(st.ours), st.theirs)
			}
			fmt.Fprintf(&b, "%s%2d from the %-6s %s%s\n", note, i, st.from, packet.Describe(p.Frame()), verdicts)
			note = "  "
		}
		if st == until {
			break
		}
	}
	return b.String()
}

// add appends a step of the session's own ends.
func (s *session) add(from side, p packet.Packet) *step {
	st := &step{sending: sending{from: from, whole: p}, ends: s.ends}
	s.steps = append(s.steps, st)
	return st
}

// addressed returns source and destination of what a side sends.
func (e *ends) addressed(from side) (source, destination string, sourcePort, destinationPort uint16) {
	if from == peer {
		return e.peer.String(), e.member.String(), e.peerPort, e.memberPort
	}
	return e.member.String(), e.peer.String(), e.memberPort, e.peerPort
}

// withChecksum gives a step's datagram another checksum than the right one.
func (st *step) withChecksum(value uint16) *step {
	st.flaw, st.whole = badChecksum, st.whole.With(packet.SegmentChecksum, value)
	return st
}

// split cuts the step's datagram in fragments of this shape. Every session has
// its own identities.
func (st *step) split(as shape, id uint32, at ...int) *step {
	pieces := st.whole.Split(id, at...)
	switch as {
	case reversed:
		for i, j := 0, len(pieces)-1; i < j; i, j = i+1, j-1 {
			pieces[i], pieces[j] = pieces[j], pieces[i]
		}
	case partial:
		pieces = pieces[:len(pieces)-1]
	case overlap:
		shifted := st.whole.Split(id, at[0]+8)
		pieces = append(pieces[:2], shifted[1])
	}
	st.shape, st.pieces = as, pieces
	return st
}
