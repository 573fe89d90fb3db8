package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/perimeterd/perimeterd/pkg/api"
	"github.com/perimeterd/perimeterd/pkg/datapath"
)

// enforcement is the open data path and what has to be done for it all the
// time: read its events, remove idle flows, tell repeated denials. Closing it
// leaves everything in force.
type enforcement struct {
	dp     *datapath.Datapath
	cancel context.CancelFunc
	ended  chan struct{}
	err    error // of the tasks; to be read once ended is closed

	using  sync.RWMutex // held for reading by those who ask, for writing by close
	closed bool
}

// errStarting means that the data path is not open yet.
var errStarting = errors.New("the agent is starting: ask again")

// use calls f with the data path, which stays open meanwhile.
func (v *view) use(f func(*datapath.Datapath) error) error {
	e := v.enforcement
	if e == nil && !v.disabled {
		return errStarting
	}
	if e != nil {
		e.using.RLock()
		defer e.using.RUnlock()
		if !e.closed {
			return f(e.dp)
		}
	}
	return fmt.Errorf("%w: perimeterctl enable switches it on", api.ErrDisabled)
}

// sweepEvery is how often idle flows are removed: often enough that an end is
// told soon, seldom enough that a full table costs nothing.
const sweepEvery = 5 * time.Second

// openEnforcement opens the data path and begins to look after it.
func openEnforcement(a *Agent) (*enforcement, error) {
	s := a.settings
	if err := mountBPFFS(s.PinDirectory); err != nil {
		return nil, err
	}
	dp, err := datapath.Open(datapath.Options{
		Root:            s.PinDirectory,
		Limits:          s.Limits,
		Timeouts:        s.Timeouts,
		FirstGeneration: a.legends.last() + 1,
		ClsactOnly:      s.ClsactOnly,
		XDP:             s.XDP,
		Names: datapath.NameOptions{
			Strict: s.DNS.Strict, Trusted: s.DNS.Trusted, Floor: s.DNS.Floor, Ceiling: s.DNS.Ceiling,
			PerName: uint32(s.DNS.AddressesPerName), ByAgent: s.DNS.ByAgent,
		},
	})
	if err != nil {
		return nil, fmt.Errorf("open the data path: %w", err)
	}
	// Not a child of the agent's context: at the end the agent says when.
	ctx, cancel := context.WithCancel(context.Background())
	e := &enforcement{dp: dp, cancel: cancel, ended: make(chan struct{})}
	submit := func(events []datapath.Event) {
		a.hits.count(events)
		a.log.Submit(events)
	}
	tasks := []Task{
		&reader{dp: dp, submit: submit, ready: make(chan struct{})},
		&sweeper{dp: dp, submit: submit, legends: a.legends, ready: make(chan struct{}), swept: a.swept},
		&nameKeeper{a: a, dp: dp, ready: make(chan struct{})},
		&answerReader{a: a, dp: dp, ready: make(chan struct{}), stats: a.answers},
		&drainer{dp: dp, submit: submit, legends: a.legends, every: s.DenialWindow, ready: make(chan struct{})},
	}
	go func() {
		defer close(e.ended)
		e.err = runTasks(ctx, tasks, nil)
	}()
	return e, nil
}

// close ends the tasks, with what they have left handed on, and lets go of the
// data path.
func (e *enforcement) close() error {
	e.cancel()
	<-e.ended
	e.using.Lock()
	defer e.using.Unlock()
	e.closed = true
	return errors.Join(e.err, e.dp.Close())
}

// reader hands on events as they come. It is a task.
type reader struct {
	dp     *datapath.Datapath
	submit func([]datapath.Event)
	ready  chan struct{}
}

func (r *reader) Ready() <-chan struct{} { return r.ready }
func (r *reader) String() string         { return "event reader" }

func (r *reader) Run(ctx context.Context) error {
	close(r.ready)
	return r.dp.Read(ctx, r.submit)
}

// sweeper removes idle flows and tells their ends. It is a task.
type sweeper struct {
	dp      *datapath.Datapath
	submit  func([]datapath.Event)
	legends *legends
	swept   *sweepResult
	ready   chan struct{}
}

// sweepResult is what the last sweep found.
type sweepResult struct {
	mu        sync.Mutex
	flows     int
	fragments api.Fragments
	err       error
}

func (s *sweeper) Ready() <-chan struct{} { return s.ready }
func (s *sweeper) String() string         { return "flow sweeper" }

func (s *sweeper) Run(ctx context.Context) error {
	ticks := time.NewTicker(sweepEvery)
	defer ticks.Stop()
	close(s.ready)
	for {
		s.sweep()
		select {
		case <-ctx.Done():
			return nil
		case <-ticks.C:
		}
	}
}

// sweep tries again at the next tick what fails; status tells.
func (s *sweeper) sweep() {
	events, stats, err := s.dp.Sweep()
	s.submit(events)
	if err == nil {
		inForce := s.dp.Generation()
		err = s.legends.forget(func(generation uint32) bool { return generation == inForce || stats.Generations[generation] > 0 })
	}
	s.swept.mu.Lock()
	defer s.swept.mu.Unlock()
	s.swept.flows, s.swept.err = stats.Flows-stats.Removed, err
	s.swept.fragments = api.Fragments{Remembered: stats.Fragments, Max: stats.FragmentsMax}
}

// drainer tells repeated denials, once for each window. It is a task.
type drainer struct {
	dp      *datapath.Datapath
	submit  func([]datapath.Event)
	legends *legends
	every   time.Duration
	ready   chan struct{}
}

func (d *drainer) Ready() <-chan struct{} { return d.ready }
func (d *drainer) String() string         { return "denial drainer" }

// Run drains once more at the end, so that a stopped agent owes nothing.
func (d *drainer) Run(ctx context.Context) error {
	ticks := time.NewTicker(d.every)
	defer ticks.Stop()
	close(d.ready)
	for ended := false; !ended; {
		select {
		case <-ctx.Done():
			ended = true
		case <-ticks.C:
		}
		events, err := d.dp.DrainDenials()
		d.submit(events)
		if err != nil {
			return err
		}
		d.legends.drained()
	}
	return nil
}
