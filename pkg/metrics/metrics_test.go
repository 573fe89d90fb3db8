package metrics

import (
	"context"
	"errors"
	"flag"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/perimeterd/perimeterd/pkg/api"
	"github.com/perimeterd/perimeterd/pkg/compile"
	"github.com/perimeterd/perimeterd/pkg/decisionlog"
	"github.com/perimeterd/perimeterd/pkg/policy"
)

var update = flag.Bool("update", false, "write the golden page anew")

// fixed is an agent that says what a test wrote down.
type fixed struct {
	status *api.Status
	rules  *api.Rules
	err    error
}

func (f *fixed) Status(context.Context) (*api.Status, error) { return f.status, f.err }
func (f *fixed) Rules(context.Context) (*api.Rules, error)   { return f.rules, nil }

func (f *fixed) Members() []compile.MemberLegend {
	return []compile.MemberLegend{
		{Resource: "orders-db", Perimeter: "payments", Profile: "data", AccessMode: policy.Enforced, AccessRulesVersion: "7"},
		{Resource: "wiki"},
	}
}

func (f *fixed) LogCounters() decisionlog.Counters {
	allowed, denied := policy.PublicInboundPerimeterRulesAllowed, policy.PublicInboundPerimeterRulesDenied
	tally := func(a, d uint64) decisionlog.Tally {
		return decisionlog.Tally{Decisions: map[policy.Category]uint64{allowed: a, denied: d}}
	}
	return decisionlog.Counters{
		Received: tally(100, 1000), LostQueue: tally(1, 2), Queued: tally(3, 4),
		Sinks: []decisionlog.SinkCounters{{
			Name: "stdout", Exported: tally(90, 980), Pending: tally(5, 10), LostBacklog: tally(1, 3), LostWrite: tally(0, 1),
			Bytes: 123456, Errors: 2,
		}},
		Subscribers: 1, SubscriberLost: 6,
	}
}

func example() *fixed {
	return &fixed{
		status: &api.Status{
			Version: "1.2.3", State: api.Degraded, Problems: []string{"x"}, Generation: 8,
			Policy:    api.Policy{Source: api.FromLastGood, Since: time.Unix(1700000000, 0), Problem: "bad"},
			Resources: api.Resources{Total: 2, Here: 1},
			Tables:    api.Tables{PrefixesIPv4: 1000000, PrefixesIPv6: 17, Bytes: 140002380},
			Interfaces: []api.Interface{
				{Name: "eth0", Attached: true, Role: "uplink", Hook: "tcx"},
				{Name: "eth1", Failed: true, Reason: "no"},
				{Name: "lo", Reason: "loopback"},
			},
			Flows:         42,
			Fragments:     api.Fragments{Remembered: 3, Max: 16384},
			Packets:       []api.PacketCount{{Reason: "established", Packets: 5000, Bytes: 700000}, {Reason: policy.ReasonNoAccessRule, Packets: 1006, Bytes: 60360}},
			Decisions:     []api.DecisionCount{{Category: policy.PublicInboundPerimeterRulesDenied, Decided: 1006, Submitted: 20, Folded: 980, Crowded: 600, Lost: 6}},
			NameEvents:    []api.NameEvent{{Event: "answers", Count: 12}, {Event: "no-question", Count: 3}, {Event: "agent-learnt", Count: 2}},
			OpenAddresses: []api.NameEvent{{Event: "inline", Count: 7}, {Event: "resolved", Count: 1}},
			Names: []api.Name{
				{Name: "vault.example.com", Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.7")}},
				{Name: "gone.example.com", Error: "SERVFAIL"},
			},
		},
		rules: &api.Rules{Rules: []api.Rule{
			{Perimeter: "payments", Profile: "data", Name: "partners", Direction: "Inbound", Hits: 100},
			{Perimeter: "payments", Profile: "data", Name: "never", Direction: "Inbound"},
			{Resource: "wiki", Name: "office", Direction: "Inbound", Hits: 3},
		}},
	}
}

func TestPage(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(NewCollector(example()))
	server := httptest.NewServer(promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorHandling: promhttp.HTTPErrorOnError}))
	defer server.Close()
	got := get(t, server.URL, http.StatusOK)
	const golden = "testdata/page.txt"
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("the page differs from %s (-golden +page), -update writes it:\n%s", golden, diff)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

func get(t *testing.T, url string, want int) string {
	t.Helper()
	response, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode != want {
		t.Errorf("%s: %s, want %d", url, response.Status, want)
	}
	return string(body)
}

func TestHealthAndReadiness(t *testing.T) {
	t.Parallel()
	agent := example()
	server := httptest.NewServer(NewServer(":0", agent).Handler())
	defer server.Close()
	get(t, server.URL+"/healthz", http.StatusOK)
	get(t, server.URL+"/readyz", http.StatusOK) // degraded, but a policy is in force
	if page := get(t, server.URL+"/metrics", http.StatusOK); !strings.Contains(page, "perimeterd_generation 8") || !strings.Contains(page, "go_goroutines") {
		t.Errorf("the page lacks something:\n%s", page)
	}
	agent.status.Generation = 0
	if why := get(t, server.URL+"/readyz", http.StatusServiceUnavailable); !strings.Contains(why, "no policy is in force\nx") {
		t.Errorf("got %q", why)
	}
	agent.status.State = api.Disabled
	get(t, server.URL+"/readyz", http.StatusOK)
	agent.err = errors.New("trouble")
	get(t, server.URL+"/readyz", http.StatusServiceUnavailable)
	get(t, server.URL+"/healthz", http.StatusOK)
	get(t, server.URL+"/other", http.StatusNotFound)
}

func TestServerEndsWithItsContext(t *testing.T) {
	t.Parallel()
	// The last two are addresses that no interface has yet.
	for _, listen := range []string{"127.0.0.1:0", "192.0.2.1:0", "[2001:db8::1]:0"} {
		s := NewServer(listen, example())
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Run(ctx) }()
		select {
		case <-s.Ready():
		case err := <-ended:
			t.Fatalf("%s: %v", listen, err)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("%s: %v", listen, err)
		}
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	if err := NewServer(taken.Addr().String(), example()).Run(t.Context()); err == nil {
		t.Error("an address that somebody else has is no error")
	}
}
