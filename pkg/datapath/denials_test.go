package datapath

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/tests/packet"
)

// The tables of the tests below: so many peers are told apart, and then so many
// crowds.
const (
	fewDenials = 16
	fewCrowds  = 8
)

const wiki4 = "10.20.0.6"

// newCrowdRig has two members that nobody may reach and that may reach nobody.
func newCrowdRig(t *testing.T, limits Limits) *rig {
	r := newRig(t, Options{Limits: limits})
	p := memberPolicy(policy.Enforced)
	p.Resources = append(p.Resources, policy.Resource{Name: "wiki", Addresses: prefixes(wiki4)})
	p.Perimeters[0].Associations = append(p.Perimeters[0].Associations,
		policy.Association{Name: "wiki", Resource: "wiki", Profile: "data", AccessMode: policy.Enforced})
	r.apply(t, p, hereFacts())
	return r
}

// peer4 and peer6 are strangers by number.
func peer4(n int) string { return fmt.Sprintf("203.0.%d.%d", 100+n/256, n%256) }
func peer6(n int) string { return fmt.Sprintf("2001:db8:bad::%x", 1+n) }

// floodOf is packets of so many peers, beginning with one by number, and each so
// many times over.
type floodOf struct {
	first, peers, times int
	towards             bool
	packet              func(n, time int) packet.Packet
}

// flood denies the packets, and returns what was told of them at once.
func (r *rig) flood(t *testing.T, f floodOf) []Event {
	t.Helper()
	for i := range f.times {
		for n := f.first; n < f.first+f.peers; n++ {
			verdict, err := r.run(f.packet(n, i).Frame(), f.towards, 0)
			if err != nil {
				t.Fatal(err)
			}
			if verdict != deny {
				t.Fatalf("packet %d of peer %d passed", i, n)
			}
		}
	}
	return r.events(t)
}

func syn4(port uint16) func(n, time int) packet.Packet {
	return func(n, time int) packet.Packet {
		return packet.TCP(peer4(n), member4, uint16(1000+time), port, packet.SYN)
	}
}

// shown is what tells the row of a crowd from others.
type shown struct {
	Local              netip.Addr
	LocalPort, Peer    uint16
	Protocol           uint8
	Direction          policy.Direction
	Member, Generation uint32
	Count              uint64
}

// crowdsIn are the crowds among drained events, sorted by count.
func crowdsIn(t *testing.T, events []Event) []shown {
	t.Helper()
	var out []shown
	for _, e := range events {
		if !e.Crowd {
			continue
		}
		if e.Peer.IsValid() || e.Kind != Denied || e.Verdict != deny || e.Reason != policy.ReasonNoAccessRule ||
			e.Category != policy.CategoryOf(e.Reason, e.Direction) || e.LastTime.Before(e.Time) || e.Outcome == 0 {
			t.Errorf("a crowd tells something else: %+v", e)
		}
		out = append(out, shown{e.Local, e.LocalPort, e.PeerPort, e.Protocol, e.Direction, e.Member, e.Generation, e.Count})
	}
	slices.SortFunc(out, func(a, b shown) int { return cmp.Compare(a.Count, b.Count) })
	return out
}

// TestCrowds: once the table of peers is full, what comes of others is told at
// once only for the first of each target, and then counted for it alone.
func TestCrowds(t *testing.T) {
	r := newCrowdRig(t, Limits{Denials: fewDenials, Crowds: fewCrowds})
	fill := r.flood(t, floodOf{first: 0, peers: fewDenials, times: 1, towards: true, packet: syn4(22)})
	if len(fill) != fewDenials {
		t.Fatalf("%d events of %d peers for which there is room", len(fill), fewDenials)
	}
	// Those go on being told apart.
	if again := r.flood(t, floodOf{first: 0, peers: fewDenials, times: 2, towards: true, packet: syn4(22)}); len(again) != 0 {
		t.Errorf("repetitions were told one by one: %+v", again)
	}

	// Each is a neighbour of the first, which its row must not take for its own. Peers
	// differ, and so do their ports or ids: of either there is one row. So there is for
	// several ports or protocols without ports, and then it tells none.
	targets := []struct {
		name  string
		flood floodOf
		want  shown
	}{
		{"two ports", floodOf{peers: 10, towards: true, packet: func(n, time int) packet.Packet { return syn4(uint16(22+n%2))(n, time) }},
			shown{Local: netip.MustParseAddr(member4), Protocol: policy.ProtocolTCP}},
		{"two protocols", floodOf{peers: 11, towards: true, packet: func(n, time int) packet.Packet {
			return packet.Protocol(peer4(n), member4, uint8(200+n%2))
		}}, shown{Local: netip.MustParseAddr(member4)}},
		{"other protocol", floodOf{peers: 12, towards: true, packet: func(n, time int) packet.Packet {
			return packet.UDP(peer4(n), member4, uint16(1000+time), 22)
		}}, shown{Local: netip.MustParseAddr(member4), LocalPort: 22, Protocol: policy.ProtocolUDP}},
		{"other member", floodOf{peers: 13, towards: true, packet: func(n, time int) packet.Packet {
			return packet.TCP(peer4(n), wiki4, uint16(1000+time), 22, packet.SYN)
		}}, shown{Local: netip.MustParseAddr(wiki4), LocalPort: 22, Protocol: policy.ProtocolTCP}},
		{"other direction", floodOf{peers: 14, packet: func(n, time int) packet.Packet {
			return packet.TCP(member4, peer4(n), uint16(1000+time), 22, packet.SYN)
		}}, shown{Local: netip.MustParseAddr(member4), Peer: 22, Protocol: policy.ProtocolTCP, Direction: policy.Outbound}},
		{"other family", floodOf{peers: 15, towards: true, packet: func(n, time int) packet.Packet {
			return packet.TCP(peer6(n), member6, uint16(1000+time), 22, packet.SYN)
		}}, shown{Local: netip.MustParseAddr(member6), LocalPort: 22, Protocol: policy.ProtocolTCP}},
		{"echo", floodOf{peers: 16, towards: true, packet: func(n, time int) packet.Packet {
			return packet.ICMPEcho(peer4(n), member4, uint16(n), uint16(time))
		}}, shown{Local: netip.MustParseAddr(member4), Protocol: policy.ProtocolICMP}},
	}
	var want []shown
	var total uint64
	for _, target := range targets {
		target.flood.first, target.flood.times = 1000, 3
		told := r.flood(t, target.flood)
		if len(told) != 1 || told[0].Crowd || told[0].Count != 1 || told[0].Peer != netip.MustParseAddr(peerOf(target.want, 1000)) {
			t.Errorf("%s: the first of a crowd was told as %+v", target.name, told)
		}
		target.want.Member, target.want.Generation = told[0].Member, told[0].Generation
		target.want.Count = uint64(3*target.flood.peers - 1)
		want = append(want, target.want)
		total += target.want.Count
	}
	counters, err := r.Counters()
	if err != nil {
		t.Fatal(err)
	}
	in, out := counters.Decisions[policy.PublicInboundPerimeterRulesDenied], counters.Decisions[policy.PublicOutboundPerimeterRulesDenied]
	outbound := uint64(3*14 - 1)
	if in.Crowded != total-outbound || in.Folded != in.Crowded+2*fewDenials || out.Crowded != outbound || out.Folded != outbound {
		t.Errorf("the books are %+v inbound and %+v outbound, want %d and %d crowded", in, out, total-outbound, outbound)
	}

	drained, err := r.DrainDenials()
	if err != nil {
		t.Fatal(err)
	}
	if diff := gocmp.Diff(want, crowdsIn(t, drained), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("crowds (-want +got):\n%s", diff)
	}
	apart := map[netip.Addr]uint64{}
	for _, e := range drained {
		if !e.Crowd {
			apart[e.Peer] += e.Count
		}
	}
	for n := range fewDenials {
		if got := apart[netip.MustParseAddr(peer4(n))]; got != 2 {
			t.Errorf("peer %d, which had a row, was denied %d times more, want 2", n, got)
		}
	}
	if len(apart) != fewDenials {
		t.Errorf("%d peers were told apart, want %d", len(apart), fewDenials)
	}

	// There is room again: the peers of a crowd are told apart.
	if told := r.flood(t, floodOf{first: 1000, peers: 10, times: 3, towards: true, packet: syn4(22)}); len(told) != 10 {
		t.Errorf("%d events of 10 peers in the next window", len(told))
	}
	drained, err = r.DrainDenials()
	if err != nil {
		t.Fatal(err)
	}
	if crowds := crowdsIn(t, drained); len(crowds) != 0 || len(drained) != 10 {
		t.Errorf("%d rows and %d crowds in the next window, want 10 and none", len(drained), len(crowds))
	}
}

// peerOf is a stranger of the family of a target.
func peerOf(target shown, n int) string {
	if target.Local.Is6() {
		return peer6(n)
	}
	return peer4(n)
}

// TestCrowdsFull: where neither a peer nor a crowd has a row, each packet is an
// event; those that have one are not touched by it.
func TestCrowdsFull(t *testing.T) {
	r := newCrowdRig(t, Limits{Denials: fewDenials, Crowds: fewCrowds})
	r.flood(t, floodOf{peers: fewDenials, times: 1, towards: true, packet: syn4(22)})
	var crowds []floodOf
	for _, member := range []string{member4, wiki4} {
		crowds = append(crowds,
			floodOf{towards: true, packet: func(n, time int) packet.Packet { return packet.TCP(peer4(n), member, 1, 22, packet.SYN) }},
			floodOf{towards: true, packet: func(n, time int) packet.Packet { return packet.UDP(peer4(n), member, 1, 22) }},
			floodOf{packet: func(n, time int) packet.Packet { return packet.TCP(member, peer4(n), 1, 22, packet.SYN) }},
			floodOf{packet: func(n, time int) packet.Packet { return packet.UDP(member, peer4(n), 1, 22) }})
	}
	for i, crowd := range crowds {
		crowd.first, crowd.peers, crowd.times = 100, 5, 1
		if told := r.flood(t, crowd); len(told) != 1 {
			t.Errorf("%d events of crowd %d, want 1", len(told), i)
		}
	}
	echo := func(n, time int) packet.Packet { return packet.ICMPEcho(peer4(n), member4, uint16(n), uint16(time)) }
	told := r.flood(t, floodOf{first: 100, peers: 5, times: 2, towards: true, packet: echo})
	if len(told) != 10 {
		t.Errorf("%d events of 10 packets for which there is no row", len(told))
	}
	if told := r.flood(t, floodOf{first: 100, peers: 5, times: 1, towards: true, packet: syn4(22)}); len(told) != 0 {
		t.Errorf("a crowd that has a row was told one by one: %+v", told)
	}
	drained, err := r.DrainDenials()
	if err != nil {
		t.Fatal(err)
	}
	var counts []uint64
	for _, c := range crowdsIn(t, drained) {
		counts = append(counts, c.Count)
	}
	if want := []uint64{4, 4, 4, 4, 4, 4, 4, 9}; !slices.Equal(counts, want) || len(drained) != len(want) {
		t.Errorf("drained %d rows, crowds of %v, want %v", len(drained), counts, want)
	}
}

// TestFloodOfAnything: a sender that changes all it may, addresses, ports and
// protocols, causes no more events than there are rows, and a handful of crowds.
func TestFloodOfAnything(t *testing.T) {
	r := newCrowdRig(t, Limits{Denials: fewDenials, Crowds: 64})
	const packets = 4000
	told := r.flood(t, floodOf{first: 0, peers: packets, times: 1, towards: true, packet: func(n, _ int) packet.Packet {
		port := uint16(1000 + n)
		switch n % 4 {
		case 0:
			return packet.TCP(peer4(n), member4, port, port, packet.SYN)
		case 1:
			return packet.UDP(peer6(n), member6, port, port)
		case 2:
			return packet.SCTP(peer4(n), wiki4, port, port)
		default:
			return packet.Protocol(peer4(n), member4, uint8(143+n/4%100))
		}
	}})
	drained, err := r.DrainDenials()
	if err != nil {
		t.Fatal(err)
	}
	count := uint64(len(told))
	for _, c := range crowdsIn(t, drained) {
		count += c.Count
	}
	if len(told) != fewDenials+4 || len(drained) != 4 || count != packets {
		t.Errorf("%d packets: %d told at once, %d crowds, %d in all; want %d, 4 and all", packets, len(told), len(drained), count, fewDenials+4)
	}
}

// TestCrowdsOutliveTheAgent: what was counted while nobody drained is told by the
// next agent, once.
func TestCrowdsOutliveTheAgent(t *testing.T) {
	limits := Limits{Denials: fewDenials, Crowds: fewCrowds}
	r := newCrowdRig(t, limits)
	r.flood(t, floodOf{peers: fewDenials + 4, times: 1, towards: true, packet: syn4(22)})
	if _, err := r.DrainDenials(); err != nil { // so that the second table is in use
		t.Fatal(err)
	}
	r.flood(t, floodOf{peers: fewDenials + 4, times: 2, towards: true, packet: syn4(22)})
	root := r.options.Root
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	err := r.host.Run(func() error {
		next, err := openEthernet(Options{Root: root, Limits: Limits{Denials: 2 * fewDenials, Crowds: 2 * fewCrowds}}) // sizes stay
		if err != nil {
			return err
		}
		defer func() {
			if err := next.Close(); err != nil {
				t.Error(err)
			}
		}()
		drained, err := next.DrainDenials()
		if err != nil {
			return err
		}
		crowds := crowdsIn(t, drained)
		if len(crowds) != 1 || crowds[0].Count != 7 || len(drained) != fewDenials+1 {
			t.Errorf("drained %d rows with crowds %+v, want %d and one of 7", len(drained), crowds, fewDenials+1)
		}
		for range 2 {
			if again, err := next.DrainDenials(); err != nil || len(again) != 0 {
				t.Errorf("told again: %+v, %v", again, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestBooksOfAFlood: floods from several CPUs, of more peers than are told apart,
// while the tables are drained over and over.
// What was told, at once and in drains, is all that was decided, to the unit; and
// in each window peers are told apart first.
func TestBooksOfAFlood(t *testing.T) {
	r := newCrowdRig(t, Limits{Denials: 64, Crowds: fewCrowds, DenialRing: 1 << 18})
	const senders, drains = 4, 12
	var sent atomic.Uint64
	ended := make(chan struct{})
	var group sync.WaitGroup
	for sender := range senders {
		group.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-ended:
					return
				default:
				}
				p := packet.TCP(peer4(i*7%4000), member4, uint16(1000+sender), uint16(22+i%3), packet.SYN)
				if verdict, err := r.run(p.Frame(), true, 0); err != nil || verdict != deny {
					t.Errorf("packet %d: %v, %v", i, verdict, err)
					return
				}
				sent.Add(1)
			}
		})
	}
	var told, crowded, apart uint64
	for i := range drains + 1 {
		if i == drains {
			close(ended)
			group.Wait()
		}
		drained, err := r.DrainDenials()
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range drained {
			told += e.Count
			if e.Crowd {
				crowded += e.Count
			}
		}
		for _, e := range r.events(t) {
			told += e.Count
			apart++
		}
	}
	counters, err := r.Counters()
	if err != nil {
		t.Fatal(err)
	}
	n := counters.Decisions[policy.PublicInboundPerimeterRulesDenied]
	t.Logf("%d packets, %d told apart: %+v", sent.Load(), apart, n)
	if n.Decided != sent.Load() || n.Decided != n.Submitted+n.Folded+n.Lost || n.Submitted+n.Folded != told || n.Crowded != crowded {
		t.Errorf("%d sent, books %+v, but %d told, %d of crowds", sent.Load(), n, told, crowded)
	}
	if crowded == 0 || apart < drains*32 {
		t.Errorf("%d of crowds and %d told apart in %d drains, want some and half of each table", crowded, apart, drains)
	}
}
