package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/perimeterd/perimeterd/pkg/api"
	"github.com/perimeterd/perimeterd/pkg/compile"
	"github.com/perimeterd/perimeterd/pkg/datapath"
	"github.com/perimeterd/perimeterd/pkg/decisionlog"
	"github.com/perimeterd/perimeterd/pkg/policy"
)

// noon is when all tests happen.
var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// call runs the command and returns its exit code and what it wrote.
func call(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	code = run(env{ctx: t.Context(), stdout: &out, stderr: &err, now: func() time.Time { return noon }, location: time.UTC}, args)
	return code, out.String(), err.String()
}

func expect(t *testing.T, want int, wantOut string, args ...string) {
	t.Helper()
	code, out, err := call(t, args...)
	if code != want {
		t.Errorf("%q: exit code %d, want %d; stderr: %s", args, code, want, err)
	}
	if diff := cmp.Diff(strings.TrimSpace(wantOut), strings.TrimSpace(out)); diff != "" {
		t.Errorf("%q (-want +got):\n%s", args, diff)
	}
}

func TestHelpNamesEveryCommandWithAnExample(t *testing.T) {
	t.Parallel()
	code, overview, _ := call(t, "--help")
	if code != exitGood {
		t.Errorf("--help: exit code %d", code)
	}
	for _, c := range commands() {
		if !strings.Contains(overview, "\n  "+c.name+" ") {
			t.Errorf("the overview lacks %s", c.name)
		}
		for _, args := range [][]string{{c.name, "--help"}, {"help", c.name}} {
			code, help, err := call(t, args...)
			if code != exitGood || err != "" {
				t.Errorf("%q: exit code %d, %s", args, code, err)
			}
			if !strings.Contains(help, "Example") || !strings.Contains(help, "perimeterctl "+c.name) || !strings.Contains(help, "--output") {
				t.Errorf("%q lacks something:\n%s", args, help)
			}
		}
	}
}

func TestWrongUse(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		args []string
		want string
	}{
		{nil, "Usage:"},
		{[]string{"frob"}, `there is no command "frob"`},
		{[]string{"status", "--frob"}, "unknown flag: --frob"},
		{[]string{"status", "x"}, "status takes 0 arguments, not 1"},
		{[]string{"validate"}, "validate takes 1 arguments, not 0"},
		{[]string{"status", "-o", "xml"}, `--output cannot be "xml"`},
		{[]string{"explain", "--from", "192.0.2.1", "--to", "db"}, "--port is needed"},
		{[]string{"flows", "--peer", "10.0.0.1/8"}, "has host bits set"},
		{[]string{"flows", "--limit", "-1"}, "--limit cannot be negative"},
		{[]string{"validate", "/nowhere/at/all"}, "no such file"},
	} {
		code, out, err := call(t, test.args...)
		if code != exitUsage || !strings.Contains(err, test.want) || out != "" {
			t.Errorf("%q: exit code %d, stdout %q, stderr %q; want 2 and %q", test.args, code, out, err, test.want)
		}
	}
}

func TestNotRunning(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "api.sock")
	for _, args := range [][]string{
		{"status"}, {"rules"}, {"flows"}, {"names"}, {"watch"},
		{"explain", "--from", "192.0.2.1", "--to", "db", "--port", "icmp"},
	} {
		code, out, err := call(t, append(args, "--socket", socket)...)
		if code != exitNotRunning || !strings.Contains(err, "the agent is not running") || out != "" {
			t.Errorf("%q: exit code %d, stdout %q, stderr %q", args, code, out, err)
		}
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := write("good.yaml", "resources:\n  - {name: db, addresses: [192.0.2.1], publicNetworkAccess: SecuredByPerimeter}\n")
	bad := write("bad.yaml", "resources:\n  - {name: db, addresses: [192.0.2.1/24]}\n  - {name: db, adresses: [192.0.2.2]}\n")

	expect(t, exitGood, "notice: resource db ("+good+":2:5) is SecuredByPerimeter and in no perimeter, so all its traffic is denied both ways: "+
		"removing an association is not a rollback; associate it, or set publicNetworkAccess to Enabled\n"+
		good+" is good (resources: 1, perimeters: 0)", "validate", good)

	code, out, _ := call(t, "validate", bad)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if code != exitBad || len(lines) < 2 {
		t.Errorf("exit code %d, %q", code, lines)
	}
	for _, line := range lines {
		if !strings.HasPrefix(line, bad+":") || strings.Count(line, ": ") < 2 {
			t.Errorf("not FILE:LINE:COLUMN: what is wrong: what to write instead: %s", line)
		}
	}
	code, out, _ = call(t, "validate", bad, "-o", "json")
	var v validation
	if err := json.Unmarshal([]byte(out), &v); err != nil || code != exitBad || v.Valid || len(v.Problems) != len(lines) || v.Problems[0].Line == 0 {
		t.Errorf("exit code %d, %+v, %v", code, v, err)
	}
	code, out, _ = call(t, "validate", good, "-o", "json")
	if err := json.Unmarshal([]byte(out), &v); err != nil || code != exitGood || !v.Valid || v.Resources != 1 {
		t.Errorf("exit code %d, %+v, %v", code, v, err)
	}
	if code, _, _ := call(t, "validate", "../../deploy/policy-reference.yaml"); code != exitGood {
		t.Errorf("the reference policy: exit code %d", code)
	}
}

// fake is an agent that answers what a test wrote down.
type fake struct {
	status  *api.Status
	verdict string
	log     *decisionlog.Log
}

func (f *fake) Status(context.Context) (*api.Status, error) { return f.status, nil }

func (f *fake) Explain(_ context.Context, q api.Question) (*api.Explanation, error) {
	return &api.Explanation{
		From: netip.MustParseAddr("198.51.100.7"), To: netip.MustParseAddr("10.20.0.5"),
		Answers: []api.Answer{{
			Verdict: f.verdict, WouldBe: "deny", Reason: policy.ReasonAccessRule, Words: "access rule partners allows it",
			Category: policy.PublicInboundPerimeterRulesAllowed, Direction: "Inbound", Resource: q.To, Perimeter: "payments", Profile: "data",
			AccessMode: "Enforced", Rule: "partners", RuleAt: "a.yaml:8:13", Generation: 7, Elsewhere: true,
		}},
	}, nil
}

func (f *fake) Names(context.Context) (*api.Names, error) {
	return &api.Names{Generation: 7, Rules: []api.RuleNames{
		{Owner: "profile payments/data", Rule: "vault", Written: []string{"*.blob.example.net", "vault.example.com"}, Addresses: []api.LearntAddress{
			{Name: "a.blob.example.net", Address: netip.MustParseAddr("203.0.113.1"), By: "inline", Since: noon, Expires: noon.Add(time.Minute), Used: noon, Flows: 2},
			{Name: "vault.example.com", Address: netip.MustParseAddr("2001:db8::1"), By: "resolved", Since: noon, Expires: noon.Add(-time.Minute), Expired: true, Flows: 1},
		}},
		{Owner: "resource wiki", Rule: "out", Written: []string{"www.example.org"}},
	}}, nil
}

func (f *fake) Rules(context.Context) (*api.Rules, error) {
	return &api.Rules{Generation: 7, Rules: []api.Rule{
		{Perimeter: "payments", Profile: "data", Name: "partners", Direction: "Inbound", Selector: "198.51.100.0/24", Ports: []string{"tcp/5432"}, InForce: true, Hits: 12},
		{Perimeter: "payments", Profile: "data", Name: "old", Direction: "Outbound", Selector: "vault.example.com", Expires: noon.Add(-time.Hour), Why: "it has ended"},
		{Resource: "wiki", Name: "office", Direction: "Inbound", Selector: "203.0.113.0/24", InForce: true},
	}}, nil
}

func (f *fake) Flows(_ context.Context, filter api.FlowFilter) (*api.Flows, error) {
	return &api.Flows{Generation: 7, Matching: 5, Flows: []api.Flow{{
		Resource: "orders-db", Protocol: "tcp", Local: netip.MustParseAddrPort("10.20.0.5:5432"), Peer: netip.MustParseAddrPort("198.51.100.7:40000"),
		Direction: "Inbound", State: "established", Reason: policy.ReasonAccessRule, Rule: "partners", WouldBe: "allow",
		Generation: 6, Started: noon.Add(-time.Minute), BytesTowards: 2048, BytesFrom: 17,
	}}}, nil
}

func (f *fake) Subscribe(o decisionlog.SubscribeOptions) (*decisionlog.Subscription, error) {
	return f.log.Subscribe(o)
}

func (f *fake) Disable(context.Context) (*api.Switched, error) {
	return &api.Switched{State: api.Disabled, Changed: true}, nil
}

func (f *fake) Enable(context.Context) (*api.Switched, error) {
	return &api.Switched{State: api.Healthy}, nil
}

// serve serves the fake until the test ends, and returns the flag that leads
// there.
func serve(t *testing.T, f *fake) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "api.sock")
	server := api.NewServer(path, f)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	<-server.Ready()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return "--socket=" + path
}

func exampleStatus() *api.Status {
	return &api.Status{
		Version: "1.2.3", Started: noon.Add(-time.Hour), State: api.Degraded,
		Problems: []string{"running the last good policy:\na.yaml:1:1: bad"}, Notices: []string{"resource wiki is closed"},
		Generation: 7, GenerationSince: noon.Add(-48 * time.Hour),
		Policy:    api.Policy{Path: "/etc/perimeterd/policy", Source: api.FromLastGood, Since: noon.Add(-48 * time.Hour), Files: []string{"a.yaml"}},
		Resources: api.Resources{Total: 3, Here: 1, Perimeters: 1, ByMode: map[string]int{"Enforced": 2, "Audit": 1}},
		Tables:    api.Tables{PrefixesIPv4: 2000, PrefixesIPv6: 7, Bytes: 300000, BytesPerPrefix: 149},
		Interfaces: []api.Interface{
			{Name: "lo", Reason: "loopback"},
			{Name: "eth0", Attached: true, Role: "uplink", Hook: "clsact", Degraded: "TCX needs Linux 6.6"},
		},
		Failsafe:  []api.Failsafe{{Name: "ssh", Direction: "Inbound", Ports: []string{"tcp/22"}}},
		Kernel:    api.Kernel{Release: "5.10.0", Degraded: []string{"TCX needs Linux 6.6"}},
		Flows:     42,
		Fragments: api.Fragments{Remembered: 3, Max: 16384},
		Decisions: []api.DecisionCount{{Category: policy.PublicInboundPerimeterRulesDenied, Decided: 1006, Submitted: 20, Folded: 980, Crowded: 600, Lost: 6}, {Category: policy.OutboundAttempt}},
		Packets:   []api.PacketCount{{Reason: "established", Packets: 5, Bytes: 700}, {Reason: "not-ip"}},
		Losses:    []api.Loss{{Stage: "kernel ring", Count: 6}, {Stage: "log queue"}},
		Sinks:     []api.Sink{{Name: "stdout", Records: 9, Pending: 1}},
		Names:     []api.Name{{Name: "vault.example.com", Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.7")}, Next: noon.Add(time.Minute)}},
	}
}

func TestStatus(t *testing.T) {
	t.Parallel()
	f := &fake{status: exampleStatus()}
	socket := serve(t, f)
	expect(t, exitBad, `
degraded  perimeterd 1.2.3, since 11:00:00
  ! running the last good policy:
    a.yaml:1:1: bad
  · resource wiki is closed

generation  7, since 2025-12-31 12:00:00
policy      /etc/perimeterd/policy (last good, since 2025-12-31 12:00:00)
resources   3, of which here 1: 1 Audit, 2 Enforced
perimeters  1
prefixes    2000 IPv4, 7 IPv6, 293.0 KiB (149 bytes each, tables included)
failsafe    ssh (tcp/22 from any address)
kernel      5.10.0; TCX needs Linux 6.6

interfaces
  lo    -       not attached: loopback
  eth0  uplink  clsact, TCX needs Linux 6.6

flows       42
fragments   of 3 packets, room for 16384
  decided  submitted  folded  lost category
     1006         20     980     6 NspPublicInboundPerimeterRulesDenied
crowded     600 of the folded, of peers that were not told apart
losses      6 in kernel ring
log         stdout: 9 records, 1 decisions pending

names
  vault.example.com  192.0.2.7  next 12:01:00
`, "status", socket)

	code, out, _ := call(t, "status", "--all", socket)
	if code != exitBad || !strings.Contains(out, "established") || !strings.Contains(out, "a.yaml\n") || strings.Contains(out, "not-ip") {
		t.Errorf("status --all: %d\n%s", code, out)
	}
	code, out, _ = call(t, "status", "-o", "json", socket)
	var got api.Status
	if err := json.Unmarshal([]byte(out), &got); err != nil || code != exitBad || got.Generation != 7 {
		t.Errorf("status -o json: %d, %v\n%s", code, err, out)
	}
	f.status = &api.Status{State: api.Healthy}
	if code, _, _ := call(t, "status", socket); code != exitGood {
		t.Errorf("healthy: exit code %d", code)
	}
	f.status = &api.Status{State: api.Disabled}
	if code, _, _ := call(t, "status", socket); code != exitBad {
		t.Errorf("disabled: exit code %d", code)
	}
}

func TestExplain(t *testing.T) {
	t.Parallel()
	f := &fake{verdict: "allow"}
	socket := serve(t, f)
	args := []string{"explain", socket, "--from", "198.51.100.7", "--to", "orders-db", "--port", "tcp/5432"}
	expect(t, exitGood, `
198.51.100.7 → 10.20.0.5 tcp/5432

ALLOW (inbound of orders-db): access rule partners allows it
  would be    deny, if Enforced
  reason      access-rule
  category    NspPublicInboundPerimeterRulesAllowed
  rule        partners a.yaml:8:13
  profile     payments/data
  mode        Enforced
  generation  7
  note        the address is not one of this host: its packets are judged here only if they cross an attached interface
`, args...)
	f.verdict = "deny"
	if code, out, _ := call(t, append(args, "-o", "json")...); code != exitBad || !strings.Contains(out, `"verdict": "deny"`) {
		t.Errorf("denied: %d\n%s", code, out)
	}
}

func TestRulesAndFlows(t *testing.T) {
	t.Parallel()
	socket := serve(t, &fake{})
	expect(t, exitGood, `
payments/data
  partners  inbound   198.51.100.0/24    tcp/5432   12 hits  
  old       outbound  vault.example.com  all ports  0 hits   expires 11:00:00; not in force: it has ended

resource wiki
  office  inbound  203.0.113.0/24  all ports  0 hits  
`, "rules", socket)
	if _, out, _ := call(t, "rules", "--unused", "-o", "json", socket); strings.Contains(out, "partners") || !strings.Contains(out, "office") {
		t.Errorf("rules --unused:\n%s", out)
	}
	expect(t, exitGood, `
vault of profile payments/data: *.blob.example.net, vault.example.com
  a.blob.example.net  203.0.113.1  until 12:01:00    2 flows  last used 12:00:00  inline
  vault.example.com   2001:db8::1  expired 11:59:00  1 flows  last used never     resolved
out of resource wiki: www.example.org
  no address is open
`, "names", socket)
	expect(t, exitGood, `
RESOURCE   LOCAL              PEER                PROTOCOL  STATE        REASON                                  IN       OUT   STARTED
orders-db  10.20.0.5:5432  ←  198.51.100.7:40000  tcp       established  access-rule partners (in generation 6)  2.0 KiB  17 B  11:59:00
… and 4 more; see --limit
`, "flows", socket)
}

// syncBuffer is written to by a command while a test reads it.
type syncBuffer struct {
	mu      sync.Mutex
	text    bytes.Buffer
	written chan struct{}
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer func() { b.written <- struct{}{} }()
	return b.text.Write(p)
}

func TestWatch(t *testing.T) {
	t.Parallel()
	legend := &compile.Legend{Generation: 1, Members: []compile.MemberLegend{{}, {Resource: "orders-db"}}}
	log, err := decisionlog.New(decisionlog.Options{Legend: func(uint32) *compile.Legend { return legend }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	logged := make(chan error, 1)
	go func() { logged <- log.Run(ctx) }()
	subscribing := &subscriptions{fake: &fake{log: log}, begun: make(chan struct{}, 1)}
	path := filepath.Join(t.TempDir(), "api.sock")
	server := api.NewServer(path, subscribing)
	served := make(chan error, 1)
	go func() { served <- server.Run(ctx) }()
	<-server.Ready()

	for _, test := range []struct {
		output string
		colour bool
		want   string
	}{
		{"text", false, "deny        orders-db:5432           ← 203.0.113.9:40000"},
		{"text", true, "\x1b[1;31mdeny\x1b[0m"},
		{"json", true, `"serviceResourceId":"/resources/orders-db"`},
	} {
		watching, interrupt := context.WithCancel(t.Context())
		out, told := &syncBuffer{written: make(chan struct{}, 10)}, &syncBuffer{written: make(chan struct{}, 10)}
		ended := make(chan int, 1)
		go func() {
			ended <- run(env{ctx: watching, stdout: out, stderr: told, colour: test.colour, now: time.Now, location: time.UTC},
				[]string{"watch", "--socket", path, "-o", test.output})
		}()
		<-subscribing.begun
		<-told.written
		log.Submit([]datapath.Event{{
			Kind: datapath.Denied, Time: noon, Count: 1, Generation: 1, Member: 1, Verdict: policy.Deny, WouldBe: policy.Deny,
			Local: netip.MustParseAddr("10.20.0.5"), LocalPort: 5432, Peer: netip.MustParseAddr("203.0.113.9"), PeerPort: 40000, Protocol: policy.ProtocolTCP,
		}})
		<-out.written
		interrupt()
		if code := <-ended; code != exitGood {
			t.Errorf("interrupted: exit code %d", code)
		}
		if got := told.text.String(); !strings.HasPrefix(got, "watching") {
			t.Errorf("%+v: stderr %q", test, got)
		}
		if got := out.text.String(); !strings.Contains(got, test.want) || strings.Count(got, "\n") != 1 {
			t.Errorf("%+v: got %q", test, got)
		}
	}
	cancel()
	for _, ended := range []<-chan error{logged, served} {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

// subscriptions tells when somebody has subscribed.
type subscriptions struct {
	*fake
	begun chan struct{}
}

func (s *subscriptions) Subscribe(o decisionlog.SubscribeOptions) (*decisionlog.Subscription, error) {
	defer func() { s.begun <- struct{}{} }()
	return s.fake.Subscribe(o)
}

func TestSwitching(t *testing.T) {
	t.Parallel()
	socket := serve(t, &fake{})
	expect(t, exitGood, "enforcement is disabled: everything passes until `perimeterctl enable`", "disable", socket)
	expect(t, exitGood, "enforcement was enabled already", "enable", socket)

	// Without an agent it is done directly.
	dir := t.TempDir()
	settings := filepath.Join(dir, "perimeterd.yaml")
	text := "stateDirectory: " + dir + "/state\nrunDirectory: " + dir + "/run\npinDirectory: " + dir + "/pins\n"
	if err := os.WriteFile(settings, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	expect(t, exitGood, "enforcement is disabled: everything passes until `perimeterctl enable` (the agent is not running)", "disable", "--settings", settings)
	expect(t, exitGood, "enforcement was disabled already (the agent is not running)", "disable", "--settings", settings)
	expect(t, exitGood, "enforcement is enabled (the agent is not running)", "enable", "--settings", settings)
	expect(t, exitGood, "enforcement was enabled already (the agent is not running)", "enable", "--settings", settings)
	if code, _, err := call(t, "disable", "--settings", dir+"/none.yaml"); code != exitBad || !strings.Contains(err, "read the settings") {
		t.Errorf("settings that are missing: %d, %s", code, err)
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"version"}, {"--version"}, {"version", "-o", "json"}} {
		if code, out, _ := call(t, args...); code != exitGood || strings.TrimSpace(out) == "" {
			t.Errorf("%q: %d, %q", args, code, out)
		}
	}
}

func TestSize(t *testing.T) {
	t.Parallel()
	for n, want := range map[uint64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 1 << 20: "1.0 MiB", 1 << 63: "8.0 EiB"} {
		if got := size(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}
