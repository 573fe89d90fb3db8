// Package floor owns the programs that the product's are compared with, and the
// driver that runs either on another packet each time (floor.bpf.c says how). It
// knows nothing of the product's maps or programs, and measures nothing itself.
package floor

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Hook is where the programs run.
type Hook string

const (
	TC  Hook = "tc"
	XDP Hook = "xdp"
)

// Sizes of the maps, in entries or bytes.
type Sizes struct {
	Tuples  int
	Flows   uint32 // of the tables that are looked up in
	Opening uint32 // of the one that is inserted into
	Trie    uint32
	Denials uint32
	Ring    uint32 // bytes, a power of two
}

// Options say what the programs are loaded for.
type Options struct {
	Hook   Hook
	Family int // 4 or 6
	Sizes  Sizes
}

// Set is the loaded programs and their maps. It is used by one goroutine.
type Set struct {
	options  Options
	drive    *ebpf.CollectionSpec
	programs map[string]*ebpf.Program
	maps     map[string]*ebpf.Map
	closers  []func() error
}

// keyBytes and the like are the parts of a struct that a family uses.
var (
	keyBytes   = map[int]uint32{4: 16, 6: 40}
	trieBytes  = map[int]uint32{4: 8, 6: 20}
	tupleBytes = map[int]uint32{4: 12, 6: 36}
)

// Load loads the programs. The caller closes the Set.
func Load(o Options) (*Set, error) {
	spec, err := map[Hook]func() (*ebpf.CollectionSpec, error){TC: loadTc, XDP: loadXdp}[o.Hook]()
	if err != nil {
		return nil, fmt.Errorf("read the compiled floors: %w", err)
	}
	sizes := o.Sizes
	for name, entries := range map[string]uint32{
		"tuples": uint32(sizes.Tuples), "hash_table": sizes.Flows, "lru_table": sizes.Flows, "insert_table": sizes.Opening,
		"trie_table": sizes.Trie, "denial_table": sizes.Denials, "ring": max(sizes.Ring, uint32(os.Getpagesize())),
	} {
		spec.Maps[name].MaxEntries = max(entries, 1)
	}
	for _, name := range []string{"hash_table", "lru_table", "insert_table"} {
		resize(spec.Maps[name], keyBytes[o.Family])
	}
	resize(spec.Maps["trie_table"], trieBytes[o.Family])
	spec.Maps["tuples"].Value, spec.Maps["tuples"].ValueSize = nil, tupleBytes[o.Family]
	if err := spec.Variables["family"].Set(uint32(o.Family)); err != nil {
		return nil, fmt.Errorf("set the family: %w", err)
	}
	if o.Hook == XDP {
		// The product's programs take frames in parts, and only the like may call them.
		for _, p := range spec.Programs {
			p.Flags |= unix.BPF_F_XDP_HAS_FRAGS
		}
	}
	drive := spec.Copy()
	delete(spec.Programs, "drive")
	keepOnly(drive.Programs, "drive")
	keepOnly(drive.Maps, "tuples", "walks", "target", ".rodata")
	collection, err := ebpf.NewCollection(spec)
	if err != nil {
		return nil, fmt.Errorf("load the floors: %w", err)
	}
	return &Set{
		options: o, drive: drive, programs: collection.Programs, maps: collection.Maps,
		closers: []func() error{func() error { collection.Close(); return nil }},
	}, nil
}

// keepOnly takes out of an object what a driver does not need, so that it is not made
// anew for each.
func keepOnly[V any](of map[string]V, names ...string) {
	maps.DeleteFunc(of, func(name string, _ V) bool { return !slices.Contains(names, name) })
}

// resize gives a map keys of another size than its type says.
func resize(m *ebpf.MapSpec, bytes uint32) {
	m.Key, m.KeySize = nil, bytes
}

// Close frees the programs, drivers included.
func (s *Set) Close() error {
	var errs []error
	for _, c := range s.closers {
		errs = append(errs, c())
	}
	return errors.Join(errs...)
}

// Program returns a floor by its name in floor.bpf.c.
func (s *Set) Program(name string) *ebpf.Program { return s.programs[name] }

// Ring is the ring that submit_event fills.
func (s *Set) Ring() *ebpf.Map { return s.maps["ring"] }

// Driver makes a program of the same hook run on one packet after the other. The
// target must be loaded as the floors are; the kernel refuses others.
func (s *Set) Driver(target *ebpf.Program) (*ebpf.Program, error) {
	collection, err := ebpf.NewCollectionWithOptions(s.drive.Copy(), ebpf.CollectionOptions{
		MapReplacements: map[string]*ebpf.Map{"tuples": s.maps["tuples"], "walks": s.maps["walks"]},
	})
	if err != nil {
		return nil, fmt.Errorf("load the driver: %w", err)
	}
	s.closers = append(s.closers, func() error { collection.Close(); return nil })
	// The map must stay open with the driver: its entries go with the last user.
	if err := collection.Maps["target"].Put(uint32(0), target); err != nil {
		return nil, fmt.Errorf("give the driver its target: %w", err)
	}
	return collection.Programs["drive"], nil
}

// Tuple is the addresses and ports that make a packet one of its own.
type Tuple struct {
	Source, Destination         netip.Addr
	SourcePort, DestinationPort uint16
}

// Walk is struct walk of floor.bpf.c.
type Walk struct {
	First, Count, At uint32
	_                uint32
	Found            uint64
}

// SetWalk says which tuples come next.
func (s *Set) SetWalk(w Walk) error {
	if err := s.maps["walks"].Put(uint32(0), w); err != nil {
		return fmt.Errorf("set where the driver walks: %w", err)
	}
	return nil
}

// Walk reads how far the driver has come.
func (s *Set) Walk() (w Walk, err error) {
	if err := s.maps["walks"].Lookup(uint32(0), &w); err != nil {
		return w, fmt.Errorf("read where the driver is: %w", err)
	}
	return w, nil
}

// EmptyDenials empties the table that denial_insert fills.
func (s *Set) EmptyDenials() error {
	table := s.maps["denial_table"]
	keys, values := newRows(table.KeySize(), 4096), newRows(table.ValueSize(), 4096)
	var cursor ebpf.MapBatchCursor
	for {
		_, err := table.BatchLookupAndDelete(&cursor, keys.slice.Interface(), values.slice.Interface(), nil)
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("empty the table of denials: %w", err)
		}
	}
}
