package datapath

import (
	"testing"
	"time"

	"github.com/perimeterd/perimeterd/pkg/compile"
	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/tests/packet"
)

func compiled(t *testing.T, p *policy.Policy, facts *policy.Facts) (*compile.Tables, *compile.Legend) {
	t.Helper()
	tables, legend, err := compile.Compile(p, facts)
	if err != nil {
		t.Fatal(err)
	}
	return tables, legend
}

// TestDenialsFold: the first of a row is told when it happens, the rest are
// counted and told with the drain, and what differs is a row of its own.
func TestDenialsFold(t *testing.T) {
	r := newRig(t, Options{})
	r.apply(t, memberPolicy(policy.Enforced), hereFacts())
	denied := func(p packet.Packet, times int) {
		t.Helper()
		for range times {
			r.play(t, []step{in(p, deny, "no-access-rule")})
		}
	}
	denied(packet.TCP(stranger4, member4, 1000, 22, packet.SYN), 1)
	denied(packet.TCP(stranger4, member4, 1001, 22, packet.SYN), 6) // other source port, same row
	denied(packet.TCP(stranger4, member4, 1000, 23, packet.SYN), 1)
	denied(packet.UDP(stranger4, member4, 1000, 22), 2)
	denied(packet.TCP(stranger6, member6, 1000, 22, packet.SYN), 3)

	if got := len(r.events(t)); got != 4 {
		t.Errorf("%d events, want one for each of four rows", got)
	}
	folded, err := r.DrainDenials()
	if err != nil {
		t.Fatal(err)
	}
	counts := map[uint64]int{}
	for _, e := range folded {
		counts[e.Count]++
		if e.Kind != Denied || e.Verdict != policy.Deny || e.Member != 1 || e.LastTime.Before(e.Time) {
			t.Errorf("a row tells something else: %+v", e)
		}
		if e.Count == 6 && (e.LocalPort != 22 || e.PeerPort != 1001 || e.Peer.String() != stranger4) {
			t.Errorf("a row names other ends: %+v", e)
		}
	}
	if len(folded) != 3 || counts[6] != 1 || counts[1] != 1 || counts[2] != 1 {
		t.Errorf("folded rows %v, want 6, 1 and 2", counts)
	}
	if again, err := r.DrainDenials(); err != nil || len(again) != 0 {
		t.Errorf("a second drain told %+v again, %v", again, err)
	}
}

// TestBooksBalance: for every category, decided = submitted + folded + lost, and
// what was submitted or folded is read, at any overload. Every term is made
// non-zero, so there must be no room for most crowds either.
func TestBooksBalance(t *testing.T) {
	r := newRig(t, Options{Limits: Limits{FlowRing: 4096, DenialRing: 4096, Denials: 64, Crowds: 32}})
	r.apply(t, memberPolicy(policy.Enforced, partnersOn5432()), hereFacts())
	for round := range 3 {
		for i := range 200 {
			port := uint16(1 + i + 200*round)
			r.play(t, []step{in(packet.UDP(partner4, member4, port, 5432), allow, "access-rule")})
			for range 2 {
				r.play(t, []step{in(packet.TCP(stranger4, member4, 9, port, packet.SYN), deny, "no-access-rule")})
			}
		}
		events := r.events(t)
		folded, err := r.DrainDenials()
		if err != nil {
			t.Fatal(err)
		}
		r.balance(t, append(events, folded...), round)
	}
}

// balance checks the books after everything that was reported has been read.
func (r *rig) balance(t *testing.T, read []Event, round int) {
	t.Helper()
	counters, err := r.Counters()
	if err != nil {
		t.Fatal(err)
	}
	if r.told == nil {
		r.told = map[policy.Category]uint64{}
	}
	for _, e := range read {
		if e.Kind != FlowEnd {
			r.told[e.Category] += e.Count
		}
	}
	for category, n := range counters.Decisions {
		if n.Decided != n.Submitted+n.Folded+n.Lost {
			t.Errorf("round %d, %s: %d decided, but %d submitted, %d folded and %d lost", round, category, n.Decided, n.Submitted, n.Folded, n.Lost)
		}
		if n.Submitted+n.Folded != r.told[category] {
			t.Errorf("round %d, %s: %d submitted and %d folded, but %d read", round, category, n.Submitted, n.Folded, r.told[category])
		}
	}
	allowed, denied := counters.Decisions[policy.PublicInboundPerimeterRulesAllowed], counters.Decisions[policy.PublicInboundPerimeterRulesDenied]
	for name, n := range map[string]uint64{
		"allowed, submitted": allowed.Submitted, "allowed, lost": allowed.Lost,
		"denied, submitted": denied.Submitted, "denied, folded": denied.Folded, "denied, crowded": denied.Crowded, "denied, lost": denied.Lost,
	} {
		if n == 0 {
			t.Errorf("round %d: %s is zero, so this test tells nothing of it", round, name)
		}
	}
}

// TestEventOfEachKind: events name the flow, the member and the outcome.
func TestEventOfEachKind(t *testing.T) {
	r := newRig(t, Options{})
	legend := r.apply(t, memberPolicy(policy.Audit, partnersOn5432()), hereFacts())
	r.play(t, []step{
		in(packet.TCP(partner6, member6, 1000, 5432, packet.SYN), allow, "access-rule"),
		out(packet.UDP(member4, stranger4, 1000, 53), allow, "no-access-rule"),
	})
	events := r.events(t)
	if len(events) != 2 {
		t.Fatalf("%d events, want 2: %+v", len(events), events)
	}
	start, would := events[0], events[1]
	if start.Kind != FlowStart || start.Category != policy.PublicInboundPerimeterRulesAllowed || start.WouldBe != allow ||
		start.Local.String() != member6 || start.PeerPort != 1000 || start.Direction != policy.Inbound ||
		legend.Outcomes[start.Outcome].Rule != "partners" || legend.Members[start.Member].Resource != "orders-db" {
		t.Errorf("the start of an allowed flow: %+v", start)
	}
	if would.Kind != FlowStart || would.Verdict != allow || would.WouldBe != deny || would.Direction != policy.Outbound ||
		would.Category != policy.PublicOutboundPerimeterRulesDenied || would.LocalPort != 1000 || would.PeerPort != 53 {
		t.Errorf("what Audit would deny: %+v", would)
	}
	if since := time.Until(would.Time); since > 0 {
		t.Errorf("the event is %v in the future", since)
	}
}

// TestReadHandsOnWhatIsLeft: a reader that is told to end still hands on all that
// waits, however much it is.
func TestReadHandsOnWhatIsLeft(t *testing.T) {
	r := newRig(t, Options{})
	r.apply(t, memberPolicy(policy.Enforced, partnersOn5432()), hereFacts())
	for port := uint16(1); port <= 3000; port++ {
		if _, err := r.run(fromPartner(port, packet.SYN).Frame(), true, 0); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(r.events(t)); n != 3000 {
		t.Errorf("%d of 3000 events", n)
	}
}
