package decisionlog

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/perimeterd/perimeterd/pkg/compile"
	"github.com/perimeterd/perimeterd/pkg/datapath"
	"github.com/perimeterd/perimeterd/pkg/policy"
)

var update = flag.Bool("update", false, "write the golden file instead of comparing with it")

// The numbers of testLegend.
const (
	testGeneration = 7

	ordersDB = 1
	legacy   = 2 // in no perimeter, no subscription
	auditBox = 3
)

// testOutcomes are by number; each outcome that a policy can have is there once.
var testOutcomes = []compile.OutcomeLegend{
	1:  {Reason: policy.ReasonAccessRule, Direction: policy.Inbound, Rule: "partners"},
	2:  {Reason: policy.ReasonNoAccessRule, Direction: policy.Inbound},
	3:  {Reason: policy.ReasonAccessRule, Direction: policy.Outbound, Rule: "vault"},
	4:  {Reason: policy.ReasonNoAccessRule, Direction: policy.Outbound},
	5:  {Reason: policy.ReasonPublicAccessEnabled, Direction: policy.Inbound},
	6:  {Reason: policy.ReasonNoFirewallRule, Direction: policy.Inbound},
	7:  {Reason: policy.ReasonFirewallRule, Direction: policy.Outbound, Rule: "office"},
	8:  {Reason: policy.ReasonNoFirewallRule, Direction: policy.Outbound},
	9:  {Reason: policy.ReasonSamePerimeter, Direction: policy.Inbound},
	10: {Reason: policy.ReasonSamePerimeter, Direction: policy.Outbound},
	11: {Reason: policy.ReasonLinkedPerimeter, Direction: policy.Inbound, Rule: "to-analytics"},
	12: {Reason: policy.ReasonLinkedPerimeter, Direction: policy.Outbound, Rule: "to-analytics"},
	13: {Reason: policy.ReasonPrivatePath, Direction: policy.Inbound, Rule: "wg"},
	14: {Reason: policy.ReasonPrivatePath, Direction: policy.Outbound, Rule: "wg"},
	15: {Reason: policy.ReasonFailsafe, Direction: policy.Inbound, Rule: "ssh"},
	16: {Reason: policy.ReasonNoAccessRule, Direction: policy.Outbound, WouldBe: policy.Deny},
	17: {Reason: policy.ReasonPublicAccessDisabled, Direction: policy.Inbound},
	18: {Reason: policy.ReasonSecuredByPerimeter, Direction: policy.Outbound},
}

func testLegend() *compile.Legend {
	return &compile.Legend{
		Generation: testGeneration,
		Members: []compile.MemberLegend{
			ordersDB: {Resource: "orders-db", Subscription: "prod", Perimeter: "payments", Location: "fra1", Profile: "data", AccessMode: policy.Enforced, AccessRulesVersion: "5"},
			legacy:   {Resource: "legacy", AccessMode: policy.Unassociated},
			auditBox: {Resource: "audit-box", Perimeter: "payments", Profile: "data", AccessMode: policy.Audit, AccessRulesVersion: "5"},
		},
		Outcomes: testOutcomes,
	}
}

func testBuilder() *builder {
	legend := testLegend()
	return newBuilder(func(generation uint32) *compile.Legend {
		if generation == testGeneration {
			return legend
		}
		return nil
	}, func(ifindex uint32) string {
		if ifindex == 2 {
			return "eth0"
		}
		return ""
	})
}

var testTime = time.Date(2026, 11, 20, 9, 15, 2, 114_236_000, time.UTC)

// decision returns the event of a first packet, as an outcome of testLegend
// has it.
func decision(kind datapath.EventKind, member, outcome uint32) datapath.Event {
	o := testOutcomes[outcome]
	e := datapath.Event{
		Kind: kind, Time: testTime, LastTime: testTime, Count: 1,
		Generation: testGeneration, Member: member, Outcome: outcome, Ifindex: 2,
		Direction: o.Direction, Reason: o.Reason, Category: policy.CategoryOf(o.Reason, o.Direction),
		WouldBe: o.WouldBe, Protocol: policy.ProtocolTCP,
		Local: netip.MustParseAddr("10.20.0.5"), LocalPort: 5432,
		Peer: netip.MustParseAddr("198.51.100.7"), PeerPort: 51544,
	}
	if o.Direction == policy.Outbound {
		e.LocalPort, e.PeerPort = 40112, 443
	}
	if kind == datapath.Denied || kind == datapath.FlowCut {
		e.Verdict, e.WouldBe = policy.Deny, policy.Deny
	}
	return e
}

// testEvents has each kind, each category, and what is unusual about events.
func testEvents() []struct {
	name  string
	event datapath.Event
} {
	var out []struct {
		name  string
		event datapath.Event
	}
	add := func(name string, e datapath.Event, changes ...func(*datapath.Event)) {
		for _, change := range changes {
			change(&e)
		}
		out = append(out, struct {
			name  string
			event datapath.Event
		}{name, e})
	}
	carried := func(e *datapath.Event) {
		e.Started = e.Time.Add(-12*time.Second - 345*time.Millisecond)
		e.PacketsTowards, e.BytesTowards, e.PacketsFrom, e.BytesFrom = 12, 5321, 9, 1<<20
	}
	midstream := func(e *datapath.Event) { e.Midstream = true }
	repeated := func(e *datapath.Event) { e.Count = 37; e.LastTime = e.Time.Add(297 * time.Second) }
	ipv6 := func(e *datapath.Event) {
		e.Local, e.Peer = netip.MustParseAddr("fd20::5"), netip.MustParseAddr("2001:db8:1:2:3:4:5:6")
	}
	protocol := func(number uint8) func(*datapath.Event) {
		return func(e *datapath.Event) { e.Protocol, e.LocalPort, e.PeerPort = number, 0, 0 }
	}
	oldGeneration := func(e *datapath.Event) { e.Generation = 3 }

	const start, end, cut, denied = datapath.FlowStart, datapath.FlowEnd, datapath.FlowCut, datapath.Denied
	add("inbound by an access rule", decision(start, ordersDB, 1))
	add("its end", decision(end, ordersDB, 1), carried)
	add("its end, met without its beginning", decision(end, ordersDB, 1), carried, midstream)
	add("its end, when a policy cut it", decision(cut, ordersDB, 2), carried)
	add("inbound without a rule, once", decision(denied, ordersDB, 2))
	add("inbound without a rule, often", decision(denied, ordersDB, 2), repeated)
	add("outbound by an access rule", decision(start, ordersDB, 3), ipv6)
	add("outbound without a rule", decision(denied, ordersDB, 4), ipv6)
	add("inbound, own rules allow", decision(start, legacy, 5))
	add("inbound, own rules deny", decision(denied, legacy, 6))
	add("outbound, own rules allow", decision(start, legacy, 7), protocol(policy.ProtocolICMP))
	add("outbound, own rules deny", decision(denied, legacy, 8), protocol(policy.ProtocolGRE))
	add("inbound, disabled", decision(denied, legacy, 17))
	add("outbound, secured by perimeter", decision(denied, legacy, 18))
	add("inbound from the same perimeter", decision(start, ordersDB, 9))
	add("outbound to the same perimeter", decision(start, ordersDB, 10))
	add("inbound over a link", decision(start, ordersDB, 11))
	add("outbound over a link", decision(start, ordersDB, 12))
	add("inbound over a private path", decision(start, ordersDB, 13), func(e *datapath.Event) { e.Ifindex = 9 })
	add("outbound over a private path", decision(start, ordersDB, 14), protocol(250))
	add("failsafe", decision(start, ordersDB, 15), func(e *datapath.Event) { e.LocalPort = 22 })
	add("audit", decision(start, auditBox, 16))
	add("audit, could not be judged", decision(denied, auditBox, 16), func(e *datapath.Event) {
		e.Outcome, e.Verdict, e.Reason, e.LocalPort, e.PeerPort = 0, policy.Allow, "truncated-l4", 0, 0
	})
	add("could not be judged, member not known", datapath.Event{
		Kind: denied, Time: testTime, LastTime: testTime, Count: 1, Generation: testGeneration, Ifindex: 2,
		Verdict: policy.Deny, WouldBe: policy.Deny, Reason: "truncated-ip",
		Category: policy.PublicInboundPerimeterRulesDenied,
	})
	crowd := func(e *datapath.Event) { e.Crowd, e.Peer = true, netip.Addr{} }
	add("inbound without a rule, from peers that were not told apart", decision(denied, ordersDB, 2), repeated, crowd,
		func(e *datapath.Event) { e.PeerPort = 0 })
	add("outbound without a rule, to peers that were not told apart", decision(denied, ordersDB, 4), repeated, crowd,
		func(e *datapath.Event) { e.LocalPort = 0 })
	add("no category", decision(denied, ordersDB, 2), func(e *datapath.Event) { e.Category = "" })
	add("legend not known", decision(start, ordersDB, 1), oldGeneration)
	add("legend not known, denied", decision(denied, ordersDB, 4), oldGeneration)
	add("legend not known, addresses neither", decision(denied, ordersDB, 2), oldGeneration, func(e *datapath.Event) {
		e.Local, e.Peer, e.Protocol, e.LocalPort, e.PeerPort = netip.Addr{}, netip.Addr{}, 0, 0, 0
	})
	add("numbers beyond the legend", decision(start, ordersDB, 1), func(e *datapath.Event) { e.Member, e.Outcome = 99, 1<<31 })
	return out
}

// TestGolden compares what every kind of event becomes, in every format, with
// testdata/records.golden. Run it with -update after a change that is meant,
// and read the difference.
func TestGolden(t *testing.T) {
	b := testBuilder()
	var out bytes.Buffer
	var r Record
	categories := make(map[policy.Category]bool)
	kinds := make(map[datapath.EventKind]bool)
	for _, c := range testEvents() {
		categories[c.event.Category] = true
		kinds[c.event.Kind] = true
		b.fill(&r, &c.event)
		nested, flat := r.AppendJSON(nil), r.AppendFlat(nil)
		for _, line := range [][]byte{nested, flat} {
			if !json.Valid(line) {
				t.Errorf("%s: not JSON: %s", c.name, line)
			}
		}
		fmt.Fprintf(&out, "# %s\n%s\n%s\n%s\n\n", c.name, r.AppendLine(nil, LineStyle{}), nested, flat)
	}
	// 13 live categories of NSP, and none.
	if len(categories) != 14 || len(kinds) != 4 {
		t.Errorf("the events have %d categories and %d kinds, want 14 and 4", len(categories), len(kinds))
	}

	const path = "testdata/records.golden"
	if *update {
		if err := os.WriteFile(path, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), out.String()); diff != "" {
		t.Errorf("differs from %s (-want +got):\n%s", path, diff)
	}
}
