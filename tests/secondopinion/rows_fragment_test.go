package secondopinion_test

import "github.com/perimeterd/perimeterd/pkg/policy"

func fragmentRows() []row {
	fragments := func(g *stage, as shape, at ...int) *session {
		s := g.session(policy.ProtocolUDP, client)
		s.datagram(peer, "long enough to be cut into three fragments, of 16 bytes and of more").split(as, 1, at...)
		return s
	}
	return []row{{
		name: "fragment-first", here: false, theirs: []state{established, related, admitted}, parts: true,
		why:     "conntrack judges datagrams that it has put together (`nf_defrag`). We keep no bytes: fragments follow the verdict of the first, and one that comes before it is dropped (design §4). The sender sends again.",
		matches: func(d *difference) bool { return d.shape == reversed },
		shown:   func(g *stage) *session { return fragments(g, reversed, 24, 40) },
	}, {
		name: "fragment-tiny", here: false, theirs: []state{established, related, admitted}, parts: true,
		why:     "A first fragment without its whole L4 header. Put together the datagram is in order, but no path has an MTU that makes a sender cut there; it is how filters are got past (RFC 3128). With IPv6 it is forbidden (RFC 8200, 4.5), and the kernel drops it too.",
		matches: func(d *difference) bool { return d.shape == tiny },
		shown: func(g *stage) *session {
			if g.family != 0 {
				return nil
			}
			s := g.session(policy.ProtocolTCP, client)
			s.send(peer, syn, 0).split(tiny, 1, 16)
			return s
		},
	}, {
		name: "fragment-missing", here: true, theirs: []state{notAdmitted}, parts: true,
		why:     "Of a datagram that never becomes whole conntrack lets nothing pass. We let pass what has come; the receiver waits for the rest and discards it.",
		matches: func(d *difference) bool { return d.shape == partial },
		shown:   func(g *stage) *session { return fragments(g, partial, 24, 40) },
	}, {
		name: "fragment-overlap", here: true, theirs: []state{notAdmitted}, parts: true,
		why:     "Fragments that overlap behind the L4 header. The kernel discards such a datagram when it puts it together (RFC 5722), on the router like at the receiver. We drop only what overlaps the header, which is all we judge by.",
		matches: func(d *difference) bool { return d.shape == overlap },
		shown:   func(g *stage) *session { return fragments(g, overlap, 24, 40) },
	}}
}
