package main

import (
	"errors"
	"fmt"

	"github.com/perimeterd/perimeterd/pkg/datapath"
	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/tests/bench/bed"
	"github.com/perimeterd/perimeterd/tests/bench/floor"
	"github.com/perimeterd/perimeterd/tests/bench/measure"
	"github.com/perimeterd/perimeterd/tests/packet"
)

// tableParts are part (f), but for the lookups, which are in part (a).
func tableParts() []part {
	var list []part
	at := hookAndFamily{floor.TC, 4}
	for _, flows := range []int{100_000, 1_000_000} {
		name := fmt.Sprintf("table/full/%d", flows)
		list = append(list, part{[]string{name}, func(b *bench, _ []string) error {
			return b.onStage(func(s *stage) error { return b.measureFullTable(s, at, name, flows) })
		}})
	}
	return append(list, part{[]string{"table/memory"}, func(b *bench, _ []string) error {
		return b.onStage(func(s *stage) error { return b.measureFlowMemory(s, "table/memory") })
	}})
}

// overflow is how many flows find no room where nothing is evicted.
const overflow = 1 << 14

// measureFullTable measures flows in a table of established flows that is full, flows
// that found no room in it, and first packets while the table of openings evicts.
func (b *bench) measureFullTable(s *stage, at hookAndFamily, name string, flows int) error {
	list := bed.NewList(bed.Mixed, at.family, 10_000, b.random)
	filter, err := s.filter(datapath.Limits{EstablishedFlows4: uint32(flows), OpeningFlows4: openings}, list)
	if err != nil {
		return err
	}
	tuples := flowsInside(list, flows+overflow+2*cycle, b.random)
	t, err := s.track(b, at, floor.Sizes{Tuples: 2*(flows+overflow) + 2*cycle + 1<<18, Flows: uint32(flows), Opening: openings})
	if err != nil {
		return err
	}
	drawn := make([]floor.Tuple, 1<<18)
	for i := range drawn {
		drawn[i] = tuples[b.random.IntN(flows)]
	}
	known, back, err := groupBothWays(t, tuples[:flows+overflow])
	if err != nil {
		return err
	}
	fresh, err := t.Group(tuples[flows+overflow:])
	if err != nil {
		return err
	}
	if err := establish(t, filter, at, known, back); err != nil {
		return fmt.Errorf("establish %d flows in a table of %d: %w", flows+overflow, flows, err)
	}
	inside, left := known.Part(0, flows), known.Part(flows, overflow)
	data, syn := t.Frame(packet.ACK, peerNumber+1, memberNumber+1), t.Frame(packet.SYN, peerNumber, 0)
	if err := t.Once(t.Floor("prime", inside, data, true)); err != nil {
		return err
	}

	random, err := t.Group(drawn)
	if err != nil {
		return err
	}
	r := &runs{track: t}
	r.product("inside", filter, "towards", random, data, "established", policy.Allow, nil)
	r.product("left", filter, "towards", left, data, "established", policy.Allow, nil)
	r.add("H", t.Floor("hash_lookup", random, data, true), nil)
	samples, err := r.compete(b, t.Floor("empty", inside, data, false))
	if err != nil {
		return err
	}
	h := samples.Net("H")
	b.add(measure.Row{Name: name + "/in-the-table", Unit: "ns", Ours: samples.Net("inside"), Floor: h, FloorIs: "H"},
		measure.Row{Name: name + "/no-room-in-it", Unit: "ns", Ours: samples.Net("left"), Floor: h, FloorIs: "H"})

	// Openings: while there is room, and once each evicts another.
	fill := &runs{track: t}
	start, err := t.Product(filter, "towards", fresh.Part(cycle, cycle), syn, "access-rule", policy.Allow)
	start.Most, start.After = eventsMost, filter.Drain
	fill.add("start", start, err)
	insert := t.Floor("insert", fresh.Part(cycle, cycle), syn, true)
	insert.Most = eventsMost
	fill.add("insert", insert, nil)
	for _, run := range []bed.Run{start, insert} {
		for first := 0; first < cycle; first += eventsMost {
			run.Packets = fresh.Part(first, eventsMost)
			if err := t.Once(run); err != nil {
				return err
			}
		}
	}
	if samples, err = fill.compete(b, t.Floor("empty", inside, data, false)); err != nil {
		return err
	}
	b.add(measure.Row{Name: name + "/start-that-evicts", Unit: "ns", Ours: samples.Net("start"), Floor: samples.Net("insert"), FloorIs: "insert"})
	return b.nothingIsCut(t, filter, name, inside, left, data)
}

// nothingIsCut runs every flow once more, after openings have evicted those that
// found no room: each must pass, as established or, begun anew, by its rule.
func (b *bench) nothingIsCut(t *bed.Track, filter *bed.Filter, name string, inside, left *bed.Group, data []byte) error {
	run, err := t.Product(filter, "towards", inside, data, "established", policy.Allow)
	if err != nil {
		return err
	}
	if err := t.Once(run); err != nil {
		return fmt.Errorf("a flow of the full table is gone: %w", err)
	}
	run.Packets = left
	run.Watch = func() (uint64, error) {
		c, err := filter.Counters()
		return c.Packets["established"].Packets + c.Packets["access-rule"].Packets, err
	}
	if err := t.Once(run); err != nil {
		return fmt.Errorf("a flow that found no room was cut: %w", err)
	}
	passed := float64(inside.Size() + left.Size())
	b.add(measure.Row{Name: name + "/not-cut", Unit: "flows", Ours: measure.Series{passed}, Targets: []measure.Target{{Of: measure.OfOurs, Least: passed}}})
	return filter.Drain()
}

// measureFlowMemory measures what a place for a flow takes in the kernel.
func (b *bench) measureFlowMemory(s *stage, name string) error {
	const flows = 1_000_000
	if err := bed.Settle(); err != nil { // what was measured before is still being freed
		return err
	}
	for _, family := range []int{4, 6} {
		list := bed.ListOf(family, bed.HostPrefixes(bed.OtherAddress(family)))
		var areas [2]int64
		for i, places := range []uint32{1024, flows} {
			limits := datapath.Limits{EstablishedFlows4: 1024, EstablishedFlows6: 1024}
			if family == 4 {
				limits.EstablishedFlows4 = places
			} else {
				limits.EstablishedFlows6 = places
			}
			before, err := bed.LargeMapAreas()
			if err != nil {
				return err
			}
			f, err := bed.OpenFilter(fmt.Sprintf("%s/memory-%d-%d", s.bpffs, family, i), limits, bed.ListPolicy(list.Prefixes), bed.Facts())
			if err != nil {
				return err
			}
			s.opened = append(s.opened, f.Close) // and not now: it would be freed while the next is measured
			after, err := bed.LargeMapAreas()
			if err != nil {
				return err
			}
			areas[i] = after - before
		}
		if areas[1] <= areas[0] {
			return errors.New("the kernel's table of its areas does not show the flow tables")
		}
		each := measure.Series{float64(areas[1]-areas[0]) / flows}
		b.add(measure.Row{Name: fmt.Sprintf("%s/v%d", name, family), Unit: "B/flow", Ours: each,
			Targets: []measure.Target{{Of: measure.OfOurs, Most: 128}}})
	}
	return nil
}
