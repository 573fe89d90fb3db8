package datapath

import (
	"encoding/binary"
	"math"
	"net/netip"
	"unsafe"

	"github.com/perimeterd/perimeterd/pkg/compile"
	"github.com/perimeterd/perimeterd/pkg/policy"
)

const (
	// lengthsBytesPerPrefix is what a prefix may take with its share of the markers: a
	// quarter more than in a trie, and only lists of very many lengths come near it.
	lengthsBytesPerPrefix = bytesPerPrefix * 5 / 4

	lengthEntries    = int(perimeterLengthBoundLENGTH_ENTRIES)
	lengthBlockBytes = int(unsafe.Sizeof(perimeterLengthBlock{}))
)

// blocks makes the table of the prefixes, which are sorted by address, then length.
// Nil if it would have more than so many bytes. At least half of the places are free,
// so few entries are not in their first block.
func (t *lengthTree) blocks(prefixes []compile.PrefixClass, bytes int) []perimeterLengthBlock {
	most := bytes / lengthBlockBytes
	entries := t.entries(prefixes, most*lengthEntries/2)
	if entries == nil {
		return nil
	}
	for number := 2*len(entries)/lengthEntries + 1; number <= most; number += number/4 + 1 {
		if blocks := blocksOf(entries, number); blocks != nil {
			return blocks
		}
	}
	return nil
}

// lengthEntry is a prefix or a marker.
type lengthEntry struct {
	address [2]uint64
	length  uint8
	value   uint32
}

// entries are prefixes and their markers. Nil: they are more than most.
//
// A marker is of the class of the longest prefix around it. The walk is in the order
// of addresses: what is around a marker is around its prefix and has come before, and
// so has the entry where another prefix has the same marker, as the last of its length.
func (t *lengthTree) entries(prefixes []compile.PrefixClass, most int) []lengthEntry {
	entries := make([]lengthEntry, 0, len(prefixes)*3/2)
	var masks [lengthsMost + 1][2]uint64
	for _, node := range t.nodes {
		masks[node.Length] = node.MaskBe
	}
	var last [lengthsMost + 1]int // by length: 1 + which entry was the last
	around := []compile.PrefixClass{{Class: t.class}}
	for _, p := range prefixes {
		if p.Prefix.Bits() == 0 {
			continue
		}
		for len(around) > 1 && !policy.Holds(around[len(around)-1].Prefix, p.Prefix) {
			around = around[:len(around)-1]
		}
		address := lengthAddress(p.Prefix.Addr())
		for _, length := range t.markers[p.Prefix.Bits()] {
			mask := masks[length]
			marker := lengthEntry{address: [2]uint64{address[0] & mask[0], address[1] & mask[1]}, length: uint8(length)}
			if at := last[length]; at == 0 || entries[at-1].address != marker.address {
				i := len(around) - 1
				for i > 0 && around[i].Prefix.Bits() > length {
					i--
				}
				marker.value = around[i].Class
				entries = append(entries, marker)
				last[length] = len(entries)
			}
			entries[last[length]-1].value |= uint32(perimeterLengthEntryLENGTH_LONGER)
		}
		entries = append(entries, lengthEntry{address, uint8(p.Prefix.Bits()), p.Class})
		last[p.Prefix.Bits()] = len(entries)
		if len(entries) > most {
			return nil
		}
		around = append(around, p)
	}
	return entries
}

// lengthAddress is an address as the entries have it: of IPv4 in the first of four
// words.
func lengthAddress(a netip.Addr) [2]uint64 {
	if a.Is4() {
		return [2]uint64{uint64(key4(a))}
	}
	sixteen := a.As16()
	return [2]uint64{binary.NativeEndian.Uint64(sixteen[:8]), binary.NativeEndian.Uint64(sixteen[8:])}
}

// places are the two blocks that may hold an entry, as in prefix_length_entry of
// bpf/prefix.h.
func (e *lengthEntry) places(blocks int) (first, second int) {
	hash := e.address[0]*0x9e3779b97f4a7c15 + e.address[1] + uint64(e.length)<<56
	hash = (hash ^ hash>>32) * 0xbf58476d1ce4e5b9
	return int(hash >> 32 * uint64(blocks) >> 32), int(hash & math.MaxUint32 * uint64(blocks) >> 32)
}

// blocksOf puts entries into so many blocks. Nil: some find no place.
func blocksOf(entries []lengthEntry, number int) []perimeterLengthBlock {
	blocks := make([]perimeterLengthBlock, number)
	for _, e := range entries {
		if !place(blocks, e) {
			return nil
		}
	}
	return blocks
}

// place puts an entry into its first block. Where that is full, one of those there
// goes to its own other block, and so on (cuckoo hashing).
func place(blocks []perimeterLengthBlock, e lengthEntry) bool {
	const movesMost = 500
	at, _ := e.places(len(blocks))
	for move := range movesMost {
		if blocks[at].add(e) {
			return true
		}
		e = blocks[at].replace(move%lengthEntries, e)
		first, second := e.places(len(blocks))
		if at == first {
			blocks[first].Spilled = 1
			at = second
		} else {
			at = first
		}
	}
	return false
}

// add puts an entry into a block; false: it is full.
func (b *perimeterLengthBlock) add(e lengthEntry) bool {
	for i, length := range b.Length {
		if length == 0 {
			b.replace(i, e)
			return true
		}
	}
	return false
}

// replace puts an entry into a block for another, which it returns.
func (b *perimeterLengthBlock) replace(i int, e lengthEntry) lengthEntry {
	other := lengthEntry{b.AddressBe[i], b.Length[i], b.Value[i]}
	b.AddressBe[i], b.Value[i], b.Length[i] = e.address, e.value, e.length
	return other
}
