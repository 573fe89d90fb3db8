package reference_test

import (
	"net/netip"
	"slices"
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

// TestConnectionEnds: a SYN on the ports of a connection that is over begins a
// new one; what else comes late still belongs to the old one. A SYN the other way
// is none of a connection that stands. Only a reset that its receiver would take
// for one ends it.
func TestConnectionEnds(t *testing.T) {
	const fin, syn, rst, ack = reference.FIN, reference.SYN, reference.RST, reference.ACK
	p := guarded()
	rules := p.Perimeters[0].Profiles[0].AccessRules
	rules[0].Ports, rules[1].Ports = nil, []policy.Ports{tcp(80, 80)} // a SYN from the member is denied
	byPeer := func(f uint8, sequence, acknowledgement uint32) reference.Packet {
		return numbered(flags(tcpPacket(in, memberAddr, 443, client, 40000), f), sequence, acknowledgement)
	}
	byMember := func(f uint8, sequence, acknowledgement uint32) reference.Packet {
		return numbered(flags(tcpPacket(out, memberAddr, 443, client, 40000), f), sequence, acknowledgement)
	}
	pass := func(name string, pkt reference.Packet) step { return step{name, pkt, allowed, established, in, 1} }
	opens := step{"opens", byPeer(syn, 100, 0), allowed, byRule, in, 1}
	opening := []step{opens, pass("a SYN at the same time", byMember(syn, 500, 0)), pass("answer", byMember(syn|ack, 500, 101))}
	standing := slices.Clip(append(opening, pass("answered", byPeer(ack, 101, 501)), pass("goes on", byMember(ack, 501, 101))))
	for name, test := range map[string]struct {
		steps []step
		over  bool
	}{
		"reset by the peer":                        {append(standing, pass("reset", byPeer(rst, 101, 0))), true},
		"reset by the member":                      {append(standing, pass("reset", byMember(rst|ack, 501, 101))), true},
		"refused by the member":                    {[]step{opens, pass("reset", byMember(rst|ack, 0, 101))}, true},
		"reset as the member acknowledged":         {append(standing, pass("data", byPeer(ack, 101, 501)), pass("reset", byPeer(rst, 101, 0))), true},
		"ended by both":                            {append(standing, pass("one FIN", byPeer(fin|ack, 101, 501)), pass("the other", byMember(fin|ack, 501, 102))), true},
		"ended by one":                             {append(standing, pass("one FIN", byPeer(fin|ack, 101, 501)), pass("once more", byPeer(fin|ack, 101, 501))), false},
		"not ended":                                {standing, false},
		"a FIN without ACK":                        {append(standing, pass("forged", byPeer(fin, 101, 0)), pass("FIN", byMember(fin|ack, 501, 101))), false},
		"a FIN far ahead":                          {append(standing, pass("forged", byPeer(fin|ack, 102+1<<16, 501)), pass("FIN", byMember(fin|ack, 501, 101))), false},
		"a FIN of what is acknowledged":            {append(standing, pass("forged", byPeer(fin|ack, 99, 501)), pass("FIN", byMember(fin|ack, 501, 101))), false},
		"a FIN sent again with data before it":     {append(standing, pass("FIN", byPeer(fin|ack, 101, 501)), pass("FIN", byMember(fin|ack, 501, 102))), true},
		"reset of what is acknowledged":            {append(standing, pass("reset", byPeer(rst, 100, 0))), false},
		"reset that overtook data":                 {append(standing, pass("reset", byPeer(rst, 102, 0))), false},
		"reset far ahead of a segment far ahead":   {append(standing, pass("forged", byPeer(ack, 102+1<<24, 501)), pass("reset", byPeer(rst, 102+1<<24, 0))), false},
		"reset by the member, of another":          {append(standing, pass("reset", byMember(rst, 99, 0))), false},
		"acknowledged what was never sent":         {append(standing, pass("forged", byPeer(ack, 101, 600)), pass("reset", byMember(rst, 501, 0))), true},
		"refused without acknowledging":            {[]step{opens, pass("reset", byMember(rst, 0, 0)), pass("answer", byMember(syn|ack, 500, 101)), pass("goes on", byMember(ack, 501, 101))}, false},
		"refused, acknowledging something else":    {[]step{opens, pass("reset", byMember(rst|ack, 0, 102)), pass("answer", byMember(syn|ack, 500, 101)), pass("goes on", byMember(ack, 501, 101))}, false},
		"a new connection of the member's numbers": {append(standing, pass("answers another", byMember(syn|ack, 9000, 7001)), pass("reset", byPeer(rst, 101, 0))), false},
	} {
		t.Run(name, func(t *testing.T) {
			tracker := reference.NewTracker(evaluator(p))
			again := pass("opens again", byPeer(syn, 9000, 0))
			if test.over {
				again.reason = byRule
			}
			play(t, tracker, test.steps)
			play(t, tracker, []step{
				pass("late data", byPeer(ack, 101, 501)),
				pass("late answer", byMember(ack, 501, 101)),
				{"the member's SYN changes nothing", byMember(syn, 7000, 0), denied, noRule, out, 1},
				pass("late answer", byMember(ack, 501, 101)),
				again,
			})
		})
	}

	tracker := reference.NewTracker(evaluator(p))
	play(t, tracker, append(standing,
		pass("reset", byPeer(rst, 101, 0)),
		step{"opens again", byPeer(syn, 9000, 0), allowed, byRule, in, 1},
		pass("is not over", byMember(syn|ack, 700, 9001)),
	))
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
	// Of two would-be denials the packet's own is told, whatever the ports.
	for _, direction := range []policy.Direction{in, out} {
		for _, localPort := range []uint16{443, 445} {
			unasked := flags(tcpPacket(direction, memberAddr, localPort, nobody, 444), reference.ACK)
			if d := tracker.Decide(unasked); d.Direction != direction || d.Verdict != allowed || d.WouldBe != denied {
				t.Errorf("neither allows, %v, port %d: got %+v", direction, localPort, d)
			}
			if d := tracker.Decide(back(unasked)); d.Reason != established || d.Direction != direction || d.WouldBe != denied {
				t.Errorf("second packet, %v, port %d: got %+v", direction, localPort, d)
			}
			tracker.Forget(unasked)
		}
	}
}

// aService is guarded with tcp/443 as all that the member's address lists.
func aService(more ...policy.Ports) *policy.Policy {
	p := guarded()
	p.Resources[0].Services = append([]policy.Ports{tcp(443, 443)}, more...)
	return p
}

// TestMidStreamUnlisted: the answers of a server that is no resource's service
// pass, although outbound traffic is attributed by address alone.
func TestMidStreamUnlisted(t *testing.T) {
	const ack = reference.ACK
	const none = reference.ReasonUngoverned
	ssh := tcpPacket(in, memberAddr, 22, nobody, 40000)
	older := flags(tcpPacket(in, memberAddr, 22, nobody, 40001), ack)
	play(t, reference.NewTracker(evaluator(aService())), []step{
		{"not a service", ssh, allowed, none, in, 1},
		{"its answer", back(ssh), allowed, established, in, 1},
		{"a call", tcpPacket(out, memberAddr, 40000, nobody, 22), denied, noRule, out, 1},
		{"a call from its port", tcpPacket(out, memberAddr, 22, nobody, 40001), denied, noRule, out, 1},
		{"the service", tcpPacket(in, memberAddr, 443, nobody, 40000), denied, noRule, in, 1},
		// Nobody knows who opened it, so it makes no flow; but both halves pass.
		{"an older connection", older, allowed, none, in, 1},
		{"its answer", back(older), allowed, none, in, 1},
		// The higher port is likelier the caller's: what it may not call does not
		// pass as somebody's older connection.
		{"an older call", flags(tcpPacket(out, memberAddr, 40002, nobody, 22), ack), denied, noRule, out, 1},
		{"its answer", flags(tcpPacket(in, memberAddr, 40002, nobody, 22), ack), denied, noRule, out, 1},
		{"an older call that is allowed", flags(tcpPacket(out, memberAddr, 40002, server, 443), ack), allowed, byRule, out, 2},
		{"an older connection to the service", flags(tcpPacket(in, memberAddr, 443, nobody, 40001), ack), denied, noRule, in, 2},
	})
}

// TestUnlisted: what answers a packet to a port that no resource lists passes,
// and only that.
func TestUnlisted(t *testing.T) {
	const none = reference.ReasonUngoverned
	query := udpPacket(in, memberAddr, 123, nobody, 40000)
	play(t, reference.NewTracker(evaluator(aService())), []step{
		{"answer nobody asked for", back(query), denied, noRule, out, 0},
		{"query", query, allowed, none, in, 1},
		{"answer", back(query), allowed, established, in, 1},
		{"again", query, allowed, established, in, 1},
		{"answer to another port", udpPacket(out, memberAddr, 123, nobody, 40001), denied, noRule, out, 1},
		{"answer from another port", udpPacket(out, memberAddr, 124, nobody, 40000), denied, noRule, out, 1},
		{"answer to another", udpPacket(out, memberAddr, 123, "192.0.2.10", 40000), denied, noRule, out, 1},
		{"answer in tcp", tcpPacket(out, memberAddr, 123, nobody, 40000), denied, noRule, out, 1},
		{"unreachable about it", failure(out, memberAddr, nobody, 3, query), allowed, related, in, 1},
		{"ping", echo(in, 8, nobody, 7), allowed, none, in, 2},
		{"its reply", echo(out, 0, nobody, 7), allowed, established, in, 2},
		{"the reply to another", echo(out, 0, nobody, 8), denied, noRule, out, 2},
		{"beside every resource", udpPacket(in, "10.20.0.4", 123, nobody, 40000), allowed, none, in, 2},
	})

	d := reference.NewTracker(evaluator(aService())).Decide(query)
	if d != (reference.Decision{Direction: in, Reason: none}) {
		t.Errorf("an unlisted packet names somebody: got %+v", d)
	}
}

// TestUnlistedMulticast: a group is unlisted if resources live here and none of
// them serves the port.
func TestUnlistedMulticast(t *testing.T) {
	for _, test := range []struct {
		name  string
		addr  string
		flows int
	}{
		{"a resource lives here", memberAddr, 1},
		{"none does", "10.20.0.4", 0},
	} {
		e := reference.New(aService(), policy.Facts{Now: now, Interfaces: []policy.Interface{
			{Name: "eth0", Addresses: []netip.Addr{netip.MustParseAddr(test.addr)}},
		}})
		play(t, reference.NewTracker(e), []step{
			{test.name, udpPacket(in, "224.0.0.251", 5353, nobody, 5353), allowed, reference.ReasonUngoverned, in, test.flows},
		})
	}
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
		{"request the other way", echo(out, request, client, 7), denied, noRule, out, 3},
		{"reply the other way", echo(in, reply, server, 8), denied, noRule, in, 3},
	})
}

// TestICMPMessages: a message that is neither echo nor error is a flow by its
// type and who sent it first. Nothing tells its answers, so they are judged.
func TestICMPMessages(t *testing.T) {
	const timestamp, timestampReply, mask = 13, 14, 17
	play(t, guard(), []step{
		{"timestamp", echo(in, timestamp, client, 7), allowed, byRule, in, 1},
		{"has no identifier here", echo(in, timestamp, client, 8), allowed, established, in, 1},
		{"its reply", echo(out, timestampReply, client, 7), denied, noRule, out, 1},
		{"the same the other way", echo(out, timestamp, client, 7), denied, noRule, out, 1},
		{"another type", echo(in, mask, client, 7), allowed, byRule, in, 2},
		{"an echo whose identifier is the type", echo(in, 8, client, timestamp<<8), allowed, byRule, in, 3},
		{"its reply", echo(out, 0, client, timestamp<<8), allowed, established, in, 3},
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
		{"about no flow, from an admitted router", failure(in, memberAddr, client, unreachable, other), allowed, byRule, in, 5},
		{"again", failure(in, memberAddr, client, unreachable, other), allowed, established, in, 5},
		{"another type", failure(in, memberAddr, client, exceeded, other), allowed, byRule, in, 6},
		{"the same from the member", failure(out, memberAddr, client, unreachable, back(other)), denied, noRule, out, 6},
	}...))
}

// TestICMPErrorsAfterAChange: an error about a flow of an older policy is
// related if the flow, as it was opened, would still be allowed. It neither
// takes the flow over nor ends it: that is for the flow's own packets.
func TestICMPErrorsAfterAChange(t *testing.T) {
	const unreachable = 3
	syn := tcpPacket(in, memberAddr, 443, client, 40000)
	call := tcpPacket(out, memberAddr, 40000, server, 443)
	tracker := guard()
	play(t, tracker, []step{
		{"served", syn, allowed, byRule, in, 1},
		{"called", call, allowed, byRule, out, 2},
	})

	// The policy now denies what was served, and allows what was called.
	p := guarded()
	p.Perimeters[0].Profiles[0].AccessRules = p.Perimeters[0].Profiles[0].AccessRules[1:]
	tracker.Replace(evaluator(p))
	play(t, tracker, []step{
		{"about a flow now denied", failure(in, memberAddr, nobody, unreachable, back(syn)), denied, noRule, in, 2},
		{"about a packet of it we received", failure(out, memberAddr, client, unreachable, syn), denied, noRule, out, 2},
		{"about a flow still allowed", failure(in, memberAddr, nobody, unreachable, call), allowed, related, out, 2},
		{"from one who may be called", failure(out, memberAddr, server, unreachable, back(call)), allowed, related, out, 2},
	})
	if d := tracker.Decide(syn); !d.Cut || d.Direction != in {
		t.Errorf("its own packet after the error: got %+v, want a cut", d)
	}
	play(t, tracker, []step{
		{"about the flow that was cut", failure(in, memberAddr, nobody, unreachable, back(syn)), denied, noRule, in, 1},
		{"the other stays", back(call), allowed, established, out, 1},
	})

	// Over a private path all may pass; that is asked where the error crosses.
	p.PrivateEndpoints = []policy.PrivateEndpoint{{Name: "wg", Interfaces: []string{"wg0"}}}
	p.Perimeters[0].Profiles[0].AccessRules = nil
	tracker.Replace(evaluator(p))
	quoted := call
	quoted.Interface = "wg0"
	onWg0 := failure(in, memberAddr, nobody, unreachable, call)
	onWg0.Interface = "wg0"
	play(t, tracker, []step{
		{"quotes a packet that took another way", failure(in, memberAddr, nobody, unreachable, quoted), denied, noRule, in, 1},
		{"comes over the private path", onWg0, allowed, related, out, 1},
	})

	// Whom the new policy admits with any message needs no flow.
	p.Perimeters[0].Profiles[0].AccessRules = []policy.AccessRule{limited(rule("icmp", in, "0.0.0.0/0"), whole(policy.ProtocolICMP))}
	tracker.Replace(evaluator(p))
	play(t, tracker, []step{
		{"about a flow now denied, by a rule of its own", failure(in, memberAddr, nobody, unreachable, call), allowed, byRule, in, 2},
	})
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

// TestServiceIsAdded: a flow to an unlisted port is judged as a new one once a
// resource lists the port.
func TestServiceIsAdded(t *testing.T) {
	const none = reference.ReasonUngoverned
	query := func(peer string) reference.Packet { return udpPacket(in, memberAddr, 53, peer, 40000) }
	tracker := reference.NewTracker(evaluator(aService()))
	play(t, tracker, []step{
		{"from nobody", query(nobody), allowed, none, in, 1},
		{"from a client", query(client), allowed, none, in, 2},
		{"from another client", query("198.51.100.8"), allowed, none, in, 3},
	})

	// A change that leaves the port unlisted leaves the flows.
	tracker.Replace(evaluator(aService(udp(54, 54))))
	play(t, tracker, []step{
		{"stays", back(query(client)), allowed, established, in, 3},
	})

	tracker.Replace(evaluator(aService(udp(53, 53))))
	for _, direction := range []policy.Direction{in, out} {
		pkt := query(nobody)
		if direction == out {
			pkt = back(query(nobody))
		}
		d := tracker.Decide(pkt)
		// The second packet finds no flow left to cut.
		if d.Cut != (direction == in) || d.Verdict != denied || d.Reason != noRule || d.Direction != direction || d.Resource != "db" {
			t.Errorf("%v: got %+v, want a denial", direction, d)
		}
	}
	if got := tracker.Flows(); got != 2 {
		t.Errorf("%d flows after the cut, want 2", got)
	}
	play(t, tracker, []step{
		{"admitted, begins anew", query(client), allowed, byRule, in, 2},
		{"its answer", back(query(client)), allowed, established, in, 2},
		{"an answer cannot begin it", back(query("198.51.100.8")), denied, noRule, out, 1},
		{"the next query does", query("198.51.100.8"), allowed, byRule, in, 2},
	})
	if d := tracker.Decide(query(client)); d.Resource != "db" || d.Rule != "in" {
		t.Errorf("the new flow is of nobody: got %+v", d)
	}
}

// TestServiceIsRemoved: a flow to a service that the policy no longer lists is
// of nobody from then on, and its answers still pass.
func TestServiceIsRemoved(t *testing.T) {
	const none = reference.ReasonUngoverned
	query := func(peer string) reference.Packet { return udpPacket(in, memberAddr, 53, peer, 40000) }
	tracker := reference.NewTracker(evaluator(aService(udp(53, 53))))
	play(t, tracker, []step{
		{"from a client", query(client), allowed, byRule, in, 1},
		{"from another client", query("198.51.100.8"), allowed, byRule, in, 2},
	})
	tracker.Replace(evaluator(aService()))
	play(t, tracker, []step{
		{"begins anew", query(client), allowed, none, in, 2},
		{"its answer", back(query(client)), allowed, established, in, 2},
		{"an answer cannot begin it", back(query("198.51.100.8")), denied, noRule, out, 1},
		{"the next query does", query("198.51.100.8"), allowed, none, in, 2},
		{"its answer then passes", back(query("198.51.100.8")), allowed, established, in, 2},
	})
	if d := tracker.Decide(query(client)); d.Governed || d.Resource != "" {
		t.Errorf("the flow still has an owner: got %+v", d)
	}

	// And when the address is nobody's at all, there is nothing to keep.
	tracker.Replace(evaluator(&policy.Policy{}))
	play(t, tracker, []step{
		{"of no member", query(client), allowed, none, in, 1},
		{"nor its answers", back(query("198.51.100.8")), allowed, none, out, 0},
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
