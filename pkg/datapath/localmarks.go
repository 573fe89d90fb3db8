package datapath

import (
	"fmt"
	"net/netip"
)

// localMarks tells which local addresses a generation has in full, see struct
// local_marks in bpf/types.h.
type localMarks perimeterLocalMarks

// localMarkCount is a power of two.
const localMarkCount = uint64(len(perimeterLocalMarks{}.Words) * 64)

// localMark is the bit of an address.
func localMark(a netip.Addr) uint32 {
	return uint32(uint64(prefixHash(a, a.BitLen())) * localMarkCount >> 32)
}

func (m *localMarks) add(a netip.Addr) {
	mark := localMark(a)
	m.Words[mark/64] |= 1 << (mark % 64)
}

func (m *localMarks) has(a netip.Addr) bool {
	mark := localMark(a)
	return m.Words[mark/64]>>(mark%64)&1 == 1
}

// knownLocals is what the generation in force, perhaps an earlier process's, says
// of local addresses.
type knownLocals struct {
	generation uint32 // 0: none is in force
	flags      perimeterControlFlag
	since      uint64 // jiffies
	marks      localMarks
}

func (d *Datapath) knownLocals() (*knownLocals, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.inForce == nil {
		return &knownLocals{}, nil
	}
	k := &knownLocals{generation: d.inForce.number, flags: perimeterControlFlag(d.inForce.flags), since: d.inForce.since}
	if err := d.objects.MarkedLocals.Lookup(d.inForce.slot(), (*perimeterLocalMarks)(&k.marks)); err != nil {
		return nil, fmt.Errorf("read which local addresses are known: %w", err)
	}
	return k, nil
}

// concerns reports whether packets of the flow are asked about: policy_concerns
// of bpf/policy.h.
func (k *knownLocals) concerns(t flowTuple) bool {
	prefixes := perimeterControlFlagCONTROL_LOCAL_PREFIXES4
	if t.family == 6 {
		prefixes = perimeterControlFlagCONTROL_LOCAL_PREFIXES6
	}
	local := address(t.family, t.local)
	return k.flags&prefixes != 0 || isGroup(local) || k.marks.has(local)
}

// isGroup is packet_is_multicast of bpf/packet.h.
func isGroup(a netip.Addr) bool {
	return a.IsMulticast() || a.Is4() && (a.IsUnspecified() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}))
}
