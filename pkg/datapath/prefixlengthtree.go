package datapath

import (
	"encoding/binary"
	"math"
	"math/bits"

	"github.com/perimeterd/perimeterd/pkg/compile"
)

const (
	lengthsMost     = int(perimeterLengthBoundLENGTHS_MOST)
	lengthLooksMost = int(perimeterLengthBoundLENGTH_LOOKS_MOST)
	// trieStepsPerLook is how many steps down a trie take as long as a look at one
	// length, measured.
	trieStepsPerLook = 2
)

// lengthTree is the order in which packets ask lengths.
type lengthTree struct {
	nodes   [lengthsMost]perimeterLengthNode
	markers [lengthsMost + 1][]int // by length of prefixes: of which lengths they have markers
	looks   int                    // what it takes to find each prefix once
	class   uint32                 // of addresses in no prefix, or only in the one of no length
}

// lengthTreeOf makes the tree by which prefixes are found with the fewest looks.
func lengthTreeOf(prefixes []compile.PrefixClass) *lengthTree {
	t := &lengthTree{}
	var many [lengthsMost + 1]int
	for _, p := range prefixes {
		many[p.Prefix.Bits()]++
		if p.Prefix.Bits() == 0 {
			t.class = p.Class
		}
	}
	var lengths []int
	before := []int{0} // how many prefixes are shorter than each length
	for length, n := range many {
		if length > 0 && n > 0 {
			lengths, before = append(lengths, length), append(before, before[len(lengths)]+n)
		}
	}
	// The best tree of lengths[i:j] that asks no more often than the first index: how
	// many looks its prefixes take, and its root.
	type best struct{ looks, root int }
	const never = math.MaxInt / 4
	var of [lengthLooksMost + 1][][]best
	for most := range of {
		of[most] = make([][]best, len(lengths)+1)
		for i := range of[most] {
			of[most][i] = make([]best, len(lengths)+1)
		}
	}
	for i := range lengths {
		for j := i + 1; j <= len(lengths); j++ {
			of[0][i][j].looks = never
		}
	}
	for most := 1; most <= lengthLooksMost; most++ {
		for i := range lengths {
			for j := i + 1; j <= len(lengths); j++ {
				b := best{looks: never}
				for root := i; root < j; root++ {
					looks := of[most-1][i][root].looks + of[most-1][root+1][j].looks + before[j] - before[i]
					if looks <= b.looks { // of equals the longest, which needs the fewest markers
						b = best{looks, root}
					}
				}
				of[most][i][j] = b
			}
		}
	}
	t.looks = of[lengthLooksMost][0][len(lengths)].looks
	placed := 0
	var place func(most, i, j int) (number uint8)
	place = func(most, i, j int) uint8 {
		if i == j {
			return 0
		}
		number, root := placed, of[most][i][j].root
		placed++
		length := lengths[root]
		for _, longer := range lengths[root+1 : j] {
			t.markers[longer] = append(t.markers[longer], length)
		}
		t.nodes[number] = perimeterLengthNode{
			MaskBe: lengthMask(length), Length: uint8(length),
			Shorter: place(most-1, i, root), Longer: place(most-1, root+1, j),
		}
		return uint8(number)
	}
	place(lengthLooksMost, 0, len(lengths))
	return t
}

// lengthMask is the first so many bits of an address, as words are in the kernel.
func lengthMask(length int) [2]uint64 {
	var mask [16]byte
	for i := range length {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return [2]uint64{binary.NativeEndian.Uint64(mask[:8]), binary.NativeEndian.Uint64(mask[8:])}
}

// pays reports whether so many prefixes are found faster than in a trie.
func (t *lengthTree) pays(prefixes int) bool {
	return t.looks > 0 && trieStepsPerLook*t.looks < bits.Len(uint(prefixes))*prefixes
}
