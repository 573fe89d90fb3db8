package secondopinion_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/perimeterd/perimeterd/pkg/datapath"
	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/tests/packet"
	"github.com/perimeterd/perimeterd/tests/privileged"
)

// directed are sessions with what each router must make of them: + passes, - is
// dropped, one sign for each datagram. Without theirs both must say the same.
type directed struct {
	name         string
	ours, theirs string
	session      func(g *stage) *session
}

func directedSessions() []directed {
	return []directed{
		{"a connection", "++++++++", "", func(g *stage) *session {
			s := g.tcp(client, peer)
			s.send(peer, ack, 100)
			s.send(member, ack, 0)
			s.send(member, finAck, 0)
			s.send(peer, finAck, 0)
			s.send(member, ack, 0)
			return s
		}},
		{"a connection the other way", "-", "", func(g *stage) *session {
			s := g.session(policy.ProtocolTCP, client)
			s.send(member, syn, 0)
			return s
		}},
		{"a connection to a server, and from it", "+++-", "", func(g *stage) *session {
			s := g.tcp(server, member)
			s.send(peer, syn, 0)
			return s
		}},
		{"a connection of a stranger", "---", "", func(g *stage) *session { return g.tcp(stranger, peer) }},
		{"both open at once", "+++++", "", func(g *stage) *session {
			s := g.session(policy.ProtocolTCP, client)
			s.send(peer, syn, 0)
			s.send(member, syn, 0)
			s.next[peer]--
			s.send(peer, synAck, 0)
			s.next[member]--
			s.send(member, synAck, 0)
			s.send(peer, ack, 10)
			return s
		}},
		{"half closed, and data go on", "++++++", "", func(g *stage) *session {
			s := g.tcp(client, peer)
			s.send(peer, finAck, 0)
			s.send(member, ack, 1000)
			s.send(peer, ack, 0)
			return s
		}},
		{"the same ports again after the close", "+++++++++", "", func(g *stage) *session {
			s := g.tcp(client, peer)
			s.send(peer, finAck, 0)
			s.send(member, finAck, 0)
			s.send(peer, ack, 0)
			s.next[peer] += 1 << 20
			s.send(peer, syn, 0)
			s.send(member, synAck, 0)
			s.send(peer, ack, 0)
			return s
		}},
		{"the same ports after a reset, by the side that may not", "++++-", "", func(g *stage) *session {
			s := g.tcp(client, peer)
			s.send(peer, rst, 0)
			s.send(member, syn, 0)
			return s
		}},
		{"a SYN of the side that answered", "+++-", "", func(g *stage) *session {
			s := g.tcp(client, peer)
			s.send(member, syn, 0)
			return s
		}},
		{"a SYN of the side that answered, before the other goes on", "++-", "", func(g *stage) *session {
			s := g.session(policy.ProtocolTCP, client)
			s.send(peer, syn, 0)
			s.send(member, synAck, 0)
			s.stray(member, syn, 0, 0, 0)
			return s
		}},
		{"a server's ACK does not prepare its SYN", "+-", "--", func(g *stage) *session {
			s := g.session(policy.ProtocolTCP, server)
			s.send(peer, ack, 0)
			s.send(peer, syn, 0)
			return s
		}},
		{"a member's SYN-ACK does not prepare its SYN", "+-", "--", func(g *stage) *session {
			s := g.session(policy.ProtocolTCP, client)
			s.send(member, synAck, 0)
			s.send(member, syn, 0)
			return s
		}},
		{"a denied SYN leaves what was closed as it is", "++++-+", "", func(g *stage) *session {
			s := g.tcp(server, member)
			last := s.send(member, rst, 0)
			s.send(peer, syn, 0)
			s.fail(last, packet.HostUnreachable, straight)
			return s
		}},
		{"flags that contradict each other", "--", "", func(g *stage) *session {
			s := g.session(policy.ProtocolTCP, client)
			s.stray(peer, packet.SYN|packet.FIN, 0, 0, 0)
			s.stray(peer, packet.SYN|packet.RST, 0, 0, 0)
			return s
		}},
		{"question and answers", "++++", "", func(g *stage) *session {
			s := g.session(policy.ProtocolUDP, client)
			s.datagram(peer, "question")
			s.datagram(member, "answer")
			s.datagram(member, "answer")
			s.datagram(peer, "question")
			return s
		}},
		{"an answer without a question", "-", "", func(g *stage) *session {
			s := g.session(policy.ProtocolUDP, client)
			s.datagram(member, "answer")
			return s
		}},
		{"an answer from another port", "+-", "", func(g *stage) *session {
			s := g.session(policy.ProtocolUDP, client)
			s.datagram(peer, "question")
			s.fromAnotherPort(member)
			return s
		}},
		{"a question to another port", "-", "", func(g *stage) *session {
			s := g.session(policy.ProtocolUDP, server)
			s.fromAnotherPort(peer)
			return s
		}},
		{"ESP both ways", "++", "", func(g *stage) *session {
			s := g.session(policy.ProtocolESP, client)
			s.datagram(peer, "")
			s.datagram(member, "")
			return s
		}},
		{"GRE has no rule", "-", "", func(g *stage) *session {
			s := g.session(policy.ProtocolGRE, client)
			s.datagram(peer, "")
			return s
		}},
		{"an association", "++++++", "", func(g *stage) *session {
			s := g.session(policy.ProtocolSCTP, client)
			s.chunk(peer, sctpInit, true)
			s.chunk(member, sctpInitAck, true)
			s.chunk(peer, sctpCookieEcho, true)
			s.chunk(member, sctpCookieAck, true)
			s.chunk(peer, sctpData, true)
			s.chunk(member, sctpSack, true)
			return s
		}},
		{"a ping", "+++", "", func(g *stage) *session {
			s := g.session(policy.ProtocolICMP, pinger)
			s.echo(peer, echoRequest, 1)
			s.echo(member, echoReply, 1)
			s.echo(peer, echoRequest, 2)
			return s
		}},
		{"a ping the other way", "+-", "", func(g *stage) *session {
			s := g.session(policy.ProtocolICMP, pinger)
			s.echo(peer, echoRequest, 1)
			s.echo(member, echoRequest, 1)
			return s
		}},
		{"an unasked reply does not prepare a ping the other way", "+-", "--", func(g *stage) *session {
			s := g.session(policy.ProtocolICMP, pinger)
			s.echo(peer, echoReply, 1)
			s.echo(member, echoRequest, 1)
			return s
		}},
		{"errors about what was sent, of whoever is on the way", "+++++++", "", func(g *stage) *session {
			s := g.session(policy.ProtocolUDP, client)
			question := s.datagram(peer, "question")
			answer := s.datagram(member, "answer")
			s.fail(question, packet.PortUnreachable, straight)
			s.fail(answer, packet.PacketTooBig, byRouter)
			s.fail(answer, packet.TimeExceeded, byRouter)
			s.fail(answer, packet.ParameterProblem, straight)
			s.fail(question, packet.Prohibited, byRouter)
			return s
		}},
		{"errors about what was not sent", "++-----", "", func(g *stage) *session {
			s := g.session(policy.ProtocolUDP, client)
			question := s.datagram(peer, "question")
			answer := s.datagram(member, "answer")
			s.fail(answer, packet.PortUnreachable, otherPort)
			s.fail(answer, packet.PacketTooBig, otherAddress)
			s.fail(answer, packet.TimeExceeded, turned)
			s.fail(question, packet.HostUnreachable, otherPort)
			s.fail(question, packet.HostUnreachable, cutShort)
			return s
		}},
		{"fragments", "+++", "", func(g *stage) *session {
			s := g.session(policy.ProtocolUDP, client)
			s.datagram(peer, strings.Repeat("x", 100)).split(inOrder, 1, 24, 40)
			s.datagram(member, strings.Repeat("x", 100)).split(inOrder, 2, 24, 40)
			s.datagram(peer, "whole")
			return s
		}},
		{"fragments of a stranger", "--", "", func(g *stage) *session {
			s := g.session(policy.ProtocolUDP, stranger)
			s.datagram(peer, strings.Repeat("x", 100)).split(inOrder, 1, 24, 40)
			s.datagram(peer, strings.Repeat("x", 100)).split(reversed, 2, 24, 40)
			return s
		}},
	}
}

// TestDirectedSessions: what the random sessions cannot say is which of two equal
// verdicts is right.
func TestDirectedSessions(t *testing.T) {
	privileged.Require(t)
	p := stagePolicy()
	for _, at := range layouts() {
		t.Run(at.name, func(t *testing.T) {
			var sessions []*session
			var of []directed
			for family := range families {
				g := &stage{policy: p, family: family}
				for _, d := range directedSessions() {
					sessions, of = append(sessions, d.session(g)), append(of, d)
				}
			}
			consult(t, at, p, func(o *opinions) error { return o.play(sessions) })
			for i, s := range sessions {
				want := of[i]
				if want.theirs == "" {
					want.theirs = want.ours
				}
				ours, theirs := signs(s, func(st *step) bool { return st.ours }), signs(s, func(st *step) bool { return st.theirs.passes() })
				if ours != want.ours || theirs != want.theirs {
					t.Errorf("%s: perimeterd %s, nftables %s; want %s and %s\n%s", want.name, ours, theirs, want.ours, want.theirs, s.describe(nil))
				}
			}
		})
	}
}

func signs(s *session, passes func(*step) bool) string {
	var b strings.Builder
	for _, st := range s.steps {
		b.WriteByte(map[bool]byte{true: '+', false: '-'}[passes(st)])
	}
	return b.String()
}

// TestForgedEnds: whoever does not know a connection's numbers does not end it,
// nor make it be forgotten sooner. nftables drops such a segment; we let it pass to
// the receiver, and do not believe it.
func TestForgedEnds(t *testing.T) {
	privileged.Require(t)
	tests := []struct {
		name     string
		flags    packet.Flags
		sequence int32
		state    string
	}{
		{"a reset", rst, 0, "closed"},
		{"a reset far ahead", rst, 1 << 20, "established"},
		{"a reset of what was acknowledged", rst, -1, "established"},
		{"a FIN", finAck, 0, "closing"},
		{"a FIN far ahead", finAck, 1 << 20, "established"},
		{"a FIN of what was acknowledged", finAck, -1, "established"},
		{"a FIN without ACK", packet.FIN, 0, "established"},
	}
	p := stagePolicy()
	consult(t, layouts()[0], p, func(o *opinions) error {
		for family := range families {
			g := &stage{policy: p, family: family}
			var sessions []*session
			for _, test := range tests {
				s := g.tcp(client, peer)
				s.send(member, ack, 10)
				s.send(peer, ack, 0)
				s.stray(peer, test.flags, 0, test.sequence, 0)
				sessions = append(sessions, s)
			}
			if err := o.play(sessions); err != nil {
				return err
			}
			states := map[netip.Addr]string{}
			if err := o.datapath.Flows(func(f datapath.Flow) bool { states[f.Peer] = f.State; return true }); err != nil {
				return err
			}
			for i, test := range tests {
				if got := states[sessions[i].peer]; got != test.state {
					t.Errorf("%s: the flow is %s, want %s\n%s", test.name, got, test.state, sessions[i].describe(nil))
				}
			}
		}
		return nil
	})
}
