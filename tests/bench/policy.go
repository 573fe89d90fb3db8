package main

import (
	"bufio"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/perimeterd/perimeterd/pkg/compile"
	"github.com/perimeterd/perimeterd/pkg/datapath"
	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/tests/bench/bed"
	"github.com/perimeterd/perimeterd/tests/bench/floor"
	"github.com/perimeterd/perimeterd/tests/bench/measure"
	"github.com/perimeterd/perimeterd/tests/world"
)

// policyParts are part (d): policies from their files into force.
func policyParts() []part {
	var list []part
	for _, size := range []int{1_000, 10_000, 100_000, 1_000_000} {
		name := fmt.Sprintf("policy/load/%d", size)
		list = append(list, part{[]string{name}, func(b *bench, _ []string) error {
			return b.withPolicies(func(p *policyScene) error { return p.load(name, size) })
		}})
	}
	return append(list,
		part{[]string{"policy/change"}, func(b *bench, _ []string) error {
			return b.withPolicies(func(p *policyScene) error { return p.change("policy/change", 1_000_000) })
		}},
		part{[]string{"policy/reload"}, func(b *bench, _ []string) error {
			return b.onStage(func(s *stage) error { return b.measureReload(s, "policy/reload", 1_000_000) })
		}},
		part{[]string{"policy/memory"}, func(b *bench, _ []string) error {
			return b.withPolicies(func(p *policyScene) error { return p.memory("policy/memory", 1_000_000) })
		}},
	)
}

// policyScene has a data path, a directory for files, and a host where nftables
// loads the same lists.
type policyScene struct {
	*bench
	directory string
	loader    policy.Loader
	compiler  compile.Compiler
	filter    *bed.Filter
	peer      *world.Host
}

func (b *bench) withPolicies(f func(p *policyScene) error) error {
	if err := bed.NftMissing(); err != nil {
		return err
	}
	return world.Build(func(w *world.World) error {
		directory, err := os.MkdirTemp("", "perimeterd-bench-")
		if err != nil {
			return err
		}
		bpffs, remove, err := bed.BPFFS()
		if err != nil {
			return errors.Join(err, os.RemoveAll(directory))
		}
		p := &policyScene{bench: b, directory: directory, peer: w.Host("peer")}
		p.filter, err = bed.OpenFilter(bpffs, datapath.Limits{}, bed.ListPolicy(bed.HostPrefixes(bed.OtherAddress(4))), bed.Facts())
		if err != nil {
			return errors.Join(err, remove(), os.RemoveAll(directory))
		}
		return errors.Join(f(p), p.filter.Close(), remove(), os.RemoveAll(directory))
	})
}

// write writes a policy whose rule is of a list in a file of its own, and returns the
// policy's file.
func (p *policyScene) write(name string, prefixes []netip.Prefix, port uint16) (string, error) {
	list, file := filepath.Join(p.directory, name+".txt"), filepath.Join(p.directory, name+".yaml")
	text := fmt.Sprintf(`resources:
  - {name: orders-db, addresses: [%s]}
perimeters:
  - name: payments
    profiles:
      - name: data
        accessRules:
          - {name: listed, direction: Inbound, serviceTags: [listed], ports: [tcp/%d]}
    associations:
      - {name: orders-db, resource: orders-db, profile: data, accessMode: Enforced}
serviceTags:
  - {file: %s, format: plain, name: listed}
`, bed.MemberAddress(4), port, list)
	return file, errors.Join(writePrefixes(list, prefixes), os.WriteFile(file, []byte(text), 0o600))
}

func writePrefixes(name string, prefixes []netip.Prefix) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, 1<<20)
	for _, p := range prefixes {
		w.WriteString(p.String() + "\n") // the writer keeps its first error for Flush
	}
	return errors.Join(w.Flush(), f.Close())
}

// stages are how long each step of a change took, by round, in milliseconds.
type stages struct{ read, compile, kernel measure.Series }

// enforce brings a policy from its file into force, by the calls the agent makes.
func (p *policyScene) enforce(file string, s *stages) (float64, error) {
	began := time.Now()
	loaded, err := p.loader.Load(file)
	if err != nil {
		return 0, err
	}
	read := time.Now()
	tables, legend, err := p.compiler.Compile(loaded, bed.Facts())
	if err != nil {
		return 0, err
	}
	compiled := time.Now()
	if _, err := p.filter.Apply(tables, legend, nil, nil); err != nil {
		return 0, err
	}
	done := p.filter.InForceSince() // what Apply does after that frees the old generation
	s.read = append(s.read, milliseconds(read.Sub(began)))
	s.compile = append(s.compile, milliseconds(compiled.Sub(read)))
	s.kernel = append(s.kernel, milliseconds(done.Sub(compiled)))
	return milliseconds(done.Sub(began)), nil
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// judges checks that the policy in force admits a peer, or does not.
func (p *policyScene) judges(peer netip.Addr, port uint16, reason policy.Reason) error {
	t := bed.To(bed.MemberAddress(4), peer, 1024)
	answer, err := p.filter.Explain(synTo(t, port), true, 0)
	if err == nil && answer.Reason != reason {
		err = fmt.Errorf("the policy in force answers %s for %v, and not %s", answer.Reason, peer, reason)
	}
	return err
}

// bare is the floor of a load: one batch into a trie, of keys that are ready. The
// trie is freed, and the memory back, before it returns.
func bare(list *bed.List) measure.Slice {
	return func() (float64, error) {
		trie, err := floor.NewTrie(list.Family, len(list.Prefixes))
		if err != nil {
			return 0, err
		}
		batch := floor.NewTrieBatch(trie, list.Prefixes)
		began := time.Now()
		err = batch.Fill()
		took := time.Since(began)
		return milliseconds(took), errors.Join(err, trie.Close(), bed.Settle())
	}
}

func (p *policyScene) load(name string, size int) error {
	rounds := map[int]int{1_000: 7, 10_000: 7, 100_000: 5, 1_000_000: 3}[size]
	var lists [2]*bed.List
	var files [2]string
	for i := range lists {
		lists[i] = bed.NewList(bed.Apart, 4, size, p.random)
		var err error
		if files[i], err = p.write(fmt.Sprintf("list-%d", i), lists[i].Prefixes, bed.ServicePort); err != nil {
			return err
		}
	}
	var s stages
	turn := 0
	ours := func() (float64, error) {
		turn++ // another list each time, so that nothing is shared with the generation before
		at := turn % 2
		took, err := p.enforce(files[at], &s)
		if err != nil {
			return 0, err
		}
		return took, errors.Join(
			p.judges(lists[at].Inside(0, p.random), bed.ServicePort, "access-rule"),
			p.judges(lists[at].Outside(p.random), bed.ServicePort, "no-access-rule"),
			bed.Settle())
	}
	contest := measure.Contest{Baseline: bare(lists[0]), Entrants: []measure.Entrant{{Name: "ours", Slice: ours}, {Name: "bare", Slice: bare(lists[1])}}}
	samples, err := contest.Run(rounds, p.random)
	if err != nil {
		return err
	}
	nft, err := p.nftLoad(lists[0], rounds)
	if err != nil {
		return err
	}
	total, floorTime := samples.Absolute("ours"), samples.Baseline("ours")
	row := measure.Row{Name: name, Unit: "ms", Ours: total, Floor: floorTime, FloorIs: "batch",
		Peer: nft, RatioPeer: measure.Series{total.Spread().Median / nft.Spread().Median}}
	kernel := measure.Row{Name: name + "/kernel", Unit: "ms", Ours: s.kernel, Floor: floorTime, FloorIs: "batch"}
	if size == 1_000_000 {
		row.Targets = append(measure.AtMost(4), measure.Target{Of: measure.OfRatioPeer, Most: 1})
		kernel.Targets = measure.AtMost(1.2)
	}
	p.add(row, kernel,
		measure.Row{Name: name + "/read", Unit: "ms", Ours: s.read},
		measure.Row{Name: name + "/compile", Unit: "ms", Ours: s.compile},
		measure.Row{Name: name + "/noise", Unit: "ms", Ours: samples.Absolute("bare"), Floor: samples.Baseline("bare"), FloorIs: "batch"})
	return nil
}

// nftLoad is how long nftables takes for the same list, once where that is long.
func (p *policyScene) nftLoad(list *bed.List, rounds int) (measure.Series, error) {
	file := filepath.Join(p.directory, "nft")
	if err := (bed.Ruleset{Prefixes: list.Prefixes, Hook: "input"}).WriteFile(file); err != nil {
		return nil, err
	}
	if len(list.Prefixes) >= 1_000_000 {
		rounds = 1
	}
	var took measure.Series
	for range rounds {
		began := time.Now()
		if err := bed.LoadRuleset(p.peer, file); err != nil {
			return nil, err
		}
		took = append(took, milliseconds(time.Since(began)))
		if err := bed.FlushRuleset(p.peer); err != nil {
			return nil, err
		}
	}
	return took, nil
}
