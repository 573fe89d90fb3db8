package datapath

import (
	"errors"
	"net/netip"

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
// it changed is in a table before them (prefixchanges.go).
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
	g.built4, err = of.build(d, g, d.before().built4, g.tables.Prefixes4)
	return err
}

func (d *Datapath) buildPrefixes6(g *generation) (err error) {
	of := familyTables[perimeterPrefixKey6]{
		trie: "prefixes6", lengths: "prefix_lengths6", marks: "prefix_marks6", changes: "prefix_changes6",
		prefix: prefixKey6,
	}
	g.built6, err = of.build(d, g, d.before().built6, g.tables.Prefixes6)
	return err
}

// builtPrefixes is what the tables of a family hold, changes apart.
type builtPrefixes struct {
	known    bool
	prefixes []compile.PrefixClass
	index    perimeterFamilyIndex
}

// build makes the tables of prefixes, or takes those in force and says what has
// changed since: most edits of a policy change no prefix or few, and a trie of a
// million takes a second to load.
func (of *familyTables[P]) build(d *Datapath, g *generation, before builtPrefixes, prefixes []compile.PrefixClass) (builtPrefixes, error) {
	var changes []compile.PrefixClass
	few := false
	// Of a wide prefix that is gone with all in it there is one change, but a table to free.
	if before.known && len(prefixes) >= len(before.prefixes)/2 {
		changes, few = changesOf(before.prefixes, prefixes, changesMost(len(before.prefixes)))
	}
	if !few {
		index, err := of.fill(d, g, prefixes)
		return builtPrefixes{true, prefixes, index}, errors.Join(err, of.change(d, g, nil))
	}
	outers := []string{of.trie, of.lengths, of.marks}
	if of.runs != "" {
		outers = append(outers, of.runs)
	}
	if err := g.takeOver(d.inForce, outers...); err != nil {
		return before, err
	}
	if len(changes) > 0 {
		before.index.Changes = 1
		return before, of.change(d, g, changes)
	}
	before.prefixes = prefixes // equal, and what the next are likely to be
	if before.index.Changes == 0 {
		return before, g.takeOver(d.inForce, of.changes)
	}
	before.index.Changes = 0
	return before, of.change(d, g, nil)
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
