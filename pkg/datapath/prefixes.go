package datapath

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/perimeterd/perimeterd/pkg/compile"
)

// The prefixes of a generation are in the tries prefixes4 and prefixes6, which can
// hold any set of them but are slow when there are many. What is faster is derived
// from the same prefixes, by what they are (bpf/prefix.h):
//
//   - nearly all are hosts: those are in a hash, and the trie has the others;
//   - many IPv4 prefixes of all lengths: runs, if they are not too large;
//   - otherwise: marks before the trie, where most addresses would have none.
const (
	// marksMin is from how many on marks are asked first: below, a trie costs no more.
	marksMin = 256
	// hostsMin is how many there must be for a table of hosts.
	hostsMin = 16
	// runsMin is from how many on runs are worth the 4 MiB that they take at least.
	runsMin = 4096
	// runsBytesMost and runsBytesPerPrefix are what they may take beyond that, beside
	// bytesPerPrefix in the trie.
	runsBytesMost, runsBytesPerPrefix = 4 << 20, 28
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

// before is the generation in force, if it is known what is in it.
func (d *Datapath) before() *generation {
	if d.inForce != nil && d.inForce.tables != nil {
		return d.inForce
	}
	return &generation{tables: &compile.Tables{}}
}

// share takes tables over from the generation in force if they would hold the
// same: most edits of a policy change no prefix, and a trie of a million takes a
// second to load.
func (d *Datapath) share(g *generation, before, prefixes []compile.PrefixClass, outers ...string) (bool, error) {
	if before == nil || !slices.Equal(before, prefixes) {
		return false, nil
	}
	for _, outer := range outers {
		m, err := d.inForce.maps[outer].Clone()
		if err != nil {
			return false, fmt.Errorf("share %s: %w", outer, err)
		}
		g.add(outer, m)
	}
	return true, nil
}

// buildPrefixes4 makes the tables of IPv4 prefixes, or takes those in force.
func (d *Datapath) buildPrefixes4(g *generation) error {
	before, prefixes := d.before(), g.tables.Prefixes4
	shared, err := d.share(g, before.tables.Prefixes4, prefixes, "prefixes4", "prefix_hosts4", "prefix_marks4", "prefix_runs4")
	if shared || err != nil {
		g.index.Of4 = before.index.Of4
		return err
	}
	split := splitPrefixes(prefixes, prefixKey4, key4)
	var group errgroup.Group
	group.Go(func() error {
		return errors.Join(
			table(d, g, "prefixes4", split.keys, split.classes),
			table(d, g, "prefix_hosts4", split.hosts, split.ofHosts),
		)
	})
	g.index.Of4 = split.index
	var runs []perimeterRunBlock
	if len(prefixes) >= runsMin && split.index.Hosts == 0 {
		runs = runsOf(prefixes, runsBytesMost+runsBytesPerPrefix*len(prefixes))
	}
	var marks []uint64
	if runs != nil {
		g.index.Of4.Runs = 1
	} else {
		g.index.Of4.Marks, marks = marksOf(prefixes)
	}
	return errors.Join(
		array(d, g, "prefix_marks4", marks),
		array(d, g, "prefix_runs4", runs),
		group.Wait(),
	)
}

// buildPrefixes6 is buildPrefixes4 for IPv6, which has no runs.
func (d *Datapath) buildPrefixes6(g *generation) error {
	before, prefixes := d.before(), g.tables.Prefixes6
	shared, err := d.share(g, before.tables.Prefixes6, prefixes, "prefixes6", "prefix_hosts6", "prefix_marks6")
	if shared || err != nil {
		g.index.Of6 = before.index.Of6
		return err
	}
	split := splitPrefixes(prefixes, prefixKey6, key6)
	var group errgroup.Group
	group.Go(func() error {
		return errors.Join(
			table(d, g, "prefixes6", split.keys, split.classes),
			table(d, g, "prefix_hosts6", split.hosts, split.ofHosts),
		)
	})
	g.index.Of6 = split.index
	var marks []uint64
	g.index.Of6.Marks, marks = marksOf(prefixes)
	return errors.Join(array(d, g, "prefix_marks6", marks), group.Wait())
}

// split is prefixes as the kernel takes them: what is for the trie, and what for
// the hash of hosts.
type split[P, H any] struct {
	keys             []P
	hosts            []H
	classes, ofHosts []uint32
	index            perimeterFamilyIndex
}

func splitPrefixes[P, H any](prefixes []compile.PrefixClass, key func(netip.Prefix) P, host func(netip.Addr) H) *split[P, H] {
	apart := mostlyHosts(prefixes)
	s := &split[P, H]{}
	if apart {
		s.index.Hosts = 1
		s.hosts, s.ofHosts = make([]H, 0, len(prefixes)), make([]uint32, 0, len(prefixes))
	} else {
		s.keys, s.classes = make([]P, 0, len(prefixes)), make([]uint32, 0, len(prefixes))
	}
	for _, p := range prefixes {
		if apart && p.Prefix.IsSingleIP() {
			s.hosts, s.ofHosts = append(s.hosts, host(p.Prefix.Addr())), append(s.ofHosts, p.Class)
		} else {
			s.keys, s.classes = append(s.keys, key(p.Prefix)), append(s.classes, p.Class)
		}
	}
	if apart && len(s.keys) == 0 {
		s.index.OnlyHosts = 1
	}
	return s
}
