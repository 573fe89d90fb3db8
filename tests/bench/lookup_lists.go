package main

import (
	"fmt"

	"github.com/perimeterd/perimeterd/pkg/datapath"
	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/tests/bench/bed"
	"github.com/perimeterd/perimeterd/tests/bench/floor"
	"github.com/perimeterd/perimeterd/tests/bench/measure"
	"github.com/perimeterd/perimeterd/tests/packet"
)

// listScene measures first packets and denials by a list of so many prefixes. It has
// one data path with the list in its one rule, and one whose rule admits nobody that
// comes: what the list costs is what the first takes longer.
type listScene struct {
	*bench
	family int
	name   string // what the list is
	size   int
	list   *bed.List

	filter, without *bed.Filter
	listed, others  []floor.Tuple
}

const (
	// cycle is how many packets come before one comes again: the table of openings
	// has forgotten it by then.
	cycle = 4 * openings
	// openings is how many openings the product's table holds by default.
	openings = 1 << 16
	// repeaters are denied again and again.
	repeaters = eventsMost
)

func (l *listScene) measure(s *stage, hooks []hookAndFamily) (err error) {
	if l.filter, err = s.filter(datapath.Limits{}, l.list); err != nil {
		return err
	}
	nobody := bed.OtherAddress(l.family)
	if l.without, err = s.filter(datapath.Limits{}, bed.ListOf(l.family, bed.HostPrefixes(nobody))); err != nil {
		return err
	}
	l.listed = flowsInside(l.list, max(cycle, l.size), l.random)
	l.others = flowsOutside(l.list, cycle+repeaters, l.random)
	if err := l.checkAnswers(l.listed[:256], l.others[:256]); err != nil {
		return err
	}
	for _, at := range hooks {
		h := &listAtHook{listScene: l, at: at}
		if err := h.open(s); err != nil {
			return err
		}
		samples, err := h.compete()
		if err != nil {
			return err
		}
		h.tell(samples)
	}
	return nil
}

// checkAnswers asks about some packets one by one: what is timed tells of the last
// of a slice only.
func (l *listScene) checkAnswers(listed, others []floor.Tuple) error {
	for _, c := range []struct {
		filter *bed.Filter
		tuples []floor.Tuple
		reason policy.Reason
	}{
		{l.filter, listed, "access-rule"}, {l.filter, others, "no-access-rule"},
		{l.without, listed, "no-access-rule"}, {l.without, others, "no-access-rule"},
	} {
		for _, t := range c.tuples {
			frame := packet.TCP(t.Source, t.Destination, t.SourcePort, t.DestinationPort, packet.SYN).Frame()
			answer, err := c.filter.Explain(frame, true, 0)
			if err != nil {
				return err
			}
			if answer.Reason != c.reason {
				return fmt.Errorf("a packet of %v is answered by %s, and not by %s", t.Source, answer.Reason, c.reason)
			}
		}
	}
	return nil
}

// listAtHook is the scene with the programs of one hook.
type listAtHook struct {
	*listScene
	at             hookAndFamily
	track          *bed.Track
	listed, others *bed.Group
	again          *bed.Group // of the others, those that come again and again
}

func (l *listAtHook) open(s *stage) (err error) {
	l.track, err = s.track(l.bench, l.at, floor.Sizes{
		Tuples: len(l.listScene.listed) + len(l.listScene.others), Opening: openings, Trie: uint32(l.size),
	})
	if err != nil {
		return err
	}
	if err := l.track.Floors.SetPrefixes(l.list.Prefixes); err != nil {
		return err
	}
	if l.listed, err = l.track.Group(l.listScene.listed); err != nil {
		return err
	}
	all, err := l.track.Group(l.listScene.others)
	if err != nil {
		return err
	}
	l.others, l.again = all.Part(0, cycle), all.Part(cycle, repeaters)
	return nil
}

func (l *listAtHook) compete() (measure.Samples, error) {
	t := l.track
	syn := t.Frame(packet.SYN, peerNumber, 0)
	towards := l.at.program("towards")
	r := &runs{track: t}

	if l.at.hook == floor.TC { // what explains is for TC only, and the judge is the same
		for name, f := range map[string]*bed.Filter{"with": l.filter, "without": l.without} {
			for way, packets := range map[string]*bed.Group{"hit": l.listed, "miss": l.others} {
				explain, err := f.Program("explain_towards")
				r.add(way+" "+name, bed.Run{Program: explain, Packets: packets, Frame: syn, Verdict: -1}, err)
			}
		}
	}
	r.add("T hit", t.Floor("trie_lookup", l.listed, syn, true), nil)
	r.add("T hit again", t.Floor("trie_lookup", l.listed, syn, true), nil)
	r.add("T miss", t.Floor("trie_lookup", l.others, syn, false), nil)

	// What enters something has a place of its own in the cycle, so that none comes again too soon.
	own := func(g *bed.Group) *bed.Group { return g.Part(0, g.Size()) }
	start, err := t.Product(l.filter, towards, own(l.listed), syn, "access-rule", policy.Allow)
	start.Most, start.After = eventsMost, l.filter.Drain
	r.add("new flow", start, err)
	insert := t.Floor("insert", own(l.listed), syn, true)
	r.add("insert", insert, nil)
	// Both tables are full from the first round on.
	for _, run := range []bed.Run{start, insert} {
		for first := l.listed.Size() - openings; first < l.listed.Size(); first += eventsMost {
			run.Packets = l.listed.Part(first, eventsMost)
			if err := t.Once(run); err != nil {
				return nil, fmt.Errorf("fill the tables of openings: %w", err)
			}
		}
	}
	event := t.Floor("submit_event", l.listed, syn, true)
	event.Most, event.After = eventsMost, func() error { return bed.Discard(t.Floors.Ring()) }
	r.add("event", event, nil)

	// Every denial of a slice is the first of its peer.
	r.product("first denial", l.filter, towards, own(l.others), syn, "no-access-rule", policy.Deny, func(run *bed.Run) {
		run.Most, run.After = eventsMost, l.forgetDenials
	})
	denials := t.Floor("denial_insert", own(l.others), syn, true)
	denials.Most, denials.After = eventsMost, t.Floors.EmptyDenials
	r.add("denial insert", denials, nil)

	again, err := t.Product(l.filter, towards, l.again, syn, "no-access-rule", policy.Deny)
	first := again
	again.Before = func() error { return t.Once(first) }
	r.add("repeated denial", again, err)
	known := t.Floor("denial_lookup", l.again, syn, true)
	rows := t.Floor("denial_insert", l.again, syn, true)
	known.Before = func() error {
		if err := t.Floors.EmptyDenials(); err != nil {
			return err
		}
		return t.Once(rows)
	}
	known.After = t.Floors.EmptyDenials
	r.add("denial lookup", known, nil)

	return r.compete(l.bench, t.Floor("empty", l.listed, syn, false))
}

func (l *listAtHook) forgetDenials() error {
	if _, err := l.filter.DrainDenials(); err != nil {
		return err
	}
	return l.filter.Drain()
}

func (l *listAtHook) tell(samples measure.Samples) {
	row := func(what string, ours, floor measure.Series, floorIs string, targets []measure.Target) {
		l.add(measure.Row{Name: fmt.Sprintf("lookup/%s/%s/%d/%s", l.at, l.name, l.size, what), Unit: "ns", Ours: ours, Floor: floor, FloorIs: floorIs, Targets: targets})
	}
	hit, miss := samples.Net("T hit"), samples.Net("T miss")
	if l.at.hook == floor.TC {
		row("hit", samples.Net("hit with").Minus(samples.Net("hit without")), hit, "T", l.hitTarget())
		row("miss", samples.Net("miss with").Minus(samples.Net("miss without")), miss, "T", l.missTarget())
	}
	row("new-flow", samples.Net("new flow"), hit.Plus(samples.Net("insert")).Plus(samples.Net("event")), "T+insert+event", measure.AtMost(1.4))
	row("first-denial", samples.Net("first denial"), miss.Plus(samples.Net("denial insert")).Plus(samples.Net("event")), "T+insert+event", nil)
	row("repeated-denial", samples.Net("repeated denial"), miss.Plus(samples.Net("denial lookup")), "T+lookup", nil)
	row("noise", samples.Net("T hit again"), hit, "T", nil)
}

// hitTarget and missTarget are what the lookup of an address may cost.
func (l *listAtHook) hitTarget() []measure.Target {
	switch {
	case l.size == 100:
		return measure.AtMost(1.1)
	case l.size == 1_000_000 && (l.name == string(bed.Hosts) || l.at.family == 4):
		return measure.AtMost(0.35)
	}
	return nil
}

func (l *listAtHook) missTarget() []measure.Target {
	switch {
	case l.size == 100:
		return measure.AtMost(1.1)
	case l.size == 100_000 && l.name == string(bed.Hosts):
		return measure.AtMost(0.15)
	case l.size == 1_000_000 && l.name == string(bed.Hosts), l.size == 100_000 && l.name == string(bed.Mixed):
		return measure.AtMost(0.25)
	}
	return nil
}
