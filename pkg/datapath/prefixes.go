package datapath

import (
	"errors"
	"net/netip"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/perimeterd/perimeterd/pkg/compile"
)

// The prefixes of a generation are in the tries prefixes4 and prefixes6, which can
// hold any set of them but are slow when there are many, or where what the prefixes
// are allows something faster (bpf/prefix.h):
//
//   - they are many for the lengths they have: they are in a table by length, and the
//     trie is empty;
//   - many IPv4 prefixes of all lengths: they are in runs, and the trie is empty;
//   - in front of any of these: marks, where most addresses would have none.
//
// Tables of many prefixes stay where they are while the policy changes little: what
// it changed is in a table before them (compile.Prefixes).
const (
	// marksMin is from how many on marks are asked first: below, a trie or a few looks
	// cost no more.
	marksMin = 256
	// runsMin is from how many on runs, which take 4 MiB at least, are smaller than a
	// table by lengths, and as fast.
	runsMin = 1 << 16
	// runsBytesMost and runsBytesPerPrefix are what they may take beyond that: less
	// than the trie does.
	runsBytesMost, runsBytesPerPrefix = 4 << 20, bytesPerPrefix - 20
)

// mostlyHosts reports whether full-length prefixes are so many that they are better
// found by their length than in runs.
func mostlyHosts(prefixes []compile.PrefixClass) bool {
	hosts := 0
	for _, p := range prefixes {
		if p.Prefix.IsSingleIP() {
			hosts++
		}
	}
	return hosts*8 >= len(prefixes)*7
}

// familyTables are the tables of one family's prefixes: the names of their outer
// maps, and how keys are written there.
type familyTables[P any] struct {
	trie, lengths, marks, changes string
	runs                          string // "": the family has none
	prefix                        func(netip.Prefix) P
}

func (d *Datapath) buildPrefixes4(g *generation) (err error) {
	of := familyTables[perimeterPrefixKey4]{
		trie: "prefixes4", lengths: "prefix_lengths4", marks: "prefix_marks4", changes: "prefix_changes4", runs: "prefix_runs4",
		prefix: prefixKey4,
	}
	g.index4, err = of.build(d, g, d.before().index4, d.before().tables.Prefixes4, g.tables.Prefixes4)
	return err
}

func (d *Datapath) buildPrefixes6(g *generation) (err error) {
	of := familyTables[perimeterPrefixKey6]{
		trie: "prefixes6", lengths: "prefix_lengths6", marks: "prefix_marks6", changes: "prefix_changes6",
		prefix: prefixKey6,
	}
	g.index6, err = of.build(d, g, d.before().index6, d.before().tables.Prefixes6, g.tables.Prefixes6)
	return err
}

// build makes the tables of prefixes, or takes over those in force as far as they say
// the same: most edits of a policy change no prefix or few, and a trie of a million
// takes a second to load.
func (of *familyTables[P]) build(d *Datapath, g *generation, index perimeterFamilyIndex, before, prefixes compile.Prefixes) (perimeterFamilyIndex, error) {
	outers := []string{of.trie, of.lengths, of.marks}
	if of.runs != "" {
		outers = append(outers, of.runs)
	}
	shared, err := d.share(g, compile.SameClasses(before.Base, prefixes.Base), outers...)
	if !shared && err == nil {
		index, err = of.fill(d, g, prefixes.Base)
	}
	if err != nil {
		return index, err
	}
	index.Changes = 0
	if len(prefixes.Changes) > 0 {
		index.Changes = 1
	}
	if shared, err := d.share(g, slices.Equal(before.Changes, prefixes.Changes), of.changes); shared || err != nil {
		return index, err
	}
	return index, of.change(d, g, prefixes.Changes)
}

// change makes the table of changes.
func (of *familyTables[P]) change(d *Datapath, g *generation, changes []compile.PrefixClass) error {
	keys, classes := make([]P, len(changes)), make([]uint32, len(changes))
	for i, c := range changes {
		keys[i], classes[i] = of.prefix(c.Prefix), c.Class
	}
	return table(d, g, of.changes, keys, classes)
}

// fill makes the tables for these prefixes.
func (of *familyTables[P]) fill(d *Datapath, g *generation, prefixes []compile.PrefixClass) (perimeterFamilyIndex, error) {
	var index perimeterFamilyIndex
	var runs []perimeterRunBlock
	if of.runs != "" && len(prefixes) >= runsMin && !mostlyHosts(prefixes) {
		runs = runsOf(prefixes, runsBytesMost+runsBytesPerPrefix*len(prefixes))
	}
	var marks []uint64
	index.Marks, marks = marksOf(prefixes)
	if runs != nil {
		index.Runs = 1
		prefixes = nil // of the tables that are left
	}
	var blocks []perimeterLengthBlock
	if tree := lengthTreeOf(prefixes); tree.pays(len(prefixes)) {
		if blocks = tree.blocks(prefixes, lengthsBytesPerPrefix*len(prefixes)); blocks != nil {
			index.LengthBlocks, index.LengthClass, index.LengthTree = uint32(len(blocks)), tree.class, tree.nodes
			prefixes = nil
		}
	}
	var group errgroup.Group
	group.Go(func() error {
		keys, classes := make([]P, len(prefixes)), make([]uint32, len(prefixes))
		for i, p := range prefixes {
			keys[i], classes[i] = of.prefix(p.Prefix), p.Class
		}
		return table(d, g, of.trie, keys, classes)
	})
	err := errors.Join(array(d, g, of.marks, marks), array(d, g, of.lengths, blocks))
	if of.runs != "" {
		err = errors.Join(err, array(d, g, of.runs, runs))
	}
	return index, errors.Join(err, group.Wait())
}
