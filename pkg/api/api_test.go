package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/perimeterd/perimeterd/pkg/compile"
	"github.com/perimeterd/perimeterd/pkg/datapath"
	"github.com/perimeterd/perimeterd/pkg/decisionlog"
	"github.com/perimeterd/perimeterd/pkg/policy"
)

// fake is an agent that answers what a test wrote down.
type fake struct {
	log  *decisionlog.Log
	err  error
	flow FlowFilter
}

func (f *fake) Status(context.Context) (*Status, error) {
	return &Status{State: Healthy, Generation: 7, Started: time.Unix(1700000000, 0).UTC()}, f.err
}

func (f *fake) Explain(_ context.Context, q Question) (*Explanation, error) {
	return &Explanation{From: netip.MustParseAddr("192.0.2.1"), Answers: []Answer{{Words: fmt.Sprintf("%+v", q), Verdict: "deny"}}}, f.err
}

func (f *fake) Names(context.Context) (*Names, error) {
	return &Names{Generation: 3, Rules: []RuleNames{{Rule: "vault"}}}, nil
}

func (f *fake) Rules(context.Context) (*Rules, error) {
	return &Rules{Generation: 7, Rules: []Rule{{Name: "partners", Hits: 3}}}, f.err
}

func (f *fake) Flows(_ context.Context, filter FlowFilter) (*Flows, error) {
	f.flow = filter
	return &Flows{Matching: 1, Flows: []Flow{{Local: netip.MustParseAddrPort("[fd20::5]:5432")}}}, f.err
}

func (f *fake) Subscribe(o decisionlog.SubscribeOptions) (*decisionlog.Subscription, error) {
	if f.err != nil {
		return nil, f.err
	}
	return f.log.Subscribe(o)
}

func (f *fake) Disable(context.Context) (*Switched, error) { return &Switched{Disabled, true}, f.err }
func (f *fake) Enable(context.Context) (*Switched, error)  { return &Switched{Healthy, false}, f.err }

// serve serves the fake and returns a client, and a function that ends the
// server.
func serve(t *testing.T, f *fake) (*Client, func()) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "run", "api.sock")
	server := NewServer(path, f)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	select {
	case <-server.Ready():
	case err := <-ended:
		t.Fatal(err)
	}
	stopped := false
	stop := func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	return NewClient(path), stop
}

func TestRoundTrips(t *testing.T) {
	t.Parallel()
	f := &fake{}
	c, _ := serve(t, f)
	ctx := t.Context()

	status, err := c.Status(ctx)
	want, _ := f.Status(ctx)
	if diff := cmp.Diff(want, status, cmpopts.EquateEmpty()); err != nil || diff != "" {
		t.Errorf("status: %v\n%s", err, diff)
	}
	question := Question{From: "192.0.2.1", To: "db", Port: "tcp/5432", Interface: "eth0"}
	explanation, err := c.Explain(ctx, question)
	if err != nil || explanation.Answers[0].Words != fmt.Sprintf("%+v", question) || explanation.Verdict() != "deny" {
		t.Errorf("explain: %+v, %v", explanation, err)
	}
	if rules, err := c.Rules(ctx); err != nil || rules.Rules[0].Hits != 3 {
		t.Errorf("rules: %+v, %v", rules, err)
	}
	filter := FlowFilter{Resource: "db", Peer: netip.MustParsePrefix("198.51.100.0/24"), State: "opening", Limit: 5}
	if names, err := c.Names(ctx); err != nil || names.Rules[0].Rule != "vault" {
		t.Errorf("names: %+v, %v", names, err)
	}
	flows, err := c.Flows(ctx, filter)
	if err != nil || f.flow != filter || flows.Flows[0].Local.Port() != 5432 {
		t.Errorf("flows: %+v, %v, filter %+v", flows, err, f.flow)
	}
	if s, err := c.Disable(ctx); err != nil || *s != (Switched{Disabled, true}) {
		t.Errorf("disable: %+v, %v", s, err)
	}
	if s, err := c.Enable(ctx); err != nil || *s != (Switched{Healthy, false}) {
		t.Errorf("enable: %+v, %v", s, err)
	}
}

func TestErrorsKeepTheirKind(t *testing.T) {
	t.Parallel()
	f := &fake{}
	c, stop := serve(t, f)
	for _, test := range []struct{ err, is error }{
		{BadRequest("no such resource %q", "x"), ErrBadRequest},
		{fmt.Errorf("%w: switch it on", ErrDisabled), ErrDisabled},
		{errors.New("trouble"), nil},
	} {
		f.err = test.err
		_, err := c.Status(t.Context())
		if err == nil || err.Error() != test.err.Error() || test.is != nil && !errors.Is(err, test.is) {
			t.Errorf("got %v, want %v", err, test.err)
		}
		err = c.Watch(t.Context(), WatchFilter{}, nil, nil, nil)
		if err == nil || err.Error() != test.err.Error() {
			t.Errorf("watch: got %v, want %v", err, test.err)
		}
	}
	stop()
	if _, err := c.Status(t.Context()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("nobody there: %v", err)
	}
}

func TestRefusesWhatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	c, _ := serve(t, &fake{})
	for _, test := range []struct{ method, path, body string }{
		{http.MethodGet, "/v1/other", ""},
		{http.MethodGet, "/v1/disable", ""},
		{http.MethodPost, "/v1/explain", `{"frm": "x"}`},
		{http.MethodPost, "/v1/explain", `{"from": "` + strings.Repeat("x", requestMax) + `"}`},
		{http.MethodGet, "/v1/flows?peer=10.0.0.1/8", ""},
		{http.MethodGet, "/v1/flows?limit=-1", ""},
	} {
		request, err := http.NewRequestWithContext(t.Context(), test.method, "http://x"+test.path, strings.NewReader(test.body))
		if err != nil {
			t.Fatal(err)
		}
		response, err := c.http.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		if response.StatusCode != http.StatusBadRequest && response.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("%s %s: %s", test.method, test.path, response.Status)
		}
		if err := response.Body.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestSocketIsRootsAlone(t *testing.T) {
	t.Parallel()
	c, stop := serve(t, &fake{})
	info, err := os.Stat(c.path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket: %v, %v", info, err)
	}
	entries, err := os.ReadDir(filepath.Dir(c.path))
	if err != nil || len(entries) != 1 {
		t.Errorf("beside the socket: %v, %v", entries, err)
	}
	stop()
	if _, err := os.Stat(c.path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket after the end: %v", err)
	}
}

func TestReplacesTheSocketOfOneThatWasKilled(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "api.sock")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	server := NewServer(path, &fake{})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	<-server.Ready()
	if _, err := NewClient(path).Status(t.Context()); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// event is a decision about a member of the legend below.
func event(member uint32, verdict policy.Verdict) datapath.Event {
	return datapath.Event{
		Kind: datapath.Denied, Time: time.Now(), Count: 1, Generation: 1, Member: member, Verdict: verdict, WouldBe: verdict,
		Local: netip.MustParseAddr("10.20.0.5"), Peer: netip.MustParseAddr("203.0.113.9"), Protocol: policy.ProtocolTCP,
	}
}

func TestWatch(t *testing.T) {
	t.Parallel()
	legend := &compile.Legend{Generation: 1, Members: []compile.MemberLegend{{}, {Resource: "orders-db"}, {Resource: "db"}}}
	log, err := decisionlog.New(decisionlog.Options{Legend: func(uint32) *compile.Legend { return legend }})
	if err != nil {
		t.Fatal(err)
	}
	logging, endLog := context.WithCancel(t.Context())
	logged := make(chan error, 1)
	go func() { logged <- log.Run(logging) }()
	c, _ := serve(t, &fake{log: log})

	records := make(chan decisionlog.Record, 10)
	ended := make(chan error, 1)
	subscribed := make(chan struct{})
	go func() {
		ended <- c.Watch(t.Context(), WatchFilter{Resource: "DB", Denied: true}, func() { close(subscribed) },
			func(_ []byte, r *decisionlog.Record) error { records <- *r; return nil },
			func(uint64) error { return nil })
	}()
	<-subscribed
	allowed := event(2, policy.Allow)
	allowed.Kind = datapath.FlowStart
	log.Submit([]datapath.Event{event(1, policy.Deny), allowed, event(2, policy.Deny)})
	if r := <-records; r.Properties.ServiceResourceID != "/resources/db" || r.Properties.Perimeterd.Verdict != "deny" {
		t.Errorf("got %+v", r)
	}
	endLog()
	if err := <-logged; err != nil {
		t.Error(err)
	}
	if err := <-ended; !errors.Is(err, io.EOF) {
		t.Errorf("watch ended with %v", err)
	}
	if len(records) != 0 {
		t.Errorf("records that were not asked for: %+v", <-records)
	}
}

func TestWatchEndsWithItsContext(t *testing.T) {
	t.Parallel()
	log, err := decisionlog.New(decisionlog.Options{Legend: func(uint32) *compile.Legend { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	c, _ := serve(t, &fake{log: log})
	ctx, cancel := context.WithCancel(t.Context())
	if err := c.Watch(ctx, WatchFilter{}, cancel, nil, nil); err != nil {
		t.Errorf("got %v", err)
	}
}

func TestWants(t *testing.T) {
	t.Parallel()
	record := func(operation decisionlog.Operation, verdict, wouldBe string) *decisionlog.Record {
		r := &decisionlog.Record{Operation: operation}
		r.Properties.ServiceResourceID = "/subscriptions/prod/resources/orders-db"
		r.Properties.Perimeterd.Verdict, r.Properties.Perimeterd.WouldBe = verdict, wouldBe
		return r
	}
	denied := WatchFilter{Denied: true}
	for _, test := range []struct {
		filter WatchFilter
		record *decisionlog.Record
		want   bool
	}{
		{WatchFilter{}, record(decisionlog.OperationFlowStart, "allow", "allow"), true},
		{denied, record(decisionlog.OperationFlowStart, "allow", "allow"), false},
		{denied, record(decisionlog.OperationFlowStart, "allow", "deny"), true},
		{denied, record(decisionlog.OperationDeny, "deny", "deny"), true},
		{denied, record(decisionlog.OperationFlowCut, "allow", "allow"), true},
		{WatchFilter{Resource: "orders-db"}, record(decisionlog.OperationDeny, "deny", "deny"), true},
		{WatchFilter{Resource: "db"}, record(decisionlog.OperationDeny, "deny", "deny"), false},
	} {
		if got := test.filter.wants(test.record); got != test.want {
			t.Errorf("%+v of %+v: %v, want %v", test.filter, test.record, got, test.want)
		}
	}
}
