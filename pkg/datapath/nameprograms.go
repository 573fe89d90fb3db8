package datapath

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
)

// NameOptions say how addresses of names are learnt.
type NameOptions struct {
	// Strict: a member whose rules have names may ask for these only. Optional.
	Strict bool
	// Trusted narrows whose answers are believed, to at most 256 addresses.
	// Optional; empty = all whom the policy lets a member ask.
	Trusted []netip.Addr
	// Floor and Ceiling bound how long an address is open, whatever the TTL of
	// its record. Optional, default 60 s and 24 h.
	Floor, Ceiling time.Duration
	// PerName is how many addresses a rule may have open at a time for each name it
	// has, of which a wildcard is one. Optional, default 1000.
	PerName uint32
	// ByAgent leaves all answers to the agent, as on kernels that cannot read
	// them in the data path. Optional.
	ByAgent bool
	// Off leaves packets of DNS alone, as on kernels that cannot have programs go
	// on in each other: only what Teach is given is open. Optional; for tests.
	Off bool
}

func (o NameOptions) withDefaults() NameOptions {
	if o.Floor == 0 {
		o.Floor = time.Minute
	}
	if o.Ceiling == 0 {
		o.Ceiling = 24 * time.Hour
	}
	if o.PerName == 0 {
		o.PerName = 1000
	}
	return o
}

const trustedMax = 256

func (o NameOptions) check() error {
	if o.Floor < 0 || o.Ceiling < o.Floor || o.Ceiling > timeoutMax {
		return fmt.Errorf("names are open for at least %v and at most %v: neither may be negative, the first no more than the second, and no more than %v", o.Floor, o.Ceiling, timeoutMax)
	}
	if len(o.Trusted) > trustedMax {
		return fmt.Errorf("%d resolvers are trusted: at most %d can be", len(o.Trusted), trustedMax)
	}
	return nil
}

// NameSlack is how long an address stays open beyond what its record says. A
// stub of the host counts the seconds of a TTL by itself, and a client takes a
// moment to use what it was given.
const NameSlack = 5 * time.Second

// setNames sets what the programs are told of names.
func (d *Datapath) setNames(settings *perimeterLoadSettings) {
	o := d.options.Names
	ticks := func(t time.Duration) uint32 { return uint32(d.clock.jiffiesIn(t)) }
	if !o.Off {
		settings.Names = 1
	} else {
		d.names.missing = "the settings leave packets of DNS alone"
	}
	if o.Strict {
		settings.DnsStrict = 1
	}
	if len(o.Trusted) > 0 {
		settings.ResolversListed = 1
	}
	settings.NameFloor, settings.NameCeiling, settings.NameSlack = ticks(o.Floor), ticks(o.Ceiling), ticks(NameSlack)
	settings.Ticks = ticks(time.Second)
}

// namePrograms is what of names is loaded.
type namePrograms struct {
	dns     dnsPrograms
	answer  answerPrograms
	byAgent string // why answers are left to the agent; "" = they are not
	missing string // why packets of DNS are left alone; "" = they are not
}

func (p *namePrograms) Close() error { return errors.Join(p.dns.Close(), p.answer.Close()) }

// programsDir holds, by instance, the table through which the programs of one
// load go on in each other. It is theirs alone, since they share their scratch
// memory, and pinned, since the kernel empties such a table that nobody holds.
const programsDir = "programs"

func (d *Datapath) programsPin(instance uint64) string {
	return filepath.Join(d.root, programsDir, strconv.FormatUint(instance, 16))
}

// loadNames loads the programs for names, and has those for packets go on in
// them.
func (d *Datapath) loadNames(settings perimeterLoadSettings) error {
	if err := d.trust(); err != nil {
		return err
	}
	dns, err := loadDns()
	if err != nil {
		return fmt.Errorf("read the compiled programs for names: %w", err)
	}
	if d.names.missing != "" {
		return d.loadTeach(dns, settings)
	}
	if err := d.loadBeside(dns, &d.names.dns, settings); err != nil {
		return fmt.Errorf("load the programs for names: %w", err)
	}
	answers, err := d.loadAnswers(settings)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(d.root, programsDir), 0o700); err != nil {
		return fmt.Errorf("make the directory of programs for names: %w", err)
	}
	if err := d.objects.DnsPrograms.Pin(d.programsPin(settings.Instance)); err != nil {
		return fmt.Errorf("pin the programs for names: %w", err)
	}
	// What a program goes on in is there before it.
	for _, entry := range []struct {
		number  uint32
		program *ebpf.Program
	}{{dnsProgramFrom, d.names.dns.DnsFrom}, {dnsProgramQuery, d.names.dns.DnsQuery}, {dnsProgramAnswer, answers}} {
		if err := d.objects.DnsPrograms.Put(entry.number, entry.program); err != nil {
			return fmt.Errorf("enter a program for names: %w", err)
		}
	}
	return nil
}

// loadTeach loads what of the programs for names works everywhere.
func (d *Datapath) loadTeach(spec *ebpf.CollectionSpec, settings perimeterLoadSettings) error {
	var teach struct {
		DnsTeach *ebpf.Program `ebpf:"dns_teach"`
	}
	for name := range spec.Programs {
		if name != "dns_teach" {
			delete(spec.Programs, name)
		}
	}
	if err := d.loadBeside(spec, &teach, settings); err != nil {
		return fmt.Errorf("load the program that opens addresses of names: %w", err)
	}
	d.names.dns.DnsTeach = teach.DnsTeach
	if err := os.MkdirAll(filepath.Join(d.root, programsDir), 0o700); err != nil {
		return fmt.Errorf("make the directory of programs for names: %w", err)
	}
	return nil
}

// Numbers of enum dns_program (bpf/name_maps.h).
const (
	dnsProgramQuery uint32 = iota
	dnsProgramFrom
	dnsProgramAnswer
)

// loadAnswers returns the program that answers go to.
func (d *Datapath) loadAnswers(settings perimeterLoadSettings) (*ebpf.Program, error) {
	err := features.HaveProgramHelper(ebpf.SchedCLS, asm.FnLoop)
	switch {
	case d.options.Names.ByAgent:
		d.names.byAgent = "the settings leave answers to the agent"
	case errors.Is(err, ebpf.ErrNotSupported):
		d.names.byAgent = "reading answers in the data path needs Linux 5.17"
	case err != nil:
		return nil, fmt.Errorf("look for what reading answers needs: %w", err)
	default:
		answer, err := loadAnswer()
		if err != nil {
			return nil, fmt.Errorf("read the compiled program for answers: %w", err)
		}
		if err := d.loadBeside(answer, &d.names.answer, settings); err != nil {
			d.names.byAgent = err.Error()
		}
	}
	if d.names.byAgent != "" {
		return d.names.dns.DnsForward, nil
	}
	return d.names.answer.DnsAnswer, nil
}

// loadBeside loads an object on the maps of this data path.
func (d *Datapath) loadBeside(spec *ebpf.CollectionSpec, programs any, settings perimeterLoadSettings) error {
	if err := spec.Variables["settings"].Set(settings); err != nil {
		return fmt.Errorf("set the settings: %w", err)
	}
	if err := d.pinMaps(spec); err != nil {
		return err
	}
	err := spec.LoadAndAssign(programs, &ebpf.CollectionOptions{
		Maps:            ebpf.MapOptions{PinPath: d.root},
		MapReplacements: map[string]*ebpf.Map{"questions": d.objects.Questions, "dns_programs": d.objects.DnsPrograms},
	})
	if err != nil {
		return explainLoad(err)
	}
	return nil
}

// forgetPrograms removes what programs of earlier loads went on in, which by now
// nobody runs.
func (d *Datapath) forgetPrograms() error {
	dir := filepath.Join(d.root, programsDir)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("look for programs of earlier loads: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if path := filepath.Join(dir, e.Name()); path != d.programsPin(d.instance) {
			errs = append(errs, os.Remove(path))
		}
	}
	return errors.Join(errs...)
}

// trust makes the table of trusted resolvers what the options say.
func (d *Datapath) trust() error {
	wanted := map[[4]uint32]bool{}
	for _, a := range d.options.Names.Trusted {
		wanted[wordsOf(a.Unmap())] = true
	}
	var key perimeterAddress
	var value uint32
	var gone []perimeterAddress
	entries := d.objects.Resolvers.Iterate()
	for entries.Next(&key, &value) {
		if !wanted[key.WordBe] {
			gone = append(gone, key)
		}
	}
	if err := entries.Err(); err != nil {
		return fmt.Errorf("list the trusted resolvers: %w", err)
	}
	for words := range wanted {
		if err := d.objects.Resolvers.Put(perimeterAddress{WordBe: words}, uint32(1)); err != nil {
			return fmt.Errorf("trust a resolver: %w", err)
		}
	}
	for _, key := range gone {
		if err := d.objects.Resolvers.Delete(key); err != nil {
			return fmt.Errorf("trust a resolver no longer: %w", err)
		}
	}
	return nil
}

// wordsOf is an address as struct address has it.
func wordsOf(a netip.Addr) [4]uint32 {
	if a.Is4() {
		return [4]uint32{key4(a)}
	}
	return key6(a)
}

// NamesByAgent says why answers are left to the agent, "" where the data path
// reads them itself.
func (d *Datapath) NamesByAgent() string { return d.names.byAgent }

// NamesMissing says why nothing is learnt from packets at all, and no question is
// denied, "" if that works.
func (d *Datapath) NamesMissing() string { return d.names.missing }
