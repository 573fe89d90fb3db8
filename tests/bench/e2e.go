package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/perimeterd/perimeterd/pkg/datapath"
	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/tests/bench/bed"
	"github.com/perimeterd/perimeterd/tests/bench/floor"
	"github.com/perimeterd/perimeterd/tests/bench/measure"
	"github.com/perimeterd/perimeterd/tests/world"
)

// endToEndParts are parts (b) and (c).
func endToEndParts() []part {
	var list []part
	for _, p := range []struct {
		name  string
		lanes []string
		run   func(*field) error
	}{
		{"e2e/small-packets", append(commonLanes(), laneEmpty, laneEmptyXDP, laneTrack), (*field).smallPackets},
		{"e2e/connections", append(commonLanes(), laneTrack), (*field).connections},
		{"e2e/latency", commonLanes(), (*field).latency},
		{"e2e/tcp-gso", append(commonLanes(), laneTrack), (*field).throughputGSO},
		{"e2e/tcp-no-gso", append(commonLanes(), laneTrack), (*field).throughputNoGSO},
		{"e2e/flood", append(commonLanes(), laneDrop, laneListing, laneListingXDP, laneAdmitting, laneAdmittingXDP), (*field).flood},
	} {
		list = append(list, part{[]string{p.name}, func(b *bench, _ []string) error {
			return b.onField(p.name, p.lanes, p.run)
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
	laneTrack    = "one lookup of the flow at TC, both ways"
	laneDrop     = "parse and drop at XDP"
	// A rule more lists the sources of a flood: for another port than they send to, or
	// for that port.
	laneListing      = "ours, listing"
	laneListingXDP   = "ours at XDP, listing"
	laneAdmitting    = "ours, admitting"
	laneAdmittingXDP = "ours at XDP, admitting"
)

// commonLanes are what most parts compare.
func commonLanes() []string { return []string{laneNone, laneAgain, laneOurs, laneXDP, laneNft} }

// field is lanes that differ in their filters only.
type field struct {
	*bench
	name    string
	list    *bed.List
	sources []netip.Addr // of a flood; in no prefix of the list
	lanes   map[string]*lane
	close   []func() error
}

// clientAddress is a peer that the policy admits; MemberAddress is the server's.
var clientAddress = netip.MustParseAddr("10.20.0.1")

// listed is how many prefixes the policy of a field has.
const listed = 10_000

func (b *bench) onField(name string, lanes []string, run func(*field) error) error {
	if err := bed.NftMissing(); err != nil {
		return err
	}
	return world.Build(func(w *world.World) (err error) {
		f := &field{bench: b, name: name, lanes: map[string]*lane{}}
		defer func() {
			for i := len(f.close) - 1; i >= 0; i-- {
				err = errors.Join(err, f.close[i]())
			}
		}()
		if err := f.build(w, lanes); err != nil {
			return err
		}
		return bed.OnOneCPU(b.cpu, func() error { return run(f) })
	})
}

func (f *field) build(w *world.World, lanes []string) error {
	bpffs, remove, err := bed.BPFFS()
	if err != nil {
		return err
	}
	f.close = append(f.close, remove)
	list := bed.NewList(bed.Apart, 4, listed, f.random)
	f.list = bed.ListOf(4, append(list.Prefixes, netip.PrefixFrom(clientAddress, 32)))
	for range floodSources {
		f.sources = append(f.sources, f.list.Outside(f.random))
	}
	for i, name := range lanes {
		l := &lane{name: name, client: w.Host(fmt.Sprintf("client%d", i)), server: w.Host(fmt.Sprintf("server%d", i))}
		l.near, l.far = w.Connect(l.client, l.server, clientAddress.String()+"/24", bed.MemberAddress(4).String()+"/24")
		f.lanes[name] = l
		if err := f.filter(l, filepath.Join(bpffs, fmt.Sprint(i))); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// filter gives a lane the filter that its name says.
func (f *field) filter(l *lane, root string) error {
	prefixes := f.list.Prefixes
	listing := func(port uint16) *policy.Policy {
		p := bed.ListPolicy(prefixes)
		profile := &p.Perimeters[0].Profiles[0]
		profile.AccessRules = append(profile.AccessRules, bed.ListRule("sources", port, bed.ListOf(4, bed.HostPrefixes(f.sources...)).Prefixes))
		return p
	}
	switch l.name {
	case laneNone, laneAgain:
		return nil
	case laneOurs:
		return f.perimeterd(l, root, datapath.XDPOff, bed.ListPolicy(prefixes))
	case laneXDP:
		return f.perimeterd(l, root, datapath.XDPNative, bed.ListPolicy(prefixes))
	case laneListing:
		return f.perimeterd(l, root, datapath.XDPOff, listing(otherPort))
	case laneListingXDP:
		return f.perimeterd(l, root, datapath.XDPNative, listing(otherPort))
	case laneAdmitting:
		return f.perimeterd(l, root, datapath.XDPOff, listing(bed.ServicePort))
	case laneAdmittingXDP:
		return f.perimeterd(l, root, datapath.XDPNative, listing(bed.ServicePort))
	case laneNft:
		return f.nftables(l, prefixes)
	case laneEmpty:
		return f.floorProgram(l, floor.TC, "empty", ebpf.AttachTCXIngress)
	case laneEmptyXDP:
		return f.floorProgram(l, floor.XDP, "empty")
	case laneTrack:
		return f.floorProgram(l, floor.TC, "track", ebpf.AttachTCXIngress, ebpf.AttachTCXEgress)
	case laneDrop:
		return f.floorProgram(l, floor.XDP, "parse_drop")
	}
	return errors.New("no such lane")
}

// perimeterd attaches a data path as the agent does, and reads its events.
func (f *field) perimeterd(l *lane, root string, xdp datapath.XDPMode, p *policy.Policy) error {
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
	return (&bed.Filter{Datapath: d}).Put(p, bed.Facts())
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

// floorProgram has a floor judge what comes in, or at TC what goes these ways.
func (f *field) floorProgram(l *lane, hook floor.Hook, name string, ways ...ebpf.AttachType) error {
	set, err := floor.Load(floor.Options{Hook: hook, Family: 4, Sizes: floor.Sizes{Flows: 1 << 17}})
	if err != nil {
		return err
	}
	f.close = append(f.close, set.Close)
	return l.server.Run(func() error {
		keep := func(attached link.Link, err error) error {
			if err == nil {
				f.close = append(f.close, attached.Close) // and keeps it: an unreferenced link detaches
			}
			return err
		}
		if hook == floor.XDP {
			return keep(link.AttachXDP(link.XDPOptions{Program: set.Program(name), Interface: l.far.Index, Flags: link.XDPDriverMode}))
		}
		for _, way := range ways {
			if err := keep(link.AttachTCX(link.TCXOptions{Program: set.Program(name), Interface: l.far.Index, Attach: way})); err != nil {
				return err
			}
		}
		return nil
	})
}

// compete compares slices on lanes with those on the lane without a filter.
func (f *field) compete(byLane map[string]measure.Slice) (measure.Samples, error) {
	c := measure.Contest{Baseline: byLane[laneNone]}
	for _, name := range slices.Sorted(maps.Keys(byLane)) { // so that the seed gives the same order
		if name != laneNone {
			c.Entrants = append(c.Entrants, measure.Entrant{Name: name, Slice: byLane[name]})
		}
	}
	return c.Run(2*f.rounds, f.random)
}
