package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/perimeterd/perimeterd/pkg/datapath"
	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/tests/bench/bed"
	"github.com/perimeterd/perimeterd/tests/bench/floor"
	"github.com/perimeterd/perimeterd/tests/bench/measure"
	"github.com/perimeterd/perimeterd/tests/packet"
)

// Numbers of the segments of every flow.
const (
	peerNumber   = 1000
	memberNumber = 5000
)

// measureFlows measures packets of established flows, in both ways, and packets of
// nobody, while so many flows are in the table.
func (b *bench) measureFlows(s *stage, hooks []hookAndFamily, flows int) error {
	family := hooks[0].family
	// The table is as large as the product's default, or as many flows need.
	table := uint32(max(1<<17, flows*5/4))
	list := bed.NewList(bed.Mixed, family, 10_000, b.random)
	filter, err := s.filter(datapath.Limits{EstablishedFlows4: table, EstablishedFlows6: table}, list)
	if err != nil {
		return err
	}
	// The packets are of flows drawn from all of them: an order that repeats itself
	// soon would be learnt by the processor.
	tuples := flowsInside(list, flows, b.random)
	drawn := make([]floor.Tuple, 1<<18)
	for i := range drawn {
		drawn[i] = tuples[b.random.IntN(flows)]
	}
	for i, at := range hooks {
		t, err := s.track(b, at, floor.Sizes{Tuples: 2*len(tuples) + 3*len(drawn), Flows: table})
		if err != nil {
			return err
		}
		each, err := t.Group(tuples)
		if err != nil {
			return err
		}
		if i == 0 {
			back, err := t.Group(bed.Replies(tuples))
			if err != nil {
				return err
			}
			if err := establish(t, filter, at, each, back); err != nil {
				return fmt.Errorf("establish %d flows: %w", flows, err)
			}
		}
		if err := t.Once(t.Floor("prime", each, t.Frame(packet.ACK, 0, 0), true)); err != nil {
			return fmt.Errorf("fill the floors: %w", err)
		}
		if err := b.competeFlows(t, filter, at, drawn, flows); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) competeFlows(t *bed.Track, filter *bed.Filter, at hookAndFamily, drawn []floor.Tuple, flows int) error {
	towards, from, err := groupBothWays(t, drawn)
	if err != nil {
		return err
	}
	others := slices.Clone(drawn)
	for i := range others {
		others[i].Destination = bed.OtherAddress(at.family)
	}
	nobody, err := t.Group(others)
	if err != nil {
		return err
	}

	r := &runs{track: t}
	data := t.Frame(packet.ACK, peerNumber+1, memberNumber+1)
	r.product("established", filter, at.program("towards"), towards, data, "established", policy.Allow, nil)
	r.product("reply", filter, at.program("from"), from, t.Frame(packet.ACK, memberNumber+1, peerNumber+1), "established", policy.Allow,
		func(run *bed.Run) { run.From = true })
	r.product("ungoverned", filter, at.program("towards"), nobody, data, "ungoverned", policy.Allow, nil)
	r.add("H", t.Floor("hash_lookup", towards, data, true), nil)
	r.add("H again", t.Floor("hash_lookup", towards, data, true), nil)
	r.add("lru", t.Floor("lru_lookup", towards, data, true), nil)
	r.add("parse", t.Floor("parse", towards, data, true), nil)
	samples, err := r.compete(b, t.Floor("empty", towards, data, false))
	if err != nil {
		return err
	}

	target := map[int][]measure.Target{1_000: measure.AtMost(1.5), 1_000_000: measure.AtMost(1.2)}[flows]
	h := samples.Net("H")
	row := func(what string, net measure.Series, targets []measure.Target) {
		name := fmt.Sprintf("lookup/%s/flows/%d/%s", at, flows, what)
		b.add(measure.Row{Name: name, Unit: "ns", Ours: net, Floor: h, FloorIs: "H", Targets: targets})
	}
	row("established", samples.Net("established"), target)
	row("reply", samples.Net("reply"), target)
	row("ungoverned", samples.Net("ungoverned"), measure.AtMost(1.0))
	row("parse+lru", samples.Net("lru"), nil)
	row("parse", samples.Net("parse"), nil)
	row("noise", samples.Net("H again"), nil)
	return nil
}

// groupBothWays enters packets of peers, and their answers.
func groupBothWays(t *bed.Track, tuples []floor.Tuple) (towards, from *bed.Group, err error) {
	if towards, err = t.Group(tuples); err != nil {
		return nil, nil, err
	}
	from, err = t.Group(bed.Replies(tuples))
	return towards, from, err
}

// product adds a run of the product's program.
func (r *runs) product(name string, f *bed.Filter, program string, packets *bed.Group, frame []byte, reason policy.Reason, verdict policy.Verdict, change func(*bed.Run)) {
	run, err := r.track.Product(f, program, packets, frame, reason, verdict)
	if change != nil {
		change(&run)
	}
	r.add(name, run, err)
}

// flowsInside draws flows of peers that the list admits, each of another peer or
// port, in random order.
func flowsInside(list *bed.List, count int, random *rand.Rand) []floor.Tuple {
	tuples := make([]floor.Tuple, 0, count)
	seen := make(map[floor.Tuple]bool, count)
	for i := 0; len(tuples) < count; i++ {
		peer := list.Inside(i%len(list.Prefixes), random)
		t := bed.To(bed.MemberAddress(list.Family), peer, uint16(1024+i/len(list.Prefixes)))
		if !seen[t] {
			seen[t] = true
			tuples = append(tuples, t)
		}
	}
	random.Shuffle(count, func(i, j int) { tuples[i], tuples[j] = tuples[j], tuples[i] })
	return tuples
}

// establish opens every flow and has it answered, a part at a time: what is not
// answered yet is in a table that forgets.
func establish(t *bed.Track, filter *bed.Filter, at hookAndFamily, towards, from *bed.Group) error {
	const atOnce = 1 << 14
	frames := []struct {
		end             string
		flags           packet.Flags
		number, acknown uint32
		reason          policy.Reason
	}{
		{"towards", packet.SYN, peerNumber, 0, "access-rule"},
		{"from", packet.SYN | packet.ACK, memberNumber, peerNumber + 1, "established"},
		{"towards", packet.ACK, peerNumber + 1, memberNumber + 1, "established"},
		{"from", packet.ACK, memberNumber + 1, peerNumber + 1, "established"},
	}
	for first := 0; first < towards.Size(); first += atOnce {
		for _, f := range frames {
			group := map[string]*bed.Group{"towards": towards, "from": from}[f.end]
			part := group.Part(first, min(atOnce, group.Size()-first))
			run, err := t.Product(filter, at.program(f.end), part, t.Frame(f.flags, f.number, f.acknown), f.reason, policy.Allow)
			if err != nil {
				return err
			}
			run.From = f.end == "from"
			if err := t.Once(run); err != nil {
				return fmt.Errorf("%s, %s: %w", f.end, f.flags, err)
			}
		}
		if err := filter.Drain(); err != nil {
			return err
		}
	}
	established := 0
	err := filter.Flows(func(flow datapath.Flow) bool {
		if flow.State == "established" {
			established++
		}
		return true
	})
	if err == nil && established != towards.Size() {
		err = fmt.Errorf("only %d of them are", established)
	}
	return errors.Join(err)
}

// flowsOutside draws packets of peers that the list does not admit, each of
// another peer.
func flowsOutside(list *bed.List, count int, random *rand.Rand) []floor.Tuple {
	tuples := make([]floor.Tuple, 0, count)
	seen := make(map[netip.Addr]bool, count)
	for len(tuples) < count {
		peer := list.Outside(random)
		if seen[peer] {
			continue
		}
		seen[peer] = true
		tuples = append(tuples, bed.To(bed.MemberAddress(list.Family), peer, uint16(1024+len(tuples)%60000)))
	}
	return tuples
}
