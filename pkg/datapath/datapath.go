package datapath

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"github.com/perimeterd/perimeterd/pkg/compile"
)

// pinLayout names the directory below Options.Root. It changes with every
// change of bpf/types.h or bpf/maps.h, so that what an older agent pinned is
// never read as something else.
const pinLayout = "layout-7"

// Datapath is the loaded data path. Its methods may be called by several
// goroutines at once.
type Datapath struct {
	root    string // Options.Root/pinLayout
	options Options
	objects perimeterObjects
	xdp     xdpLayer
	names   namePrograms
	inner   map[string]*ebpf.MapSpec // templates of the generations' tables, by outer map
	words   *vocabulary
	clock   clock

	instance uint64 // of the settings

	mu          sync.Mutex // everything below, and the order of changes to the kernel's maps
	inForce     *generation
	since       time.Time              // when it was put in force; zero: before this process
	attachments map[uint32]*attachment // by ifindex
	denials     denialTables           // by peer
	crowds      denialTables           // of peers that found no room there
	closed      bool
}

// Open loads the data path, or adopts what an earlier process left in force
// under the same root. Programs that are attached are replaced in their links,
// without a moment in which no program runs.
//
// The caller needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, or root, and a bpffs
// at Options.Root.
func Open(options Options) (*Datapath, error) {
	spec, err := loadPerimeter()
	if err != nil {
		return nil, fmt.Errorf("read the compiled programs: %w", err)
	}
	return open(options, spec)
}

// open is Open with the programs as they were read.
func open(options Options, spec *ebpf.CollectionSpec) (*Datapath, error) {
	d, err := newDatapath(options, spec)
	if err != nil {
		return nil, err
	}
	if d.root, err = prepareRoot(options.Root); err != nil {
		return nil, err
	}
	if d.clock, err = loadClock(spec); err != nil {
		return nil, err
	}
	settings, err := d.load(spec)
	if err != nil {
		return nil, errors.Join(err, d.clock.Close())
	}
	if err := d.loadNames(settings); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	d.xdp = d.loadXDP(settings)
	if err := errors.Join(d.adopt(), d.forgetPrograms()); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// newDatapath is what any data path needs before its programs are loaded. It
// gives the maps of the object their sizes.
func newDatapath(options Options, spec *ebpf.CollectionSpec) (*Datapath, error) {
	options.Limits = options.Limits.withDefaults()
	options.Timeouts = options.Timeouts.withDefaults()
	options.Names = options.Names.withDefaults()
	if err := errors.Join(options.Limits.check(), options.Timeouts.check(), options.Names.check()); err != nil {
		return nil, err
	}
	// Kernels before 5.11 charge maps to RLIMIT_MEMLOCK.
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("lift the limit on locked memory: %w", explainLoad(err))
	}
	words, err := readVocabulary(spec.Types)
	if err != nil {
		return nil, err
	}
	d := &Datapath{options: options, words: words, inner: map[string]*ebpf.MapSpec{}, attachments: map[uint32]*attachment{}}
	for name, size := range map[string]uint32{
		"established4":  options.Limits.EstablishedFlows4,
		"established6":  options.Limits.EstablishedFlows6,
		"opening4":      options.Limits.OpeningFlows4,
		"opening6":      options.Limits.OpeningFlows6,
		"flow_events":   options.Limits.FlowRing,
		"denial_events": options.Limits.DenialRing,

		"learnt_addresses": options.Limits.LearntAddresses,
		"learnt_slots":     options.Limits.LearntAddresses,
		"learnt_sets":      options.Limits.LearntAddresses,
		"name_answers":     options.Limits.AnswerRing,
	} {
		spec.Maps[name].MaxEntries = size
	}
	for name, m := range spec.Maps {
		if m.InnerMap != nil {
			d.inner[name] = m.InnerMap
		}
	}
	return d, nil
}

// prepareRoot makes the pin directory and checks that it can hold pins.
func prepareRoot(root string) (string, error) {
	if root == "" {
		return "", errors.New("no pin directory was given")
	}
	dir := filepath.Join(root, pinLayout)
	if err := os.MkdirAll(filepath.Join(dir, linksDir), 0o700); err != nil {
		return "", fmt.Errorf("make the pin directory: %w", err)
	}
	var stat unix.Statfs_t
	if err := unix.Statfs(dir, &stat); err != nil {
		return "", fmt.Errorf("look at the pin directory %s: %w", dir, err)
	}
	if stat.Type != unix.BPF_FS_MAGIC {
		return "", fmt.Errorf("%s is not in a bpffs: mount one, for instance with `mount -t bpf bpf /sys/fs/bpf`, or name another pin directory", root)
	}
	return dir, nil
}

// loadClock loads the one program that tells the kernel's tick rate, which the
// settings of the others depend on.
func loadClock(spec *ebpf.CollectionSpec) (clock, error) {
	alone := &ebpf.CollectionSpec{
		Maps:      map[string]*ebpf.MapSpec{},
		Programs:  map[string]*ebpf.ProgramSpec{"read_clocks": spec.Programs["read_clocks"].Copy()},
		Variables: map[string]*ebpf.VariableSpec{},
		Types:     spec.Types,
		ByteOrder: spec.ByteOrder,
	}
	collection, err := ebpf.NewCollection(alone)
	if err != nil {
		return nil, fmt.Errorf("load the clock program: %w", explainLoad(err))
	}
	defer collection.Close()
	prog := collection.DetachProgram("read_clocks")
	c, err := newClock(prog)
	if err != nil {
		return nil, errors.Join(err, prog.Close())
	}
	return c, nil
}

// explainLoad says what to do about the most usual reason for which a load
// fails. The verifier's log, if there is one, is in the chain (%+v).
func explainLoad(err error) error {
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%w (this needs root, or CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON)", err)
	}
	return err
}

// unpinned are the maps that belong to one load and not to the host.
var unpinned = []string{"questions", "dns_scratch", "dns_programs"}

// load loads the programs for TC, and returns the settings they were loaded with.
func (d *Datapath) load(spec *ebpf.CollectionSpec) (perimeterLoadSettings, error) {
	if err := d.pinMaps(spec); err != nil {
		return perimeterLoadSettings{}, err
	}
	settings := d.settings()
	settings.WakeAt = min(spec.Maps["flow_events"].MaxEntries, spec.Maps["denial_events"].MaxEntries) / 4
	var lot [8]byte
	rand.Read(lot[:]) // never fails
	d.instance = binary.NativeEndian.Uint64(lot[:])
	settings.Instance = d.instance
	d.setNames(&settings)
	if err := spec.Variables["settings"].Set(settings); err != nil {
		return perimeterLoadSettings{}, fmt.Errorf("set the programs' settings: %w", err)
	}
	err := spec.LoadAndAssign(&d.objects, &ebpf.CollectionOptions{Maps: ebpf.MapOptions{PinPath: d.root}})
	if err != nil && settings.Names != 0 && !errors.Is(err, unix.EPERM) {
		// Perhaps this kernel has no tail calls in programs with functions: all else works without.
		d.names.missing = "learning names from packets needs tail calls in programs with functions (Linux 6.0 on arm64): " + err.Error()
		settings.Names = 0
		if err := spec.Variables["settings"].Set(settings); err != nil {
			return perimeterLoadSettings{}, fmt.Errorf("set the programs' settings: %w", err)
		}
		err = spec.LoadAndAssign(&d.objects, &ebpf.CollectionOptions{Maps: ebpf.MapOptions{PinPath: d.root}})
	}
	if err != nil {
		return perimeterLoadSettings{}, fmt.Errorf("load the programs: %w", explainLoad(err))
	}
	return settings, nil
}

// settings are those that follow from the options.
func (d *Datapath) settings() perimeterLoadSettings {
	return perimeterLoadSettings{
		Timeouts:        d.options.Timeouts.rows(d.clock),
		FragmentTimeout: uint32(d.clock.jiffiesIn(d.options.Timeouts.Fragment)),
	}
}

// pinMaps has the maps of an object shared with all that are pinned here.
func (d *Datapath) pinMaps(spec *ebpf.CollectionSpec) error {
	for name, m := range spec.Maps {
		if strings.HasPrefix(name, ".") || slices.Contains(unpinned, name) {
			continue
		}
		m.Pinning = ebpf.PinByName
		if err := keepPinnedSize(filepath.Join(d.root, name), m); err != nil {
			return err
		}
	}
	return nil
}

// keepPinnedSize makes the spec as large as the map that is already pinned: a
// new size must not cost the flows in it.
func keepPinnedSize(path string, spec *ebpf.MapSpec) error {
	pinned, err := ebpf.LoadPinnedMap(path, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open the pinned map %s: %w", path, err)
	}
	defer pinned.Close()
	if pinned.Type() == spec.Type {
		spec.MaxEntries = pinned.MaxEntries()
	}
	return nil
}

// adopt finds out what an earlier process left, and makes what is missing.
func (d *Datapath) adopt() error {
	control, err := d.readControl()
	if err != nil {
		return err
	}
	if control.Generation != 0 {
		now, err := d.clock.now()
		if err != nil {
			return err
		}
		// What a process that ended in the middle of a change has announced will not be.
		flags := control.Flags &^ uint32(perimeterControlFlagCONTROL_NEXT)
		d.inForce = &generation{number: control.Generation, flags: flags, since: now.jiffies}
		if flags != control.Flags {
			if err := d.withdraw(); err != nil {
				return err
			}
		}
	}
	if err := d.adoptDenials(); err != nil {
		return err
	}
	return d.adoptLinks()
}

// Close lets go of the data path. Programs stay attached, the policy stays in
// force.
func (d *Datapath) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	errs := []error{d.objects.Close(), d.xdp.programs.Close(), d.names.Close(), d.clock.Close(), d.denials.close(), d.crowds.close()}
	for _, a := range d.attachments {
		errs = append(errs, a.release())
	}
	if d.inForce != nil {
		errs = append(errs, d.inForce.release())
	}
	return errors.Join(errs...)
}

// InForceSince returns when the generation in force was put there by this process;
// zero if an earlier one did.
func (d *Datapath) InForceSince() time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.since
}

// Generation returns the generation in force, 0 if there is none.
func (d *Datapath) Generation() uint32 {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.inForce == nil {
		return 0
	}
	return d.inForce.number
}

// Apply puts tables in force: aside first, then with a single write that every
// packet sees at once. It stamps the legend with the new generation before that
// write, so that keep can store it where a reader of events will look for it;
// an error of keep, like any other before the write, changes nothing. previous
// is the legend in force, or nil.
func (d *Datapath) Apply(tables *compile.Tables, legend, previous *compile.Legend, keep func(*compile.Legend) error) (uint32, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	number, err := d.apply(tables, legend, previous, keep)
	if err != nil {
		return number, err
	}
	return number, d.retireOlderLayouts()
}

// apply is Apply for the maps of this data path alone. A number with an error is
// that of a generation in force.
func (d *Datapath) apply(tables *compile.Tables, legend, previous *compile.Legend, keep func(*compile.Legend) error) (uint32, error) {
	number := max(d.options.FirstGeneration, 1)
	if d.inForce != nil {
		number = d.inForce.number + 1
	}
	next, err := d.build(number, tables)
	if err != nil {
		return 0, fmt.Errorf("build generation %d: %w", number, err)
	}
	if err := d.install(next); err != nil {
		return 0, errors.Join(fmt.Errorf("install generation %d: %w", number, err), next.release())
	}
	if err := errors.Join(d.OpenSets(tables.Sets), d.announce(next), d.carryNames(tables)); err != nil {
		return 0, errors.Join(fmt.Errorf("carry the addresses of names over to generation %d: %w", number, err), d.withdraw(), next.release())
	}
	legend.PutInForce(number, previous)
	if keep != nil {
		if err := keep(legend); err != nil {
			return 0, errors.Join(fmt.Errorf("keep the names of generation %d: %w", number, err), d.withdraw(), next.release())
		}
	}
	if err := d.writeControl(next); err != nil {
		return 0, errors.Join(fmt.Errorf("put generation %d in force: %w", number, err), next.release())
	}
	old := d.inForce
	d.inForce, d.since = next, time.Now()
	if err := errors.Join(next.entered(), d.retire(old), d.forgetSets(tables.NameSets)); err != nil {
		return number, fmt.Errorf("free what generation %d needed: %w", number-1, err)
	}
	return number, nil
}

// Remove takes the data path away, whether or not a process has it open:
// programs, policy, flows and counters under this root are gone when it returns.
// Traffic is no longer governed. What other programs attached is left alone. It
// goes on past what it cannot remove, and reports it.
func Remove(root string) error {
	if _, err := os.Stat(root); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	layouts, err := os.ReadDir(root)
	if err != nil {
		return fmt.Errorf("look for pins: %w", err)
	}
	var errs []error
	for _, layout := range layouts {
		errs = append(errs, removeLayout(filepath.Join(root, layout.Name())))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := os.Remove(root); err != nil {
		return fmt.Errorf("remove the pin directory: %w", err)
	}
	return nil
}

func removeLayout(dir string) error {
	// Programs first: a program must not outlive the maps it finds its policy in.
	if err := removeLinks(filepath.Join(dir, linksDir)); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove the pins in %s: %w", dir, err)
	}
	return nil
}
