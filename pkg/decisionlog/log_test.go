package decisionlog

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perimeterd/perimeterd/pkg/compile"
	"github.com/perimeterd/perimeterd/pkg/datapath"
	"github.com/perimeterd/perimeterd/pkg/policy"
)

// device is a writer that can be full, fail and block.
type device struct {
	mu      sync.Mutex
	written bytes.Buffer
	room    int           // bytes it still takes; negative: no limit
	err     error         // of a write it has no room for
	gate    chan struct{} // if not nil, a write waits for it
	writes  int
}

func (d *device) Write(p []byte) (int, error) {
	d.mu.Lock()
	gate := d.gate
	d.mu.Unlock()
	if gate != nil {
		<-gate
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.writes++
	if d.room >= 0 && len(p) > d.room {
		p = p[:d.room]
		d.room = 0
		d.written.Write(p)
		return len(p), d.err
	}
	if d.room > 0 {
		d.room -= len(p)
	}
	return d.written.Write(p)
}

func (d *device) set(change func(*device)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change(d)
}

// tallied reads back what is on the device: whole lines only, the rest is
// returned.
func (d *device) tallied(t *testing.T) (Tally, string) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	return tallyLines(t, d.written.String())
}

func tallyLines(t *testing.T, text string) (Tally, string) {
	t.Helper()
	out := Tally{Decisions: make(map[policy.Category]uint64)}
	for {
		line, rest, found := strings.Cut(text, "\n")
		if !found {
			return out, line
		}
		text = rest
		var r Record
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if r.Operation == OperationFlowEnd {
			out.FlowEnds++
		}
		if r.Count > 0 { // a flow's end counts nothing
			out.Decisions[r.Category] += uint64(r.Count)
		}
	}
}

// running is a Log that runs until the test ends or stop is called.
type running struct {
	*Log
	t    *testing.T
	stop func() error
}

func start(t *testing.T, o Options) running {
	t.Helper()
	if o.Legend == nil {
		legend := testLegend()
		o.Legend = func(uint32) *compile.Legend { return legend }
	}
	l, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	<-l.Ready()
	stop := sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	t.Cleanup(func() { stop() })
	return running{Log: l, t: t, stop: stop}
}

// settled waits until nothing moves any more and returns balanced books.
func (r running) settled() Counters {
	r.t.Helper()
	synctest.Wait()
	c := r.Counters()
	if err := c.Verify(); err != nil {
		r.t.Error(err)
	}
	return c
}

func wantTally(t *testing.T, what string, got, want Tally) {
	t.Helper()
	if got.FlowEnds != want.FlowEnds || !maps.Equal(got.Decisions, want.Decisions) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// flood returns n first packets of allowed flows, or of denials.
func flood(n int, kind datapath.EventKind) []datapath.Event {
	outcome := uint32(1)
	if kind == datapath.Denied {
		outcome = 2
	}
	events := make([]datapath.Event, n)
	for i := range events {
		events[i] = decision(kind, ordersDB, outcome)
	}
	return events
}

func TestEverythingIsExported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nested, flat := &device{room: -1}, &device{room: -1}
		l := start(t, Options{Sinks: []Sink{
			{Name: "nested", To: nested},
			{Name: "flat", To: flat, Format: FormatFlat},
		}})
		var events []datapath.Event
		for _, c := range testEvents() {
			events = append(events, c.event)
		}
		l.Submit(events)
		clear(events) // the caller's again
		c := l.settled()
		if c.Received.Total() == 0 || c.Received.FlowEnds != 2 {
			t.Errorf("received %v, want decisions, and 2 flow ends", c.Received)
		}
		for _, s := range c.Sinks {
			wantTally(t, s.Name, s.Exported, c.Received)
			if s.Records != uint64(len(events)) || s.Err != nil || s.Errors != 0 {
				t.Errorf("%s: %+v", s.Name, s)
			}
		}
		onDevice, _ := nested.tallied(t)
		wantTally(t, "on the device", onDevice, c.Received)
		if got := uint64(nested.written.Len()); got != c.Sinks[0].Bytes {
			t.Errorf("%d bytes on the device, %d counted", got, c.Sinks[0].Bytes)
		}
		if n := bytes.Count(flat.written.Bytes(), []byte("NSPAccessLogs")); n != len(events) {
			t.Errorf("%d flat records, want %d", n, len(events))
		}
		if nested.writes != 2 || flat.writes != 2 { // one for each lane
			t.Errorf("%d and %d writes for one batch, want 2 each", nested.writes, flat.writes)
		}
		if err := l.stop(); err != nil {
			t.Error(err)
		}
	})
}

// TestQueueFull loses at the first stage: nobody encodes.
func TestQueueFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &device{room: -1}
		legend := testLegend()
		l, err := New(Options{
			Legend:      func(uint32) *compile.Legend { return legend },
			Sinks:       []Sink{{Name: "file", To: out}},
			QueueEvents: 100,
		})
		if err != nil {
			t.Fatal(err)
		}
		denials := flood(1000, datapath.Denied)
		for i := range denials {
			denials[i].Count = 3
		}
		l.Submit(denials)
		l.Submit(flood(100, datapath.FlowStart)) // displaced by no denial
		c := l.Counters()
		if err := c.Verify(); err != nil {
			t.Error(err)
		}
		wantTally(t, "lost", c.LostQueue, Tally{Decisions: map[policy.Category]uint64{policy.PublicInboundPerimeterRulesDenied: 2700}})
		wantTally(t, "queued", c.Queued, Tally{Decisions: map[policy.Category]uint64{
			policy.PublicInboundPerimeterRulesDenied: 300, policy.PublicInboundPerimeterRulesAllowed: 100,
		}})

		l.Submit(flood(1, datapath.FlowStart)) // one too many
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := l.Run(ctx); err != nil { // writes what is left
			t.Error(err)
		}
		l.Submit(flood(1, datapath.FlowEnd)) // too late
		c = l.Counters()
		if err := c.Verify(); err != nil {
			t.Error(err)
		}
		wantTally(t, "exported", c.Sinks[0].Exported, Tally{Decisions: map[policy.Category]uint64{
			policy.PublicInboundPerimeterRulesDenied: 300, policy.PublicInboundPerimeterRulesAllowed: 100,
		}})
		wantTally(t, "lost", c.LostQueue, Tally{FlowEnds: 1, Decisions: map[policy.Category]uint64{
			policy.PublicInboundPerimeterRulesDenied: 2700, policy.PublicInboundPerimeterRulesAllowed: 1,
		}})
		if err := l.Run(t.Context()); err == nil {
			t.Error("a second Run succeeded")
		}
	})
}

// TestBlockedSink loses at the second stage, and only what that sink was to
// get; flows are displaced by no denial.
func TestBlockedSink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		blocked, free := &device{room: -1, gate: make(chan struct{})}, &device{room: -1}
		l := start(t, Options{Sinks: []Sink{
			{Name: "blocked", To: blocked, BacklogBytes: minBacklogBytes},
			{Name: "free", To: free},
		}})
		for range 20 {
			l.Submit(flood(1000, datapath.Denied))
			l.settled()
		}
		l.Submit(flood(1000, datapath.FlowStart))
		c := l.settled()
		s := c.Sinks[0]
		if s.LostBacklog.Total() == 0 || s.Pending.Total() == 0 || s.Exported.Total() != 0 {
			t.Errorf("blocked sink: %+v, want losses and pending records", s)
		}
		if n := s.LostBacklog.Decisions[policy.PublicInboundPerimeterRulesAllowed]; n != 0 {
			t.Errorf("a flood of denials displaced %d records of flows", n)
		}
		wantTally(t, "free sink", c.Sinks[1].Exported, c.Received)

		close(blocked.gate)
		c = l.settled()
		s = c.Sinks[0]
		if s.Pending.Total() != 0 || s.Exported.Total()+s.LostBacklog.Total() != c.Received.Total() {
			t.Errorf("sink that is free again: %+v", s)
		}
		onDevice, rest := blocked.tallied(t)
		wantTally(t, "on the device", onDevice, s.Exported)
		if rest != "" {
			t.Errorf("the device ends with a piece of a record: %s", rest)
		}
	})
}

// TestHangingSink loses at the last stage: Run ends although the sink hangs.
func TestHangingSink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hanging := &device{room: -1, gate: make(chan struct{})}
		defer close(hanging.gate)
		l := start(t, Options{Sinks: []Sink{{Name: "pipe", To: hanging}}, FlushTimeout: time.Minute})
		l.Submit(flood(7, datapath.FlowStart))
		l.Submit(flood(2, datapath.FlowEnd))
		l.settled()
		began := time.Now()
		err := l.stop()
		if err == nil || !strings.Contains(err.Error(), "sink pipe: 7 decisions and 2 flow ends were not written") {
			t.Errorf("Run: %v, want what was not written", err)
		}
		if took := time.Since(began); took != time.Minute {
			t.Errorf("Run waited %v for the sink, want a minute", took)
		}
		c := l.Counters()
		if err := c.Verify(); err != nil {
			t.Error(err)
		}
		wantTally(t, "lost in write", c.Sinks[0].LostWrite, c.Received)
	})
}

// TestFullDisk fills a device in the middle of a record and makes room again.
func TestFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := &device{room: 10_000, err: syscall.ENOSPC}
		l := start(t, Options{Sinks: []Sink{{Name: "file", To: disk}}, RetryAfter: time.Second})
		l.Submit(flood(100, datapath.FlowStart))
		c := l.settled()
		s := c.Sinks[0]
		if !errors.Is(s.Err, syscall.ENOSPC) || s.Errors != 1 || s.Pending.Total() == 0 || s.Exported.Total() == 0 {
			t.Fatalf("full disk: %+v, want an error, and a part exported", s)
		}
		onDevice, rest := disk.tallied(t)
		wantTally(t, "on the full disk", onDevice, s.Exported)
		if rest == "" {
			t.Fatal("the disk was to be full within a record")
		}

		time.Sleep(10 * time.Second) // the bubble's clock
		if s := l.settled().Sinks[0]; s.Errors < 10 || s.Errors > 12 {
			t.Errorf("%d attempts in ten seconds, want one a second", s.Errors)
		}

		disk.set(func(d *device) { d.room = -1 })
		time.Sleep(time.Second)
		c = l.settled()
		s = c.Sinks[0]
		wantTally(t, "exported", s.Exported, c.Received)
		if s.Err != nil {
			t.Errorf("the sink works again and still says %v", s.Err)
		}
		onDevice, rest = disk.tallied(t)
		wantTally(t, "on the disk", onDevice, c.Received)
		if rest != "" {
			t.Errorf("piece of a record: %s", rest)
		}
	})
}

// TestFailingSinkAtTheEnd gives up what the sink does not take in its last
// attempt, and books exactly what is on the disk.
func TestFailingSinkAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := &device{room: 10_000, err: syscall.ENOSPC}
		l := start(t, Options{Sinks: []Sink{{Name: "file", To: disk}}, RetryAfter: time.Hour})
		events := flood(100, datapath.FlowStart)
		for i := range events {
			events[i].Count = uint64(i + 1)
		}
		l.Submit(events)
		l.settled()
		l.Submit(flood(5, datapath.Denied)) // in the other lane, behind
		l.settled()
		disk.set(func(d *device) { d.room = 10_000 }) // some more, not enough
		began := time.Now()
		err := l.stop()
		if !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("Run: %v, want the sink's error", err)
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("Run took %v although the sink failed at once", took)
		}
		c := l.Counters()
		if err := c.Verify(); err != nil {
			t.Error(err)
		}
		s := c.Sinks[0]
		onDevice, _ := disk.tallied(t)
		wantTally(t, "on the disk", onDevice, s.Exported)
		if s.LostWrite.Total() == 0 || s.LostWrite.Decisions[policy.PublicInboundPerimeterRulesDenied] != 5 || s.Pending.Total() != 0 {
			t.Errorf("books at the end: %+v", s)
		}
	})
}

// wrongWriter breaks the rules of io.Writer.
type wrongWriter struct{ n int }

func (w *wrongWriter) Write([]byte) (int, error) { return w.n, nil }

func TestWriterThatLies(t *testing.T) {
	for _, n := range []int{-1, 0, 1 << 40} {
		synctest.Test(t, func(t *testing.T) {
			l := start(t, Options{Sinks: []Sink{{Name: "wrong", To: &wrongWriter{n}}}})
			l.Submit(flood(3, datapath.FlowStart))
			c := l.settled()
			exported := n > 0 // all, as far as anybody can tell
			if (c.Sinks[0].Exported.Total() == 3) != exported || (c.Sinks[0].Err == nil) != exported {
				t.Errorf("a write that returned %d: %+v", n, c.Sinks[0])
			}
		})
	}
}

// TestBooksAtRandom checks the books at every moment of random work with sinks
// that misbehave, and at the end against what the devices hold.
func TestBooksAtRandom(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for range 4 {
		synctest.Test(t, func(t *testing.T) {
			devices := []*device{{room: -1}, {room: 1 << 20, err: syscall.ENOSPC}, {room: -1, gate: make(chan struct{})}}
			l := start(t, Options{
				Sinks: []Sink{
					{Name: "good", To: devices[0]},
					{Name: "full", To: devices[1], BacklogBytes: minBacklogBytes},
					{Name: "slow", To: devices[2], BacklogBytes: minBacklogBytes},
				},
				QueueEvents: 500,
			})
			templates := testEvents()
			for range 50 {
				events := make([]datapath.Event, random.IntN(900))
				for i := range events {
					events[i] = templates[random.IntN(len(templates))].event
					events[i].Count = random.Uint64N(5) // 0 is 1
				}
				l.Submit(events)
				if err := l.Counters().Verify(); err != nil { // in full motion
					t.Fatal(err)
				}
				switch random.IntN(4) {
				case 0:
					devices[1].set(func(d *device) { d.room = random.IntN(100_000) })
				case 1:
					select {
					case devices[2].gate <- struct{}{}: // one write passes
					default:
					}
				case 2:
					time.Sleep(time.Second)
				case 3:
					l.settled()
				}
			}
			c := l.settled()
			if c.LostQueue.Total() == 0 {
				t.Error("the queue never was full")
			}
			close(devices[2].gate)
			if err := l.stop(); err != nil && !errors.Is(err, syscall.ENOSPC) {
				t.Error(err)
			}
			c = l.Counters()
			if err := c.Verify(); err != nil {
				t.Error(err)
			}
			for i, s := range c.Sinks {
				onDevice, _ := devices[i].tallied(t)
				wantTally(t, s.Name, s.Exported, onDevice)
				if s.Pending.Total() != 0 || s.Pending.FlowEnds != 0 {
					t.Errorf("%s: %v is pending at the end", s.Name, s.Pending)
				}
			}
		})
	}
}

func TestVerifyFindsAMissingUnit(t *testing.T) {
	books := func() Counters {
		one := func(n uint64) Tally {
			return Tally{Decisions: map[policy.Category]uint64{policy.OutboundAttempt: n}, FlowEnds: n}
		}
		return Counters{
			Received: one(15), LostQueue: one(1), Queued: one(2),
			Sinks: []SinkCounters{{Name: "s", Exported: one(3), Pending: one(4), LostBacklog: one(5), LostWrite: Tally{}}},
		}
	}
	if err := books().Verify(); err != nil {
		t.Errorf("balanced books: %v", err)
	}
	for name, change := range map[string]func(*Counters){
		"a decision too few":         func(c *Counters) { c.Received.Decisions[policy.OutboundAttempt]++ },
		"a decision too many":        func(c *Counters) { c.Received.Decisions[policy.OutboundAttempt]-- },
		"a flow end too few":         func(c *Counters) { c.Received.FlowEnds++ },
		"a category out of nowhere":  func(c *Counters) { c.Queued.Decisions[""] = 1 },
		"a category nobody received": func(c *Counters) { c.Received.Decisions[policy.PrivateInboundAllowed] = 1 },
	} {
		c := books()
		change(&c)
		if c.Verify() == nil {
			t.Errorf("%s was not found", name)
		}
	}
}

func TestOptionsAreChecked(t *testing.T) {
	legend := func(uint32) *compile.Legend { return nil }
	to := &device{}
	for _, c := range []struct {
		name string
		o    Options
		ok   bool
	}{
		{"the least", Options{Legend: legend}, true},
		{"no legend", Options{}, false},
		{"negative queue", Options{Legend: legend, QueueEvents: -1}, false},
		{"negative pause", Options{Legend: legend, RetryAfter: -1}, false},
		{"two sinks", Options{Legend: legend, Sinks: []Sink{{Name: "a", To: to}, {Name: "b", To: to}}}, true},
		{"two of one name", Options{Legend: legend, Sinks: []Sink{{Name: "a", To: to}, {Name: "a", To: to}}}, false},
		{"no name", Options{Legend: legend, Sinks: []Sink{{To: to}}}, false},
		{"no writer", Options{Legend: legend, Sinks: []Sink{{Name: "a"}}}, false},
		{"format out of range", Options{Legend: legend, Sinks: []Sink{{Name: "a", To: to, Format: formats}}}, false},
		{"tiny backlog", Options{Legend: legend, Sinks: []Sink{{Name: "a", To: to, BacklogBytes: minBacklogBytes - 1}}}, false},
		{"least backlog", Options{Legend: legend, Sinks: []Sink{{Name: "a", To: to, BacklogBytes: minBacklogBytes}}}, true},
	} {
		if _, err := New(c.o); (err == nil) != c.ok {
			t.Errorf("%s: %v, want ok %v", c.name, err, c.ok)
		}
	}
}

func TestParseFormat(t *testing.T) {
	for f := range formats {
		if got, err := ParseFormat(f.String()); got != f || err != nil {
			t.Errorf("ParseFormat(%q) = %v, %v", f.String(), got, err)
		}
	}
	if _, err := ParseFormat("xml"); err == nil {
		t.Error(`ParseFormat("xml") succeeded`)
	}
}
