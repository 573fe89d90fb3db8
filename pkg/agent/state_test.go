package agent

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/perimeterd/perimeterd/pkg/api"
	"github.com/perimeterd/perimeterd/pkg/compile"
	"github.com/perimeterd/perimeterd/pkg/datapath"
	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/tests/packet"
)

func TestDefaultPolicyIsGoodAndDropsNothing(t *testing.T) {
	t.Parallel()
	p, err := defaultPolicy()
	if err != nil {
		t.Fatal(err)
	}
	if mode := p.Perimeters[0].Associations[0].AccessMode; mode != policy.Audit {
		t.Errorf("mode %s", mode)
	}
}

// What is kept is all of the policy, service tags included.
func TestLastGoodPolicyIsWhole(t *testing.T) {
	t.Parallel()
	p, err := policy.Load("../../deploy/policy-reference.yaml")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "last-good.json")
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	if err := saveLastGood(file, "/policy", p, now); err != nil {
		t.Fatal(err)
	}
	kept, err := loadLastGood(file, "/policy")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(p, kept.Policy, cmpopts.EquateComparable(netip.Prefix{}), cmpopts.EquateEmpty()); diff != "" || !kept.Saved.Equal(now) {
		t.Errorf("what was kept differs (-saved +loaded):\n%s", diff)
	}
	if other, err := loadLastGood(file, "/other"); other != nil || err != nil {
		t.Errorf("the policy of another path: %+v, %v", other, err)
	}
	if none, err := loadLastGood(file+"x", "/policy"); none != nil || err != nil {
		t.Errorf("nothing kept: %+v, %v", none, err)
	}
	for _, text := range []string{"{", `{"format": 99, "path": "/policy", "policy": {}}`} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if kept, err := loadLastGood(file, "/policy"); kept != nil || err == nil {
			t.Errorf("%s: %+v, %v", text, kept, err)
		}
	}
}

// Earlier versions kept a tag without prefixes as null.
func TestLastGoodPolicyWithAnEmptyTag(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "last-good.json")
	const text = `{"format": 1, "path": "/policy", "policy": {"ServiceTags": {"blocked": null}, "Resources": [
		{"Name": "db", "Addresses": ["192.0.2.1/32"], "Firewall": [{"Name": "r", "ServiceTags": ["blocked"]}]}]}}`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	kept, err := loadLastGood(file, "/policy")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := compile.Compile(kept.Policy, &policy.Facts{}); err != nil {
		t.Error(err)
	}
}

func TestAnEmptyDirectoryIsNoPolicy(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, path := range []string{dir, dir + "/missing"} {
		if _, err := loadPolicy(new(policy.Loader), path); !errors.Is(err, errNoPolicy) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if err := os.WriteFile(dir+"/nothing.yaml", []byte("resources: []\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := loadPolicy(new(policy.Loader), dir); err != nil {
		t.Errorf("a policy that governs nothing: %v", err)
	}
}

func TestLegendsLiveAsLongAsTheyAreNamed(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "legends")
	l, err := openLegends(dir)
	if err != nil {
		t.Fatal(err)
	}
	for generation := uint32(5); generation <= 7; generation++ {
		if err := l.keep(&compile.Legend{Generation: generation, Members: []compile.MemberLegend{{}, {Resource: "db"}}}); err != nil {
			t.Fatal(err)
		}
	}
	forget := func(named ...uint32) {
		t.Helper()
		err := l.forget(func(g uint32) bool {
			for _, n := range named {
				if n == g {
					return true
				}
			}
			return false
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	expect := func(want map[uint32]bool) {
		t.Helper()
		for generation, there := range want {
			legend := l.of(generation)
			_, err := os.Stat(l.path(generation))
			if (legend != nil) != there || (err == nil) != there {
				t.Errorf("generation %d: legend %v, file %v; want it there: %v", generation, legend, err, there)
			}
		}
	}
	// A number that did not come in force is given again.
	if err := l.keep(&compile.Legend{Generation: 7, Members: []compile.MemberLegend{{}, {Resource: "db"}, {}}}); err != nil {
		t.Fatal(err)
	}
	if n := len(l.of(7).Members); n != 3 {
		t.Errorf("the legend of the earlier attempt is given: %d members", n)
	}
	forget() // denials that were counted under them may not be told yet
	expect(map[uint32]bool{4: false, 5: true, 6: true, 7: true})
	l.drained()
	l.drained()
	forget(5)
	expect(map[uint32]bool{5: true, 6: false, 7: true})
	forget()
	expect(map[uint32]bool{5: false, 7: true}) // never the one in force

	// A new process finds them, and numbers go on.
	again, err := openLegends(dir)
	if err != nil {
		t.Fatal(err)
	}
	if again.last() != 7 || again.of(7).Members[1].Resource != "db" {
		t.Errorf("after a restart: last %d, %+v", again.last(), again.of(7))
	}
	if err := os.WriteFile(again.path(7), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	broken, err := openLegends(dir)
	if err != nil {
		t.Fatal(err)
	}
	if broken.of(7) != nil || broken.trouble() == nil || broken.last() != 7 {
		t.Error("a legend that cannot be read must be told, and its number not given again")
	}
}

func TestHits(t *testing.T) {
	t.Parallel()
	legend := &compile.Legend{
		Generation: 3,
		Members: []compile.MemberLegend{{}, {Resource: "db", Perimeter: "p", Profile: "data"}, {Resource: "web", Perimeter: "p", Profile: "data"},
			{Resource: "solo"}},
		Outcomes: []compile.OutcomeLegend{{},
			{Reason: policy.ReasonAccessRule, Rule: "partners"},
			{Reason: policy.ReasonFirewallRule, Rule: "partners"},
			{Reason: policy.ReasonNoAccessRule, Verdict: policy.Deny},
		},
	}
	h := newHits(func(generation uint32) *compile.Legend {
		if generation == 3 {
			return legend
		}
		return nil
	})
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	event := func(kind datapath.EventKind, generation, member, outcome uint32, count uint64) datapath.Event {
		return datapath.Event{Kind: kind, Generation: generation, Member: member, Outcome: outcome, Count: count, LastTime: at}
	}
	h.count([]datapath.Event{
		event(datapath.FlowStart, 3, 1, 1, 1),
		event(datapath.FlowStart, 3, 2, 1, 1), // another member of the profile
		event(datapath.FlowEnd, 3, 1, 1, 1),   // no decision
		event(datapath.FlowStart, 3, 3, 2, 1),
		event(datapath.Denied, 3, 1, 3, 9),
		event(datapath.FlowStart, 2, 1, 1, 1), // nobody knows that generation
		event(datapath.FlowStart, 3, 9, 9, 1), // not in the legend
	})
	for key, want := range map[ruleKey]uint64{
		{perimeter: "p", profile: "data", reason: policy.ReasonAccessRule, rule: "partners"}:  2,
		{resource: "solo", reason: policy.ReasonFirewallRule, rule: "partners"}:               1,
		{perimeter: "p", profile: "other", reason: policy.ReasonAccessRule, rule: "partners"}: 0,
	} {
		if got := h.get(key); got.count != want || (want > 0) != got.last.Equal(at) {
			t.Errorf("%+v: %+v, want %d", key, got, want)
		}
	}
}

// Every reason the programs know has a sentence, and no other has.
func TestEveryReasonHasWords(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile("../../bpf/vocabulary.h")
	if err != nil {
		t.Fatal(err)
	}
	known := map[policy.Reason]bool{}
	for _, name := range regexp.MustCompile(`(?m)^\tREASON_(\w+),`).FindAllStringSubmatch(string(source), -1) {
		if name[1] != "COUNT" {
			known[policy.Reason(strings.ReplaceAll(strings.ToLower(name[1]), "_", "-"))] = true
		}
	}
	if len(known) < 30 {
		t.Fatalf("only %d reasons found", len(known))
	}
	for reason := range known {
		if sentences()[reason] == "" {
			t.Errorf("reason %s has no sentence", reason)
		}
	}
	for reason := range sentences() {
		if !known[reason] {
			t.Errorf("there is a sentence for %s, which is no reason", reason)
		}
	}
}

func TestInWords(t *testing.T) {
	t.Parallel()
	got := inWords(&api.Answer{Reason: policy.ReasonNoAccessRule, Perimeter: "p", Profile: "data", AccessMode: "Audit", WouldBe: "deny"})
	if want := "no access rule of profile p/data allows it, and the mode is Audit, which drops nothing"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// The frames that ask are those that a test of the data path would send.
func TestOpeningFrame(t *testing.T) {
	t.Parallel()
	for _, addresses := range [][2]string{{"198.51.100.7", "10.20.0.5"}, {"2001:db8::7", "fd20::5"}} {
		from, to := addresses[0], addresses[1]
		for name, test := range map[string]struct {
			protocol uint8
			want     packet.Packet
		}{
			"tcp": {policy.ProtocolTCP, packet.TCP(from, to, openerPort, 5432, packet.SYN)},
			"udp": {policy.ProtocolUDP, packet.UDP(from, to, openerPort, 5432)},
		} {
			got := packet.Describe(openingFrame(netip.MustParseAddr(from), netip.MustParseAddr(to), test.protocol, 5432))
			if strings.Contains(got, "wrong") || strings.Contains(got, "bad") {
				t.Errorf("%s: %s", name, got)
			}
			if want := packet.Describe(test.want.Frame()); got != want {
				t.Errorf("%s: got %s, want %s", name, got, want)
			}
		}
		for _, protocol := range []uint8{policy.ProtocolICMP, policy.ProtocolSCTP, policy.ProtocolDCCP, policy.ProtocolUDPLite, policy.ProtocolESP} {
			if frame := openingFrame(netip.MustParseAddr(from), netip.MustParseAddr(to), protocol, 1); len(frame) < 14+20+8 {
				t.Errorf("protocol %d: %d bytes", protocol, len(frame))
			}
		}
	}
}

func TestNotifyService(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	if err := notifyService(path, "READY=1"); err != nil {
		t.Fatal(err)
	}
	message := make([]byte, 100)
	if n, err := socket.Read(message); err != nil || string(message[:n]) != "READY=1" {
		t.Errorf("got %q, %v", message[:n], err)
	}
	if err := notifyService("", "READY=1"); err != nil {
		t.Errorf("nobody asked: %v", err)
	}
	if err := notifyService(path+"x", "READY=1"); err == nil {
		t.Error("a socket that is not there is no error")
	}
}

func TestOneAgentForAStateDirectory(t *testing.T) {
	t.Parallel()
	s := DefaultSettings()
	s.StateDirectory = filepath.Join(t.TempDir(), "state")
	first, err := lockState(s)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lockState(s); !errors.Is(err, ErrLocked) {
		t.Errorf("a second agent: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := lockState(s)
	if err != nil {
		t.Fatalf("after the first has gone: %v", err)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestLossMemory(t *testing.T) {
	t.Parallel()
	at := func(minutes int) time.Time { return time.Unix(0, 0).Add(time.Duration(minutes) * time.Minute) }
	var m lossMemory
	for _, step := range []struct {
		minute int
		total  uint64
		want   bool
	}{{0, 7, false}, {1, 7, false}, {2, 8, true}, {11, 8, true}, {12, 8, false}, {13, 9, true}} {
		if got := m.note(step.total, at(step.minute)); got != step.want {
			t.Errorf("minute %d, %d lost: recent %v, want %v", step.minute, step.total, got, step.want)
		}
	}
}

func TestUnassociatedNotices(t *testing.T) {
	t.Parallel()
	p, err := policy.Parse("p.yaml", []byte(`resources:
  - {name: closed, addresses: [192.0.2.1], publicNetworkAccess: SecuredByPerimeter}
  - {name: member, addresses: [192.0.2.2], publicNetworkAccess: SecuredByPerimeter}
  - {name: open, addresses: [192.0.2.3]}
perimeters:
  - name: p
    profiles: [{name: d}]
    associations: [{name: a, resource: member, profile: d}]
`))
	if err != nil {
		t.Fatal(err)
	}
	got := UnassociatedNotices(p)
	if len(got) != 1 || !strings.Contains(got[0], "resource closed (p.yaml:2:5)") || !strings.Contains(got[0], "not a rollback") {
		t.Errorf("got %q", got)
	}
}
