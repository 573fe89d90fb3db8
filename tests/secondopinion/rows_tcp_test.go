package secondopinion_test

import (
	"slices"

	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/tests/packet"
)

// isTCP reports a segment that is sound and has flags that a TCP sets.
func (d *difference) isTCP() bool { return d.isSegment() && d.segment.usual() }

// isSegment reports a sound segment, whole or in fragments that can be followed.
func (d *difference) isSegment() bool {
	return d.step.protocol == policy.ProtocolTCP && d.message.kind == noMessage && d.flaw == sound && d.shape <= inOrder
}

func (d *difference) view() view { return viewOf(d.step.ends, d.before) }

// crosses reports a SYN that we take for one of two that cross: the other side
// has sent one, and this side has acknowledged nothing since.
func (d *difference) crosses() bool {
	if !d.segment.opens() {
		return false
	}
	for _, b := range slices.Backward(d.before) {
		if b.ends != d.step.ends || !b.ours || b.message.kind != noMessage {
			continue
		}
		if b.from != d.from && b.segment.opens() {
			return true
		}
		if b.from == d.from && b.segment.flags&(packet.ACK|packet.RST) == packet.ACK {
			return false
		}
	}
	return false
}

// disturbed reports segments before this one that did not belong there, that
// nftables did not see or did not take, or SYNs that it let pass and ignored.
func (d *difference) disturbed() bool {
	return slices.ContainsFunc(d.before, func(b *step) bool {
		return b.segment.rogue || b.lost || b.segment.opens() && b.theirs == established ||
			b.message.kind == noMessage && !b.theirs.passes()
	})
}

// without reports a segment of which nftables has no entry, and that opens none.
func (d *difference) without() bool {
	return d.isTCP() && d.view().phase == none && !d.segment.opens()
}

// within reports a segment of a connection that nftables has an entry of.
func (d *difference) within(phases ...phase) bool {
	return d.isTCP() && slices.Contains(phases, d.view().phase) && !d.segment.opens()
}

// fits reports numbers that the receiver would take.
func (d *difference) fits() bool {
	v := d.view()
	return v.fits(d.from, &d.segment)
}

// bare reports an ACK, with or without data.
func (g *segment) bare() bool { return g.flags&(packet.SYN|packet.FIN|packet.RST) == 0 }

// synAckOfOpener reports what only the other side sends.
func (d *difference) synAckOfOpener() bool {
	return d.segment.flags&synAck == synAck && d.view().opener == d.from
}

func tcpRows() []row {
	return []row{{
		name: "tcp-flags", here: true, theirs: []state{invalid},
		why:     "Flags that no TCP sets together (`tcp_valid_flags`). We drop only a SYN with FIN or RST. What else a flow or a rule lets pass reaches only who may be reached, and is discarded there.",
		matches: func(d *difference) bool { return d.isSegment() && !d.segment.usual() },
		shown: func(g *stage) *session {
			s := g.tcp(client, peer)
			s.stray(peer, packet.FIN|packet.PSH|packet.URG, 0, 0, 0)
			return s
		},
	}, {
		name: "tcp-midstream-other-way", here: true, theirs: []state{notAdmitted},
		why: "An ACK without an entry, of the side that may not open. conntrack (`nf_conntrack_tcp_loose`) takes its sender for the opener. We judge it both ways, since the other side may have opened before we looked: a restart cuts no allowed connection (design §4). It lets no SYN pass.",
		matches: func(d *difference) bool {
			return d.isTCP() && !d.segment.opens() && !d.mayOpen() && d.step.allowed[d.from.other()]
		},
		shown: func(g *stage) *session {
			s := g.session(policy.ProtocolTCP, client)
			s.send(member, ack, 10)
			return s
		},
	}, {
		name: "tcp-midstream-not-ack", here: true, theirs: []state{invalid},
		why:     "SYN-ACK, FIN or RST without an entry. conntrack picks up a connection only by an ACK. We judge them like any segment in mid-stream, for the same reason; a RST makes no flow.",
		matches: func(d *difference) bool { return d.without() && !d.segment.bare() },
		shown: func(g *stage) *session {
			s := g.session(policy.ProtocolTCP, client)
			s.send(member, synAck, 0)
			return s
		},
	}, {
		name: "tcp-unanswered", here: true, theirs: []state{invalid},
		why:     "Before a SYN is answered conntrack takes nothing of its sender but SYNs, and no FIN of anybody. We let pass what has the ports of the flow: without an answer the receiver has no connection, and refuses it.",
		matches: func(d *difference) bool { return d.within(opening, crossing) && d.fits() },
		shown: func(g *stage) *session {
			s := g.session(policy.ProtocolTCP, client)
			s.send(peer, syn, 0)
			s.send(peer, ack, 10)
			return s
		},
	}, {
		name: "tcp-window", here: true, theirs: []state{invalid},
		why:     "Out of the window, or acknowledging what was not sent (`tcp_in_window`, off with `nf_conntrack_tcp_be_liberal`). We leave windows to the receiver, who knows them (RFC 9293, 3.10.7.4), and drop nothing because we guessed them wrong. A RST out of the window passes too, but ends no flow.",
		matches: func(d *difference) bool { return d.within(opening, crossing, open) && !d.fits() },
		shown: func(g *stage) *session {
			s := g.tcp(client, peer)
			s.stray(peer, ack, 10, 1<<20, 0)
			return s
		},
	}, {
		name: "tcp-synack-of-opener", here: true, theirs: []state{invalid},
		why:     "A SYN-ACK of the side that sent the SYN. To conntrack it is invalid; to us it is of a flow like any segment, and its receiver answers with an ACK (RFC 9293, 3.10.7.4).",
		matches: func(d *difference) bool { return d.within(open) && d.fits() && d.synAckOfOpener() },
		shown: func(g *stage) *session {
			s := g.tcp(client, peer)
			s.stray(peer, synAck, 0, 0, 0)
			return s
		},
	}, {
		name: "tcp-disturbed", here: true, theirs: []state{invalid},
		why: "The numbers are right, but conntrack is out of step: it believed a segment that was none of the connection's, missed one, or ignored a SYN that began another. It then drops the rest of a connection that is in order; somebody else's SYN before the true one is enough. We have no state that a segment must fit.",
		matches: func(d *difference) bool {
			forgotten := d.without() && d.segment.bare() // as we see it; conntrack kept what it did not believe
			return d.fits() && !d.synAckOfOpener() && d.disturbed() && (d.within(open) || forgotten)
		},
		shown: func(g *stage) *session {
			s := g.session(policy.ProtocolTCP, client)
			s.stray(peer, syn, 0, 131000, 0) // somebody else's
			s.send(peer, syn, 0)
			s.send(member, synAck, 0)
			s.send(peer, ack, 0)
			return s
		},
	}, {
		name: "tcp-crossed-allowed", here: true, theirs: []state{invalid},
		why:     "A SYN against the direction of an entry is invalid to conntrack in most states. We judge it as what it is, an opening: its sender may open, so a new flow takes the place of the old one.",
		matches: func(d *difference) bool { return d.isTCP() && d.segment.opens() && d.mayOpen() },
		shown: func(g *stage) *session {
			s := g.tcp(equal, peer)
			s.send(member, syn, 0)
			return s
		},
	}, {
		name: "tcp-crossing", here: true, theirs: []state{notAdmitted, invalid},
		why:     "A SYN of the side that may not open, that crosses one of the side that may (simultaneous open, RFC 9293, 3.5). conntrack follows one such pair; when the SYNs come again, or after a reset that we do not believe, it calls them invalid, or new. We let them cross until the side that may not open has acknowledged something.",
		matches: func(d *difference) bool { return d.isTCP() && !d.mayOpen() && d.crosses() },
		shown: func(g *stage) *session {
			s := g.session(policy.ProtocolTCP, client)
			s.send(peer, syn, 0)
			crossing := s.send(member, syn, 0)
			s.next[peer]--
			s.send(peer, synAck, 0)
			s.again(crossing)
			return s
		},
	}, {
		name: "tcp-crossed-denied", here: false, theirs: []state{established},
		why:     "A SYN of the side that may not open, after it acknowledged something (a split handshake) or in a state of conntrack's in which it lets it pass to see what comes. We judge it as an opening, and it may not.",
		matches: func(d *difference) bool { return d.isTCP() && d.segment.opens() && !d.mayOpen() },
		shown: func(g *stage) *session {
			s := g.session(policy.ProtocolTCP, client)
			s.send(peer, syn, 0)
			s.send(member, ack, 0)
			s.send(member, syn, 0)
			return s
		},
	}}
}
