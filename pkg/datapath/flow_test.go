package datapath

import (
	"testing"
	"time"

	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/tests/packet"
)

// step is one packet of a sequence: on its way towards the member, or from it.
type step struct {
	towards bool
	packet  packet.Packet
	verdict policy.Verdict
	reason  policy.Reason
}

func in(p packet.Packet, verdict policy.Verdict, reason policy.Reason) step {
	return step{true, p, verdict, reason}
}

func out(p packet.Packet, verdict policy.Verdict, reason policy.Reason) step {
	return step{false, p, verdict, reason}
}

func (r *rig) play(t *testing.T, steps []step) {
	t.Helper()
	for i, s := range steps {
		verdict, reason := r.decide(t, s.packet.Frame(), s.towards)
		if verdict != s.verdict || reason != s.reason {
			t.Errorf("step %d, %s: got %v for %s, want %v for %s", i, s.packet, verdict, reason, s.verdict, s.reason)
		}
	}
}

// seg is a TCP segment between partner and member; ends are named, not swapped.
func fromPartner(port uint16, flags packet.Flags) packet.Packet {
	return packet.TCP(partner4, member4, port, 5432, flags)
}

func fromMember(port uint16, flags packet.Flags) packet.Packet {
	return packet.TCP(member4, partner4, 5432, port, flags)
}

const (
	allow = policy.Allow
	deny  = policy.Deny
)

// TestFlows plays sequences of packets, each in a table of flows of its own.
func TestFlows(t *testing.T) {
	outbound := policy.AccessRule{
		Name: "backup", Direction: policy.Outbound, AddressPrefixes: prefixes("192.0.2.0/24"),
		Ports: []policy.Ports{
			{Protocol: policy.ProtocolUDP, First: 53, Last: 53}, {Protocol: policy.ProtocolTCP, First: 443, Last: 443},
			{Protocol: policy.ProtocolICMP, Last: 65535},
		},
	}
	r := newRig(t, Options{})
	r.apply(t, memberPolicy(policy.Enforced, partnersOn5432(), outbound), hereFacts())
	const ACK, FIN, RST, SYN = packet.ACK, packet.FIN, packet.RST, packet.SYN
	query := packet.UDP(member4, "192.0.2.53", 9999, 53)
	ping := packet.ICMPEcho(member4, "192.0.2.1", 7, 1)

	for name, steps := range map[string][]step{
		"TCP, from SYN to the last ACK, and again on the same ports": {
			in(fromPartner(1, SYN), allow, "access-rule"),
			out(fromMember(1, SYN|ACK), allow, "established"),
			in(fromPartner(1, ACK), allow, "established"),
			in(fromPartner(1, FIN|ACK), allow, "established"),
			out(fromMember(1, ACK), allow, "established"), // half closed
			out(fromMember(1, FIN|ACK), allow, "established"),
			in(fromPartner(1, ACK), allow, "established"),
			out(fromMember(1, FIN|ACK), allow, "established"), // sent again
			in(fromPartner(1, SYN), allow, "access-rule"),     // a new one
			out(fromMember(1, SYN|ACK), allow, "established"),
		},
		"TCP, refused, and tried again": {
			in(fromPartner(1, SYN), allow, "access-rule"),
			out(fromMember(1, RST|ACK).Sequence(0, 1), allow, "established"),
			in(fromPartner(1, SYN), allow, "access-rule"),
		},
		"TCP, simultaneous open": {
			in(fromPartner(1, SYN), allow, "access-rule"),
			out(fromMember(1, SYN), allow, "established"),
			in(fromPartner(1, SYN|ACK), allow, "established"),
		},
		"TCP, a reset that nobody would take for one": {
			in(fromPartner(1, SYN).Sequence(100, 0), allow, "access-rule"),
			out(fromMember(1, SYN|ACK).Sequence(500, 101), allow, "established"),
			in(fromPartner(1, ACK).Sequence(101, 501), allow, "established"),
			out(fromMember(1, ACK).Payload("12345678").Sequence(501, 101), allow, "established"),
			in(fromPartner(1, RST).Sequence(100, 0), allow, "established"),     // had already
			in(fromPartner(1, RST).Sequence(102, 0), allow, "established"),     // overtook data
			out(fromMember(1, RST).Sequence(500, 0), allow, "established"),     // had already
			in(fromPartner(1, SYN).Sequence(900, 0), allow, "established"),     // so this opens nothing
			in(fromPartner(1, RST).Sequence(101, 0), allow, "established"),     // this is next
			in(fromPartner(1, SYN).Sequence(900, 0), allow, "access-rule"),     // now it does
			out(fromMember(1, RST|ACK).Sequence(0, 902), allow, "established"), // answers another opening
			in(fromPartner(1, SYN).Sequence(900, 0), allow, "established"),     // sent again
			out(fromMember(1, RST|ACK).Sequence(0, 901), allow, "established"), // refused
			in(fromPartner(1, SYN).Sequence(900, 0), allow, "access-rule"),     // tried again
		},
		"TCP, a SYN the other way": {
			in(fromPartner(1, SYN).Sequence(100, 0), allow, "access-rule"),
			out(fromMember(1, SYN).Sequence(500, 0), allow, "established"), // at the same time
			out(fromMember(1, SYN|ACK).Sequence(500, 101), allow, "established"),
			in(fromPartner(1, ACK).Sequence(101, 501), allow, "established"),
			out(fromMember(1, ACK).Sequence(501, 101), allow, "established"),
			out(fromMember(1, SYN).Sequence(900, 0), deny, "no-access-rule"), // no longer
			in(fromPartner(1, ACK).Sequence(101, 501), allow, "established"), // and it goes on
		},
		"TCP, in mid-stream: opened by the partner": {
			out(fromMember(1, ACK), allow, "access-rule"),
			in(fromPartner(1, ACK), allow, "established"),
		},
		"TCP, in mid-stream: what looks like an answer opens no way in": {
			in(packet.TCP("192.0.2.80", member4, 443, 6000, ACK), allow, "access-rule"), // as of a call of the member
			in(packet.TCP("192.0.2.80", member4, 443, 6000, SYN), deny, "no-access-rule"),
			out(packet.TCP(member4, "192.0.2.80", 6000, 443, SYN), allow, "established"),
		},
		"TCP, a FIN counts from the first packet on": {
			in(fromPartner(1, FIN|ACK).Sequence(100, 500), allow, "access-rule"),
			out(fromMember(1, FIN|ACK).Sequence(500, 101), allow, "established"),
			in(fromPartner(1, SYN).Sequence(900, 0), allow, "access-rule"), // a new one
		},
		"TCP, in mid-stream: nobody may have opened it": {
			out(packet.TCP(member4, stranger4, 5432, 1, ACK), deny, "no-access-rule"),
			in(packet.TCP(stranger4, member4, 1, 5432, ACK), deny, "no-access-rule"),
			in(packet.TCP(partner4, member4, 1, 5433, SYN|ACK), deny, "no-access-rule"),
		},
		"TCP, a reset in mid-stream makes no flow": {
			in(fromPartner(1, RST), allow, "access-rule"),
			in(fromPartner(1, RST), allow, "access-rule"),
		},
		"TCP, an answer is not an opening": {
			out(packet.TCP(member4, partner4, 5432, 9, SYN), deny, "no-access-rule"),
			out(packet.TCP(member4, partner4, 5432, 9, SYN|ACK), allow, "access-rule"),
		},
		"UDP, asked and answered": {
			out(query, allow, "access-rule"),
			in(packet.UDP("192.0.2.53", member4, 53, 9999), allow, "established"),
		},
		"UDP, answers nobody asked for": {
			in(packet.UDP("192.0.2.53", member4, 53, 9999), deny, "no-access-rule"),
			out(query, allow, "access-rule"),
			in(packet.UDP("192.0.2.54", member4, 53, 9999), deny, "no-access-rule"),
			in(packet.UDP("192.0.2.53", member4, 54, 9999), deny, "no-access-rule"),
			in(packet.UDP("192.0.2.53", member4, 53, 9998), deny, "no-access-rule"),
		},
		"echo, asked and answered": {
			out(ping, allow, "access-rule"),
			in(packet.ICMPEchoReply("192.0.2.1", member4, 7, 1), allow, "established"),
		},
		"echo, nothing but the reply answers": {
			out(ping, allow, "access-rule"),
			in(packet.ICMPEchoReply("192.0.2.1", member4, 8, 1), deny, "no-access-rule"),
			in(packet.ICMPEcho("192.0.2.1", member4, 7, 1), deny, "no-access-rule"),
			in(packet.ICMP("192.0.2.1", member4, 13, 0), deny, "no-access-rule"),
		},
		"ICMP errors about a flow": {
			out(query, allow, "access-rule"),
			in(packet.ICMPError("192.0.2.53", packet.PortUnreachable, query), allow, "related"),
			in(packet.ICMPError("203.0.113.99", packet.TimeExceeded, query), allow, "related"), // of any router
			in(packet.ICMPError("203.0.113.99", packet.PacketTooBig, query.CutSegment(8)), allow, "related"),
		},
		"ICMP errors about no flow": {
			out(query, allow, "access-rule"),
			in(packet.ICMPError("192.0.2.53", packet.PortUnreachable, packet.UDP(member4, "192.0.2.53", 9998, 53)), deny, "no-access-rule"),
			// The answer's direction: nobody of ours sent that.
			in(packet.ICMP("192.0.2.53", member4, 3, 3).Payload(string(packet.UDP("192.0.2.53", member4, 53, 9999).Datagram())), deny, "no-access-rule"),
			in(packet.ICMPError("192.0.2.53", packet.PortUnreachable, query.CutSegment(4)), deny, "no-access-rule"),
		},
		"ICMP error from the member about what it got": {
			in(packet.UDP(partner4, member4, 4000, 5432), allow, "access-rule"),
			out(packet.ICMPError(member4, packet.PortUnreachable, packet.UDP(partner4, member4, 4000, 5432)), allow, "related"),
			out(packet.ICMPError(member4, packet.PortUnreachable, packet.UDP(partner4, member4, 4001, 5432)), deny, "no-access-rule"),
		},
		"denied packets take no place": {
			in(packet.UDP(stranger4, member4, 1, 2), deny, "no-access-rule"),
			out(packet.UDP(member4, stranger4, 2, 1), deny, "no-access-rule"),
			in(packet.UDP(stranger4, member4, 1, 2), deny, "no-access-rule"),
		},
	} {
		t.Run(name, func(t *testing.T) {
			r.forgetFlows(t)
			r.play(t, steps)
		})
	}
}

// TestFlowEnds: an end is told once, with what crossed, by whoever notices.
func TestFlowEnds(t *testing.T) {
	r := newRig(t, Options{Timeouts: Timeouts{UDPOpening: 10 * time.Second, TCPClosed: 20 * time.Second}})
	r.apply(t, memberPolicy(policy.Enforced, partnersOn5432()), hereFacts())
	datagram := packet.UDP(partner4, member4, 4000, 5432).Payload("0123456789")

	r.play(t, []step{
		in(fromPartner(1, packet.SYN), allow, "access-rule"),
		out(fromMember(1, packet.SYN|packet.ACK), allow, "established"),
		out(fromMember(1, packet.RST), allow, "established"),
		in(datagram, allow, "access-rule"),
	})
	kinds := func(events []Event) map[EventKind]int {
		n := map[EventKind]int{}
		for _, e := range events {
			n[e.Kind]++
		}
		return n
	}
	events := r.events(t)
	if got := kinds(events); got[FlowStart] != 2 || got[FlowEnd] != 1 || len(got) != 2 {
		t.Fatalf("want two starts and the end of the reset one, got %v", got)
	}
	for _, e := range events {
		if e.Kind == FlowEnd && (e.PacketsTowards != 1 || e.PacketsFrom != 2 || e.BytesTowards != 40 || e.BytesFrom != 80) {
			t.Errorf("the end tells of other packets: %+v", e)
		}
	}

	sweep := func(removed int) []Event {
		t.Helper()
		ends, stats, err := r.Sweep()
		if err != nil {
			t.Fatal(err)
		}
		if stats.Removed != removed {
			t.Errorf("swept %d flows, want %d", stats.Removed, removed)
		}
		return ends
	}
	r.age(t, 9*time.Second)
	if ends := sweep(0); len(ends) != 0 {
		t.Errorf("ends before their time: %+v", ends)
	}
	r.age(t, 2*time.Second)
	ends := sweep(1)
	if len(ends) != 1 || ends[0].Protocol != policy.ProtocolUDP || ends[0].BytesTowards != 38 || ends[0].PeerPort != 4000 {
		t.Errorf("want the end of the datagram's flow, got %+v", ends)
	}
	r.age(t, 20*time.Second)
	if ends := sweep(1); len(ends) != 0 {
		t.Errorf("the end of the reset flow was told twice: %+v", ends)
	}

	// A packet that finds an idle flow ends it and begins anew.
	r.play(t, []step{in(datagram, allow, "access-rule")})
	r.age(t, 11*time.Second)
	r.play(t, []step{in(datagram, allow, "access-rule")})
	if got := kinds(r.events(t)); got[FlowStart] != 2 || got[FlowEnd] != 1 {
		t.Errorf("want start, end, start, got %v", got)
	}
}

// TestEstablishedIsNotEvicted: a flood of permitted openers churns only the
// table of openers.
func TestEstablishedIsNotEvicted(t *testing.T) {
	r := newRig(t, Options{Limits: Limits{EstablishedFlows4: 4, OpeningFlows4: 64}})
	r.apply(t, memberPolicy(policy.Enforced, partnersOn5432()), hereFacts())
	const flows = 64
	for port := uint16(1); port <= flows; port++ {
		r.play(t, []step{
			in(fromPartner(port, packet.SYN), allow, "access-rule"),
			out(fromMember(port, packet.SYN|packet.ACK), allow, "established"),
			out(fromMember(port, packet.ACK), allow, "established"),
		})
	}
	for port := uint16(1000); port < 3000; port++ {
		r.play(t, []step{in(fromPartner(port, packet.SYN), allow, "access-rule")})
	}
	// Those that had their place kept it (the kernel rounds the size up by a few
	// for each CPU); those for which the table was full lost theirs, and pass all
	// the same, since their opening would be allowed.
	reasons := map[policy.Reason]int{}
	for port := uint16(1); port <= flows; port++ {
		verdict, reason := r.from(t, fromMember(port, packet.ACK))
		if verdict != allow {
			t.Errorf("port %d: an allowed connection was cut: %s", port, reason)
		}
		reasons[reason]++
	}
	if reasons["established"] < 4 || reasons["established"] > flows/2 || reasons["access-rule"] < flows/2 {
		t.Errorf("want at least 4 flows in their place and most without, got %v", reasons)
	}
}

// TestPolicyChangeCutsFlows: a flow is judged again, in its own direction, at its
// next packet after a change, and cut if it is no longer allowed.
func TestPolicyChangeCutsFlows(t *testing.T) {
	r := newRig(t, Options{})
	r.apply(t, memberPolicy(policy.Enforced, partnersOn5432()), hereFacts())
	open := []step{
		in(fromPartner(1, packet.SYN), allow, "access-rule"),
		out(fromMember(1, packet.SYN|packet.ACK), allow, "established"),
	}
	r.play(t, open)

	other := partnersOn5432()
	other.Name = "partners-renamed"
	legend := r.apply(t, memberPolicy(policy.Enforced, other), hereFacts())
	r.play(t, []step{out(fromMember(1, packet.ACK), allow, "established")})
	var flows []Flow
	if err := r.Flows(func(f Flow) bool { flows = append(flows, f); return true }); err != nil {
		t.Fatal(err)
	}
	if len(flows) != 1 || legend.Outcomes[flows[0].Outcome].Rule != "partners-renamed" || flows[0].Generation != 2 {
		t.Fatalf("want one flow, judged again under the new rule, got %+v", flows)
	}

	r.events(t)
	r.apply(t, memberPolicy(policy.Enforced), hereFacts())
	r.play(t, []step{
		out(fromMember(1, packet.ACK), deny, "no-access-rule"),
		in(fromPartner(1, packet.ACK), deny, "no-access-rule"),
	})
	events := r.events(t)
	if len(events) != 2 || events[0].Kind != FlowCut || events[1].Kind != Denied {
		t.Fatalf("want a cut and a denial, got %+v", events)
	}
	cut := events[0]
	if cut.Direction != policy.Inbound || cut.PacketsFrom != 2 || cut.Generation != 3 || cut.Verdict != policy.Deny || cut.Started.IsZero() {
		t.Errorf("the cut tells something else: %+v", cut)
	}
}

// TestRuleEndsByItself: no agent is needed for a rule to end, neither for new
// flows nor for those that live by it.
func TestRuleEndsByItself(t *testing.T) {
	r := newRig(t, Options{})
	rule := partnersOn5432()
	facts := hereFacts()
	rule.Expires = facts.Now.Add(time.Hour)
	tables, legend := compiled(t, memberPolicy(policy.Enforced, rule), facts)
	if _, err := r.Apply(tables, legend, nil, nil); err != nil {
		t.Fatal(err)
	}
	r.play(t, []step{
		in(fromPartner(1, packet.SYN), allow, "access-rule"),
		out(fromMember(1, packet.SYN|packet.ACK), allow, "established"),
	})
	// The same tables, as they will look to the kernel when the hour is over.
	for i := range tables.Outcomes {
		if o := &tables.Outcomes[i]; !o.Expires.IsZero() {
			o.Expires = facts.Now.Add(-time.Second)
		}
	}
	g, err := r.build(r.Generation(), tables)
	if err != nil {
		t.Fatal(err)
	}
	defer g.release()
	if err := r.objects.Outcomes.Put(g.slot(), g.maps["outcomes"]); err != nil {
		t.Fatal(err)
	}
	r.play(t, []step{
		out(fromMember(1, packet.ACK), deny, "no-access-rule"),
		in(fromPartner(2, packet.SYN), deny, "no-access-rule"),
	})
}

// TestCutWithServices: a cut connection does not go on as one to a port that
// nobody lists.
func TestCutWithServices(t *testing.T) {
	r := newRig(t, Options{})
	with := func(rules ...policy.AccessRule) *policy.Policy {
		p := memberPolicy(policy.Enforced, rules...)
		p.Resources[0].Services = []policy.Ports{{Protocol: policy.ProtocolTCP, First: 5432, Last: 5432}}
		return p
	}
	outbound := policy.AccessRule{Name: "web", Direction: policy.Outbound, AddressPrefixes: prefixes("203.0.113.0/24")}
	r.apply(t, with(outbound), hereFacts())
	r.play(t, []step{
		out(packet.TCP(member4, stranger4, 40000, 443, packet.SYN), allow, "access-rule"),
		in(packet.TCP(stranger4, member4, 443, 40000, packet.SYN|packet.ACK), allow, "established"),
		out(packet.TCP(member4, stranger4, 40000, 443, packet.ACK), allow, "established"),
	})
	r.apply(t, with(), hereFacts())
	r.play(t, []step{
		out(packet.TCP(member4, stranger4, 40000, 443, packet.ACK), deny, "no-access-rule"),
		out(packet.TCP(member4, stranger4, 40000, 443, packet.ACK), deny, "no-access-rule"),
		in(packet.TCP(stranger4, member4, 443, 40000, packet.ACK), deny, "no-access-rule"),
	})
}
