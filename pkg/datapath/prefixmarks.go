package datapath

import (
	"encoding/binary"
	"math/bits"
	"net/netip"

	"github.com/perimeterd/perimeterd/pkg/compile"
)

// prefixHash is prefix_hash of bpf/prefix.h: a hash of the first bits of an
// address, of which the upper ones are the best.
func prefixHash(a netip.Addr, length int) uint32 {
	var b [16]byte
	copy(b[:], a.AsSlice())
	var folded uint32
	for i := range 4 {
		word := binary.BigEndian.Uint32(b[4*i:])
		if kept := length - 32*i; kept <= 0 {
			word = 0
		} else if kept < 32 {
			word &= ^uint32(0) << (32 - kept)
		}
		folded = bits.RotateLeft32(folded, 7) ^ word
	}
	folded *= 0x9e3779b1
	folded ^= folded >> 15
	return folded * 0x85ebca77
}

const (
	marksLog2Min = 12
	marksLog2Max = 24 // 2 MiB
	// marksPerPrefix is how many marks there are for each that is set, where there
	// is room: so rare are addresses that are marked and in no prefix.
	marksPerPrefix = 16
)

// marksOf makes the marks of prefixes. A shape of no bits: there are none, because
// the prefixes are few, or because some are so short that nearly all would be set.
func marksOf(prefixes []compile.PrefixClass) (perimeterMarksShape, []uint64) {
	if len(prefixes) < marksMin {
		return perimeterMarksShape{}, nil
	}
	length, set := marksLength(prefixes)
	if length == 0 {
		return perimeterMarksShape{}, nil
	}
	log2 := min(max(bits.Len(uint(set*marksPerPrefix)), marksLog2Min), marksLog2Max)
	marks := make([]uint64, 1<<log2/64)
	for _, p := range prefixes {
		eachNetwork(p.Prefix, length, func(a netip.Addr) {
			mark := prefixHash(a, length) >> (32 - log2)
			marks[mark/64] |= 1 << (mark % 64)
		})
	}
	return perimeterMarksShape{Bits: uint32(length), CountLog2: uint32(log2)}, marks
}

// marksLength is how many bits of an address are best hashed: as many as the
// shortest prefixes allow, each of which is as many networks of that length as
// there are in it. Returns at most how many marks are set, too; 0: no length will
// do.
func marksLength(prefixes []compile.PrefixClass) (length, set int) {
	// One mark in four may be set; and to set them may not take much longer than the rest.
	most := min(1<<(marksLog2Max-2), max(1<<20, 16*len(prefixes)))
	var ofLength [129]int
	for _, p := range prefixes {
		ofLength[p.Prefix.Bits()]++
	}
	for length = prefixes[0].Prefix.Addr().BitLen(); length >= 16; length -= 8 {
		set = 0
		for l, n := range ofLength {
			set += n << min(max(length-l, 0), 32)
			if set > most {
				break
			}
		}
		if set <= most && set <= 1<<(min(length, 62)-1) { // and of all networks, one in two
			return length, set
		}
	}
	return 0, 0
}

// eachNetwork calls yield with an address of each network of a length that is in
// the prefix, or that the prefix is in.
func eachNetwork(p netip.Prefix, length int, yield func(netip.Addr)) {
	if p.Bits() >= length {
		yield(p.Addr())
		return
	}
	b := p.Addr().AsSlice()
	for range 1 << (length - p.Bits()) {
		a, _ := netip.AddrFromSlice(b)
		yield(a)
		for i := length/8 - 1; i >= 0; i-- { // length is in bytes
			if b[i]++; b[i] != 0 {
				break
			}
		}
	}
}
