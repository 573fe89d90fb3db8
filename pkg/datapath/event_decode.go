package datapath

import (
	"encoding/binary"
	"net/netip"
	"time"
	"unsafe"

	"github.com/perimeterd/perimeterd/pkg/policy"
)

// address returns a struct address of the kernel as one of ours.
func address(family uint8, words [4]uint32) netip.Addr {
	var b [16]byte
	for i, w := range words {
		binary.NativeEndian.PutUint32(b[4*i:], w)
	}
	switch family {
	case 4:
		return netip.AddrFrom4([4]byte(b[:4]))
	case 6:
		return netip.AddrFrom16(b)
	}
	return netip.Addr{}
}

// shownPorts returns the ports of a flow, and not the numbers by which flows of
// protocols without ports are told apart.
func shownPorts(protocol uint8, local, peer uint16) (uint16, uint16) {
	if !policy.HasPorts(protocol) {
		return 0, 0
	}
	return local, peer
}

const (
	eventSize      = int(unsafe.Sizeof(perimeterEvent{}))
	namedEventSize = int(unsafe.Sizeof(perimeterNamedEvent{}))
)

// decodeEvent reads a record of a ring. boot is when the host booted.
func (v *vocabulary) decodeEvent(raw []byte, boot time.Time, out *Event) bool {
	if len(raw) < eventSize {
		return false
	}
	var e perimeterEvent
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&e)), eventSize), raw)
	at := boot.Add(time.Duration(e.Time)).Round(0)
	*out = Event{
		Kind:       EventKind(e.Kind),
		Time:       at,
		LastTime:   at,
		Count:      1,
		Generation: e.Generation,
		Member:     e.Member,
		Outcome:    e.Outcome,
		Ifindex:    e.Ifindex,
		Direction:  policy.Direction(e.Direction & 1),
		Verdict:    policy.Verdict(e.Verdict & 1),
		WouldBe:    policy.Verdict(e.WouldBe & 1),
		Reason:     v.reason(e.Reason),
		Category:   v.category(e.Category),
		Protocol:   e.Protocol,
		Local:      address(e.Family, e.Local.WordBe),
		Peer:       address(e.Family, e.Peer.WordBe),
		Midstream:  e.FlowFlags&uint8(perimeterFlowFlagFLOW_MIDSTREAM) != 0,
	}
	out.LocalPort, out.PeerPort = shownPorts(e.Protocol, e.LocalPort, e.PeerPort)
	if out.Kind == FlowEnd || out.Kind == FlowCut {
		out.Started = boot.Add(time.Duration(e.Started)).Round(0)
		out.PacketsTowards, out.PacketsFrom = e.Packets[0], e.Packets[1]
		out.BytesTowards, out.BytesFrom = e.Bytes[0], e.Bytes[1]
	}
	if len(raw) >= namedEventSize { // struct named_event
		var text nameText
		copy(text[:], raw[eventSize:])
		out.Name = nameOf(text)
	}
	return true
}
