package main

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"time"

	"github.com/perimeterd/perimeterd/pkg/compile"
	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/tests/bench/bed"
	"github.com/perimeterd/perimeterd/tests/bench/floor"
	"github.com/perimeterd/perimeterd/tests/bench/measure"
	"github.com/perimeterd/perimeterd/tests/packet"
)

func synTo(t floor.Tuple, port uint16) []byte {
	return packet.TCP(t.Source, t.Destination, t.SourcePort, port, packet.SYN).Frame()
}

// change measures small changes of a large policy: from the file of a policy that
// differs a little from the one in force to the first packet judged by it.
func (p *policyScene) change(name string, size int) error {
	const changed = 1000
	list := bed.NewList(bed.Apart, 4, size+changed, p.random)
	all := slices.Clone(list.Prefixes)
	p.random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	first := bed.ListOf(4, slices.Clone(all[:size]))
	second := bed.ListOf(4, slices.Clone(all[changed:]))

	for _, c := range []struct {
		what     string
		port     uint16
		admitted *bed.List
		most     float64
	}{
		{"1000-prefixes", bed.ServicePort, second, 25},
		{"one-rule", bed.ServicePort + 1, first, 10},
	} {
		var s stages
		var total measure.Series
		for range 3 {
			file, err := p.write("changed", first.Prefixes, bed.ServicePort)
			if err != nil {
				return err
			}
			if _, err := p.enforce(file, &stages{}); err != nil {
				return err
			}
			if file, err = p.write("changed", c.admitted.Prefixes, c.port); err != nil {
				return err
			}
			if err := bed.Settle(); err != nil {
				return err
			}
			took, err := p.enforce(file, &s)
			if err != nil {
				return err
			}
			total = append(total, took)
			if err := p.judges(c.admitted.Inside(0, p.random), c.port, "access-rule"); err != nil {
				return err
			}
		}
		row := name + "/" + c.what
		p.add(measure.Row{Name: row, Unit: "ms", Ours: total, Targets: []measure.Target{{Of: measure.OfOurs, Most: c.most}}},
			measure.Row{Name: row + "/kernel", Unit: "ms", Ours: s.kernel},
			measure.Row{Name: row + "/read", Unit: "ms", Ours: s.read},
			measure.Row{Name: row + "/compile", Unit: "ms", Ours: s.compile})
	}
	return nil
}

// memory measures what a prefix takes, and what it takes to be rid of them.
func (p *policyScene) memory(name string, size int) error {
	small := bed.ListPolicy(bed.HostPrefixes(bed.OtherAddress(4)))
	var ours, bareTrie, agent, applied, freed, workers measure.Series
	for range 3 {
		list := bed.NewList(bed.Apart, 4, size, p.random)
		trie, err := grown(func() (func() error, error) { return fillTrie(list.Prefixes) })
		if err != nil {
			return err
		}
		heap := heapInUse()
		var held *policy.Policy
		generation, err := grown(func() (func() error, error) {
			held = bed.ListPolicy(list.Prefixes)
			return nil, p.put(held)
		})
		if err != nil {
			return err
		}
		ours = append(ours, float64(generation)/float64(size))
		bareTrie = append(bareTrie, float64(trie)/float64(size))
		agent = append(agent, float64(heapInUse()-heap)/float64(size))
		runtime.KeepAlive(held)
		runtime.KeepAlive(list)

		worked, err := bed.WorkerTime()
		if err != nil {
			return err
		}
		began := time.Now()
		if err := p.put(small); err != nil {
			return err
		}
		applied = append(applied, milliseconds(time.Since(began)))
		if err := bed.Settle(); err != nil {
			return err
		}
		freed = append(freed, milliseconds(time.Since(began)-bed.Still))
		after, err := bed.WorkerTime()
		if err != nil {
			return err
		}
		workers = append(workers, milliseconds(after-worked))
	}
	p.add(measure.Row{Name: name + "/kernel", Unit: "B/prefix", Ours: ours, Floor: bareTrie, FloorIs: "trie", Targets: measure.AtMost(1.3)},
		measure.Row{Name: name + "/agent", Unit: "B/prefix", Ours: agent},
		measure.Row{Name: name + "/free/apply", Unit: "ms", Ours: applied},
		measure.Row{Name: name + "/free/back", Unit: "ms", Ours: freed},
		measure.Row{Name: name + "/free/kernel-workers", Unit: "ms CPU", Ours: workers})
	return nil
}

func (p *policyScene) put(policy *policy.Policy) error {
	tables, legend, err := compile.Compile(policy, bed.Facts())
	if err != nil {
		return err
	}
	_, err = p.filter.Apply(tables, legend, nil, nil)
	return err
}

// grown is how much more the kernel needs after f. What f returns undoes it.
func grown(f func() (func() error, error)) (int64, error) {
	if err := bed.Settle(); err != nil {
		return 0, err
	}
	before, err := bed.KernelMemory()
	if err != nil {
		return 0, err
	}
	undo, err := f()
	if err != nil {
		return 0, err
	}
	if err := bed.Settle(); err != nil {
		return 0, err
	}
	after, err := bed.KernelMemory()
	if undo != nil {
		err = errors.Join(err, undo())
	}
	if err == nil && after <= before {
		err = fmt.Errorf("the kernel's memory did not grow, from %d bytes to %d: is something else being freed?", before, after)
	}
	return after - before, err
}

func fillTrie(prefixes []netip.Prefix) (func() error, error) {
	trie, err := floor.NewTrie(4, len(prefixes))
	if err != nil {
		return nil, err
	}
	return trie.Close, floor.NewTrieBatch(trie, prefixes).Fill()
}

// heapInUse is what this process holds once the garbage is gone.
func heapInUse() int64 {
	runtime.GC()
	runtime.GC() // what finalizers let go of
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}
