package datapath

import (
	"context"
	"testing"

	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/tests/packet"
)

func contextThatEnded() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx, cancel
}

// parserRow is one packet towards an Enforced member that admits partners to
// port 5432, and what becomes of it.
type parserRow struct {
	name    string
	packet  packet.Packet
	verdict policy.Verdict
	reason  policy.Reason
}

// parserRows has one packet a row. What is understood is judged by its port;
// what is not has a reason of its own and is dropped. Frames that end in their IP
// header are not here: the kernel refuses to test-run them.
func parserRows() []parserRow {
	tcp4 := func(port uint16) packet.Packet { return packet.TCP(partner4, member4, 4000, port, packet.SYN) }
	tcp6 := func(port uint16) packet.Packet { return packet.TCP(partner6, member6, 4000, port, packet.SYN) }
	udp6 := packet.UDP(partner6, member6, 4000, 5432).Payload("hello")
	nop := func(n int) []byte {
		options := make([]byte, n)
		for i := range options {
			options[i] = 1
		}
		return options
	}
	many := func(n int) packet.Packet {
		p := udp6
		for range n {
			p = p.Extensions(packet.DestinationOptions)
		}
		return p
	}
	return []parserRow{
		{"v4", tcp4(5432), policy.Allow, "access-rule"},
		{"v4, the next port", tcp4(5433), policy.Deny, "no-access-rule"},
		{"v6", tcp6(5432), policy.Allow, "access-rule"},
		{"v6, the next port", tcp6(5431), policy.Deny, "no-access-rule"},
		{"a stranger", packet.TCP(stranger4, member4, 4000, 5432, packet.SYN), policy.Deny, "no-access-rule"},
		{"to nobody of ours", packet.TCP(partner4, "10.20.0.6", 4000, 5433, packet.SYN), policy.Allow, "ungoverned"},
		{"ARP", packet.ARP(partner4, member4), policy.Allow, "not-ip"},
		{"LLDP", packet.EtherType(0x88cc).Payload("lldp"), policy.Allow, "not-ip"},
		{"802.3 with LLC", packet.EtherType(38).Payload("\x42\x42\x03 spanning tree"), policy.Allow, "not-ip"},

		{"one tag", tcp4(5433).Tagged(100), policy.Deny, "no-access-rule"},
		{"one tag, allowed", tcp4(5432).Tagged(100), policy.Allow, "access-rule"},
		{"QinQ", tcp6(5433).ServiceTagged(10).Tagged(20), policy.Deny, "no-access-rule"},
		{"four tags of VID 0", tcp4(5433).Tagged(0, 0, 0, 0), policy.Deny, "no-access-rule"},
		{"four tags, allowed", tcp4(5432).Tagged(0, 0, 0, 0), policy.Allow, "access-rule"},
		{"five tags", tcp4(5432).Tagged(0, 0, 0, 0, 0), policy.Deny, "too-many-tags"},

		{"v4 options", tcp4(5432).Options(nop(40)...), policy.Allow, "access-rule"},
		{"v4 options, the next port", tcp4(5433).Options(nop(4)...), policy.Deny, "no-access-rule"},
		{"v4 loose source route", tcp4(5432).Options(131, 7, 4, 10, 20, 0, 6, 0), policy.Deny, "source-routed"},
		{"v4 strict source route, behind a no-operation", tcp4(5432).Options(1, 137, 7, 4, 10, 20, 0, 6), policy.Deny, "source-routed"},
		{"v4 record route", tcp4(5432).Options(7, 7, 4, 0, 0, 0, 0, 0), policy.Allow, "access-rule"},
		{"v4 header longer than the packet", tcp4(5432).With(packet.HeaderLength, 15), policy.Deny, "malformed-ip"},
		{"v4 header over the L4 header", tcp4(5432).With(packet.HeaderLength, 6), policy.Deny, "truncated-l4"},
		{"v4 header too short", tcp4(5432).With(packet.HeaderLength, 4), policy.Deny, "malformed-ip"},
		{"v4 of version 6", tcp4(5432).With(packet.Version, 6), policy.Deny, "malformed-ip"},
		{"v4 longer than the frame", tcp4(5432).With(packet.TotalLength, 41), policy.Deny, "malformed-ip"},
		{"v4 shorter than its header", tcp4(5432).With(packet.TotalLength, 19), policy.Deny, "malformed-ip"},
		{"v4 that ends in its L4 header", tcp4(5432).With(packet.TotalLength, 39), policy.Deny, "truncated-l4"},
		{"v6 longer than the frame", tcp6(5432).With(packet.TotalLength, 21), policy.Deny, "malformed-ip"},
		{"padding of a short frame", tcp4(5432).Trailer(20), policy.Allow, "access-rule"},

		{"v6 behind hop-by-hop", tcp6(5432).Extensions(packet.HopByHop), policy.Allow, "access-rule"},
		{"v6 behind hop-by-hop, the next port", tcp6(5433).Extensions(packet.HopByHop), policy.Deny, "no-access-rule"},
		{"v6 behind all kinds", tcp6(5432).Extensions(packet.HopByHop, packet.DestinationOptions, packet.Routing, packet.Authentication), policy.Allow, "access-rule"},
		{"v6 mobility is a protocol of its own", tcp6(5432).Extensions(packet.Mobility), policy.Deny, "no-access-rule"},
		{"v6 hop-by-hop that is not first is one too", tcp6(5432).Extensions(packet.DestinationOptions, packet.HopByHop), policy.Deny, "no-access-rule"},
		{"v6 with segments left", tcp6(5432).RawExtension(packet.Routing, 0, 1), policy.Deny, "source-routed"},
		{"v6 AH in its own units", tcp6(5432).LongExtension(packet.Authentication, 44), policy.Allow, "access-rule"},
		{"v6 behind eight headers", many(8), policy.Allow, "access-rule"},
		{"v6 behind nine headers", many(9), policy.Deny, "too-many-headers"},
		{"v6 behind sixteen headers", many(16), policy.Deny, "too-many-headers"},
		{"v6 behind a long header", udp6.LongExtension(packet.DestinationOptions, 1024), policy.Deny, "too-many-headers"},
		{"v6 cut in an extension header", tcp6(5432).Extensions(packet.HopByHop).CutSegment(0).Cut(46).With(packet.TotalLength, 6), policy.Deny, "truncated-header"},
		{"v6 no next header", packet.Protocol(partner6, member6, packet.NoNextHeader), policy.Deny, "no-access-rule"},

		{"a first fragment", tcp4(5432).Payload("12345678").Fragment(0, true, 7), policy.Allow, "access-rule"},
		{"its later fragment", packet.Protocol(partner4, member4, 6).Payload("12345678").Fragment(32, false, 7), policy.Allow, "fragment-follows"},
		{"a later fragment of another id", packet.Protocol(partner4, member4, 6).Payload("12345678").Fragment(32, false, 8), policy.Deny, "fragment-unknown"},
		{"a later fragment in the L4 header", packet.Protocol(partner4, member4, 6).Payload("12345678").Fragment(16, false, 7), policy.Deny, "fragment-overlap"},
		{"a tiny first fragment", tcp4(5432).CutSegment(8).With(packet.TotalLength, 28).Fragment(0, true, 9), policy.Deny, "tiny-fragment"},
		{"a denied first fragment", tcp4(5433).Payload("12345678").Fragment(0, true, 10), policy.Deny, "no-access-rule"},
		{"its later fragment is denied too", packet.Protocol(partner4, member4, 6).Payload("12345678").Fragment(32, false, 10), policy.Deny, "fragment-denied"},
		{"v6 first fragment", tcp6(5432).Payload("12345678").Fragment(0, true, 7), policy.Allow, "access-rule"},
		{"v6 later fragment", packet.Protocol(partner6, member6, 6).Payload("12345678").Fragment(32, false, 7), policy.Allow, "fragment-follows"},
		{"v6 later fragment of another kind", packet.Protocol(partner6, member6, 17).Payload("12345678").Fragment(32, false, 7), policy.Allow, "fragment-follows"},
		{"v6 unknown later fragment", packet.Protocol(partner6, member6, 6).Payload("12345678").Fragment(32, false, 8), policy.Deny, "fragment-unknown"},
		{"v6 atomic fragment", tcp6(5431).Fragment(0, false, 11), policy.Deny, "no-access-rule"},

		{"TCP cut short", tcp4(5432).CutSegment(19).With(packet.TotalLength, 39), policy.Deny, "truncated-l4"},
		{"UDP cut short", packet.UDP(partner4, member4, 1, 5432).CutSegment(7).With(packet.TotalLength, 27), policy.Deny, "truncated-l4"},
		{"SYN with RST", packet.TCP(partner4, member4, 4001, 5432, packet.SYN|packet.RST), policy.Deny, "malformed-l4"},
		{"SYN with FIN", packet.TCP(partner4, member4, 4001, 5432, packet.SYN|packet.FIN), policy.Deny, "malformed-l4"},

		{"UDP", packet.UDP(partner4, member4, 4001, 5432), policy.Allow, "access-rule"},
		{"UDP-Lite is not UDP", packet.UDPLite(partner4, member4, 4001, 5432), policy.Deny, "no-access-rule"},
		{"SCTP", packet.SCTP(partner4, member4, 4001, 5432), policy.Deny, "no-access-rule"},
		{"DCCP", packet.DCCP(partner4, member4, 4001, 5432), policy.Deny, "no-access-rule"},
		{"GRE", packet.GRE(partner4, member4), policy.Deny, "no-access-rule"},
		{"ESP", packet.ESP(partner4, member4, 1), policy.Deny, "no-access-rule"},
		{"echo", packet.ICMPEcho(partner4, member4, 1, 1), policy.Deny, "no-access-rule"},

		{"neighbour solicitation", packet.ICMP(partner6, member6, 135, 0).With(packet.HopLimit, 255), policy.Allow, "link-failsafe"},
		{"neighbour solicitation through a router", packet.ICMP(partner6, member6, 135, 0).With(packet.HopLimit, 254), policy.Deny, "no-access-rule"},
		{"IGMP", packet.Protocol(partner4, member4, 2).With(packet.HopLimit, 1), policy.Allow, "link-failsafe"},
		{"DHCP offer", packet.UDP(partner4, member4, 67, 68), policy.Allow, "link-failsafe"},
		{"DHCP ports the wrong way", packet.UDP(partner4, member4, 68, 67), policy.Deny, "no-access-rule"},
		{"mDNS", packet.UDP(partner4, "224.0.0.251", 5353, 5353), policy.Deny, "no-access-rule"},
		{"broadcast", packet.UDP(partner4, "255.255.255.255", 5353, 5432), policy.Allow, "access-rule"},
	}
}

func TestParser(t *testing.T) {
	r := newRig(t, Options{})
	r.apply(t, memberPolicy(policy.Enforced, partnersOn5432()), hereFacts())
	for _, row := range parserRows() {
		t.Run(row.name, func(t *testing.T) {
			r.forgetFlows(t)
			verdict, reason := r.towards(t, row.packet)
			if verdict != row.verdict || reason != row.reason {
				t.Errorf("%s: got %v for %s, want %v for %s", row.packet, verdict, reason, row.verdict, row.reason)
			}
		})
	}
}

// TestUnjudgeableByMode: what cannot be judged is dropped only where a strict
// member may get it.
func TestUnjudgeableByMode(t *testing.T) {
	cut := packet.TCP(partner4, member4, 4000, 5432, packet.SYN).CutSegment(8).With(packet.TotalLength, 28)
	toNobody := packet.TCP(partner4, "10.20.0.6", 4000, 5432, packet.SYN).CutSegment(8).With(packet.TotalLength, 28)
	unreadable := packet.TCP(partner4, member4, 4000, 5432, packet.SYN).With(packet.Version, 6)
	secured := func(mode policy.AccessMode) *policy.Policy {
		p := memberPolicy(mode)
		p.Resources[0].PublicNetworkAccess = policy.SecuredByPerimeter
		return p
	}
	elsewhere := hereFacts()
	elsewhere.Interfaces = nil

	r := newRig(t, Options{})
	for _, row := range []struct {
		name    string
		policy  *policy.Policy
		facts   *policy.Facts
		packet  packet.Packet
		verdict policy.Verdict
		logged  int
	}{
		{"Enforced", memberPolicy(policy.Enforced), hereFacts(), cut, policy.Deny, 1},
		{"Learning", memberPolicy(policy.Learning), hereFacts(), cut, policy.Allow, 0},
		{"Learning, secured", secured(policy.Learning), hereFacts(), cut, policy.Deny, 1},
		{"Audit", memberPolicy(policy.Audit), hereFacts(), cut, policy.Allow, 1},
		{"Audit, secured", secured(policy.Audit), hereFacts(), cut, policy.Allow, 1},
		{"Enforced, to nobody", memberPolicy(policy.Enforced), hereFacts(), toNobody, policy.Allow, 0},
		{"Enforced, unreadable", memberPolicy(policy.Enforced), hereFacts(), unreadable, policy.Deny, 1},
		{"Enforced elsewhere, unreadable", memberPolicy(policy.Enforced), elsewhere, unreadable, policy.Allow, 0},
		{"Audit, unreadable", memberPolicy(policy.Audit), hereFacts(), unreadable, policy.Allow, 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			r.apply(t, row.policy, row.facts)
			verdict, _ := r.towards(t, row.packet)
			if verdict != row.verdict {
				t.Errorf("got %v, want %v", verdict, row.verdict)
			}
			events := r.events(t)
			if len(events) != row.logged {
				t.Fatalf("%d events, want %d: %+v", len(events), row.logged, events)
			}
			for _, e := range events {
				if e.WouldBe != policy.Deny || e.Verdict != row.verdict || e.Kind != Denied {
					t.Errorf("the event tells of something else: %+v", e)
				}
			}
		})
	}
}

// TestAllZeroDestination: 0.0.0.0 is the oldest form of broadcast, and Linux
// delivers it.
func TestAllZeroDestination(t *testing.T) {
	r := newRig(t, Options{})
	r.apply(t, memberPolicy(policy.Enforced, partnersOn5432()), hereFacts())
	r.play(t, []step{in(packet.UDP("0.0.0.0", "0.0.0.0", 4000, 9999), deny, "no-access-rule")})
}

// TestFragmentsReachIntoHeaders: headers between the fragment header and the L4
// header are cut like the rest, so they count too.
func TestFragmentsReachIntoHeaders(t *testing.T) {
	r := newRig(t, Options{})
	r.apply(t, memberPolicy(policy.Enforced, partnersOn5432()), hereFacts())
	later := packet.Protocol(partner6, member6, packet.DestinationOptions).Payload("12345678")
	r.play(t, []step{
		in(packet.TCP(partner6, member6, 4000, 5432, packet.SYN).Payload("12345678").Fragment(0, true, 7).LongExtension(packet.DestinationOptions, 32), allow, "access-rule"),
		in(later.Fragment(32, false, 7), deny, "fragment-overlap"),
		in(later.Fragment(48, false, 7), deny, "fragment-overlap"),
		in(later.Fragment(56, false, 7), allow, "fragment-follows"),
	})
}
