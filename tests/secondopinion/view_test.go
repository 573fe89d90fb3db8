package secondopinion_test

import (
	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/tests/packet"
)

// usual reports flags that a TCP may send: one of SYN, SYN|ACK, RST, RST|ACK,
// FIN|ACK and ACK, with or without PSH, ECE and CWR, and some with URG.
func (g *segment) usual() bool {
	switch g.flags & (packet.SYN | packet.ACK | packet.RST | packet.FIN) {
	case syn, finAck, ack:
		return true
	case synAck, rst, rstAck:
		return g.flags&packet.URG == 0
	}
	return false
}

func (g *segment) opens() bool { return g.flags&(packet.SYN|packet.ACK) == packet.SYN }

// view is what nftables has seen of a connection.
type view struct {
	phase  phase
	opener side // in phases other than none
	// By side: the number after the last byte it sent, and the last that the
	// other has acknowledged.
	sent, acked [2]uint32
	seen        [2]bool
	answered    bool // by anything: a reset does not end it at once
	liberal     bool // picked up in mid-stream: numbers are not checked
}

type phase uint8

const (
	none     phase = iota
	opening        // SYNs of one side
	crossing       // SYNs of both
	open
)

// viewOf follows the segments between the ends that passed nftables. What is new
// to it, though there was an entry, made it forget that.
func viewOf(e ends, before []*step) view {
	var v view
	for _, b := range before {
		if b.ends != e || b.protocol != policy.ProtocolTCP || b.message.kind != noMessage || b.lost {
			continue
		}
		if b.theirs.passes() {
			v.follow(b.from, &b.segment, b.theirs)
		} else if b.theirs == notAdmitted && b.shape <= inOrder {
			v = view{}
		}
	}
	return v
}

func (v *view) follow(from side, g *segment, s state) {
	if s == admitted && v.phase != opening || v.phase == none {
		*v = view{phase: open, opener: from, liberal: true} // perhaps on ports used before
		if g.opens() {
			v.phase, v.liberal = opening, false
		}
	}
	if g.opens() && v.phase == opening && from == v.opener {
		v.seen = [2]bool{} // perhaps with other numbers
	}
	switch {
	case g.flags&packet.RST != 0:
		if !v.answered && v.resets(from, g) { // an entry that was never answered goes at once
			*v = view{}
		}
		return
	case from == v.opener:
	case g.opens():
		v.phase = crossing
	case v.phase == crossing, v.phase == opening && g.flags&packet.SYN != 0:
		v.phase = open
	}
	if from != v.opener {
		v.answered = true
	}
	v.number(from, g)
}

// resets reports whether nftables believes a RST before there was an answer: of
// the opener there is no lower bound yet, of the other side no bound at all.
func (v *view) resets(from side, g *segment) bool {
	if v.liberal {
		return true
	}
	if from != v.opener {
		return g.flags&packet.ACK == 0 || ahead(g.acknowledgement, v.sent[v.opener]) <= 0 && ahead(v.sent[v.opener], g.acknowledgement) <= window
	}
	most := int32(0)
	if v.phase == open {
		most = window
	}
	return !v.seen[from] || ahead(g.sequence, v.sent[from]) <= most
}

func (v *view) number(from side, g *segment) {
	if !v.seen[from] || ahead(g.end(), v.sent[from]) > 0 {
		v.sent[from] = g.end()
	}
	if !v.seen[from] {
		v.acked[from] = g.sequence
	}
	v.seen[from] = true
	if to := from.other(); g.flags&packet.ACK != 0 {
		if !v.seen[to] {
			v.sent[to], v.acked[to], v.seen[to] = g.acknowledgement, g.acknowledgement, true
		}
		if ahead(g.acknowledgement, v.acked[to]) > 0 {
			v.acked[to] = g.acknowledgement
		}
	}
}

// window is that of all segments here; it is not scaled.
const window = 65535

// fits reports whether the receiver would take the segment, as far as its numbers
// go: RFC 9293, 3.10.7.4; of a RST, RFC 5961, 3.2.
func (v *view) fits(from side, g *segment) bool {
	if v.seen[from] {
		last := g.end()
		if g.flags&packet.RST != 0 {
			last = g.sequence
		}
		if ahead(g.sequence, v.acked[from]) > window || ahead(last, v.acked[from]) < 0 {
			return false
		}
	}
	to := from.other()
	return g.flags&packet.ACK == 0 || !v.seen[to] ||
		ahead(g.acknowledgement, v.sent[to]) <= 0 && ahead(v.acked[to], g.acknowledgement) <= window
}

func (g *segment) end() uint32 {
	end := g.sequence + uint32(g.length)
	if g.flags&packet.SYN != 0 {
		end++
	}
	if g.flags&packet.FIN != 0 {
		end++
	}
	return end
}

func ahead(a, b uint32) int32 { return int32(a - b) }
