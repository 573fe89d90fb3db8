package reference_test

import (
	"net/netip"
	"testing"

	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/pkg/reference"
)

const (
	established = reference.ReasonEstablished
	related     = reference.ReasonRelated
)

// step is one packet in a sequence, what becomes of it, and how many flows
// there are afterwards.
type step struct {
	name      string
	pkt       reference.Packet
	verdict   policy.Verdict
	reason    policy.Reason
	direction policy.Direction
	flows     int
}

func play(t *testing.T, tracker *reference.Tracker, steps []step) {
	t.Helper()
	for _, s := range steps {
		d := tracker.Decide(s.pkt)
		if d.Verdict != s.verdict || d.Reason != s.reason || d.Direction != s.direction {
			t.Errorf("%s: got %v %s %v, want %v %s %v", s.name, d.Verdict, d.Reason, d.Direction, s.verdict, s.reason, s.direction)
		}
		if tracker.Flows() != s.flows {
			t.Errorf("%s: %d flows, want %d", s.name, tracker.Flows(), s.flows)
		}
		if d.Cut {
			t.Errorf("%s: cut", s.name)
		}
		if logged := d.Category != ""; logged != (d.Governed && d.Reason != established && d.Reason != related) {
			t.Errorf("%s: category %q", s.name, d.Category)
		}
	}
}

// guarded is one Enforced member that admits 198.51.100.0/24 to tcp/443,
// udp/53 and icmp, and may go to 203.0.113.0/24 there.
func guarded() *policy.Policy {
	ports := []policy.Ports{tcp(443, 443), udp(53, 53), whole(policy.ProtocolICMP)}
	return enforced(
		limited(rule("in", in, "198.51.100.0/24", "2001:db8:1::/48"), ports...),
		limited(rule("out", out, "203.0.113.0/24", "2001:db8:2::/48"), ports...),
	)
}

func guard() *reference.Tracker { return reference.NewTracker(evaluator(guarded())) }

const (
	client = "198.51.100.7" // admitted inbound
	server = "203.0.113.7"  // admitted outbound
)

func TestConnection(t *testing.T) {
	syn := tcpPacket(in, memberAddr, 443, client, 40000)
	call := tcpPacket(out, memberAddr, 40000, server, 443)
	play(t, guard(), []step{
		{"opens", syn, allowed, byRule, in, 1},
		{"answer", back(syn), allowed, established, in, 1},
		{"data", flags(syn, reference.ACK), allowed, established, in, 1},
		{"again", syn, allowed, established, in, 1},
		{"end", flags(syn, reference.RST), allowed, established, in, 1},
		{"other peer port", tcpPacket(in, memberAddr, 443, client, 40001), allowed, byRule, in, 2},
		{"other local port", tcpPacket(in, memberAddr, 444, client, 40000), denied, noRule, in, 2},
		{"other peer", tcpPacket(in, memberAddr, 443, nobody, 40000), denied, noRule, in, 2},
		{"the client's port as a service", tcpPacket(out, memberAddr, 9, client, 443), denied, noRule, out, 2},
		{"calls", call, allowed, byRule, out, 3},
		{"its answer", back(call), allowed, established, out, 3},
		{"udp with the same ports", udpPacket(in, memberAddr, 443, client, 40000), denied, noRule, in, 3},
	})
}

func TestDatagrams(t *testing.T) {
	query := udpPacket(out, memberAddr, 40000, server, 53)
	play(t, guard(), []step{
		{"answer nobody asked for", back(query), denied, noRule, in, 0},
		{"query", query, allowed, byRule, out, 1},
		{"answer", back(query), allowed, established, out, 1},
		{"answer to another port", udpPacket(in, memberAddr, 40001, server, 53), denied, noRule, in, 1},
		{"answer from another port", udpPacket(in, memberAddr, 40000, server, 54), denied, noRule, in, 1},
		{"answer in tcp", tcpPacket(in, memberAddr, 40000, server, 53), denied, noRule, in, 1},
	})
}

// TestFlowOfEachEnd: members that talk to each other on one host have a flow
// each, because each end decides.
func TestFlowOfEachEnd(t *testing.T) {
	p := guarded()
	p.Resources = append(p.Resources, host("mate", "10.20.0.6"))
	p.Perimeters[0].Associations = append(p.Perimeters[0].Associations, associate("mate", "p", policy.Enforced))
	const same = policy.ReasonSamePerimeter
	leave := tcpPacket(out, memberAddr, 40000, "10.20.0.6", 443)
	arrive := tcpPacket(in, "10.20.0.6", 443, memberAddr, 40000)
	play(t, reference.NewTracker(evaluator(p)), []step{
		{"leaves", leave, allowed, same, out, 1},
		{"arrives", arrive, allowed, same, in, 2},
		{"answer leaves", back(arrive), allowed, established, in, 2},
		{"answer arrives", back(leave), allowed, established, out, 2},
	})
}

// TestMidStream: a connection older than the flow table passes if either
// direction allows it.
func TestMidStream(t *testing.T) {
	const ack = reference.ACK
	served := flags(tcpPacket(in, memberAddr, 443, client, 40000), ack)
	called := flags(tcpPacket(out, memberAddr, 40000, server, 443), ack)
	play(t, guard(), []step{
		{"of an inbound connection", served, allowed, byRule, in, 1},
		{"its other half", back(served), allowed, established, in, 1},
		{"of an outbound connection", called, allowed, byRule, out, 2},
		{"its other half", back(called), allowed, established, out, 2},
	})
	play(t, guard(), []step{
		{"answer of an inbound connection", back(served), allowed, byRule, in, 1},
		{"answer of an outbound connection", back(called), allowed, byRule, out, 2},
	})
	play(t, guard(), []step{
		{"data", flags(served, 0), allowed, byRule, in, 1},
		{"end", flags(tcpPacket(in, memberAddr, 443, client, 40001), reference.FIN|ack), allowed, byRule, in, 2},
		{"reset makes no flow", flags(tcpPacket(in, memberAddr, 443, client, 40002), reference.RST|ack), allowed, byRule, in, 2},
		{"reset is judged", flags(tcpPacket(in, memberAddr, 443, nobody, 40002), reference.RST), denied, noRule, in, 2},
		{"SYN and ACK open nothing, but answer", flags(tcpPacket(in, memberAddr, 40003, server, 443), reference.SYN|ack), allowed, byRule, out, 3},
		{"SYN alone opens", tcpPacket(in, memberAddr, 40004, server, 443), denied, noRule, in, 3},
		{"neither allows", flags(tcpPacket(in, memberAddr, 443, nobody, 40000), ack), denied, noRule, in, 3},
		{"neither allows, leaving", flags(tcpPacket(out, memberAddr, 443, nobody, 40000), ack), denied, noRule, out, 3},
		{"udp is asked once", udpPacket(out, memberAddr, 53, client, 40000), denied, noRule, out, 3},
	})
}

// TestMidStreamBothAllow: the lower port is the server's.
func TestMidStreamBothAllow(t *testing.T) {
	mid := func(localPort, peerPort uint16) reference.Packet {
		return flags(tcpPacket(in, memberAddr, localPort, client, peerPort), reference.ACK)
	}
	p := enforced(rule("in", in, "0.0.0.0/0"), rule("out", out, "0.0.0.0/0"))
	play(t, reference.NewTracker(evaluator(p)), []step{
		{"lower here", mid(443, 444), allowed, byRule, in, 1},
		{"equal", mid(444, 444), allowed, byRule, out, 2},
		{"lower there", mid(445, 444), allowed, byRule, out, 3},
		{"leaving makes no difference", back(mid(443, 445)), allowed, byRule, in, 4},
	})
}

// TestMidStreamAudit: Audit tells the verdict Enforced would give, and Enforced
// would let either direction do.
func TestMidStreamAudit(t *testing.T) {
	p := guarded()
	p.Perimeters[0].Associations[0].AccessMode = policy.Audit
	// The peer's port is the lower one, yet only inbound is allowed.
	served := flags(tcpPacket(in, memberAddr, 443, client, 400), reference.ACK)
	tracker := reference.NewTracker(evaluator(p))
	if d := tracker.Decide(served); d.Direction != in || d.Reason != byRule || d.WouldBe != allowed {
		t.Errorf("inbound allows: got %+v", d)
	}
	unasked := flags(tcpPacket(in, memberAddr, 445, nobody, 444), reference.ACK)
	if d := tracker.Decide(unasked); d.Direction != out || d.Verdict != allowed || d.WouldBe != denied {
		t.Errorf("neither allows: got %+v", d)
	}
	if d := tracker.Decide(back(unasked)); d.Reason != established || d.WouldBe != denied {
		t.Errorf("second packet: got %+v", d)
	}
}

// TestMidStreamUngoverned: the answers of a server that is no resource's
// service pass, although outbound traffic is attributed by address alone.
func TestMidStreamUngoverned(t *testing.T) {
	p := guarded()
	p.Resources[0].Services = []policy.Ports{tcp(443, 443)}
	ssh := tcpPacket(in, memberAddr, 22, nobody, 40000)
	play(t, reference.NewTracker(evaluator(p)), []step{
		{"not a service", ssh, allowed, reference.ReasonUngoverned, in, 0},
		{"its answer", back(ssh), allowed, reference.ReasonUngoverned, in, 0},
		{"a call", tcpPacket(out, memberAddr, 40000, nobody, 22), denied, noRule, out, 0},
		{"the service", tcpPacket(in, memberAddr, 443, nobody, 40000), denied, noRule, in, 0},
	})
}

func TestDeniedTakesNoPlace(t *testing.T) {
	p := guarded()
	p.Perimeters[0].Associations[0].AccessMode = policy.Learning
	p.Resources[0].PublicNetworkAccess = policy.Disabled
	play(t, reference.NewTracker(evaluator(p)), []step{
		{"denied", udpPacket(in, memberAddr, 53, nobody, 9), denied, policy.ReasonPublicAccessDisabled, in, 0},
		{"of no member", udpPacket(in, "10.20.0.4", 53, nobody, 9), allowed, reference.ReasonUngoverned, in, 0},
		{"allowed by default", udpPacket(out, memberAddr, 53, nobody, 9), allowed, policy.ReasonPublicAccessEnabled, out, 1},
	})
}

// echo is an ICMP echo: a request, of which back makes the same message the
// other way, not yet a reply.
func echo(direction policy.Direction, icmpType uint8, peer string, id uint16) reference.Packet {
	pkt := bare(direction, policy.ProtocolICMP, memberAddr, peer)
	if netip.MustParseAddr(peer).Is6() {
		pkt = bare(direction, policy.ProtocolICMPv6, "fd20::5", peer)
	}
	pkt.ICMPType, pkt.EchoID = icmpType, id
	return pkt
}

func TestEcho(t *testing.T) {
	const request, reply, request6, reply6 = 8, 0, 128, 129
	play(t, guard(), []step{
		{"request", echo(in, request, client, 7), allowed, byRule, in, 1},
		{"reply", echo(out, reply, client, 7), allowed, established, in, 1},
		{"reply to another", echo(out, reply, client, 8), denied, noRule, out, 1},
		{"reply nobody asked for", echo(in, reply, server, 7), denied, noRule, in, 1},
		{"request outwards", echo(out, request, server, 7), allowed, byRule, out, 2},
		{"its reply", echo(in, reply, server, 7), allowed, established, out, 2},
		{"request v6", echo(in, request6, "2001:db8:1::9", 7), allowed, byRule, in, 3},
		{"reply v6", echo(out, reply6, "2001:db8:1::9", 7), allowed, established, in, 3},
		{"reply v6 to another", echo(out, reply6, "2001:db8:1::9", 8), denied, noRule, out, 3},
		{"timestamp", echo(in, 13, client, 7), allowed, byRule, in, 4},
		{"timestamp has no identifier here", echo(out, 14, client, 8), allowed, established, in, 4},
	})
}

// failure is an ICMP error that quotes a packet. The router that sends it is
// the peer of an error towards the member.
func failure(direction policy.Direction, local, router string, icmpType uint8, quoted reference.Packet) reference.Packet {
	pkt := bare(direction, policy.ProtocolICMP, local, router)
	if pkt.Local.Is6() {
		pkt.Protocol = policy.ProtocolICMPv6
	}
	pkt.ICMPType = icmpType
	pkt.Quoted = &quoted
	return pkt
}

func TestICMPErrors(t *testing.T) {
	const unreachable, quench, redirect, exceeded, problem = 3, 4, 5, 11, 12
	syn := tcpPacket(in, memberAddr, 443, client, 40000)
	call := tcpPacket(out, memberAddr, 40000, server, 443)
	call6 := tcpPacket(out, "fd20::5", 40000, "2001:db8:2::9", 443)
	ping := echo(out, 8, server, 7)
	start := []step{
		{"served", syn, allowed, byRule, in, 1},
		{"called", call, allowed, byRule, out, 2},
		{"called v6", call6, allowed, byRule, out, 3},
		{"pinged", ping, allowed, byRule, out, 4},
	}
	other := tcpPacket(out, memberAddr, 40001, server, 443)
	unread := failure(in, memberAddr, nobody, unreachable, call)
	unread.Quoted = nil
	// The router asks another member to believe it about this flow.
	elsewhere := failure(in, "fd20::5", "2001:db8::9", 1, call)
	play(t, guard(), append(start, []step{
		{"about a packet we sent", failure(in, memberAddr, nobody, unreachable, call), allowed, related, out, 4},
		{"about an answer we sent", failure(in, memberAddr, nobody, exceeded, back(syn)), allowed, related, in, 4},
		{"about a ping", failure(in, memberAddr, nobody, exceeded, ping), allowed, related, out, 4},
		{"parameter problem", failure(in, memberAddr, nobody, problem, call), allowed, related, out, 4},
		{"source quench", failure(in, memberAddr, nobody, quench, call), allowed, related, out, 4},
		{"a redirect is no error", failure(in, memberAddr, nobody, redirect, call), denied, noRule, in, 4},
		{"about a packet we received", failure(out, memberAddr, client, unreachable, syn), allowed, related, in, 4},
		{"from a router behind us", failure(out, "10.20.0.4", client, unreachable, syn), allowed, related, in, 4},
		{"to another than the sender", failure(out, memberAddr, nobody, unreachable, syn), denied, noRule, out, 4},
		{"to another member", elsewhere, denied, noRule, in, 4},
		{"v6 too big", failure(in, "fd20::5", "2001:db8::9", 2, call6), allowed, related, out, 4},
		{"v6 last error type", failure(in, "fd20::5", "2001:db8::9", 4, call6), allowed, related, out, 4},
		{"v6 after it", failure(in, "fd20::5", "2001:db8::9", 5, call6), denied, noRule, in, 4},
		{"about no flow", failure(in, memberAddr, nobody, unreachable, other), denied, noRule, in, 4},
		{"about nothing that can be read", unread, denied, noRule, in, 4},
		{"about no flow, from an admitted router", failure(in, memberAddr, client, unreachable, other), allowed, byRule, in, 4},
	}...))
}

// TestGenerations: a flow is judged again at its first packet after a change,
// as it was opened, and cut if it is no longer allowed.
func TestGenerations(t *testing.T) {
	syn := tcpPacket(in, memberAddr, 443, client, 40000)
	query := udpPacket(out, memberAddr, 40000, server, 53)
	tracker := guard()
	play(t, tracker, []step{
		{"served", syn, allowed, byRule, in, 1},
		{"query", query, allowed, byRule, out, 2},
	})

	// Another rule allows the same: both stay, whichever way the packet goes.
	p := guarded()
	p.Perimeters[0].Profiles[0].AccessRules[0].Name = "renamed"
	tracker.Replace(evaluator(p))
	play(t, tracker, []step{
		{"answer stays", back(syn), allowed, established, in, 2},
		{"answer stays", back(query), allowed, established, out, 2},
	})
	if d := tracker.Decide(syn); d.Rule != "renamed" || d.Resource != "db" {
		t.Errorf("after the change: got %+v", d)
	}

	// Inbound is no longer allowed. The answer, an outbound packet, is judged
	// as part of the inbound flow.
	p = guarded()
	p.Perimeters[0].Profiles[0].AccessRules = p.Perimeters[0].Profiles[0].AccessRules[1:]
	tracker.Replace(evaluator(p))
	d := tracker.Decide(back(syn))
	if !d.Cut || d.Verdict != denied || d.Reason != noRule || d.Direction != in || d.Category != policy.PublicInboundPerimeterRulesDenied {
		t.Errorf("cut: got %+v", d)
	}
	play(t, tracker, []step{
		{"stays cut", back(syn), denied, noRule, out, 1},
		{"stays cut inbound", syn, denied, noRule, in, 1},
		{"the other stays", back(query), allowed, established, out, 1},
	})

	// The rule returns: the flow opens again by itself.
	tracker.Replace(evaluator(guarded()))
	play(t, tracker, []step{
		{"opens again", back(syn), allowed, byRule, in, 2},
		{"the other stays", query, allowed, established, out, 2},
	})

	// The member leaves the policy: its packets are nobody's.
	tracker.Replace(evaluator(&policy.Policy{}))
	play(t, tracker, []step{
		{"ungoverned", back(syn), allowed, reference.ReasonUngoverned, in, 1},
		{"ungoverned", query, allowed, reference.ReasonUngoverned, out, 0},
	})
}

// TestAuditNeverCuts: a change to Audit ends nothing.
func TestAuditNeverCuts(t *testing.T) {
	syn := tcpPacket(in, memberAddr, 443, client, 40000)
	tracker := guard()
	play(t, tracker, []step{{"served", syn, allowed, byRule, in, 1}})
	p := enforced()
	p.Perimeters[0].Associations[0].AccessMode = policy.Audit
	tracker.Replace(evaluator(p))
	play(t, tracker, []step{{"stays", syn, allowed, established, in, 1}})
	if d := tracker.Decide(syn); d.WouldBe != denied {
		t.Errorf("would be %v", d.WouldBe)
	}
}

func TestForgetAndFlush(t *testing.T) {
	query := udpPacket(out, memberAddr, 40000, server, 53)
	other := udpPacket(out, memberAddr, 40001, server, 53)
	tracker := guard()
	play(t, tracker, []step{
		{"one", query, allowed, byRule, out, 1},
		{"two", other, allowed, byRule, out, 2},
	})
	tracker.Forget(back(query))
	play(t, tracker, []step{
		{"forgotten", back(query), denied, noRule, in, 1},
		{"not forgotten", back(other), allowed, established, out, 1},
		{"again", query, allowed, byRule, out, 2},
	})
	tracker.Flush()
	play(t, tracker, []step{{"flushed", back(other), denied, noRule, in, 0}})
}

// TestUnjudgeableNeverUsesAFlow: what cannot be read belongs to no flow.
func TestUnjudgeableNeverUsesAFlow(t *testing.T) {
	syn := tcpPacket(in, memberAddr, 443, client, 40000)
	cut := syn
	cut.Unjudgeable = cutShort
	tracker := guard()
	play(t, tracker, []step{
		{"served", syn, allowed, byRule, in, 1},
		{"cut short", cut, denied, cutShort, in, 1},
	})
}
