package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/perimeterd/perimeterd/pkg/datapath"
	"github.com/perimeterd/perimeterd/tests/bench/bed"
	"github.com/perimeterd/perimeterd/tests/bench/floor"
	"github.com/perimeterd/perimeterd/tests/bench/measure"
	"github.com/perimeterd/perimeterd/tests/world"
)

// endToEndParts are parts (b) and (c).
func endToEndParts() []part {
	var list []part
	for _, p := range []struct {
		name string
		run  func(*field) error
	}{
		{"e2e/small-packets", (*field).smallPackets},
		{"e2e/connections", (*field).connections},
		{"e2e/latency", (*field).latency},
		{"e2e/tcp-gso", (*field).throughputGSO},
		{"e2e/tcp-no-gso", (*field).throughputNoGSO},
		{"e2e/flood", (*field).flood},
	} {
		list = append(list, part{[]string{p.name}, func(b *bench, _ []string) error {
			return b.onField(p.name, p.run)
		}})
	}
	return list
}

// lane is a client and a server with a wire between them and a filter, or none, at
// the server's end. All lanes of a field are alive at once.
type lane struct {
	name           string
	client, server *world.Host
	near, far      world.Interface // the client's and the server's end
}

// The lanes of a field.
const (
	laneNone     = "none"
	laneAgain    = "none again" // the noise floor
	laneOurs     = "ours"
	laneXDP      = "ours at XDP"
	laneNft      = "nftables"
	laneEmpty    = "an empty program at TC"
	laneEmptyXDP = "an empty program at XDP"
	laneDrop     = "parse and drop at XDP"
)

// allLanes in the order in which they are built.
var allLanes = []string{laneNone, laneAgain, laneOurs, laneXDP, laneNft, laneEmpty, laneEmptyXDP, laneDrop}

// field is lanes that differ in their filters only.
type field struct {
	*bench
	name  string
	list  *bed.List
	lanes map[string]*lane
	ours  map[string]*datapath.Datapath
	close []func() error
}

// clientAddress is a peer that the policy admits; MemberAddress is the server's.
var clientAddress = netip.MustParseAddr("10.20.0.1")

// listed is how many prefixes the policy of a field has.
const listed = 10_000

func (b *bench) onField(name string, run func(*field) error) error {
	if err := bed.NftMissing(); err != nil {
		return err
	}
	return world.Build(func(w *world.World) (err error) {
		f := &field{bench: b, name: name, lanes: map[string]*lane{}, ours: map[string]*datapath.Datapath{}}
		defer func() {
			for i := len(f.close) - 1; i >= 0; i-- {
				err = errors.Join(err, f.close[i]())
			}
		}()
		if err := f.build(w); err != nil {
			return err
		}
		return bed.OnOneCPU(b.cpu, func() error { return run(f) })
	})
}

func (f *field) build(w *world.World) error {
	bpffs, remove, err := bed.BPFFS()
	if err != nil {
		return err
	}
	f.close = append(f.close, remove)
	list := bed.NewList(bed.Apart, 4, listed, f.random)
	f.list = bed.ListOf(4, append(list.Prefixes, netip.PrefixFrom(clientAddress, 32)))
	prefixes := f.list.Prefixes
	for i, name := range allLanes {
		l := &lane{name: name, client: w.Host(fmt.Sprintf("client%d", i)), server: w.Host(fmt.Sprintf("server%d", i))}
		l.near, l.far = w.Connect(l.client, l.server, clientAddress.String()+"/24", bed.MemberAddress(4).String()+"/24")
		f.lanes[name] = l
		switch name {
		case laneOurs:
			err = f.perimeterd(l, filepath.Join(bpffs, "tc"), datapath.XDPOff, prefixes)
		case laneXDP:
			err = f.perimeterd(l, filepath.Join(bpffs, "xdp"), datapath.XDPNative, prefixes)
		case laneNft:
			err = f.nftables(l, prefixes)
		case laneEmpty:
			err = f.floorProgram(l, floor.TC, "empty")
		case laneEmptyXDP:
			err = f.floorProgram(l, floor.XDP, "empty")
		case laneDrop:
			err = f.floorProgram(l, floor.XDP, "parse_drop")
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// perimeterd attaches a data path as the agent does, and reads its events.
func (f *field) perimeterd(l *lane, root string, xdp datapath.XDPMode, prefixes []netip.Prefix) error {
	var d *datapath.Datapath
	err := l.server.Run(func() (err error) {
		if d, err = datapath.Open(datapath.Options{Root: root, XDP: xdp}); err != nil {
			return err
		}
		state, err := d.Attach(uint32(l.far.Index), datapath.Uplink)
		if err == nil && state.XDPProblem != "" {
			err = errors.New(state.XDPProblem)
		}
		return err
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Read(ctx, func([]datapath.Event) {}) }()
	f.close = append(f.close, func() error {
		cancel()
		return errors.Join(<-done, d.Close(), datapath.Remove(root))
	})
	f.ours[l.name] = d
	return (&bed.Filter{Datapath: d}).Put(bed.ListPolicy(prefixes), bed.Facts())
}

// nftables loads the same policy: a set of intervals, conntrack, what is new logged.
func (f *field) nftables(l *lane, prefixes []netip.Prefix) error {
	directory, err := os.MkdirTemp("", "perimeterd-bench-")
	if err != nil {
		return err
	}
	f.close = append(f.close, func() error { return os.RemoveAll(directory) })
	file := filepath.Join(directory, "rules")
	if err := (bed.Ruleset{Prefixes: prefixes, Hook: "input", Log: true}).WriteFile(file); err != nil {
		return err
	}
	return bed.LoadRuleset(l.server, file)
}

// floorProgram has a floor judge what comes in.
func (f *field) floorProgram(l *lane, hook floor.Hook, name string) error {
	set, err := floor.Load(floor.Options{Hook: hook, Family: 4})
	if err != nil {
		return err
	}
	f.close = append(f.close, set.Close)
	return l.server.Run(func() error {
		var attached link.Link
		var err error
		if hook == floor.XDP {
			attached, err = link.AttachXDP(link.XDPOptions{Program: set.Program(name), Interface: l.far.Index, Flags: link.XDPDriverMode})
		} else {
			attached, err = link.AttachTCX(link.TCXOptions{Program: set.Program(name), Interface: l.far.Index, Attach: ebpf.AttachTCXIngress})
		}
		if err != nil {
			return err
		}
		f.close = append(f.close, attached.Close) // and keeps it: an unreferenced link detaches
		return nil
	})
}

// compete compares slices on lanes with those on the lane without a filter.
func (f *field) compete(slices map[string]measure.Slice) (measure.Samples, error) {
	c := measure.Contest{Baseline: slices[laneNone]}
	for _, name := range allLanes[1:] {
		if s := slices[name]; s != nil {
			c.Entrants = append(c.Entrants, measure.Entrant{Name: name, Slice: s})
		}
	}
	return c.Run(2*f.rounds, f.random)
}
