package main

import (
	"slices"

	"golang.org/x/sys/unix"

	"github.com/perimeterd/perimeterd/tests/bench/bed"
	"github.com/perimeterd/perimeterd/tests/bench/measure"
	"github.com/perimeterd/perimeterd/tests/packet"
)

// floodSources is from how many addresses a flood comes, more than the product tells
// apart.
const floodSources = 1 << 16

// flood measures packets that are denied, from random sources, and that those of an
// established flow among them arrive all.
func (f *field) flood() error {
	bySide := map[string]measure.Slice{}
	mixed := map[string]measure.Slice{}
	for _, name := range []string{laneNone, laneAgain, laneOurs, laneXDP, laneNft, laneDrop} {
		l := f.lanes[name]
		sink, err := l.sink()
		if err != nil {
			return err
		}
		defer sink.Close()
		denied := f.deniedFrames(l)
		if name == laneOurs || name == laneXDP {
			permitted, err := l.answeredFlows(16, sink)
			if err != nil {
				return err
			}
			s, err := newSender(l.near, among(denied, permitted))
			if err != nil {
				return err
			}
			defer unix.Close(s.fd)
			if err := l.fillSink(permitted); err != nil {
				return err
			}
			mixed[name] = l.sent(s, func(sent int) int { return sent / onePermittedIn })
		}
		s, err := newSender(l.near, denied)
		if err != nil {
			return err
		}
		defer unix.Close(s.fd)
		arrive := none
		if name == laneNone || name == laneAgain {
			arrive = all
			if err := l.fillSink(denied[:1024]); err != nil {
				return err
			}
		}
		bySide[name] = l.sent(s, arrive)
	}
	samples, err := f.compete(bySide)
	if err != nil {
		return err
	}
	peer, drop := samples.Absolute(laneNft), samples.Absolute(laneDrop)
	rate := func(s measure.Series) measure.Series { return s.Inverse(1e9) }
	row := func(what string, ours measure.Series, targets []measure.Target) {
		f.add(measure.Row{Name: f.name + "/" + what, Unit: "packets/CPU s", Ours: rate(ours), Floor: rate(drop), FloorIs: "parse+drop at XDP",
			Peer: rate(peer), Targets: targets})
	}
	row("tc", samples.Absolute(laneOurs), nil)
	row("xdp", samples.Absolute(laneXDP), []measure.Target{{Of: measure.OfRatioFloor, Least: 1 / 1.5}, {Of: measure.OfRatioPeer, Least: 1.6}})
	row("no-filter", samples.Baseline(laneOurs), nil)
	for _, lane := range []struct{ what, name string }{{"tc", laneOurs}, {"xdp", laneXDP}} {
		if _, err := mixed[lane.name](); err != nil {
			return err
		}
		f.add(measure.Row{Name: f.name + "/" + lane.what + "/permitted-arrive", Unit: "share", Ours: measure.Series{1}, Targets: []measure.Target{{Of: measure.OfOurs, Least: 1}}})
	}
	return nil
}

// deniedFrames come from addresses that no list has.
func (f *field) deniedFrames(l *lane) [][]byte {
	frames := make([][]byte, floodSources)
	for i := range frames {
		frames[i] = l.address(packet.UDP(f.list.Outside(f.random), bed.MemberAddress(4), uint16(1024+i%60000), bed.ServicePort).Frame())
	}
	return frames
}

// onePermittedIn is among how many packets one is permitted.
const onePermittedIn = 16

func among(denied, permitted [][]byte) [][]byte {
	frames := slices.Clone(denied)
	for i := 0; i < len(frames); i += onePermittedIn {
		frames[i] = permitted[i/onePermittedIn%len(permitted)]
	}
	return frames
}
