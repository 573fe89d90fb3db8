package main

import (
	"errors"

	"github.com/perimeterd/perimeterd/pkg/compile"
	"github.com/perimeterd/perimeterd/pkg/datapath"
	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/tests/bench/bed"
	"github.com/perimeterd/perimeterd/tests/bench/floor"
	"github.com/perimeterd/perimeterd/tests/bench/measure"
	"github.com/perimeterd/perimeterd/tests/packet"
)

// measureReload measures what lookups cost while a list of so many prefixes is loaded
// aside, put in force, and the one before freed, beside what they cost in quiet.
func (b *bench) measureReload(s *stage, name string, size int) error {
	list := bed.NewList(bed.Apart, 4, size, b.random)
	filter, err := s.filter(datapath.Limits{}, list)
	if err != nil {
		return err
	}
	// A trie is shared with the generation before unless a prefix has changed.
	var versions [2]*compile.Tables
	var legends [2]*compile.Legend
	for i := range versions {
		p := bed.ListPolicy(list.Prefixes[i:])
		if versions[i], legends[i], err = compile.Compile(p, bed.Facts()); err != nil {
			return err
		}
	}
	t, err := s.track(b, hookAndFamily{floor.TC, 4}, floor.Sizes{Tuples: 1 << 18, Trie: 1})
	if err != nil {
		return err
	}
	kept := bed.ListOf(4, list.Prefixes[1:])
	listed, err := t.Group(flowsInside(kept, 1<<18, b.random))
	if err != nil {
		return err
	}
	syn := t.Frame(packet.SYN, peerNumber, 0)
	explain, err := filter.Program("explain_towards")
	if err != nil {
		return err
	}
	lookup := t.Repeated(bed.Run{Program: explain, Packets: listed, Frame: syn, Verdict: -1})
	empty := t.Repeated(t.Floor("empty", listed, syn, false))

	reload := 0
	contest := measure.Contest{
		Baseline: func() (float64, error) { return above(lookup, empty) },
		Entrants: []measure.Entrant{
			{Name: "again", Slice: func() (float64, error) { return above(lookup, empty) }},
			{Name: "reload", Slice: func() (float64, error) {
				reload++
				at := reload % 2
				done := make(chan error, 1)
				go func() {
					_, err := filter.Apply(versions[at], legends[at], nil, nil)
					done <- err
				}()
				var costs measure.Series
				for {
					cost, err := above(lookup, empty)
					if err != nil {
						return 0, errors.Join(err, <-done)
					}
					select {
					case err := <-done:
						if len(costs) == 0 {
							err = errors.Join(err, errors.New("it was over before a slice was"))
						}
						return costs.Spread().Median, errors.Join(err, bed.Settle())
					default:
						costs = append(costs, cost)
					}
				}
			}},
		},
	}
	samples, err := contest.Run(5, b.random)
	if err != nil {
		return err
	}
	frame := packet.TCP(kept.Inside(0, b.random), bed.MemberAddress(4), 1024, bed.ServicePort, packet.SYN).Frame()
	answer, err := filter.Explain(frame, true, 0)
	if err == nil && answer.Verdict != policy.Allow {
		err = errors.New("the policy in force does not admit what is listed")
	}
	if err != nil {
		return err
	}
	b.add(measure.Row{Name: name, Unit: "ns", Ours: samples.Absolute("reload"), Floor: samples.Baseline("reload"), FloorIs: "quiet", Targets: measure.AtMost(1.05)},
		measure.Row{Name: name + "/noise", Unit: "ns", Ours: samples.Absolute("again"), Floor: samples.Baseline("again"), FloorIs: "quiet"})
	return nil
}

// above is a slice less one of the empty program right after it.
func above(slice, empty measure.Slice) (float64, error) {
	cost, err := slice()
	if err != nil {
		return 0, err
	}
	harness, err := empty()
	return cost - harness, err
}
