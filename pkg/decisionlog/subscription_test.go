package decisionlog

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"

	"github.com/perimeterd/perimeterd/pkg/datapath"
	"github.com/perimeterd/perimeterd/pkg/policy"
)

func subscribe(t *testing.T, l running, o SubscribeOptions) *Subscription {
	t.Helper()
	s, err := l.Subscribe(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func TestSubscribers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := start(t, Options{Sinks: []Sink{{Name: "flat", Format: FormatFlat, To: io.Discard}}})
		l.Submit(flood(5, datapath.FlowStart)) // before anybody listens
		l.settled()
		all := subscribe(t, l, SubscribeOptions{})
		denied := subscribe(t, l, SubscribeOptions{Filter: func(r *Record) bool { return r.Properties.Perimeterd.Verdict == "deny" }})
		l.Submit(append(flood(3, datapath.FlowStart), flood(2, datapath.Denied)...))
		if c := l.settled(); c.Subscribers != 2 || c.SubscriberLost != 0 {
			t.Errorf("%d subscribers, %d lost, want 2 and none", c.Subscribers, c.SubscriberLost)
		}
		for _, c := range []struct {
			name string
			s    *Subscription
			want int
		}{{"all", all, 5}, {"denied", denied, 2}} {
			lines, err := c.s.Next(t.Context())
			if err != nil || lines.Records != c.want || lines.Lost != 0 {
				t.Errorf("%s: %+v, %v, want %d records", c.name, lines, err, c.want)
			}
			tally, rest := tallyLines(t, string(lines.Bytes))
			if tally.Total() != uint64(c.want) || rest != "" {
				t.Errorf("%s: lines hold %v and %q", c.name, tally, rest)
			}
		}

		// A subscriber that is waiting is woken.
		woken := make(chan Lines)
		go func() {
			lines, err := denied.Next(t.Context())
			if err != nil {
				t.Error(err)
			}
			woken <- lines
		}()
		synctest.Wait()
		l.Submit(flood(1, datapath.FlowStart)) // not for it
		l.settled()
		l.Submit(flood(1, datapath.Denied))
		if lines := <-woken; lines.Records != 1 {
			t.Errorf("woken with %+v, want one record", lines)
		}

		denied.Close()
		denied.Close()
		if _, err := denied.Next(t.Context()); err != io.EOF {
			t.Errorf("closed subscription: %v, want EOF", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if lines, err := all.Next(ctx); err != nil || lines.Records != 2 {
			t.Errorf("%+v, %v, want what waits although the context has ended", lines, err)
		}
		if _, err := all.Next(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("ended context: %v", err)
		}

		l.Submit(flood(4, datapath.FlowStart))
		if err := l.stop(); err != nil {
			t.Error(err)
		}
		if lines, err := all.Next(t.Context()); err != nil || lines.Records != 4 {
			t.Errorf("%+v, %v, want the last records of the log", lines, err)
		}
		if _, err := all.Next(t.Context()); err != io.EOF {
			t.Errorf("ended log: %v, want EOF", err)
		}
		if s, err := l.Subscribe(SubscribeOptions{}); err != nil {
			t.Error(err)
		} else if _, err := s.Next(t.Context()); err != io.EOF {
			t.Errorf("subscription to an ended log: %v, want EOF", err)
		}
		if n := l.Counters().Subscribers; n != 0 {
			t.Errorf("%d subscribers are left", n)
		}
	})
}

func TestSlowSubscriber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := &device{room: -1}
		l := start(t, Options{Sinks: []Sink{{Name: "file", To: file}}})
		slow := subscribe(t, l, SubscribeOptions{BufferBytes: 10_000})
		quick := subscribe(t, l, SubscribeOptions{})
		for range 3 {
			l.Submit(flood(100, datapath.FlowStart))
			l.settled()
			if lines, err := quick.Next(t.Context()); err != nil || lines.Records != 100 || lines.Lost != 0 {
				t.Errorf("quick subscriber: %d records, %d lost, %v", lines.Records, lines.Lost, err)
			}
		}
		lines, err := slow.Next(t.Context())
		if err != nil || lines.Records == 0 || lines.Lost == 0 || uint64(lines.Records)+lines.Lost != 300 {
			t.Fatalf("slow subscriber: %d records, %d lost, %v, want 300 in all", lines.Records, lines.Lost, err)
		}
		if len(lines.Bytes) > 10_000 || bytes.Count(lines.Bytes, []byte("\n")) != lines.Records {
			t.Errorf("%d bytes hold %d lines, want %d in 10000", len(lines.Bytes), bytes.Count(lines.Bytes, []byte("\n")), lines.Records)
		}
		lost := lines.Lost

		l.Submit(flood(1, datapath.Denied))
		l.settled()
		if lines, err := slow.Next(t.Context()); err != nil || lines.Records != 1 || lines.Lost != 0 {
			t.Errorf("after it came back: %d records, %d lost, %v", lines.Records, lines.Lost, err)
		}
		slow.Close()
		c := l.settled()
		if c.SubscriberLost != lost || c.Subscribers != 1 {
			t.Errorf("counted %d lost of %d, %d subscribers left", c.SubscriberLost, lost, c.Subscribers)
		}
		if got := c.Sinks[0].Exported.Decisions[policy.PublicInboundPerimeterRulesAllowed]; got != 300 {
			t.Errorf("the file has %d records, want all 300", got)
		}
	})
}

// TestGapIsOne loses a long record, and the short one after it that would have
// had room: what is missing is missing after the lines, not between them.
func TestGapIsOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := start(t, Options{})
		short := decision(datapath.FlowStart, ordersDB, 1)
		long := decision(datapath.FlowEnd, ordersDB, 1)
		long.Started = long.Time
		measure := subscribe(t, l, SubscribeOptions{})
		l.Submit([]datapath.Event{short})
		lines, err := measure.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		s := subscribe(t, l, SubscribeOptions{BufferBytes: 3 * len(lines.Bytes)})
		l.Submit([]datapath.Event{short, short, long, short})
		l.settled()
		if lines, err := s.Next(t.Context()); err != nil || lines.Records != 2 || lines.Lost != 2 {
			t.Errorf("%d records, %d lost, %v, want 2 and 2", lines.Records, lines.Lost, err)
		}
	})
}

func TestSubscribeOptionsAreChecked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := start(t, Options{})
		if _, err := l.Subscribe(SubscribeOptions{BufferBytes: -1}); err == nil {
			t.Error("a negative buffer was accepted")
		}
	})
}
