// Package bed owns what is measured in test runs: a data path of the product, opened
// as the agent opens it, with policies of any size, and the slices that run its
// programs or a floor on many packets and check what became of each. It attaches
// nothing; what it measures nobody else's packets meet.
package bed

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"

	"github.com/perimeterd/perimeterd/pkg/compile"
	"github.com/perimeterd/perimeterd/pkg/datapath"
	"github.com/perimeterd/perimeterd/pkg/policy"
)

// Filter is a data path of its own.
type Filter struct {
	*datapath.Datapath
	// Legend is of the policy in force.
	Legend   *compile.Legend
	root     string
	programs map[string]*ebpf.Program
}

// OpenFilter opens a data path below a directory in a BPF file system, with the
// programs for XDP, and puts a policy in force.
func OpenFilter(root string, limits datapath.Limits, p *policy.Policy, facts *policy.Facts) (*Filter, error) {
	d, err := datapath.Open(datapath.Options{Root: root, Limits: limits, XDP: datapath.XDPNative})
	if err != nil {
		return nil, err
	}
	f := &Filter{Datapath: d, root: root, programs: map[string]*ebpf.Program{}}
	if err := errors.Join(f.findPrograms(root), f.Put(p, facts)); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// findPrograms finds the programs as bpftool would: those that use the maps which
// are pinned here. The product hands them out to nobody, and need not.
func (f *Filter) findPrograms(root string) error {
	pinned, err := pinnedMaps(root)
	if err != nil {
		return err
	}
	for id := ebpf.ProgramID(0); ; {
		if id, err = ebpf.ProgramGetNextID(id); errors.Is(err, os.ErrNotExist) {
			return nil
		} else if err != nil {
			return fmt.Errorf("list the kernel's programs: %w", err)
		}
		program, err := ebpf.NewProgramFromID(id)
		if errors.Is(err, os.ErrNotExist) {
			continue // it ended meanwhile
		}
		if err != nil {
			return fmt.Errorf("open program %d: %w", id, err)
		}
		info, err := program.Info()
		if err != nil {
			return fmt.Errorf("look at program %d: %w", id, err)
		}
		maps, _ := info.MapIDs()
		if !anyOf(maps, pinned) {
			program.Close()
			continue
		}
		f.programs[info.Name] = program
	}
}

func anyOf(ids []ebpf.MapID, of map[ebpf.MapID]bool) bool {
	for _, id := range ids {
		if of[id] {
			return true
		}
	}
	return false
}

func pinnedMaps(root string) (map[ebpf.MapID]bool, error) {
	paths, err := filepath.Glob(filepath.Join(root, "*", "*"))
	if err != nil {
		return nil, err
	}
	pinned := map[ebpf.MapID]bool{}
	for _, path := range paths {
		if info, err := os.Stat(path); err != nil || info.IsDir() {
			continue
		}
		m, err := ebpf.LoadPinnedMap(path, nil)
		if err != nil {
			return nil, fmt.Errorf("open the pinned map %s: %w", path, err)
		}
		info, err := m.Info()
		if err != nil {
			return nil, fmt.Errorf("look at the pinned map %s: %w", path, err)
		}
		if id, ok := info.ID(); ok {
			pinned[id] = true
		}
		m.Close()
	}
	if len(pinned) == 0 {
		return nil, fmt.Errorf("no map is pinned below %s", root)
	}
	return pinned, nil
}

// Program returns a program of the data path by its name, as the kernel knows it.
func (f *Filter) Program(name string) (*ebpf.Program, error) {
	name = name[:min(len(name), 15)] // BPF_OBJ_NAME_LEN
	if p := f.programs[name]; p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("the data path has no program %s", name)
}

// Put compiles a policy and puts it in force.
func (f *Filter) Put(p *policy.Policy, facts *policy.Facts) error {
	tables, legend, err := compile.Compile(p, facts)
	if err != nil {
		return fmt.Errorf("compile the policy: %w", err)
	}
	_, err = f.Apply(tables, legend, nil, nil)
	f.Legend = legend
	return err
}

// Drain reads what is in the rings, so that they never fill.
func (f *Filter) Drain() error {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	return f.Read(ended, func([]datapath.Event) {})
}

// Close frees the data path. What it pinned goes with the BPF file system.
func (f *Filter) Close() error {
	errs := []error{f.Datapath.Close()}
	for _, p := range f.programs {
		errs = append(errs, p.Close())
	}
	return errors.Join(errs...)
}

// Discard throws away what is in a ring.
func Discard(ring *ebpf.Map) error {
	reader, err := ringbuf.NewReader(ring)
	if err != nil {
		return fmt.Errorf("read a ring: %w", err)
	}
	defer reader.Close()
	var record ringbuf.Record
	for reader.AvailableBytes() > 0 {
		if err := reader.ReadInto(&record); err != nil {
			return fmt.Errorf("read a ring: %w", err)
		}
	}
	return nil
}
