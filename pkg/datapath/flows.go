package datapath

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/cilium/ebpf"

	"github.com/perimeterd/perimeterd/pkg/policy"
)

// Flow is an allowed flow in the table.
type Flow struct {
	Protocol                     uint8
	Local, Peer                  netip.Addr
	LocalPort, PeerPort          uint16
	Direction                    policy.Direction
	State                        string // opening, established, closing, closed
	Reason                       policy.Reason
	Category                     policy.Category
	WouldBe                      policy.Verdict
	Midstream                    bool
	Governed                     bool // false: kept only so that its answers pass
	Generation, Member, Outcome  uint32
	Ifindex                      uint32
	Started, Seen                time.Time
	PacketsTowards, BytesTowards uint64
	PacketsFrom, BytesFrom       uint64
}

// flowStates are the names of enum flow_state.
var flowStates = [perimeterFlowStateFLOW_STATE_COUNT]string{
	perimeterFlowStateFLOW_OPENING:     "opening",
	perimeterFlowStateFLOW_ESTABLISHED: "established",
	perimeterFlowStateFLOW_CLOSING:     "closing",
	perimeterFlowStateFLOW_CLOSED:      "closed",
}

// flowTuple is a flow's key in either family.
type flowTuple struct {
	family              uint8
	local, peer         [4]uint32
	localPort, peerPort uint16
	protocol            uint8
}

func tuple4(k perimeterFlowKey4) flowTuple {
	return flowTuple{4, [4]uint32{k.LocalBe}, [4]uint32{k.PeerBe}, k.LocalPort, k.PeerPort, k.Protocol}
}

func tuple6(k perimeterFlowKey6) flowTuple {
	return flowTuple{6, k.LocalBe, k.PeerBe, k.LocalPort, k.PeerPort, k.Protocol}
}

func (d *Datapath) flow(t flowTuple, f *perimeterFlow, now moment) Flow {
	out := Flow{
		Protocol:   t.protocol,
		Local:      address(t.family, t.local),
		Peer:       address(t.family, t.peer),
		Direction:  policy.Direction(f.Direction & 1),
		State:      flowStates[int(f.State)%len(flowStates)],
		Reason:     d.words.reason(f.Reason),
		Category:   d.words.category(f.Category),
		Midstream:  f.Flags&uint8(perimeterFlowFlagFLOW_MIDSTREAM) != 0,
		Governed:   f.Flags&uint8(perimeterFlowFlagFLOW_UNLISTED) == 0,
		Generation: f.Generation, Member: f.Member, Outcome: f.Outcome, Ifindex: f.Ifindex,
		Started: now.ofBoot(f.Started), Seen: now.ofJiffies32(f.Seen),
		PacketsTowards: f.Packets[0], BytesTowards: f.Bytes[0],
		PacketsFrom: f.Packets[1], BytesFrom: f.Bytes[1],
	}
	if f.Flags&uint8(perimeterFlowFlagFLOW_WOULD_BE_DENIED) != 0 {
		out.WouldBe = policy.Deny
	}
	out.LocalPort, out.PeerPort = shownPorts(t.protocol, t.localPort, t.peerPort)
	return out
}

// Flows calls yield for each flow in the table until it returns false. Flows
// that come or go meanwhile may be missed.
func (d *Datapath) Flows(yield func(Flow) bool) error {
	now, err := d.clock.now()
	if err != nil {
		return err
	}
	stop := errors.New("stop")
	each := func(t flowTuple, f *perimeterFlow) error {
		if !yield(d.flow(t, f, now)) {
			return stop
		}
		return nil
	}
	for _, err := range []error{
		eachFlow(d.objects.Established4, tuple4, each),
		eachFlow(d.objects.Opening4, tuple4, each),
		eachFlow(d.objects.Established6, tuple6, each),
		eachFlow(d.objects.Opening6, tuple6, each),
	} {
		if errors.Is(err, stop) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// eachFlow walks one table, many entries a call where the kernel can.
func eachFlow[K any](m *ebpf.Map, tuple func(K) flowTuple, yield func(flowTuple, *perimeterFlow) error) error {
	keys := make([]K, 4096)
	flows := make([]perimeterFlow, len(keys))
	var cursor ebpf.MapBatchCursor
	for {
		n, err := m.BatchLookup(&cursor, keys, flows, nil)
		for i := range n {
			if err := yield(tuple(keys[i]), &flows[i]); err != nil {
				return err
			}
		}
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("list the flows: %w", err)
		}
	}
}

// SweepStats says what a sweep found.
type SweepStats struct {
	Flows   int // in the tables, before
	Removed int
	// OldestGeneration is the least that a flow is still judged under; 0 = no
	// flows. Names of generations before it are no longer needed.
	OldestGeneration uint32
	// Generations counts the flows judged under each generation. Only the names
	// of these are needed: an old one may be all that is left of its time.
	Generations map[uint32]int
	// Fragments is of how many packets the first fragment is remembered, so that
	// the rest can follow it, and FragmentsMax of how many it can be. Past that the
	// oldest is forgotten, and what follows it is counted as fragment-unknown.
	Fragments, FragmentsMax int
}

// Sweep removes the flows that are idle for longer than their timeout, and those of
// addresses that the policy has not known for a minute, whose packets it is not
// asked about. It returns the ends of those whose end was not told by the kernel.
// Of a flow that a packet revives in the same moment exactly one side tells the
// end.
func (d *Datapath) Sweep() ([]Event, SweepStats, error) {
	now, err := d.clock.now()
	if err != nil {
		return nil, SweepStats{}, err
	}
	known, err := d.knownLocals()
	if err != nil {
		return nil, SweepStats{}, err
	}
	s := &sweep{d: d, now: now, known: known, timeouts: d.options.Timeouts.rows(d.clock), stats: SweepStats{
		Generations:  map[uint32]int{},
		FragmentsMax: int(d.objects.Fragments.MaxEntries()),
	}}
	var uncounted error
	s.stats.Fragments, uncounted = d.countFragments(now)
	err = errors.Join(
		uncounted,
		sweepTable(s, d.objects.Established4, tuple4),
		sweepTable(s, d.objects.Opening4, tuple4),
		sweepTable(s, d.objects.Established6, tuple6),
		sweepTable(s, d.objects.Opening6, tuple6),
	)
	return s.events, s.stats, err
}

type sweep struct {
	d        *Datapath
	now      moment
	known    *knownLocals
	timeouts [4][4]uint32
	events   []Event
	stats    SweepStats
}

func sweepTable[K any](s *sweep, m *ebpf.Map, tuple func(K) flowTuple) error {
	keys := make([]K, 4096)
	flows := make([]perimeterFlow, len(keys))
	var over []K
	var cursor ebpf.MapBatchCursor
	for {
		n, err := m.BatchLookup(&cursor, keys, flows, nil)
		for i := range n {
			s.stats.Flows++
			if s.over(tuple(keys[i]), &flows[i]) {
				over = append(over, keys[i])
			} else {
				g := flows[i].Generation
				s.stats.Generations[g]++
				if s.stats.OldestGeneration == 0 || g < s.stats.OldestGeneration {
					s.stats.OldestGeneration = g
				}
			}
		}
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			break
		}
		if err != nil {
			return fmt.Errorf("list the flows: %w", err)
		}
	}
	for _, key := range over {
		if err := sweepFlow(s, m, key, tuple(key)); err != nil {
			return err
		}
	}
	return nil
}

// sweepFlow removes one flow. Whoever removes it from the table tells its end:
// the kernel does the same for a packet that finds an idle flow.
func sweepFlow[K any](s *sweep, m *ebpf.Map, key K, t flowTuple) error {
	var f perimeterFlow
	err := m.LookupAndDelete(key, &f)
	if errors.Is(err, ebpf.ErrNotSupported) { // hash tables before 5.14
		if err = m.Lookup(key, &f); err == nil {
			err = m.Delete(key)
		}
	}
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove a flow that is over: %w", err)
	}
	if !s.over(t, &f) {
		// A packet began it anew between the look and the removal.
		err := m.Update(key, f, ebpf.UpdateNoExist)
		if err == nil {
			return nil
		}
		if !errors.Is(err, ebpf.ErrKeyExist) {
			return fmt.Errorf("put a revived flow back: %w", err)
		}
		// Another took its place meanwhile, and told its own start: this one is over.
	}
	s.stats.Removed++
	if f.Flags&uint8(perimeterFlowFlagFLOW_ENDED|perimeterFlowFlagFLOW_UNLISTED) == 0 {
		s.events = append(s.events, s.end(t, &f))
	}
	return nil
}

// unknownFor is how long an address may be away, for instance from its interface,
// and find its flows again.
const unknownFor = time.Minute

// over reports whether no packet will pass by the flow any more.
func (s *sweep) over(t flowTuple, f *perimeterFlow) bool {
	if s.idle(t.protocol, f) {
		return true
	}
	return f.Generation < s.known.generation && !s.known.concerns(t) &&
		s.now.jiffies-s.known.since > s.d.clock.jiffiesIn(unknownFor)
}

// idle is flow_is_idle of bpf/flow.h: both must agree on when a flow is over.
func (s *sweep) idle(protocol uint8, f *perimeterFlow) bool {
	row := perimeterTimeoutRowTIMEOUT_OTHER
	switch protocol {
	case policy.ProtocolTCP:
		row = perimeterTimeoutRowTIMEOUT_TCP
	case policy.ProtocolUDP, policy.ProtocolUDPLite:
		row = perimeterTimeoutRowTIMEOUT_UDP
	case policy.ProtocolICMP, policy.ProtocolICMPv6:
		row = perimeterTimeoutRowTIMEOUT_ICMP
	}
	return int32(uint32(s.now.jiffies)-f.Seen) > int32(s.timeouts[row][f.State%4])
}

func (s *sweep) end(t flowTuple, f *perimeterFlow) Event {
	flow := s.d.flow(t, f, s.now)
	return Event{
		Kind: FlowEnd, Time: flow.Seen, LastTime: flow.Seen, Count: 1,
		Generation: flow.Generation, Member: flow.Member, Outcome: flow.Outcome, Ifindex: flow.Ifindex,
		Direction: flow.Direction, Verdict: policy.Allow, WouldBe: flow.WouldBe,
		Reason: flow.Reason, Category: flow.Category,
		Protocol: flow.Protocol, Local: flow.Local, Peer: flow.Peer,
		LocalPort: flow.LocalPort, PeerPort: flow.PeerPort,
		Started:        flow.Started,
		PacketsTowards: flow.PacketsTowards, BytesTowards: flow.BytesTowards,
		PacketsFrom: flow.PacketsFrom, BytesFrom: flow.BytesFrom,
		Midstream: flow.Midstream,
	}
}
