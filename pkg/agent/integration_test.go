package agent

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/perimeterd/perimeterd/pkg/api"
	"github.com/perimeterd/perimeterd/pkg/decisionlog"
	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/tests/privileged"
	"github.com/perimeterd/perimeterd/tests/traffic"
	"github.com/perimeterd/perimeterd/tests/world"
)

const (
	database = "10.20.0.5:5432"
	denials  = 300 * time.Millisecond // how long a client tries that is expected to be denied
)

// scene is a database with an agent, a partner and a stranger.
type scene struct {
	*bench
	world             *world.World
	partner, stranger *world.Host
}

func newScene(t *testing.T, settings ...string) *scene {
	t.Helper()
	privileged.Require(t)
	w := world.New(t)
	router, db := w.Router("router"), w.Host("db")
	s := &scene{partner: w.Host("partner"), stranger: w.Host("stranger")}
	w.Uplink(db, router, "10.20.0.5/24", "fd20::5/64")
	w.Uplink(s.partner, router, "198.51.100.7/24", "fd98::7/64")
	w.Uplink(s.stranger, router, "203.0.113.9/24", "fd99::9/64")
	server, err := traffic.Database(db, database)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	s.world = w
	s.bench = newBench(t, db, settings...)
	return s
}

// policyOf is a policy with one member and one rule.
func policyOf(mode, prefix string) string {
	return fmt.Sprintf(`resources:
  - {name: orders-db, addresses: [10.20.0.5, "fd20::5"], services: [tcp/5432]}
perimeters:
  - name: payments
    profiles:
      - name: data
        accessRules:
          - {name: partners, direction: Inbound, addressPrefixes: [%q]}
    associations:
      - {name: orders-db, resource: orders-db, profile: data, accessMode: %s}
`, prefix, mode)
}

func (s *scene) apply(text string) {
	s.t.Helper()
	s.write(filepath.Join(s.settings.Policy, "policy.yaml"), text)
	s.awaitLog("is in force")
}

func (s *scene) expect(from *world.Host, want traffic.Outcome) {
	s.t.Helper()
	limit := patience
	if want == traffic.TimedOut {
		limit = denials
	}
	if got := traffic.Try(s.t.Context(), from, "tcp", database, limit); got.Outcome != want {
		s.t.Fatalf("%s to %s: %s (%v), want %s", from.Name, database, got.Outcome, got.Err, want)
	}
}

func TestAgentFromFirstStartToRestart(t *testing.T) {
	s := newScene(t)

	// No policy: the embedded default shows what flows and drops nothing.
	s.start()
	if got := s.status(); got.State != api.Healthy || got.Policy.Source != api.FromDefault || got.Generation == 0 {
		t.Fatalf("status in the default: %+v", got)
	}
	s.expect(s.stranger, traffic.Connected)
	r := s.awaitRecord("the stranger in Audit", from("203.0.113.9"))
	if x := r.Properties.Perimeterd; x.Verdict != "allow" || x.WouldBe != "deny" || x.AccessMode != "Audit" || x.Reason != policy.ReasonNoAccessRule {
		t.Errorf("record of the stranger in Audit: %+v", r)
	}

	// A policy appears, in a directory that did not exist.
	s.apply(policyOf("Enforced", "198.51.100.0/24"))
	s.expect(s.partner, traffic.Connected)
	s.expect(s.stranger, traffic.TimedOut)
	r = s.awaitRecord("the partner", from("198.51.100.7"))
	if p := r.Properties; p.MatchedRule.AccessRule != "partners" || p.Profile != "data" || r.Operation != decisionlog.OperationFlowStart {
		t.Errorf("record of the partner: %+v", r)
	}
	r = s.awaitRecord("the stranger", func(r *decisionlog.Record) bool {
		return from("203.0.113.9")(r) && r.Operation == decisionlog.OperationDeny
	})
	if r.Category != policy.PublicInboundPerimeterRulesDenied || r.Properties.Perimeterd.Interface != "router" {
		t.Errorf("record of the stranger: %+v", r)
	}
	s.expectHits("partners", 1)

	// Explain asks the same programs.
	for from, want := range map[string]string{"198.51.100.7": "allow", "203.0.113.9": "deny", "fd98::7": "deny"} {
		e, err := s.client().Explain(t.Context(), api.Question{From: from, To: "orders-db", Port: "tcp/5432"})
		if err != nil || e.Verdict() != want || e.Answers[0].Resource != "orders-db" {
			t.Errorf("explain from %s: %+v, %v; want %s", from, e, err, want)
		}
		if want == "allow" && err == nil && !strings.HasSuffix(e.Answers[0].RuleAt, "policy.yaml:8:13") {
			t.Errorf("explain from %s: rule at %s", from, e.Answers[0].RuleAt)
		}
	}

	// A broken policy is not put in force, and status says so.
	s.write(filepath.Join(s.settings.Policy, "policy.yaml"), policyOf("Enforced", "0.0.0.0/0")+"oops: 1\n")
	s.awaitLog("is not put in force")
	s.expect(s.stranger, traffic.TimedOut)
	s.expect(s.partner, traffic.Connected)
	if got := s.status(); got.State != api.Degraded || got.Policy.Source != api.FromLastGood || !strings.Contains(got.Policy.Problem, "oops") {
		t.Errorf("status with a broken policy: %+v", got)
	}

	// The agent is killed: the connection goes on, and strangers stay out.
	talk, err := traffic.Converse(t.Context(), s.partner, "tcp", database, traffic.Pace{Patience: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	before := s.status().Generation
	s.kill()
	if err := talk.Await(t.Context(), 20); err != nil {
		t.Fatalf("without the agent: %v", err)
	}
	s.expect(s.stranger, traffic.TimedOut)

	// A new one adopts it all. Its policy directory is still broken: the last
	// good policy is in force, and generations rise.
	s.start()
	if got := s.status(); got.Policy.Source != api.FromLastGood || got.Generation <= before || got.State != api.Degraded {
		t.Errorf("status after the restart: %+v", got)
	}
	if err := talk.Await(t.Context(), 20); err != nil {
		t.Fatalf("after the restart: %v", err)
	}
	s.expect(s.stranger, traffic.TimedOut)
	s.expect(s.partner, traffic.Connected)

	// The files are repaired without the partner: the live connection is cut.
	s.apply(policyOf("Enforced", "192.0.2.0/24"))
	<-talk.Ended()
	s.awaitRecord("the cut", func(r *decisionlog.Record) bool { return r.Operation == decisionlog.OperationFlowCut })
	if got := talk.Stop(); traffic.OutcomeOf(got.Err) != traffic.TimedOut {
		t.Errorf("the connection that was cut: %+v", got)
	}
	if got := s.status(); got.State != api.Healthy || got.Policy.Source != api.FromFiles {
		t.Errorf("status at the end: %+v", got)
	}
	s.stop()
}

func TestDisable(t *testing.T) {
	s := newScene(t)
	s.write(filepath.Join(s.settings.Policy, "policy.yaml"), policyOf("Enforced", "198.51.100.0/24"))
	s.start()
	s.expect(s.stranger, traffic.TimedOut)

	// Through the agent.
	if got, err := s.client().Disable(t.Context()); err != nil || !got.Changed || got.State != api.Disabled {
		t.Fatalf("disable: %+v, %v", got, err)
	}
	s.expect(s.stranger, traffic.Connected)
	if got := s.status(); got.State != api.Disabled || got.Generation != 0 {
		t.Errorf("status while disabled: %+v", got)
	}
	if _, err := s.client().Flows(t.Context(), api.FlowFilter{}); !errors.Is(err, api.ErrDisabled) {
		t.Errorf("flows while disabled: %v", err)
	}
	if got, err := s.client().Disable(t.Context()); err != nil || got.Changed {
		t.Errorf("disable again: %+v, %v", got, err)
	}

	// It stays so over a restart.
	s.stop()
	s.start()
	s.expect(s.stranger, traffic.Connected)
	if got, err := s.client().Enable(t.Context()); err != nil || !got.Changed || got.State != api.Healthy {
		t.Fatalf("enable: %+v, %v", got, err)
	}
	s.expect(s.stranger, traffic.TimedOut)
	s.expect(s.partner, traffic.Connected)

	// An agent that does not answer is no obstacle.
	if err := s.process.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if got, err := DisableDirectly(s.settings); err != nil || !got.Changed {
		t.Fatalf("disable beside the agent: %+v, %v", got, err)
	}
	s.expect(s.stranger, traffic.Connected)
	for _, signal := range []os.Signal{syscall.SIGCONT, syscall.SIGHUP} { // it comes to, and looks
		if err := s.process.cmd.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
	}
	s.awaitLog("enforcement was disabled")
	s.await("the agent knows", func() bool { return s.status().State == api.Disabled })
	s.expect(s.stranger, traffic.Connected)
	s.kill()

	// And none is needed, either way.
	if got, err := EnableDirectly(s.settings); err != nil || !got.Changed {
		t.Fatalf("enable without the agent: %+v, %v", got, err)
	}
	s.start()
	s.expect(s.stranger, traffic.TimedOut)
	s.stop()
	s.expect(s.stranger, traffic.TimedOut)
	if got, err := DisableDirectly(s.settings); err != nil || !got.Changed {
		t.Fatalf("disable without the agent: %+v, %v", got, err)
	}
	s.expect(s.stranger, traffic.Connected)
	if _, err := os.Stat(s.settings.PinDirectory); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the pins after disable: %v", err)
	}
}

func TestBrokenPolicyAtFirstStartEnforcesNothing(t *testing.T) {
	s := newScene(t)
	s.write(filepath.Join(s.settings.Policy, "policy.yaml"), "resources: [}\n")
	s.start()
	if got := s.status(); got.State != api.Degraded || got.Generation != 0 || !strings.Contains(strings.Join(got.Problems, "\n"), "NOTHING IS ENFORCED") {
		t.Errorf("status: %+v", got)
	}
	s.expect(s.stranger, traffic.Connected)
	s.apply(policyOf("Enforced", "198.51.100.0/24"))
	s.expect(s.stranger, traffic.TimedOut)
	s.stop()
}

const vault = "203.0.113.9:443"

// vaultPolicy allows the resolver and a name, and an expiring rule inbound.
func vaultPolicy(expires time.Time) string {
	return fmt.Sprintf(`resources:
  - {name: orders-db, addresses: [10.20.0.5, "fd20::5"], services: [tcp/5432]}
perimeters:
  - name: payments
    profiles:
      - name: data
        accessRules:
          - {name: resolver, direction: Outbound, addressPrefixes: [198.51.100.7], ports: [udp/53]}
          - {name: vault, direction: Outbound, fullyQualifiedDomainNames: [vault.example.com], ports: [tcp/443]}
          - {name: today, direction: Inbound, addressPrefixes: [203.0.113.0/24], expires: %q}
    associations:
      - {name: orders-db, resource: orders-db, profile: data, accessMode: Enforced}
`, expires.Format(time.RFC3339Nano))
}

func TestNamesExpiryAndHotplug(t *testing.T) {
	s := newScene(t, "dns: {servers: [198.51.100.7], minimumInterval: 1s}\n")
	server, err := traffic.Database(s.stranger, vault)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	s.answerNames("vault.example.com. 300 IN A 203.0.113.9")

	s.write(filepath.Join(s.settings.Policy, "policy.yaml"), vaultPolicy(time.Now().Add(5*time.Second)))
	s.start()
	s.awaitLog("rule today of profile payments/data counts until")

	// The name's address is learnt, by a question that the policy itself allows.
	s.await("the name has an address in force", func() bool {
		e, err := s.client().Explain(t.Context(), api.Question{From: "orders-db", To: "vault.example.com", Port: "tcp/443"})
		return err == nil && e.Verdict() == "allow" && e.Answers[0].Rule == "vault"
	})
	if got := traffic.Try(t.Context(), s.host, "tcp", vault, patience); got.Outcome != traffic.Connected {
		t.Errorf("to the vault: %+v", got)
	}
	r := s.awaitRecord("the vault", func(r *decisionlog.Record) bool {
		return r.Properties.MatchedRule.AccessRule == "vault" && r.Operation == decisionlog.OperationFlowStart
	})
	if r.Category != policy.PublicOutboundPerimeterRulesAllowed || r.Properties.Destination.IPAddress.String() != "203.0.113.9" {
		t.Errorf("record of the vault: %+v", r)
	}

	// The rule ends by itself.
	s.awaitLog("rule today of profile payments/data has ended")
	s.expect(s.stranger, traffic.TimedOut)
	rules, err := s.client().Rules(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, rule := range rules.Rules {
		if rule.InForce != (rule.Name != "today") {
			t.Errorf("rule %+v", rule)
		}
	}

	// A new interface is judged, without anybody's doing.
	plugged := s.world.Host("plugged")
	s.world.Connect(s.host, plugged, "10.40.0.1/24", "10.40.0.2/24")
	s.awaitLog("packets of plugged are judged (uplink, tcx)")

	// What the kernel decided is what was written.
	talk, err := traffic.Converse(t.Context(), s.host, "tcp", vault, traffic.Pace{})
	if err != nil {
		t.Fatal(err)
	}
	flows, err := s.client().Flows(t.Context(), api.FlowFilter{Resource: "orders-db", Peer: netip.MustParsePrefix("203.0.113.0/24")})
	if err != nil || flows.Matching == 0 || flows.Flows[0].Rule != "vault" || flows.Flows[0].Direction != "Outbound" {
		t.Errorf("flows: %+v, %v", flows, err)
	}
	talk.Stop()
	s.process.seen = append(s.process.seen, r) // it was taken out above
	p := s.process
	decided := s.decided()
	s.stop()
	var written uint64
	for _, record := range p.allRecords() {
		written += uint64(record.Count)
	}
	if written != decided {
		t.Errorf("%d decisions in the log, the kernel made %d", written, decided)
	}
}

// decided is the number of decisions the kernel has made.
func (s *scene) decided() (sum uint64) {
	s.t.Helper()
	for _, d := range s.status().Decisions {
		sum += d.Decided
	}
	return sum
}

// answerNames has the partner be a resolver that knows one record.
func (s *scene) answerNames(text string) {
	s.t.Helper()
	record, err := dns.NewRR(text)
	if err != nil {
		s.t.Fatal(err)
	}
	socket, err := s.partner.ListenPacket("udp", "198.51.100.7:53")
	if err != nil {
		s.t.Fatal(err)
	}
	server := &dns.Server{PacketConn: socket, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		response := new(dns.Msg).SetReply(q)
		if q.Question[0].Name == record.Header().Name && q.Question[0].Qtype == record.Header().Rrtype {
			response.Answer = append(response.Answer, record)
		}
		_ = w.WriteMsg(response) // the client asks again
	})}
	served := make(chan error, 1)
	go func() { served <- server.ActivateAndServe() }()
	s.t.Cleanup(func() {
		if err := errors.Join(server.Shutdown(), <-served); err != nil {
			s.t.Error(err)
		}
	})
}

// TestLogFileMetricsAndReload has everything else on that settings can switch on.
func TestLogFileMetricsAndReload(t *testing.T) {
	file := filepath.Join(t.TempDir(), "decisions.json")
	s := newScene(t, "metrics: {listen: '10.20.0.5:9464'}\nlog: [{to: "+file+"}]\n")
	s.write(filepath.Join(s.settings.Policy, "policy.yaml"), policyOf("Audit", "198.51.100.0/24"))
	s.start()
	s.awaitLog("is in force")
	s.expect(s.stranger, traffic.Connected)
	s.await("the decision is in the file", func() bool {
		text, err := os.ReadFile(file)
		return err == nil && strings.Contains(string(text), "203.0.113.9")
	})

	client := &http.Client{Transport: &http.Transport{DialContext: s.stranger.Dial}}
	for path, want := range map[string]string{
		"/metrics": `perimeterd_member_info{access_mode="Audit",perimeter="payments",profile="data",resource="orders-db",rules_version="1"} 1`,
		"/healthz": "ok", "/readyz": "ok",
	} {
		response, err := client.Get("http://10.20.0.5:9464" + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		if err != nil || response.Body.Close() != nil || response.StatusCode != http.StatusOK || !strings.Contains(string(body), want) {
			t.Errorf("%s: %s, %v\n%s", path, response.Status, err, body)
		}
	}

	// After SIGHUP the log file is opened anew.
	if err := os.Rename(file, file+".1"); err != nil {
		t.Fatal(err)
	}
	if err := s.process.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	s.awaitLog("settings are read at start only; the policy was read again")
	s.expect(s.stranger, traffic.Connected)
	s.await("the decision is in the new file", func() bool {
		text, err := os.ReadFile(file)
		return err == nil && strings.Contains(string(text), "203.0.113.9")
	})
	s.stop()
}

// expectHits returns when a rule has decided so often; decisions arrive a moment
// after the packets, and each is told as a record.
func (s *scene) expectHits(rule string, want uint64) {
	s.t.Helper()
	rules, err := s.client().Rules(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	for _, r := range rules.Rules {
		if r.Name == rule && r.Hits >= want && r.InForce {
			return
		}
	}
	s.t.Errorf("rule %s has not decided %d times: %+v", rule, want, rules)
}

func from(address string) func(*decisionlog.Record) bool {
	return func(r *decisionlog.Record) bool { return r.Properties.Source.IPAddress.String() == address }
}
