package main

import (
	"errors"

	"github.com/perimeterd/perimeterd/pkg/datapath"
	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/tests/bench/bed"
	"github.com/perimeterd/perimeterd/tests/bench/measure"
)

const (
	// ringSlice is how many packets a slice has, and ringPairs how many pairs of slices
	// are compared in each round. The difference of two first packets is a twentieth of
	// either: many pairs tell it whose slices follow each other at once.
	ringSlice = 1 << 11
	ringPairs = 16
)

// ring measures what a packet pays for the ring, beyond the event itself. What is
// compared runs on the same tables and the same ring: with room, or as if nobody had
// read, where the packet does all but the event.
func (e *eventScene) ring() error {
	ours, err := e.filter.FlowRing()
	if err != nil {
		return err
	}
	bare, err := bed.OpenRing(e.track.Floors.Ring())
	if err != nil {
		return errors.Join(err, ours.Close())
	}
	return errors.Join(e.ringWith(ours, bare), ours.Close(), bare.Close())
}

func (e *eventScene) ringWith(ours, bare *bed.Ring) error {
	t, syn := e.track, e.start.Frame
	r := &runs{track: t}
	small := func(name string, run bed.Run) {
		run.Most = ringSlice
		r.add(name, run, nil)
	}
	packets := e.listed.Part(0, e.listed.Size()) // of both, so that none comes again too soon
	told, refused := e.start, e.start
	told.Packets, refused.Packets = packets, packets
	told.Watch = e.starts(func(d datapath.DecisionCount) uint64 { return d.Submitted })
	refused.Watch = e.starts(func(d datapath.DecisionCount) uint64 { return d.Lost })
	told.Most, refused.Most = ringSlice, ringSlice
	told.Before, told.After = ours.LookRead, e.filter.Drain
	refused.Before, refused.After = ours.LookFull, ours.LookRead
	if err := t.Once(refused); err != nil { // from here on the table of openings is full
		return err
	}
	r.entrants = append(r.entrants, measure.Entrant{Name: "told less refused", Slice: measure.Pairs(t.Repeated(told), t.Repeated(refused), ringPairs)})

	// The same without the product. The floor's own ring has been used alike before either.
	submit, build := t.Floor("submit_event", e.listed, syn, true), t.Floor("build_event", e.listed, syn, true)
	use := submit
	use.Packets = e.listed.Part(0, ringSlice)
	empty := func() error { return bed.Discard(t.Floors.Ring()) }
	used := func() error { return errors.Join(t.Once(use), empty()) }
	submit.Before, build.Before = used, used
	submit.After, build.After = empty, empty
	small("submit", submit)
	small("build", build)
	full := t.Floor("submit_event", e.listed, syn, false)
	full.Before, full.After = bare.LookFull, bare.LookRead
	small("full", full)
	small("fill", t.Floor("fill_event", e.listed, syn, true))
	small("parse", t.Floor("parse", e.listed, syn, true))
	if r.err != nil {
		return r.err
	}
	baseline := t.Floor("empty", e.listed, syn, false)
	baseline.Most = ringSlice
	samples, err := measure.Contest{Baseline: t.Repeated(baseline), Entrants: r.entrants}.Run(2*e.rounds, e.random)
	if err != nil {
		return err
	}
	// Of two that follow each other the difference needs no baseline. That a ring is full
	// a packet finds out under the ring's lock: told less refused has not that part of it.
	less := func(a, b string) measure.Series { return samples.Absolute(a).Minus(samples.Absolute(b)) }
	asked, built, bareEvent := less("full", "parse"), less("fill", "parse"), less("submit", "build")
	row := func(what string, ns, floor measure.Series, floorIs string, targets ...measure.Target) {
		e.add(measure.Row{Name: e.name + "/" + what, Unit: "ns", Ours: ns, Floor: floor, FloorIs: floorIs, Targets: targets})
	}
	row("bare", bareEvent, less("build", "parse"), "clock+build")
	row("asked", asked, nil, "")
	row("packet", samples.Absolute("told less refused").Plus(asked).Minus(built), bareEvent, "bare", measure.Target{Of: measure.OfOurs, Most: 50})
	return nil
}

// starts reads one of the books of what starts flows.
func (e *eventScene) starts(book func(datapath.DecisionCount) uint64) func() (uint64, error) {
	return func() (uint64, error) {
		c, err := e.filter.Counters()
		return book(c.Decisions[policy.PublicInboundPerimeterRulesAllowed]), err
	}
}
