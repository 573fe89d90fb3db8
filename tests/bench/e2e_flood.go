package main

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/perimeterd/perimeterd/tests/bench/bed"
	"github.com/perimeterd/perimeterd/tests/bench/measure"
	"github.com/perimeterd/perimeterd/tests/packet"
)

const (
	// floodSources is from how many addresses a flood comes, more than the product tells
	// apart; fewSources are some of them, all of which it has told of before.
	floodSources = 1 << 16
	fewSources   = 1 << 10
	// otherPort is one that the flood does not send to.
	otherPort = bed.ServicePort + 1
)

// flood measures packets that are denied, what the same packets cost where a rule
// admits them, and what permitted packets among them still get.
func (f *field) flood() error {
	permitted := map[string][][]byte{}
	for _, l := range f.lanes {
		sink, err := f.sink(l)
		if err != nil {
			return err
		}
		if !slices.Contains(commonLanes(), l.name) {
			continue
		}
		if permitted[l.name], err = l.answeredFlows(16, sink); err != nil {
			return err
		}
	}
	many, err := f.floodFrom(f.sources, slices.Sorted(maps.Keys(f.lanes)))
	if err != nil {
		return err
	}
	f.tellFlood(many)
	f.tellDropped("", many)
	few, err := f.floodFrom(f.sources[:fewSources], []string{laneNone, laneOurs, laneXDP, laneNft, laneListing, laneListingXDP, laneAdmitting, laneAdmittingXDP})
	if err != nil {
		return err
	}
	f.tellDropped("few/", few)
	return f.besideFlood(permitted)
}

// floodFrom measures packets from sources that are in no list, or in those of the lanes
// that list them.
func (f *field) floodFrom(sources []netip.Addr, lanes []string) (measure.Samples, error) {
	byLane := map[string]measure.Slice{}
	for _, name := range lanes {
		l := f.lanes[name]
		frames := l.floodFrames(sources)
		s, err := f.sends(l, frames)
		if err != nil {
			return nil, err
		}
		arrive := none
		if slices.Contains([]string{laneNone, laneAgain, laneAdmitting, laneAdmittingXDP}, name) {
			arrive = all
			if err := l.fillSink(frames); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
		}
		byLane[name] = l.sent(s, arrive)
	}
	return f.compete(byLane)
}

func (f *field) tellFlood(samples measure.Samples) {
	rate := func(name string) measure.Series { return samples.Absolute(name).Inverse(1e9) }
	row := func(what string, ours measure.Series, targets ...measure.Target) {
		f.add(measure.Row{Name: f.name + "/" + what, Unit: "packets/CPU s", Ours: ours, Floor: rate(laneDrop), FloorIs: "parse+drop at XDP",
			Peer: rate(laneNft), Targets: targets})
	}
	row("tc", rate(laneOurs))
	row("xdp", rate(laneXDP), measure.Target{Of: measure.OfRatioFloor, Least: 1 / 1.5}, measure.Target{Of: measure.OfRatioPeer, Least: 1.6})
	row("no-filter", samples.Baseline(laneOurs).Inverse(1e9))
	f.add(measure.Row{Name: f.name + "/noise", Unit: "packets/CPU s", Ours: rate(laneAgain), Floor: samples.Baseline(laneAgain).Inverse(1e9), FloorIs: "none"})
}

// tellDropped compares packets that are dropped with the same packets where they are
// delivered, both by the product.
func (f *field) tellDropped(which string, samples measure.Samples) {
	for _, c := range []struct{ what, dropping, delivering string }{
		{"tc/dropped-unlisted", laneOurs, laneAdmitting}, {"tc/dropped-listed", laneListing, laneAdmitting},
		{"xdp/dropped-unlisted", laneXDP, laneAdmittingXDP}, {"xdp/dropped-listed", laneListingXDP, laneAdmittingXDP},
	} {
		f.add(measure.Row{Name: f.name + "/" + which + c.what, Unit: "ns CPU", Ours: samples.Absolute(c.dropping), Floor: samples.Absolute(c.delivering),
			FloorIs: "delivered", Peer: samples.Absolute(laneNft), Targets: measure.AtMost(1)})
	}
}

// floodFrames are one from each source, to the service.
func (l *lane) floodFrames(sources []netip.Addr) [][]byte {
	frames := make([][]byte, len(sources))
	for i, from := range sources {
		frames[i] = l.address(packet.UDP(from, bed.MemberAddress(4), uint16(1024+i%60000), bed.ServicePort).Frame())
	}
	return frames
}

// onePermittedIn is among how many packets one is permitted.
const onePermittedIn = 16

// besideFlood measures what packets of flows that were answered get, where fifteen
// times as many are denied.
func (f *field) besideFlood(permitted map[string][][]byte) error {
	byLane := map[string]measure.Slice{}
	shares := map[string]*arrivals{}
	for _, name := range commonLanes() {
		l := f.lanes[name]
		frames := l.floodFrames(f.sources)
		for i := 0; i < len(frames); i += onePermittedIn {
			frames[i] = permitted[name][i/onePermittedIn%len(permitted[name])]
		}
		s, err := f.sends(l, frames)
		if err != nil {
			return err
		}
		s.onePermittedIn = onePermittedIn
		if err := l.fillSink(permitted[name]); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		shares[name] = &arrivals{}
		byLane[name] = l.sentAmong(s, name == laneNone || name == laneAgain, shares[name])
	}
	samples, err := f.compete(byLane)
	if err != nil {
		return err
	}
	rate := func(s measure.Series) measure.Series { return s.Inverse(1e9) }
	peer := rate(samples.Absolute(laneNft))
	for _, lane := range []struct{ what, name string }{{"tc", laneOurs}, {"xdp", laneXDP}} {
		f.add(measure.Row{Name: f.name + "/" + lane.what + "/permitted", Unit: "packets/CPU s", Ours: rate(samples.Absolute(lane.name)),
			Floor: rate(samples.Baseline(lane.name)), FloorIs: "none", Peer: peer, Targets: []measure.Target{{Of: measure.OfRatioPeer, Least: 1}}},
			measure.Row{Name: f.name + "/" + lane.what + "/permitted-arrive", Unit: "share", Ours: shares[lane.name].share(), Floor: shares[laneNone].share(), FloorIs: "none",
				Peer: shares[laneNft].share(), Targets: []measure.Target{{Of: measure.OfOurs, Least: 1}}})
	}
	return nil
}

// arrivals are how many of the permitted packets of all slices arrived.
type arrivals struct{ sent, arrived int }

func (s *arrivals) share() measure.Series {
	return measure.Series{float64(s.arrived) / float64(s.sent)}
}

// sentAmong makes slices of permitted packets among others, which arrive too or not,
// and returns ns of CPU for each permitted one that arrived. Those that did not are
// what is measured; another that did is an error.
func (l *lane) sentAmong(s *sender, others bool, told *arrivals) measure.Slice {
	return func() (float64, error) {
		before, err := udpArrived(l.server)
		if err != nil {
			return 0, err
		}
		already := s.permitted
		ns, sent, err := s.send(30 * time.Millisecond)
		if err != nil {
			return 0, err
		}
		permitted := s.permitted - already
		rest := 0
		if others {
			rest = sent - permitted
		}
		arrived, err := l.await(before, permitted+rest)
		if err != nil {
			return 0, err
		}
		if arrived -= rest; arrived <= 0 {
			return 0, errors.New("no permitted packet arrived")
		}
		told.sent, told.arrived = told.sent+permitted, told.arrived+arrived
		return ns * float64(sent) / float64(arrived), nil
	}
}
