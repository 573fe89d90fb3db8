package main

import (
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/perimeterd/perimeterd/pkg/datapath"
	"github.com/perimeterd/perimeterd/pkg/decisionlog"
	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/tests/bench/measure"
)

// overload checks the books where nothing keeps up, and that a flood of denials
// displaces no record of a flow.
func (e *eventScene) overload() error {
	start, denial := e.start, e.denial
	start.Watch, denial.Watch, start.Rise, denial.Rise = nil, nil, 0, 0
	for _, c := range []struct {
		what string
		to   io.Writer
	}{{"slow-sink", slowWriter{}}, {"full-disk", fullWriter{}}} {
		j, err := e.newJournal(c.to)
		if err != nil {
			return err
		}
		before, err := e.filter.Counters()
		if err != nil {
			return err
		}
		var read atomic.Uint64
		err = e.watched(func(batch []datapath.Event) {
			read.Add(uint64(len(batch)))
			j.Submit(batch)
		}, func() error {
			for range 2 {
				if err := errors.Join(e.track.Once(start), e.track.Once(denial)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		_ = j.stop() // says, rightly, that the sink did not take all
		offered := uint64(2 * (e.listed.Size() + e.others.Size()))
		counters := j.Counters()
		booked, err := e.booked(before, counters)
		if err != nil {
			return err
		}
		lost := counters.LostQueue.Total() + counters.Sinks[0].LostBacklog.Total() + counters.Sinks[0].LostWrite.Total()
		e.add(measure.Row{Name: e.name + "/" + c.what + "/lost-in-agent", Unit: "events", Ours: measure.Series{float64(lost)}},
			measure.Row{Name: e.name + "/" + c.what + "/accounted", Unit: "share", Ours: measure.Series{float64(booked) / float64(offered)},
				Targets: []measure.Target{{Of: measure.OfOurs, Least: 1}, {Of: measure.OfOurs, Most: 1}}})
		// Sums can agree by chance, so each category is checked too.
		if err := errors.Join(counters.Verify(), e.balances(before, offered)); err != nil {
			return fmt.Errorf("%s: %w", c.what, err)
		}
		if got := counters.Received.Total(); got != read.Load() {
			return fmt.Errorf("%s: %d events read, %d received", c.what, read.Load(), got)
		}
	}
	return e.flood()
}

// booked is for how many decisions since then some book says what became of them: the
// kernel's for what is folded there or found no room in a ring, the agent's for the rest.
func (e *eventScene) booked(before datapath.Counters, log decisionlog.Counters) (uint64, error) {
	sink := log.Sinks[0]
	sum := log.LostQueue.Total() + log.Queued.Total() + sink.Exported.Total() + sink.Pending.Total() + sink.LostBacklog.Total() + sink.LostWrite.Total()
	after, err := e.filter.Counters()
	for category, d := range after.Decisions {
		b := before.Decisions[category]
		sum += d.Folded - b.Folded + d.Lost - b.Lost
	}
	return sum, err
}

// balances checks the kernel's part of the books, of each category.
func (e *eventScene) balances(before datapath.Counters, offered uint64) error {
	c, err := e.filter.Counters()
	if err != nil {
		return err
	}
	var decided uint64
	for category, d := range c.Decisions {
		if d.Decided != d.Submitted+d.Folded+d.Lost {
			return fmt.Errorf("%s: %d decided, %d submitted, %d folded, %d lost", category, d.Decided, d.Submitted, d.Folded, d.Lost)
		}
		decided += d.Decided - before.Decisions[category].Decided
	}
	if decided != offered {
		return fmt.Errorf("%d packets, %d decided", offered, decided)
	}
	return nil
}

// flood has a hundred denials for each start of a flow.
func (e *eventScene) flood() error {
	j, err := e.newJournal(nil)
	if err != nil {
		return err
	}
	const starts, perStart = 64, 100
	start, denial := e.start, e.denial
	start.Watch, denial.Watch, start.Rise, denial.Rise = nil, nil, 0, 0
	flows := 0
	before, err := e.filter.Counters()
	if err != nil {
		return err
	}
	err = e.watched(j.Submit, func() error {
		for first := 0; first+starts*perStart <= e.others.Size(); first += starts * perStart {
			start.Packets = e.listed.Part(flows, starts)
			denial.Packets = e.others.Part(first, starts*perStart)
			flows += starts
			if err := errors.Join(e.track.Once(denial), e.track.Once(start)); err != nil {
				return err
			}
		}
		return nil
	})
	if err := errors.Join(err, j.stop()); err != nil {
		return err
	}
	after, err := e.filter.Counters()
	if err != nil {
		return err
	}
	allowed, deniedCategory := policy.PublicInboundPerimeterRulesAllowed, policy.PublicInboundPerimeterRulesDenied
	lost := after.Decisions[deniedCategory].Lost - before.Decisions[deniedCategory].Lost
	written := j.Counters().Sinks[0].Exported.Decisions[allowed]
	e.add(measure.Row{Name: e.name + "/flood/denials-lost", Unit: "share", Ours: measure.Series{float64(lost) / float64(flows*perStart)}},
		measure.Row{Name: e.name + "/flood/flows-told", Unit: "share", Ours: measure.Series{float64(written) / float64(flows)},
			Targets: []measure.Target{{Of: measure.OfOurs, Least: 1}}})
	return nil
}

// slowWriter takes a megabyte a second or so.
type slowWriter struct{}

func (slowWriter) Write(p []byte) (int, error) {
	n := min(len(p), 1<<16)
	time.Sleep(50 * time.Millisecond)
	if n < len(p) {
		return n, io.ErrShortWrite
	}
	return n, nil
}

// fullWriter is a disk without room.
type fullWriter struct{}

func (fullWriter) Write([]byte) (int, error) { return 0, unix.ENOSPC }
