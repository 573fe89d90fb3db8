package secondopinion_test

import (
	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/tests/packet"
)

func icmpRows() []row {
	return []row{{
		name: "icmp-unasked", here: true, theirs: []state{invalid},
		why: "conntrack knows ICMP as a few questions, their answers, and errors about what it tracks; all else is invalid. We ask the rules: where they admit ICMP of its sender, it passes.",
		matches: func(d *difference) bool {
			return d.message.kind != noMessage && d.message.about == nil && d.flaw == sound && d.mayOpen()
		},
		shown: func(g *stage) *session {
			s := g.session(policy.ProtocolICMP, pinger)
			s.echo(peer, echoReply, 1)
			return s
		},
	}, {
		name: "icmp-query", here: false, theirs: []state{established},
		why:     "The answer to a question other than echo (timestamp, address mask, node information), which conntrack tracks too. We track echo alone: the rest is answered by few, and by none since RFC 6918 if it can be helped. A rule can admit it.",
		matches: func(d *difference) bool { return d.message.kind == queryAnswer && !d.mayOpen() },
		shown: func(g *stage) *session {
			s := g.session(policy.ProtocolICMP, pinger)
			s.icmp(peer, query)
			s.icmp(member, queryAnswer)
			return s
		},
	}, {
		name: "icmp-redirect", here: false, theirs: []state{related},
		why:     "To conntrack an IPv4 redirect that quotes a tracked packet is related. No router forwards one for good: hosts believe only their own gateway (RFC 1122, 3.2.2.2), who need not pass a filter. To us it is ICMP like any other, and needs a rule.",
		matches: func(d *difference) bool { return d.message.kind == redirect && d.message.about != nil && !d.mayOpen() },
		shown: func(g *stage) *session {
			if g.family != 0 {
				return nil
			}
			s := g.session(policy.ProtocolUDP, client)
			s.datagram(peer, "question")
			s.turn(s.datagram(member, "answer"))
			return s
		},
	}, {
		name: "icmp-error-by-rule", here: true, theirs: []state{invalid},
		why:     "An error or a redirect about nothing that is tracked. It is invalid to conntrack; we judge it as ICMP of its sender, and a rule admits that.",
		matches: func(d *difference) bool { return d.message.about != nil && d.flaw == sound && d.mayOpen() },
		shown: func(g *stage) *session {
			s := g.session(policy.ProtocolUDP, pinger)
			s.datagram(peer, "question")
			s.fail(s.datagram(member, "answer"), packet.PortUnreachable, otherPort)
			return s
		},
	}, {
		name: "icmp-error-remembered", here: true, theirs: []state{invalid},
		why: "An error about a datagram of a flow that we remember and conntrack does not: it never picked it up, or has deleted it at the first reset or at a denied SYN in TIME_WAIT. We keep a closed flow for a while, so that late errors arrive.",
		matches: func(d *difference) bool {
			genuine := d.message.twist == straight || d.message.twist == byRouter
			return d.message.about != nil && !d.mayOpen() && genuine && d.entered(d.message.about.ends)
		},
		shown: func(g *stage) *session {
			s := g.session(policy.ProtocolTCP, client)
			s.send(peer, syn, 0)
			refused := s.send(member, rstAck, 0)
			s.fail(refused, packet.HostUnreachable, straight)
			return s
		},
	}}
}
