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
//   - nearly all are hosts: those are in a hash, and the trie has the others;
//   - many IPv4 prefixes of all lengths: they are in runs, and the trie is empty;
//   - in front of any of these: marks, where most addresses would have none.
//
// Tables of many prefixes stay where they are while the policy changes little: what
// it changed is in a table before them (compile.Prefixes).
const (
	// marksMin is from how many on marks are asked first: below, a trie costs no more.
	marksMin = 256
	// hostsMin is how many there must be for a table of hosts.
	hostsMin = 16
	// runsMin is from how many on runs are worth the 4 MiB that they take at least.
	runsMin = 4096
	// runsBytesMost and runsBytesPerPrefix are what they may take beyond that: less
	// than the trie does.
	runsBytesMost, runsBytesPerPrefix = 4 << 20, bytesPerPrefix - 20
)

// mostlyHosts reports whether full-length prefixes get a table of their own: not if
// too many addresses would be looked for there in vain.
func mostlyHosts(prefixes []compile.PrefixClass) bool {
	hosts := 0
	for _, p := range prefixes {
		if p.Prefix.IsSingleIP() {
			hosts++
		}
	}
	return len(prefixes) >= hostsMin && hosts*8 >= len(prefixes)*7
}

// familyTables are the tables of one family's prefixes: the names of their outer
// maps, and how keys are written there.
type familyTables[P, H any] struct {
	trie, hosts, marks, changes string
	runs                        string // "": the family has none
	prefix                      func(netip.Prefix) P
	host                        func(netip.Addr) H
}

func (d *Datapath) buildPrefixes4(g *generation) (err error) {
	of := familyTables[perimeterPrefixKey4, uint32]{
		trie: "prefixes4", hosts: "prefix_hosts4", marks: "prefix_marks4", changes: "prefix_changes4", runs: "prefix_runs4",
		prefix: prefixKey4, host: key4,
	}
	g.index4, err = of.build(d, g, d.before().index4, d.before().tables.Prefixes4, g.tables.Prefixes4)
	return err
}

func (d *Datapath) buildPrefixes6(g *generation) (err error) {
	of := familyTables[perimeterPrefixKey6, [4]uint32]{
		trie: "prefixes6", hosts: "prefix_hosts6", marks: "prefix_marks6", changes: "prefix_changes6",
		prefix: prefixKey6, host: key6,
	}
	g.index6, err = of.build(d, g, d.before().index6, d.before().tables.Prefixes6, g.tables.Prefixes6)
	return err
}

// build makes the tables of prefixes, or takes over those in force as far as they say
// the same: most edits of a policy change no prefix or few, and a trie of a million
// takes a second to load.
func (of *familyTables[P, H]) build(d *Datapath, g *generation, index perimeterFamilyIndex, before, prefixes compile.Prefixes) (perimeterFamilyIndex, error) {
	outers := []string{of.trie, of.hosts, of.marks}
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
func (of *familyTables[P, H]) change(d *Datapath, g *generation, changes []compile.PrefixClass) error {
	keys, classes := make([]P, len(changes)), make([]uint32, len(changes))
	for i, c := range changes {
		keys[i], classes[i] = of.prefix(c.Prefix), c.Class
	}
	return table(d, g, of.changes, keys, classes)
}

// fill makes the tables for these prefixes.
func (of *familyTables[P, H]) fill(d *Datapath, g *generation, prefixes []compile.PrefixClass) (perimeterFamilyIndex, error) {
	var index perimeterFamilyIndex
	var runs []perimeterRunBlock
	apart := mostlyHosts(prefixes)
	if of.runs != "" && len(prefixes) >= runsMin && !apart {
		runs = runsOf(prefixes, runsBytesMost+runsBytesPerPrefix*len(prefixes))
	}
	var marks []uint64
	index.Marks, marks = marksOf(prefixes)
	if runs != nil {
		index.Runs = 1
		prefixes = nil // of the tables that are left
	}
	split := of.split(prefixes, apart)
	if apart {
		index.Hosts = 1
		if len(split.keys) == 0 {
			index.OnlyHosts = 1
		}
	}
	var group errgroup.Group
	group.Go(func() error {
		return errors.Join(
			table(d, g, of.trie, split.keys, split.classes),
			table(d, g, of.hosts, split.hosts, split.ofHosts),
		)
	})
	err := array(d, g, of.marks, marks)
	if of.runs != "" {
		err = errors.Join(err, array(d, g, of.runs, runs))
	}
	return index, errors.Join(err, group.Wait())
}

// split is prefixes as the kernel takes them: what is for the trie, and what for
// the hash of hosts.
type split[P, H any] struct {
	keys             []P
	hosts            []H
	classes, ofHosts []uint32
}

func (of *familyTables[P, H]) split(prefixes []compile.PrefixClass, apart bool) *split[P, H] {
	s := &split[P, H]{}
	if apart {
		s.hosts, s.ofHosts = make([]H, 0, len(prefixes)), make([]uint32, 0, len(prefixes))
	} else {
		s.keys, s.classes = make([]P, 0, len(prefixes)), make([]uint32, 0, len(prefixes))
	}
	for _, p := range prefixes {
		if apart && p.Prefix.IsSingleIP() {
			s.hosts, s.ofHosts = append(s.hosts, of.host(p.Prefix.Addr())), append(s.ofHosts, p.Class)
		} else {
			s.keys, s.classes = append(s.keys, of.prefix(p.Prefix)), append(s.classes, p.Class)
		}
	}
	return s
}
