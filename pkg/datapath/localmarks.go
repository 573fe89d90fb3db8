package datapath

import (
	"fmt"
	"math/bits"
	"net/netip"
)

// localMarks tells which local addresses a generation has in full, see struct
// local_marks in bpf/types.h.
type localMarks perimeterLocalMarks

// localMarkCount is a power of two.
const localMarkCount = uint64(len(perimeterLocalMarks{}.Words) * 64)

// localMark is the bit of an address, given as the words the kernel reads it in;
// policy_mark of bpf/policy.h.
func localMark(address [4]uint32) uint32 {
	folded := address[0]
	for _, word := range address[1:] {
		folded = bits.RotateLeft32(folded, 7) ^ word
	}
	return uint32(uint64(folded*0x9e3779b1) * localMarkCount >> 32)
}

func (m *localMarks) add(address [4]uint32) {
	mark := localMark(address)
	m.Words[mark/64] |= 1 << (mark % 64)
}

func (m *localMarks) has(address [4]uint32) bool {
	mark := localMark(address)
	return m.Words[mark/64]>>(mark%64)&1 == 1
}

// knownLocals is what the generation in force, perhaps an earlier process's, says
// of local addresses.
type knownLocals struct {
	generation uint32
	flags      perimeterControlFlag
	marks      localMarks
}

func (d *Datapath) knownLocals() (*knownLocals, error) {
	control, err := d.readControl()
	if err != nil {
		return nil, err
	}
	k := &knownLocals{generation: control.Generation, flags: perimeterControlFlag(control.Flags)}
	if err := d.objects.MarkedLocals.Lookup(control.Generation%generationSlots, (*perimeterLocalMarks)(&k.marks)); err != nil {
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
	return k.flags&prefixes != 0 || isGroup(address(t.family, t.local)) || k.marks.has(t.local)
}

// isGroup is packet_is_multicast of bpf/packet.h.
func isGroup(a netip.Addr) bool {
	return a.IsMulticast() || a.Is4() && (a.IsUnspecified() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}))
}
