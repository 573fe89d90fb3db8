package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/perimeterd/perimeterd/pkg/compile"
	"github.com/perimeterd/perimeterd/pkg/datapath"
	"github.com/perimeterd/perimeterd/pkg/decisionlog"
	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/tests/bench/bed"
	"github.com/perimeterd/perimeterd/tests/bench/floor"
	"github.com/perimeterd/perimeterd/tests/bench/measure"
	"github.com/perimeterd/perimeterd/tests/packet"
)

// eventParts are part (e): what becomes of decisions.
func eventParts() []part {
	var list []part
	for _, p := range []struct {
		name string
		run  func(*eventScene) error
	}{
		{"events/ring", (*eventScene).ring},
		{"events/counted", (*eventScene).counted},
		{"events/json", (*eventScene).json},
		{"events/through", (*eventScene).through},
		{"events/overload", (*eventScene).overload},
	} {
		list = append(list, part{[]string{p.name}, func(b *bench, _ []string) error {
			return b.onStage(func(s *stage) error {
				e := &eventScene{bench: b, name: p.name}
				if err := e.open(s); err != nil {
					return err
				}
				return p.run(e)
			})
		}})
	}
	return list
}

// eventScene has a data path with packets that start flows and packets that are
// denied for the first time.
type eventScene struct {
	*bench
	name           string
	filter         *bed.Filter
	track          *bed.Track
	listed, others *bed.Group
	start, denial  bed.Run
}

// eventRing holds as many events as a drain is timed on.
const eventRing = 64 << 20

func (e *eventScene) open(s *stage) (err error) {
	at := hookAndFamily{floor.TC, 4}
	list := bed.NewList(bed.Mixed, at.family, 10_000, e.random)
	limits := datapath.Limits{} // the product's defaults
	if e.name == "events/counted" || e.name == "events/json" {
		limits = datapath.Limits{FlowRing: eventRing}
	}
	if e.filter, err = s.filter(limits, list); err != nil {
		return err
	}
	if e.track, err = s.track(e.bench, at, floor.Sizes{Tuples: 2 * cycle}); err != nil {
		return err
	}
	if e.listed, err = e.track.Group(flowsInside(list, cycle, e.random)); err != nil {
		return err
	}
	if e.others, err = e.track.Group(flowsOutside(list, cycle, e.random)); err != nil {
		return err
	}
	syn := e.track.Frame(packet.SYN, peerNumber, 0)
	if e.start, err = e.track.Product(e.filter, "towards", e.listed, syn, "access-rule", policy.Allow); err != nil {
		return err
	}
	e.denial, err = e.track.Product(e.filter, "towards", e.others, syn, "no-access-rule", policy.Deny)
	return err
}

// counted measures how fast the agent reads events that are in the ring.
func (e *eventScene) counted() error {
	var rates measure.Series
	for range 5 {
		if err := e.track.Once(e.start); err != nil {
			return err
		}
		read := 0
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		used := bed.ProcessTime() // nothing else of this process works meanwhile
		if err := e.filter.Read(ended, func(batch []datapath.Event) { read += len(batch) }); err != nil {
			return err
		}
		took := bed.ProcessTime() - used
		if read != e.listed.Size() {
			return fmt.Errorf("%d events of %d were read", read, e.listed.Size())
		}
		rates = append(rates, float64(read)/took.Seconds())
	}
	e.add(measure.Row{Name: e.name, Unit: "events/CPU s", Ours: rates, Targets: []measure.Target{{Of: measure.OfOurs, Least: 3e6}}})
	return nil
}

// json measures how fast events become records in the file, by one core.
func (e *eventScene) json() error {
	if err := e.track.Once(e.start); err != nil {
		return err
	}
	var events []datapath.Event
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if err := e.filter.Read(ended, func(batch []datapath.Event) { events = append(events, batch...) }); err != nil {
		return err
	}
	var rates, cpu measure.Series
	for range 3 {
		before := runtime.GOMAXPROCS(1)
		rate, perRecord, err := e.write(events)
		runtime.GOMAXPROCS(before)
		if err != nil {
			return err
		}
		rates, cpu = append(rates, rate), append(cpu, perRecord)
	}
	e.add(measure.Row{Name: e.name, Unit: "records/CPU s", Ours: rates, Targets: []measure.Target{{Of: measure.OfOurs, Least: 300_000}}},
		measure.Row{Name: e.name + "/cpu", Unit: "ns CPU", Ours: cpu})
	return nil
}

// journal is a decision log into a file of its own.
type journal struct {
	*decisionlog.Log
	stop func() error // ends it, and removes the file
}

// newJournal opens one as the agent does. A writer takes the place of the file.
func (e *eventScene) newJournal(to io.Writer) (*journal, error) {
	directory, err := os.MkdirTemp("", "perimeterd-bench-")
	if err != nil {
		return nil, err
	}
	var file *decisionlog.File
	if to == nil {
		if file, err = decisionlog.OpenFile(decisionlog.FileOptions{Path: filepath.Join(directory, "decisions.json"), MaxFiles: 2}); err != nil {
			return nil, errors.Join(err, os.RemoveAll(directory))
		}
		to = file
	}
	l, err := decisionlog.New(decisionlog.Options{
		Legend: func(uint32) *compile.Legend { return e.filter.Legend },
		Sinks:  []decisionlog.Sink{{Name: "file", To: to, Format: decisionlog.FormatNSP}},
	})
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(directory))
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	<-l.Ready()
	return &journal{l, func() error {
		cancel()
		err := <-done
		if file != nil {
			err = errors.Join(err, file.Close())
		}
		return errors.Join(err, os.RemoveAll(directory))
	}}, nil
}

// write hands events to the log no faster than it takes them.
func (e *eventScene) write(events []datapath.Event) (rate, cpu float64, err error) {
	j, err := e.newJournal(nil)
	if err != nil {
		return 0, 0, err
	}
	const batch, waiting = 2048, 16384
	used := bed.ProcessTime()
	for i := 0; i < len(events); i += batch {
		j.Submit(events[i:min(i+batch, len(events))])
		for j.waits() > waiting {
			runtime.Gosched()
		}
	}
	if err := j.stop(); err != nil {
		return 0, 0, err
	}
	spent := bed.ProcessTime() - used
	if got := j.Counters().Sinks[0].Records; got != uint64(len(events)) {
		return 0, 0, fmt.Errorf("%d records of %d events were written", got, len(events))
	}
	n := float64(len(events))
	return n / spent.Seconds(), float64(spent) / n, nil
}

// waits is how many events are somewhere between Submit and the file.
func (j *journal) waits() uint64 {
	c := j.Counters()
	return c.Queued.Total() + c.Sinks[0].Pending.Total()
}

// watched runs f while the agent's reader hands the events of both rings to sink.
func (e *eventScene) watched(sink func([]datapath.Event), f func() error) error {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.filter.Read(ctx, sink) }()
	err := f()
	cancel()
	return errors.Join(err, <-done)
}

// through sends packets that start flows as fast as the machine can, and follows
// each event to the file.
func (e *eventScene) through() error {
	j, err := e.newJournal(nil)
	if err != nil {
		return err
	}
	packets := e.start
	packets.Watch, packets.Rise = nil, 0
	const times = 4
	began := time.Now()
	used := bed.ProcessTime()
	var producing time.Duration
	err = e.watched(j.Submit, func() error {
		defer func() { producing = time.Since(began) }()
		for range times {
			if err := e.track.Once(packets); err != nil {
				return err
			}
		}
		return nil
	})
	if err := errors.Join(err, j.stop()); err != nil {
		return err
	}
	took, spent := time.Since(began), bed.ProcessTime()-used
	offered := uint64(times * e.listed.Size())
	lostInRing, err := e.books(j.Counters(), offered)
	if err != nil {
		return err
	}
	written := j.Counters().Sinks[0].Exported.Total()
	e.add(measure.Row{Name: e.name + "/offered", Unit: "events/s", Ours: measure.Series{float64(offered) / producing.Seconds()}},
		measure.Row{Name: e.name + "/written", Unit: "records/s", Ours: measure.Series{float64(written) / took.Seconds()}},
		measure.Row{Name: e.name + "/lost-in-ring", Unit: "share", Ours: measure.Series{float64(lostInRing) / float64(offered)}},
		measure.Row{Name: e.name + "/lost-in-agent", Unit: "share", Ours: measure.Series{float64(offered-lostInRing-written) / float64(offered)}},
		measure.Row{Name: e.name + "/cpu", Unit: "ns CPU", Ours: measure.Series{float64(spent) / float64(offered)}})
	return nil
}

// books checks the identity to the unit: decided = submitted + folded + lost, what
// was submitted was received, and what was received is somewhere.
func (e *eventScene) books(log decisionlog.Counters, offered uint64) (lost uint64, err error) {
	c, err := e.filter.Counters()
	if err != nil {
		return 0, err
	}
	var decided, submitted uint64
	for category, d := range c.Decisions {
		if d.Decided != d.Submitted+d.Folded+d.Lost {
			return 0, fmt.Errorf("%s: %d decided, %d submitted, %d folded, %d lost", category, d.Decided, d.Submitted, d.Folded, d.Lost)
		}
		if got := log.Received.Decisions[category]; got != d.Submitted {
			return 0, fmt.Errorf("%s: %d submitted, %d received", category, d.Submitted, got)
		}
		decided, submitted, lost = decided+d.Decided, submitted+d.Submitted, lost+d.Lost
	}
	if decided != offered {
		return 0, fmt.Errorf("%d packets, %d decided", offered, decided)
	}
	return lost, log.Verify()
}
