package secondopinion_test

import (
	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/tests/packet"
)

func datagramRows() []row {
	return []row{{
		name: "checksum", here: true, theirs: []state{invalid}, parts: true,
		why:     "conntrack verifies checksums of L4 on arrival (`nf_conntrack_checksum`). We do not touch payload: the receiver discards the datagram with or without a filter, and it carries nothing to anybody.",
		matches: func(d *difference) bool { return d.flaw == badChecksum },
		shown: func(g *stage) *session {
			s := g.session(policy.ProtocolUDP, client)
			s.datagram(peer, "right")
			s.datagram(peer, "wrong").withChecksum(0x1234)
			return s
		},
	}, {
		name: "l4-length", here: true, theirs: []state{invalid}, parts: true,
		why:     "A TCP header length or a UDP length that contradicts IP's. Ports stand before either, so we know whose datagram it is, and the receiver discards it.",
		matches: func(d *difference) bool { return d.flaw == badLength },
		shown: func(g *stage) *session {
			s := g.session(policy.ProtocolUDP, client)
			st := s.datagram(peer, "shorter than it says")
			st.flaw, st.whole = badLength, st.whole.With(packet.SegmentLength, 4000)
			return s
		},
	}, {
		name: "udplite-checksum", here: true, theirs: []state{invalid}, parts: true,
		why: "conntrack takes every right checksum of UDP-Lite for wrong: it computes it with UDP's protocol number (`udplite_error`), where RFC 3828, 3.1 wants 136.",
		matches: func(d *difference) bool {
			return d.step.protocol == policy.ProtocolUDPLite && d.flaw == sound && !d.liked && d.shape <= inOrder
		},
		shown: func(g *stage) *session {
			s := g.session(policy.ProtocolUDPLite, client)
			st := s.datagram(peer, "what conntrack likes")
			st.whole, st.liked = likedByConntrack(st.whole), true
			s.datagram(peer, "right")
			return s
		},
	}, {
		name: "dccp-port", here: false, theirs: []state{established, related}, parts: true,
		why: "From Linux 6.17 on conntrack has no tracker for DCCP: one entry is for all ports of two addresses. We judge each pair of ports.",
		matches: func(d *difference) bool {
			return d.session.protocol == policy.ProtocolDCCP && d.shape == whole && d.message.kind != redirect
		},
		shown: func(g *stage) *session {
			if g.noDCCP {
				return nil
			}
			s := g.session(policy.ProtocolDCCP, client)
			s.datagram(peer, "question")
			s.datagram(member, "answer")
			s.fromAnotherPort(member)
			return s
		},
	}, {
		name: "sctp-state", here: true, theirs: []state{invalid},
		why: "conntrack follows chunks and verification tags of SCTP. We go by ports: a chunk out of place passes where the flow or a rule lets the ports pass, and the receiver discards it (RFC 9260, 8.4 and 8.5).",
		matches: func(d *difference) bool {
			return d.step.protocol == policy.ProtocolSCTP && d.flaw == sound && d.message.kind == noMessage
		},
		shown: func(g *stage) *session {
			s := g.session(policy.ProtocolSCTP, client)
			s.chunk(peer, sctpInit, true)
			s.chunk(member, sctpInitAck, true)
			s.chunk(peer, sctpCookieEcho, false)
			return s
		},
	}}
}
