package decisionlog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/perimeterd/perimeterd/pkg/compile"
	"github.com/perimeterd/perimeterd/pkg/datapath"
)

// Options of a Log.
type Options struct {
	// Legend returns what the numbers of a generation stand for, nil if that is
	// not known any more. Required. One goroutine calls it, at most once for each
	// batch and generation.
	Legend func(generation uint32) *compile.Legend
	// Interface returns the name of an interface, "" if it has none. Optional;
	// without it records show the number. Called like Legend.
	Interface func(ifindex uint32) string
	// Name returns the name that has opened the peer's address of an outbound
	// event, or of a denial a name that somebody was told it for; "" if there is
	// none. Optional. One goroutine calls it, for each such event.
	Name func(*datapath.Event) string
	// Sinks get every record. Optional: subscribers get theirs without any.
	Sinks []Sink
	// QueueEvents is how many events may wait to be encoded, of allowed flows and
	// of denials each. Optional, defaults to 32768, some 8 MB each when full.
	QueueEvents int
	// RetryAfter is the pause after a write that failed. Optional, defaults to 1 s.
	RetryAfter time.Duration
	// FlushTimeout is how long Run waits for the sinks to write what is left once
	// its context has ended. Optional, defaults to 5 s.
	FlushTimeout time.Duration
}

// Sink is where records go.
type Sink struct {
	// Name for counters and errors. Required, unique.
	Name string
	// Format of the lines. Optional, defaults to FormatNSP.
	Format Format
	// To is written to by one goroutine at a time, whole lines, as many as wait.
	// Required. After an error, or a short write, the rest is written again later,
	// beginning with the first byte that was not taken. The Log never closes it.
	To io.Writer
	// BacklogBytes is how much may wait to be written, of allowed flows and of
	// denials each. Optional, defaults to 32 MiB, at least 1 MiB.
	BacklogBytes int
}

const (
	defaultQueueEvents  = 32768
	defaultRetryAfter   = time.Second
	defaultFlushTimeout = 5 * time.Second
	defaultBacklogBytes = 32 << 20
	minBacklogBytes     = 1 << 20
)

// lane keeps allowed flows and denials apart at every step where something can
// be lost, as the kernel's two rings do.
type lane uint8

const (
	laneFlows lane = iota
	laneDenials
	lanes
)

func laneOf(kind datapath.EventKind) lane {
	if kind == datapath.Denied {
		return laneDenials
	}
	return laneFlows
}

// queued is an event on its way to the encoder.
type queued struct {
	event datapath.Event
	entry entry
}

// Log brings events to sinks and subscribers. It is a task: it does nothing
// until Run is called, and is finished when Run returns. All other methods may
// be called by any goroutine at any time.
type Log struct {
	options Options
	ready   chan struct{}
	wake    chan struct{} // the encoder has something to do; never blocks the sender
	closing chan struct{} // closed when nothing more will be encoded
	sinks   []*sink

	mu          sync.Mutex // guards what follows, and each sink's fields of the same kind
	started     bool
	closed      bool // Submit takes nothing any more
	categories  categories
	waiting     [lanes][]queued
	received    tally
	lostQueue   tally
	queued      tally // in waiting or in the encoder's hands
	subscribers []*Subscription
	pastLost    uint64 // records lost by subscriptions that are closed
}

// New checks the options and returns a Log that takes events, up to its queue's
// bound, but encodes nothing before Run.
func New(o Options) (*Log, error) {
	if o.Legend == nil {
		return nil, errors.New("decision log: Legend is required")
	}
	if o.QueueEvents < 0 || o.RetryAfter < 0 || o.FlushTimeout < 0 {
		return nil, errors.New("decision log: QueueEvents, RetryAfter and FlushTimeout must not be negative")
	}
	setDefault(&o.QueueEvents, defaultQueueEvents)
	setDefault(&o.RetryAfter, defaultRetryAfter)
	setDefault(&o.FlushTimeout, defaultFlushTimeout)
	l := &Log{
		options: o,
		ready:   make(chan struct{}),
		wake:    make(chan struct{}, 1),
		closing: make(chan struct{}),
	}
	seen := make(map[string]bool)
	for i, s := range o.Sinks {
		if s.Name == "" || seen[s.Name] {
			return nil, fmt.Errorf("decision log: sink %d: name %q is empty or used twice", i, s.Name)
		}
		seen[s.Name] = true
		if s.To == nil || s.Format >= formats {
			return nil, fmt.Errorf("decision log: sink %s: has no writer, or an unknown format", s.Name)
		}
		setDefault(&s.BacklogBytes, defaultBacklogBytes)
		if s.BacklogBytes < minBacklogBytes {
			return nil, fmt.Errorf("decision log: sink %s: a backlog of %d bytes is too small, write at least %d", s.Name, s.BacklogBytes, minBacklogBytes)
		}
		l.sinks = append(l.sinks, newSink(s))
	}
	return l, nil
}

func setDefault[T comparable](value *T, otherwise T) {
	var zero T
	if *value == zero {
		*value = otherwise
	}
}

// Submit takes the events, which the caller may reuse afterwards. It never
// waits for a sink: what the queue has no room for is lost, and counted.
func (l *Log) Submit(events []datapath.Event) {
	if len(events) == 0 {
		return
	}
	l.mu.Lock()
	for i := range events {
		e := &events[i]
		entry := entryOf(e, &l.categories)
		l.received.enter(entry)
		waiting := &l.waiting[laneOf(e.Kind)]
		if l.closed || len(*waiting) >= l.options.QueueEvents {
			l.lostQueue.enter(entry)
			continue
		}
		l.queued.enter(entry)
		*waiting = append(*waiting, queued{event: *e, entry: entry})
	}
	l.mu.Unlock()
	signal(l.wake)
}

// signal wakes the goroutine that receives from c, now or when it next does.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Run encodes and writes until the context ends, then writes what is left, for
// at most FlushTimeout, and returns nil, or which sinks could not take all.
// End whoever calls Submit first: what comes later is lost. A sink whose Write
// hangs is left behind; its goroutine ends when the Write does. Run can be
// called once.
func (l *Log) Run(ctx context.Context) error {
	l.mu.Lock()
	started := l.started
	l.started = true
	l.mu.Unlock()
	if started {
		return errors.New("decision log: Run was called twice")
	}

	done := make(chan *sink, len(l.sinks))
	for _, s := range l.sinks {
		go func() {
			l.writeBacklog(s)
			done <- s
		}()
	}
	encoder := newEncoder(l)
	close(l.ready)
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-l.wake:
			encoder.encodeWaiting()
		}
	}

	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	encoder.encodeWaiting()
	close(l.closing)
	l.endSubscriptions()
	return l.awaitSinks(done)
}

// awaitSinks waits for the sinks' goroutines and abandons those that hang.
func (l *Log) awaitSinks(done <-chan *sink) error {
	timeout := time.NewTimer(l.options.FlushTimeout)
	defer timeout.Stop()
wait:
	for range l.sinks {
		select {
		case <-done:
		case <-timeout.C:
			break wait
		}
	}
	var errs []error
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.sinks {
		errs = append(errs, s.abandon())
	}
	return errors.Join(errs...)
}

// Ready is closed once events are being encoded.
func (l *Log) Ready() <-chan struct{} { return l.ready }

// String names the task.
func (l *Log) String() string { return "decision log" }

// Counters returns the books, consistent with each other to the unit.
func (l *Log) Counters() Counters {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := Counters{
		Received:       l.received.public(&l.categories),
		LostQueue:      l.lostQueue.public(&l.categories),
		Queued:         l.queued.public(&l.categories),
		Subscribers:    len(l.subscribers),
		SubscriberLost: l.pastLost,
	}
	for _, s := range l.sinks {
		c.Sinks = append(c.Sinks, s.counters(&l.categories))
	}
	for _, s := range l.subscribers {
		c.SubscriberLost += s.totalLost()
	}
	return c
}
