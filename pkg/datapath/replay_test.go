package datapath

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/perimeterd/perimeterd/pkg/compile"
	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/pkg/reference"
	"github.com/perimeterd/perimeterd/tests/packet"
	"github.com/perimeterd/perimeterd/tests/privileged"
	"github.com/perimeterd/perimeterd/tests/randompolicy"
)

var replayPoliciesFlag = flag.Int("replay-policies", 30, "number of random policies for replayed captures")

// yesterday is when the captures of these tests begin.
var yesterday = time.Date(2026, 1, 2, 12, 0, 0, 123456789, time.UTC)

// tape is a capture that is being replayed.
type tape struct {
	*Replay
	legend *compile.Legend
}

func newTape(tb testing.TB, options ReplayOptions) *tape {
	tb.Helper()
	privileged.Require(tb)
	options.Start = yesterday
	r, err := OpenReplay(options)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := r.Close(); err != nil {
			tb.Errorf("close: %v", err)
		}
	})
	return &tape{Replay: r}
}

// enforce puts a policy in force.
func (c *tape) enforce(tb testing.TB, p *policy.Policy, facts *policy.Facts) {
	tb.Helper()
	tables, legend, err := compile.Compile(p, facts)
	if err == nil {
		err = c.Apply(tables, legend)
	}
	if err != nil {
		tb.Fatal(err)
	}
	c.legend = legend
}

// see replays a frame, captured in whole.
func (c *tape) see(tb testing.TB, frame []byte, after time.Duration) Step {
	tb.Helper()
	step, err := c.Frame(ReplayFrame{Data: frame, Length: len(frame), Time: yesterday.Add(after)})
	if err != nil {
		tb.Fatal(err)
	}
	return step
}

// told is what a step says, in words.
func (c *tape) told(s Step) string {
	word := "pass"
	switch {
	case s.Verdict == policy.Deny:
		word = "deny"
	case s.Governed:
		word = "allow"
	}
	out := word + " " + string(s.Reason)
	if s.Member != 0 {
		out += fmt.Sprintf(" %s of %s", strings.ToLower(s.Direction.String()), c.legend.Members[s.Member].Resource)
	}
	return out
}

// workloads are facts by which every member lives here.
func workloads() *policy.Facts {
	return &policy.Facts{Now: yesterday, Hostname: "host", Interfaces: []policy.Interface{{Workload: true}}}
}

// TestReplayAgreesWithReference: what the reference says of both ends of each
// frame, over random policies, private endpoints by interface included.
func TestReplayAgreesWithReference(t *testing.T) {
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("seed %d: run again with -seed=%d", seed, seed)
	words := map[string]int{}
	c := newTape(t, ReplayOptions{})
	for i := range *replayPoliciesFlag {
		source := rand.New(rand.NewPCG(seed, uint64(i)))
		p, facts := randompolicy.Policy(source, randompolicy.Typical())
		facts.Names = nil // nobody learns names in a replay
		facts.Interfaces = append(facts.Interfaces, policy.Interface{Workload: true})
		// By then all is over that the policy before allowed.
		begins := yesterday.Add(time.Duration(i) * 21 * 24 * time.Hour)
		c.see(t, nil, begins.Sub(yesterday))
		c.enforceShifted(t, p, &facts, begins.Sub(facts.Now))
		session := reference.NewSession(reference.New(p, facts))
		var earlier []reference.Packet
		for j := range 300 {
			pkt := randompolicy.Packet(source, p, facts)
			if len(earlier) > 0 && source.IntN(4) == 0 {
				pkt = answerTo(source, earlier[source.IntN(len(earlier))])
			}
			earlier = append(earlier, pkt)
			f := ReplayFrame{Data: frameOf(pkt).Frame(), Time: begins.Add(time.Duration(j) * time.Millisecond), Interface: pkt.Interface}
			f.Length = len(f.Data)
			step, err := c.Frame(f)
			if err != nil {
				t.Fatal(err)
			}
			want := replayedByReference(session, f)
			got := c.ends(step)
			if isForAll(pkt.Local, facts) || isForAll(pkt.Peer, facts) {
				want.anyName(&got)
			}
			if diff := cmp.Diff(want, got, cmp.AllowUnexported(replayedEnds{})); diff != "" {
				t.Fatalf("seed %d policy %d packet %d %+v: %s (-reference +replay):\n%s", seed, i, j, pkt, packet.Describe(f.Data), diff)
			}
			words[c.told(step)[:4]]++
			if step.Other != nil {
				words["both"]++
			}
			if step.Reason == reference.ReasonEstablished {
				words["flow"]++
			}
		}
	}
	t.Logf("%v", words)
	for _, word := range []string{"pass", "deny", "allo", "both", "flow"} {
		if words[word] < 10 {
			t.Errorf("%q only %d times: too one-sided to tell anything", word, words[word])
		}
	}
}

// enforceShifted moves the ends of rules from the facts' clock to the capture's.
func (c *tape) enforceShifted(t *testing.T, p *policy.Policy, facts *policy.Facts, shift time.Duration) {
	t.Helper()
	tables, legend, err := compile.Compile(p, facts)
	if err != nil {
		t.Fatal(err)
	}
	for i := range tables.Outcomes {
		if o := &tables.Outcomes[i]; !o.Expires.IsZero() {
			o.Expires = o.Expires.Add(shift)
		}
	}
	if err := c.Apply(tables, legend); err != nil {
		t.Fatal(err)
	}
	c.legend = legend
}

// replayedEnds is a step in the words of the reference.
type replayedEnds struct {
	decided, other reference.Decision
	towards        bool
	governed       bool
}

// replayedByReference is what the reference says of a frame.
func replayedByReference(session *reference.Session, f ReplayFrame) replayedEnds {
	judged := func(d reference.Decision) bool {
		return d.Verdict == policy.Deny || d.Governed || d.Reason == reference.ReasonFragmentFollows
	}
	from := asKept(session.Decide(f.Data, false, f.Interface))
	if from.Verdict == policy.Deny {
		return replayedEnds{decided: from, governed: true}
	}
	towards := asKept(session.Decide(f.Data, true, f.Interface))
	switch {
	case judged(towards) && judged(from):
		return replayedEnds{decided: towards, other: from, towards: true, governed: true}
	case judged(from):
		return replayedEnds{decided: from, governed: true}
	}
	return replayedEnds{decided: towards, towards: true, governed: judged(towards)}
}

// asKept leaves out what the data path does not keep of a flow.
func asKept(d reference.Decision) reference.Decision {
	if d.Reason == reference.ReasonEstablished || d.Reason == reference.ReasonRelated {
		d.WouldBe = policy.Allow
	}
	return d
}

// ends are those of a step.
func (c *tape) ends(s Step) replayedEnds {
	out := replayedEnds{decided: named(s.Answer, c.legend), towards: s.Towards, governed: s.Governed}
	if s.Other != nil {
		out.other = named(*s.Other, c.legend)
	}
	return out
}

// anyName takes over the names of what was sent to all that live here and passes
// to each over a private path, now or with its flow: it does not matter whose name
// is told.
func (want replayedEnds) anyName(got *replayedEnds) {
	for _, d := range []struct{ want, got *reference.Decision }{{&want.decided, &got.decided}, {&want.other, &got.other}} {
		switch d.want.Reason {
		case policy.ReasonPrivatePath, reference.ReasonEstablished, reference.ReasonRelated:
			d.got.Resource, d.got.Perimeter = d.want.Resource, d.want.Perimeter
			d.got.Profile, d.got.AccessMode = d.want.Profile, d.want.AccessMode
		}
	}
}

// TestReplayJudgesAnyFrame: fragments, tags, lengths that lie, and frames that end
// anywhere get the reference's verdicts and reasons.
func TestReplayJudgesAnyFrame(t *testing.T) {
	p, facts := everything(t)
	facts.Interfaces = append(facts.Interfaces, policy.Interface{Workload: true})
	all := conversations()
	for _, row := range parserRows() {
		whole := row.packet.Frame()
		for n := range min(len(whole), 100) {
			all = append(all, []crossing{{frame: whole[:n]}})
		}
		all = append(all, []crossing{{frame: whole}})
	}
	const short = time.Second
	c := newTape(t, ReplayOptions{Timeouts: Timeouts{
		TCPOpening: short, TCPEstablished: short, TCPClosing: short, TCPClosed: short,
		UDPOpening: short, UDPEstablished: short, ICMP: short, OtherOpening: short, OtherEstablished: short, Fragment: short,
	}})
	c.enforce(t, p, facts)
	evaluator := reference.New(p, *facts)
	for i, conversation := range all {
		session := reference.NewSession(evaluator)
		for _, crossing := range conversation {
			// Each conversation begins when all before it is over.
			got := c.see(t, crossing.frame, time.Duration(i)*2*short)
			want := replayedByReference(session, ReplayFrame{Data: crossing.frame})
			if got.Verdict != want.decided.Verdict || got.Reason != want.decided.Reason || got.Category != want.decided.Category {
				t.Errorf("%s %x:\n replayed %s %s\n reference %+v", packet.Describe(crossing.frame), crossing.frame, c.told(got), got.Category, want.decided)
			}
		}
	}
}

// TestReplayRunsOnTheCapturesClock: timeouts and ends of rules are those of the
// capture's time, however long it took to replay it.
func TestReplayRunsOnTheCapturesClock(t *testing.T) {
	const day = 24 * time.Hour
	asked := packet.UDP(partner4, member4, 4000, 5432)
	answered := packet.UDP(member4, partner4, 5432, 4000)
	fragments := asked.Payload(strings.Repeat("x", 64)).Split(7, 16)
	type seen struct {
		after  time.Duration
		packet packet.Packet
		want   string
	}
	for _, test := range []struct {
		name  string
		steps []seen
	}{
		{"an answer in time", []seen{
			{0, asked, "allow access-rule inbound of orders-db"},
			{59 * time.Second, answered, "allow established inbound of orders-db"},
			{239 * time.Second, answered, "allow established inbound of orders-db"},
		}},
		{"an answer too late", []seen{
			{0, asked, "allow access-rule inbound of orders-db"},
			{61 * time.Second, answered, "deny no-access-rule outbound of orders-db"},
		}},
		{"idle for too long", []seen{
			{0, asked, "allow access-rule inbound of orders-db"},
			{time.Second, answered, "allow established inbound of orders-db"},
			{182 * time.Second, answered, "deny no-access-rule outbound of orders-db"},
			{183 * time.Second, asked, "allow access-rule inbound of orders-db"},
		}},
		{"after years", []seen{
			{0, asked, "allow access-rule inbound of orders-db"},
			{3000 * day, answered, "deny no-access-rule outbound of orders-db"},
			{3000*day + time.Second, asked, "allow access-rule inbound of orders-db"},
			{3000*day + 2*time.Second, answered, "allow established inbound of orders-db"},
		}},
		{"as long as the kernel's stamps go around", []seen{ // 2^32 ticks of 10 ms
			{0, asked, "allow access-rule inbound of orders-db"},
			{(1 << 32) * 10 * time.Millisecond, answered, "deny no-access-rule outbound of orders-db"},
		}},
		{"a rule's end", []seen{
			{9 * time.Minute, packet.TCP(stranger4, member4, 4000, 80, packet.SYN), "allow access-rule inbound of orders-db"},
			{9*time.Minute + 59*time.Second, packet.TCP(member4, stranger4, 80, 4000, packet.SYN|packet.ACK), "allow established inbound of orders-db"},
			{10 * time.Minute, packet.TCP(stranger4, member4, 4000, 80, packet.ACK), "deny no-access-rule inbound of orders-db"},
			{11 * time.Minute, packet.TCP(stranger4, member4, 4001, 80, packet.SYN), "deny no-access-rule inbound of orders-db"},
		}},
		{"back in time", []seen{
			{time.Hour, asked, "allow access-rule inbound of orders-db"},
			{0, answered, "allow established inbound of orders-db"},
			{-10 * time.Minute, packet.TCP(stranger4, member4, 4000, 80, packet.SYN), "deny no-access-rule inbound of orders-db"},
			{time.Hour + 182*time.Second, answered, "deny no-access-rule outbound of orders-db"},
		}},
		{"a fragment in time", []seen{
			{0, fragments[0], "allow access-rule inbound of orders-db"},
			{29 * time.Second, fragments[1], "allow fragment-follows inbound of orders-db"},
		}},
		{"a fragment too late", []seen{
			{0, fragments[0], "allow access-rule inbound of orders-db"},
			{31 * time.Second, fragments[1], "deny fragment-unknown inbound of orders-db"},
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := newTape(t, ReplayOptions{})
			c.enforce(t, memberPolicy(policy.Enforced, partnersOn5432(), policy.AccessRule{
				Name: "ending", Direction: policy.Inbound, AddressPrefixes: prefixes(stranger4 + "/32"), Expires: yesterday.Add(10 * time.Minute),
			}), workloads())
			for _, s := range test.steps {
				if got := c.told(c.see(t, s.packet.Frame(), s.after)); got != s.want {
					t.Errorf("after %v, %v: %s, want %s", s.after, s.packet, got, s.want)
				}
			}
		})
	}
}

// TestReplayOverMonths: a flow that ended while others went on does not come back
// when the kernel's stamps are half way around, which is after 248 days.
func TestReplayOverMonths(t *testing.T) {
	c := newTape(t, ReplayOptions{})
	c.enforce(t, memberPolicy(policy.Enforced, partnersOn5432()), workloads())
	c.see(t, packet.UDP(partner4, member4, 4000, 5432).Frame(), 0)
	const months = 250 * 24 * time.Hour
	for after := time.Duration(0); after < months; after += 24 * time.Hour {
		c.see(t, packet.UDP(partner4, member4, 4001, 5432).Frame(), after)
	}
	if got := c.told(c.see(t, packet.UDP(member4, partner4, 5432, 4000).Frame(), months)); got != "deny no-access-rule outbound of orders-db" {
		t.Errorf("an answer after 250 days: %s", got)
	}
}

// TestReplayMakesRoom: what is idle by the capture's clock leaves its place in
// the table before others need it.
func TestReplayMakesRoom(t *testing.T) {
	const room = 64
	c := newTape(t, ReplayOptions{Limits: Limits{EstablishedFlows4: room, EstablishedFlows6: room}})
	c.enforce(t, memberPolicy(policy.Enforced, partnersOn5432()), workloads())
	var after time.Duration
	for port := uint16(1000); port < 1000+10*room; port++ {
		after += 20 * time.Second // so nine are alive at once
		for range oneWayPackets {
			c.see(t, packet.UDP(partner4, member4, port, 5432).Frame(), after)
			c.see(t, packet.UDP(member4, partner4, 5432, port).Frame(), after)
		}
		var settled bool
		err := eachFlow(c.d.objects.Established4, tuple4, func(tuple flowTuple, _ *perimeterFlow) error {
			settled = settled || tuple.peerPort == port
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if !settled {
			t.Fatalf("the flow from port %d found no place among %d", port, room)
		}
	}
}

// oneWayPackets is ONE_WAY_PACKETS of bpf/settings.h: as many settle a flow.
const oneWayPackets = 4

// TestReplayOfWhatWasNotCaptured: a frame is judged by its length on the wire, as
// far as its headers were captured.
func TestReplayOfWhatWasNotCaptured(t *testing.T) {
	tcp := func(size int) packet.Packet {
		return packet.TCP(partner4, member4, 4000, 5432, packet.SYN).Payload(strings.Repeat("x", size))
	}
	six := packet.TCP(partner6, member6, 4000, 5432, packet.SYN).Payload(strings.Repeat("x", 1000))
	whole := tcp(1000).Frame()
	const allowed = "allow access-rule inbound of orders-db"
	c := newTape(t, ReplayOptions{})
	c.enforce(t, memberPolicy(policy.Enforced, partnersOn5432()), workloads())
	for i, test := range []struct {
		name     string
		frame    []byte
		captured int
		length   int
		want     string
	}{
		{"all", whole, len(whole), len(whole), allowed},
		{"the headers", whole, 54, len(whole), allowed},
		{"the headers, and less than that on the wire", whole, 54, 54, "deny malformed-ip inbound of orders-db"},
		{"half of the TCP header", whole, 44, len(whole), "deny truncated-l4 inbound of orders-db"},
		{"the IP header", whole, 34, len(whole), "deny truncated-l4 inbound of orders-db"},
		{"half of the IP header", whole, 24, len(whole), "deny truncated-ip"},
		{"the Ethernet header", whole, 14, len(whole), "deny truncated-ip"},
		{"half of the Ethernet header", whole, 13, len(whole), "deny truncated-link"},
		{"nothing", whole, 0, len(whole), "deny truncated-link"},
		{"no Ethernet header, on the wire neither", whole, 13, 13, "deny truncated-link"},
		{"IPv6, the headers", six.Frame(), 74, len(six.Frame()), allowed},
		{"IPv6, the IP header", six.Frame(), 54, len(six.Frame()), "deny truncated-l4 inbound of orders-db"},
		{"IPv6, half of its header", six.Frame(), 40, len(six.Frame()), "deny truncated-ip"},
		{"half of a tag", tcp(0).Tagged(5).Frame(), 16, 58, "deny truncated-link"},
		{"a tag", tcp(0).Tagged(5).Frame(), 18, 58, "deny truncated-ip"},
		{"a jumbo frame", tcp(9000).Frame(), 9054, 9054, allowed},
		{"what segmentation offload leaves whole", tcp(65000).Frame(), 65054, 65054, allowed},
		{"that, snapped", tcp(65000).Frame(), 96, 65054, allowed},
		{"more than 16 bits can say", tcp(65000).With(packet.TotalLength, 0).Frame(), 2048, 180000, allowed},
		{"no length, of a frame that is no such", tcp(1000).With(packet.TotalLength, 0).Frame(), 1054, 1054, "deny malformed-ip inbound of orders-db"},
		{"not IP", packet.ARP(partner4, member4).Frame(), 42, 42, "pass not-ip"},
		{"not IP, the Ethernet header", packet.ARP(partner4, member4).Frame(), 14, 42, "pass not-ip"},
	} {
		t.Run(test.name, func(t *testing.T) {
			// When the flow of the row before is over.
			at := yesterday.Add(time.Duration(i) * time.Hour)
			step, err := c.Frame(ReplayFrame{Data: test.frame[:test.captured], Length: test.length, Time: at})
			if err != nil {
				t.Fatal(err)
			}
			if got := c.told(step); got != test.want {
				t.Errorf("%s, want %s", got, test.want)
			}
		})
	}
}

// TestReplayOfBothEnds: two members that talk to each other, each by its own
// profile.
func TestReplayOfBothEnds(t *testing.T) {
	p := &policy.Policy{
		Resources: []policy.Resource{
			{Name: "db", Addresses: prefixes("10.20.0.5")}, {Name: "api", Addresses: prefixes("10.20.0.6")},
			{Name: "report", Addresses: prefixes("10.20.0.7")}, {Name: "watched", Addresses: prefixes("10.20.0.8")},
		},
		Perimeters: []policy.Perimeter{
			{
				Name:     "payments",
				Profiles: []policy.Profile{{Name: "data"}},
				Associations: []policy.Association{
					{Name: "db", Resource: "db", Profile: "data", AccessMode: policy.Enforced},
					{Name: "api", Resource: "api", Profile: "data", AccessMode: policy.Enforced},
				},
			},
			{
				Name:     "analytics",
				Profiles: []policy.Profile{{Name: "out", AccessRules: []policy.AccessRule{{Name: "payments", Direction: policy.Outbound, AddressPrefixes: prefixes("10.20.0.0/28")}}}},
				Associations: []policy.Association{
					{Name: "report", Resource: "report", Profile: "out", AccessMode: policy.Enforced},
					{Name: "watched", Resource: "watched", Profile: "out", AccessMode: policy.Audit},
				},
			},
		},
	}
	c := newTape(t, ReplayOptions{})
	c.enforce(t, p, workloads())
	for _, test := range []struct {
		from, to string
		want     string
		towards  bool
		other    string
	}{
		{"10.20.0.6", "10.20.0.5", "allow same-perimeter inbound of db", true, "allow same-perimeter outbound of api"},
		{"10.20.0.7", "10.20.0.5", "deny no-access-rule inbound of db", true, "allow access-rule outbound of report"},
		{"10.20.0.5", "10.20.0.7", "deny no-access-rule outbound of db", false, ""},
		{"10.20.0.7", "10.20.0.9", "allow access-rule outbound of report", false, ""},
		{"192.0.2.1", "10.20.0.8", "allow no-access-rule inbound of watched", true, ""},
		{"192.0.2.1", "10.20.0.5", "deny no-access-rule inbound of db", true, ""},
		{"192.0.2.1", "192.0.2.2", "pass ungoverned", true, ""},
	} {
		step := c.see(t, packet.TCP(test.from, test.to, 4000, 443, packet.SYN).Frame(), 0)
		other := ""
		if step.Other != nil {
			other = c.told(Step{Answer: *step.Other, Governed: true})
		}
		if got := c.told(step); got != test.want || step.Towards != test.towards || other != test.other {
			t.Errorf("%s to %s: %s, towards %v, other %q; want %s, %v, %q", test.from, test.to, got, step.Towards, other, test.want, test.towards, test.other)
		}
	}
}

// TestReplayOfAPolicyChange: flows of the policy before are judged again.
func TestReplayOfAPolicyChange(t *testing.T) {
	c := newTape(t, ReplayOptions{})
	c.enforce(t, memberPolicy(policy.Enforced, partnersOn5432()), workloads())
	opens, goesOn := packet.TCP(partner4, member4, 4000, 5432, packet.SYN), packet.TCP(partner4, member4, 4000, 5432, packet.ACK)
	for i, want := range []string{"allow access-rule inbound of orders-db", "deny no-access-rule inbound of orders-db"} {
		if got := c.told(c.see(t, []packet.Packet{opens, goesOn}[i].Frame(), time.Duration(i)*time.Second)); got != want {
			t.Errorf("under generation %d: %s, want %s", i+1, got, want)
		}
		c.enforce(t, memberPolicy(policy.Enforced), workloads())
	}
}

// TestReplayLeavesNothingBehind: no program or map that it loaded is there when
// it is closed. They are told by their numbers, which the kernel gives once.
func TestReplayLeavesNothingBehind(t *testing.T) {
	privileged.Require(t)
	programs, maps := func() (map[ebpf.ProgramID]bool, map[ebpf.MapID]bool) {
		r, err := OpenReplay(ReplayOptions{Start: yesterday})
		if err != nil {
			t.Fatal(err)
		}
		c := &tape{Replay: r}
		c.enforce(t, memberPolicy(policy.Enforced, partnersOn5432()), workloads())
		c.enforce(t, memberPolicy(policy.Audit), workloads())
		c.see(t, packet.TCP(partner4, member4, 4000, 5432, packet.SYN).Frame(), 0)
		programs, maps := map[ebpf.ProgramID]bool{}, map[ebpf.MapID]bool{}
		for _, program := range []*ebpf.Program{r.programs.ReplayFrom, r.programs.ReplayTowards} {
			info, err := program.Info()
			if err != nil {
				t.Fatal(err)
			}
			id, _ := info.ID()
			programs[id] = true
			used, _ := info.MapIDs()
			for _, id := range used {
				maps[id] = true
			}
		}
		for _, m := range r.d.inForce.maps {
			info, err := m.Info()
			if err != nil {
				t.Fatal(err)
			}
			id, _ := info.ID()
			maps[id] = true
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		return programs, maps
	}()
	if len(programs) != 2 || len(maps) < 30 {
		t.Fatalf("%d programs and %d maps are too few to tell anything", len(programs), len(maps))
	}
	// Whoever has looked at a table of programs, as here, has it emptied by a worker that
	// holds it for so long: looking often would keep it. eventually looks ever more rarely.
	eventually(t, func() error {
		runtime.GC() // the memory of variables is unmapped then, which keeps their maps
		var left []string
		for id := range programs {
			if p, err := ebpf.NewProgramFromID(id); !errors.Is(err, unix.ENOENT) {
				left = append(left, fmt.Sprintf("program %v (%v)", p, err))
				_ = p.Close() // only looked at
			}
		}
		for id := range maps {
			if m, err := ebpf.NewMapFromID(id); !errors.Is(err, unix.ENOENT) {
				left = append(left, fmt.Sprintf("map %v (%v)", m, err))
				_ = m.Close() // only looked at
			}
		}
		if left != nil {
			return fmt.Errorf("still there: %s", strings.Join(left, ", "))
		}
		return nil
	})
}

// TestReplayNeedsRights: without them it says which.
func TestReplayNeedsRights(t *testing.T) {
	privileged.Require(t)
	failed := make(chan error)
	go func() {
		// Only this thread loses its rights, and it ends with the goroutine.
		runtime.LockOSThread()
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&header, &none[0]); err != nil {
			failed <- err
			return
		}
		r, err := OpenReplay(ReplayOptions{Start: yesterday})
		if err == nil {
			err = errors.Join(errors.New("it opened"), r.Close())
		}
		failed <- err
	}()
	if err := <-failed; !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "this needs root") {
		t.Errorf("without capabilities: %v", err)
	}
}

func BenchmarkReplay(b *testing.B) {
	c := newTape(b, ReplayOptions{})
	c.enforce(b, memberPolicy(policy.Enforced, partnersOn5432()), workloads())
	frames := [][]byte{
		packet.TCP(partner4, member4, 4000, 5432, packet.SYN).Frame(),
		packet.TCP(member4, partner4, 5432, 4000, packet.SYN|packet.ACK).Frame(),
		packet.TCP(partner4, member4, 4000, 5432, packet.ACK).Frame(),
		packet.TCP(stranger4, member4, 4000, 5432, packet.SYN).Frame(),
	}
	i := 0
	for b.Loop() {
		c.see(b, frames[i%len(frames)], time.Duration(i)*time.Millisecond)
		i++
	}
	b.ReportMetric(float64(i)/b.Elapsed().Seconds(), "frames/s")
}
