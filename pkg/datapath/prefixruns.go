package datapath

import (
	"encoding/binary"
	"math/bits"

	"github.com/perimeterd/perimeterd/pkg/compile"
)

const (
	runTopNodes   = 1 << 16 // one for each /16
	runBlockBytes = 64
	leavesInBlock = runBlockBytes / 4
)

// runsOf makes prefix_runs4 of prefixes that are sorted by address, then length:
// struct run_block in bpf/types.h. Nil if it would be larger than the nodes that
// there always are by more than so many bytes.
func runsOf(prefixes []compile.PrefixClass, most int) []perimeterRunBlock {
	r := &runs{
		nodes:  make([]perimeterRunBlock, runTopNodes, runTopNodes+len(prefixes)/8),
		leaves: make([]uint32, 0, runTopNodes+2*len(prefixes)),
	}
	edges := edgesOf(prefixes)
	class := edges[0].class // of the addresses before edges[0], which is at 0
	var top, low runNode
	for high := range uint64(runTopNodes) {
		first := high << 16
		top.clear()
		if edges[0].at >= first+1<<16 {
			top.add(0, class)
			r.put(int(high), &top)
			continue
		}
		for third := uint64(0); third < 256; third++ {
			start := first + third<<8
			if edges[0].at >= start+256 { // one leaf, as far as there is no edge
				top.add(int(third), class)
				third = (edges[0].at-first)>>8 - 1
				continue
			}
			low.clear()
			if edges[0].at > start {
				low.add(0, class)
			}
			for edges[0].at < start+256 {
				class = edges[0].class
				low.add(int(edges[0].at-start), class)
				edges = edges[1:]
			}
			leaf := class
			if len(low.leaves) > 1 {
				leaf = uint32(len(r.nodes)) | uint32(perimeterRunLeafRUN_NODE)
				r.nodes = append(r.nodes, perimeterRunBlock{})
				r.put(len(r.nodes)-1, &low)
			}
			top.add(int(third), leaf)
		}
		r.put(int(high), &top)
		if runBlockBytes*(len(r.nodes)-runTopNodes)+4*len(r.leaves) > most {
			return nil
		}
	}
	return r.blocks()
}

// edge is an address from which on another class counts.
type edge struct {
	at    uint64
	class uint32
}

// edgesOf flattens prefixes into edges: the first at 0, the last past all
// addresses.
func edgesOf(prefixes []compile.PrefixClass) []edge {
	const end = 1 << 32
	edges := make([]edge, 1, 2*len(prefixes)+2)
	add := func(at uint64, class uint32) {
		if last := &edges[len(edges)-1]; last.at == at {
			last.class = class
		} else {
			edges = append(edges, edge{at, class})
		}
	}
	around := []edge{{end, 0}} // the prefixes around the last one, and where each ends
	leave := func(before uint64) {
		for len(around) > 1 && around[len(around)-1].at <= before {
			at := around[len(around)-1].at
			around = around[:len(around)-1]
			add(at, around[len(around)-1].class)
		}
	}
	for _, p := range prefixes {
		four := p.Prefix.Addr().As4()
		start := uint64(binary.BigEndian.Uint32(four[:]))
		leave(start)
		add(start, p.Class)
		around = append(around, edge{start + 1<<(32-p.Prefix.Bits()), p.Class})
	}
	leave(end)
	add(end, 0)
	return edges
}

// runNode is a node whose 256 networks are added in order.
type runNode struct {
	starts [8]uint32
	leaves []uint32
}

func (n *runNode) clear() { n.starts, n.leaves = [8]uint32{}, n.leaves[:0] }

func (n *runNode) add(network int, leaf uint32) {
	if len(n.leaves) > 0 && n.leaves[len(n.leaves)-1] == leaf {
		return
	}
	n.starts[network/32] |= 1 << (network % 32)
	n.leaves = append(n.leaves, leaf)
}

// runs is the table as it grows: its nodes, and behind them all leaves.
type runs struct {
	nodes  []perimeterRunBlock
	leaves []uint32
}

func (r *runs) put(number int, n *runNode) {
	words := &r.nodes[number].Words
	before := 0
	for i, starts := range n.starts {
		words[int(perimeterRunWordRUN_STARTS)+i] = starts
		words[int(perimeterRunWordRUN_BEFORE)+i/4] |= uint32(before) << (8 * (i % 4))
		before += bits.OnesCount32(starts)
	}
	words[perimeterRunWordRUN_FIRST] = uint32(len(r.leaves))
	r.leaves = append(r.leaves, n.leaves...)
}

// blocks puts the leaves behind the nodes.
func (r *runs) blocks() []perimeterRunBlock {
	first := uint32(len(r.nodes) * leavesInBlock)
	blocks := r.nodes
	for i := range blocks {
		blocks[i].Words[perimeterRunWordRUN_FIRST] += first
	}
	for len(r.leaves) > 0 {
		var block perimeterRunBlock
		r.leaves = r.leaves[copy(block.Words[:], r.leaves):]
		blocks = append(blocks, block)
	}
	return blocks
}
