package main

import (
	"errors"
	"fmt"

	"github.com/perimeterd/perimeterd/pkg/datapath"
	"github.com/perimeterd/perimeterd/tests/bench/bed"
	"github.com/perimeterd/perimeterd/tests/bench/floor"
	"github.com/perimeterd/perimeterd/tests/bench/measure"
	"github.com/perimeterd/perimeterd/tests/servicetags"
	"github.com/perimeterd/perimeterd/tests/world"
)

// hookAndFamily is where part (a) is measured.
type hookAndFamily struct {
	hook   floor.Hook
	family int
}

func (h hookAndFamily) String() string { return fmt.Sprintf("%s/v%d", h.hook, h.family) }

// program is the name of the program for a hook.
func (h hookAndFamily) program(end string) string {
	if h.hook == floor.XDP {
		return "xdp_" + end
	}
	return end
}

// lookupParts are part (a). Both hooks are measured on one data path: their programs
// share its tables.
func lookupParts() []part {
	var list []part
	for _, family := range []int{4, 6} {
		for _, flows := range []int{1_000, 100_000, 1_000_000} {
			list = append(list, lookupPart(family, fmt.Sprintf("flows/%d", flows), func(b *bench, s *stage, hooks []hookAndFamily) error {
				return b.measureFlows(s, hooks, flows)
			}))
		}
		for _, kind := range []bed.Kind{bed.Hosts, bed.Mixed} {
			for _, size := range []int{100, 10_000, 100_000, 1_000_000} {
				list = append(list, lookupPart(family, fmt.Sprintf("%s/%d", kind, size), func(b *bench, s *stage, hooks []hookAndFamily) error {
					l := &listScene{bench: b, family: family, name: string(kind), size: size, list: bed.NewList(kind, family, size, b.random)}
					return l.measure(s, hooks)
				}))
			}
		}
		list = append(list, lookupPart(family, "azure", func(b *bench, s *stage, hooks []hookAndFamily) error {
			tags, err := servicetags.Load(b.ctx)
			if err != nil {
				return err
			}
			l := &listScene{bench: b, family: family, name: "azure", list: bed.ListOf(family, tags.Of(family))}
			l.size = len(l.list.Prefixes)
			return l.measure(s, hooks)
		}))
	}
	return list
}

// lookupPart has a name for each hook, and measures those that were asked for.
func lookupPart(family int, scene string, measure func(*bench, *stage, []hookAndFamily) error) part {
	p := part{}
	at := map[string]hookAndFamily{}
	for _, hook := range []floor.Hook{floor.TC, floor.XDP} {
		h := hookAndFamily{hook, family}
		name := fmt.Sprintf("lookup/%s/%s", h, scene)
		p.names, at[name] = append(p.names, name), h
	}
	p.run = func(b *bench, wanted []string) error {
		var hooks []hookAndFamily
		for _, name := range wanted {
			hooks = append(hooks, at[name])
		}
		return b.onStage(func(s *stage) error { return measure(b, s, hooks) })
	}
	return p
}

// ringSize is the product's default, eventsMost as many events as fill less than the
// quarter of it at which the reader would be woken.
const (
	ringSize   = 8 << 20
	eventsMost = 1 << 14
)

// denialRows is how many rows of denials there is room for.
const denialRows = 1 << 17

// stage is what a part of (a) runs on: a namespace with an interface that packets
// seem to come in by, and a BPF file system.
type stage struct {
	bpffs   string
	ifindex uint32
	opened  []func() error
	filters int
}

// onStage runs f in a namespace of its own, on one CPU.
func (b *bench) onStage(f func(s *stage) error) error {
	return world.Build(func(w *world.World) error {
		host, wire := w.Host("host"), w.Host("wire")
		itf, _ := w.Connect(host, wire)
		link, err := host.Netlink().LinkByName(itf.Name)
		if err != nil {
			return err
		}
		return host.Run(func() error {
			bpffs, remove, err := bed.BPFFS()
			if err != nil {
				return err
			}
			s := &stage{bpffs: bpffs, ifindex: uint32(link.Attrs().Index), opened: []func() error{remove}}
			err = bed.OnOneCPU(b.cpu, func() error { return f(s) })
			for i := len(s.opened) - 1; i >= 0; i-- {
				err = errors.Join(err, s.opened[i]())
			}
			return err
		})
	})
}

func (s *stage) filter(limits datapath.Limits, list *bed.List) (*bed.Filter, error) {
	limits.FlowRing, limits.DenialRing = max(limits.FlowRing, ringSize), max(limits.DenialRing, ringSize)
	limits.Denials = max(limits.Denials, denialRows)
	s.filters++
	f, err := bed.OpenFilter(fmt.Sprintf("%s/%d", s.bpffs, s.filters), limits, bed.ListPolicy(list.Prefixes), bed.Facts())
	if err != nil {
		return nil, err
	}
	s.opened = append(s.opened, f.Close)
	return f, nil
}

func (s *stage) track(b *bench, at hookAndFamily, sizes floor.Sizes) (*bed.Track, error) {
	sizes.Denials, sizes.Ring = denialRows, ringSize
	t, err := bed.NewTrack(at.hook, at.family, sizes, s.ifindex, b.slice)
	if err != nil {
		return nil, err
	}
	s.opened = append(s.opened, t.Close)
	return t, nil
}

// runs collects what takes part in a contest.
type runs struct {
	track    *bed.Track
	entrants []measure.Entrant
	err      error
}

func (r *runs) add(name string, run bed.Run, err error) {
	if err != nil {
		r.err = errors.Join(r.err, err)
		return
	}
	r.entrants = append(r.entrants, measure.Entrant{Name: name, Slice: r.track.Repeated(run)})
}

// compete has them all compete with the empty program on the same packets.
func (r *runs) compete(b *bench, baseline bed.Run) (measure.Samples, error) {
	if r.err != nil {
		return nil, r.err
	}
	return measure.Contest{Baseline: r.track.Repeated(baseline), Entrants: r.entrants}.Run(b.rounds, b.random)
}
