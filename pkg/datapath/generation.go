package datapath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/perimeterd/perimeterd/pkg/compile"
	"github.com/perimeterd/perimeterd/pkg/policy"
)

// generation is one compiled policy in the kernel: an inner map for each outer
// one. Tables is nil for a generation that an earlier process loaded.
type generation struct {
	number uint32
	flags  uint32
	since  uint64 // jiffies: when it was made, or found in force
	tables *compile.Tables
	marks  localMarks

	index4, index6 perimeterFamilyIndex // how its prefixes are found

	adding sync.Mutex           // while it is built, by several at once
	maps   map[string]*ebpf.Map // by name of the outer map

	entered func() error // returns when the kernel's calls to install it are over; nil before them
}

func (g *generation) slot() uint32 { return g.number % generationSlots }

const generationSlots = 2

func (g *generation) release() error {
	var errs []error
	if g.entered != nil {
		errs = append(errs, g.entered())
	}
	for _, m := range g.maps {
		errs = append(errs, m.Close())
	}
	return errors.Join(errs...)
}

// build fills the tables of a generation, out of sight of every packet. Those that
// would hold just what those in force hold are shared with it.
func (d *Datapath) build(number uint32, tables *compile.Tables) (g *generation, err error) {
	g = &generation{number: number, tables: tables, maps: map[string]*ebpf.Map{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, g.release())
		}
	}()
	now, err := d.clock.now()
	if err != nil {
		return nil, err
	}
	g.since = now.jiffies
	if tables.StrictHere {
		g.flags |= uint32(perimeterControlFlagCONTROL_STRICT_HERE)
	}
	if len(tables.PrivateEndpoints) > 0 {
		g.flags |= uint32(perimeterControlFlagCONTROL_PRIVATE_INTERFACES)
	}
	// Prefixes take nearly all of the time.
	var group errgroup.Group
	group.Go(func() error { return d.buildPrefixes4(g) })
	group.Go(func() error { return d.buildPrefixes6(g) })
	group.Go(func() error {
		return errors.Join(
			d.buildLocals(g),
			d.buildScopeClasses(g),
			d.buildMembers(g),
			d.buildSpans(g),
			d.buildOutcomes(g, now),
			d.buildNames(g),
		)
	})
	return g, group.Wait()
}

func (g *generation) add(outer string, m *ebpf.Map) {
	g.adding.Lock()
	defer g.adding.Unlock()
	g.maps[outer] = m
}

// before is the generation in force, an empty one if it is not known what is in it.
func (d *Datapath) before() *generation {
	if d.inForce == nil || d.inForce.tables == nil {
		return &generation{tables: &compile.Tables{}}
	}
	return d.inForce
}

// share takes tables over from the generation in force, if it has some and they
// would be the same.
func (d *Datapath) share(g *generation, same bool, outers ...string) (shared bool, err error) {
	before := d.before()
	if !same || before.maps == nil {
		return false, nil
	}
	return true, g.takeOver(before, outers...)
}

// takeOver gives a generation tables of another.
func (g *generation) takeOver(from *generation, outers ...string) error {
	for _, outer := range outers {
		m, err := from.maps[outer].Clone()
		if err != nil {
			return fmt.Errorf("share %s: %w", outer, err)
		}
		g.add(outer, m)
	}
	return nil
}

// table makes the inner map for an outer one and fills it with parallel keys
// and values, in one go.
func table[K, V any](d *Datapath, g *generation, outer string, keys []K, values []V) error {
	m, err := d.newTable(g, outer, len(keys))
	if err != nil {
		return err
	}
	if err := fill(m, keys, values); err != nil {
		return fmt.Errorf("fill %s: %w", outer, err)
	}
	return nil
}

// newTable makes the inner map for an outer one, for so many entries.
func (d *Datapath) newTable(g *generation, outer string, entries int) (*ebpf.Map, error) {
	spec := d.inner[outer].Copy()
	spec.MaxEntries = max(1, uint32(entries))
	m, err := ebpf.NewMap(spec)
	if err != nil {
		return nil, fmt.Errorf("make a table of %d entries for %s: %w", entries, outer, err)
	}
	g.add(outer, m)
	return m, nil
}

// fill writes all entries with one call where the kernel can. Some cannot for
// this kind of map (LPM tries before 5.14), and some fail half-way for lack of
// memory in an atomic context (6.18 on arm64); single updates serve those.
func fill[K, V any](m *ebpf.Map, keys []K, values []V) error {
	if len(keys) == 0 {
		return nil
	}
	if _, err := m.BatchUpdate(keys, values, nil); err == nil {
		return nil
	} else if !errors.Is(err, ebpf.ErrNotSupported) && !errors.Is(err, unix.ENOMEM) {
		return err
	}
	for i := range keys {
		if err := m.Put(keys[i], values[i]); err != nil {
			return fmt.Errorf("entry %d of %d: %w", i+1, len(keys), err)
		}
	}
	return nil
}

// array fills a table indexed from 0 on, whose memory it writes itself: a call for
// each of hundreds of thousands of entries takes longer than to compute them. V has
// no pointers.
func array[V any](d *Datapath, g *generation, outer string, values []V) error {
	m, err := d.newTable(g, outer, len(values))
	if err != nil || len(values) == 0 {
		return err
	}
	size := int(unsafe.Sizeof(values[0]))
	if size != int(m.ValueSize()) {
		return fmt.Errorf("fill %s: its values have %d bytes, and %d were given", outer, m.ValueSize(), size)
	}
	stride := (size + 7) &^ 7 // entries of an array begin at multiples of 8
	memory, err := unix.Mmap(m.FD(), 0, stride*len(values), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map the memory of %s: %w", outer, err)
	}
	bytes := unsafe.Slice((*byte)(unsafe.Pointer(&values[0])), size*len(values))
	if stride == size {
		copy(memory, bytes)
	} else {
		for i := range values {
			copy(memory[i*stride:], bytes[i*size:(i+1)*size])
		}
	}
	if err := unix.Munmap(memory); err != nil {
		return fmt.Errorf("unmap the memory of %s: %w", outer, err)
	}
	return nil
}

func key4(a netip.Addr) uint32 {
	four := a.As4()
	return binary.NativeEndian.Uint32(four[:])
}

func key6(a netip.Addr) [4]uint32 {
	var words [4]uint32
	sixteen := a.As16()
	for i := range words {
		words[i] = binary.NativeEndian.Uint32(sixteen[4*i:])
	}
	return words
}

func prefixKey4(p netip.Prefix) perimeterPrefixKey4 {
	return perimeterPrefixKey4{Length: uint32(p.Bits()), AddressBe: key4(p.Addr())}
}

func prefixKey6(p netip.Prefix) perimeterPrefixKey6 {
	return perimeterPrefixKey6{Length: uint32(p.Bits()), AddressBe: key6(p.Addr())}
}

func spanList(l compile.SpanList) perimeterSpanList {
	return perimeterSpanList{First: l.First, Count: l.Count}
}

// buildLocals splits the local prefixes: full-length ones go into a hash that
// every first packet asks, the few others into a trie that is asked only if
// there are any.
func (d *Datapath) buildLocals(g *generation) error {
	same := slices.Equal(d.before().tables.Locals, g.tables.Locals)
	if shared, err := d.share(g, same, "locals4", "locals6", "local_prefixes4", "local_prefixes6"); shared || err != nil {
		const flags = perimeterControlFlagCONTROL_LOCAL_PREFIXES4 | perimeterControlFlagCONTROL_LOCAL_PREFIXES6
		g.marks, g.flags = d.inForce.marks, g.flags|d.inForce.flags&uint32(flags)
		return err
	}
	var hosts4 []uint32
	var hosts6 [][4]uint32
	var prefixes4 []perimeterPrefixKey4
	var prefixes6 []perimeterPrefixKey6
	var ofHosts4, ofHosts6, ofPrefixes4, ofPrefixes6 []perimeterLocal
	for _, l := range g.tables.Locals {
		local := perimeterLocal{Services: spanList(l.Services), Outbound: l.Outbound}
		if l.Strict[policy.Inbound] {
			local.Flags |= uint32(perimeterLocalFlagLOCAL_STRICT_INBOUND)
		}
		if l.Strict[policy.Outbound] {
			local.Flags |= uint32(perimeterLocalFlagLOCAL_STRICT_OUTBOUND)
		}
		if l.Own {
			local.Flags |= uint32(perimeterLocalFlagLOCAL_OWN)
		}
		if l.Audit {
			local.Flags |= uint32(perimeterLocalFlagLOCAL_AUDIT)
		}
		if l.Prefix.IsSingleIP() {
			g.marks.add(l.Prefix.Addr())
		}
		switch a := l.Prefix.Addr(); {
		case a.Is4() && l.Prefix.IsSingleIP():
			hosts4, ofHosts4 = append(hosts4, key4(a)), append(ofHosts4, local)
		case a.Is4():
			prefixes4, ofPrefixes4 = append(prefixes4, prefixKey4(l.Prefix)), append(ofPrefixes4, local)
		case l.Prefix.IsSingleIP():
			hosts6, ofHosts6 = append(hosts6, key6(a)), append(ofHosts6, local)
		default:
			prefixes6, ofPrefixes6 = append(prefixes6, prefixKey6(l.Prefix)), append(ofPrefixes6, local)
		}
	}
	if len(prefixes4) > 0 {
		g.flags |= uint32(perimeterControlFlagCONTROL_LOCAL_PREFIXES4)
	}
	if len(prefixes6) > 0 {
		g.flags |= uint32(perimeterControlFlagCONTROL_LOCAL_PREFIXES6)
	}
	return errors.Join(
		table(d, g, "locals4", hosts4, ofHosts4),
		table(d, g, "locals6", hosts6, ofHosts6),
		table(d, g, "local_prefixes4", prefixes4, ofPrefixes4),
		table(d, g, "local_prefixes6", prefixes6, ofPrefixes6),
	)
}

func (d *Datapath) buildScopeClasses(g *generation) error {
	same := slices.Equal(d.before().tables.ScopeClasses, g.tables.ScopeClasses) && slices.Equal(d.before().tables.Parents, g.tables.Parents)
	if shared, err := d.share(g, same, "scope_classes", "class_parents"); shared || err != nil {
		return err
	}
	keys := make([]perimeterScopeClass, len(g.tables.ScopeClasses))
	values := make([]perimeterSpanList, len(keys))
	for i, s := range g.tables.ScopeClasses {
		keys[i] = perimeterScopeClass{Scope: s.Scope, Class: s.Class}
		values[i] = spanList(s.Meaning)
	}
	return errors.Join(
		table(d, g, "scope_classes", keys, values),
		array(d, g, "class_parents", g.tables.Parents),
	)
}

func (d *Datapath) buildMembers(g *generation) error {
	if shared, err := d.share(g, slices.Equal(d.before().tables.Members, g.tables.Members), "members"); shared || err != nil {
		return err
	}
	values := make([]perimeterMember, len(g.tables.Members))
	for i, m := range g.tables.Members {
		v := &values[i]
		v.Scope = m.Scope
		v.Names = spanList(m.Names)
		for direction := range m.Scope {
			v.Otherwise4[direction] = spanList(m.Otherwise4[direction])
			v.Otherwise6[direction] = spanList(m.Otherwise6[direction])
		}
	}
	return array(d, g, "members", values)
}

func (d *Datapath) buildSpans(g *generation) error {
	if shared, err := d.share(g, slices.Equal(d.before().tables.Spans, g.tables.Spans), "spans"); shared || err != nil {
		return err
	}
	values := make([]perimeterSpan, len(g.tables.Spans))
	for i, s := range g.tables.Spans {
		values[i] = perimeterSpan{From: s.From, Value: s.Value}
	}
	return array(d, g, "spans", values)
}

func (d *Datapath) buildOutcomes(g *generation, now moment) error {
	// A rule's end is in the table in jiffies: written anew, it follows a clock that was set.
	same := slices.Equal(d.before().tables.Outcomes, g.tables.Outcomes) && g.tables.NextExpiry.IsZero()
	if shared, err := d.share(g, same, "outcomes"); shared || err != nil {
		return err
	}
	values := make([]perimeterOutcome, len(g.tables.Outcomes))
	for i, o := range g.tables.Outcomes {
		if i == 0 {
			continue
		}
		category := policy.CategoryOf(o.Reason, o.Direction)
		reason, known := d.words.reasonOf[o.Reason]
		number, alsoKnown := d.words.categoryOf[category]
		if !known || !alsoKnown {
			return fmt.Errorf("the compiled programs have no reason %q or no category %q: agent and programs are of different versions", o.Reason, category)
		}
		values[i] = perimeterOutcome{
			After: o.After, Member: o.Member,
			Verdict: uint8(o.Verdict), WouldBe: uint8(o.WouldBe), Reason: reason, Category: number,
			Names: outcomeNames(o.Reason),
		}
		if !o.Expires.IsZero() {
			values[i].Expires = now.jiffiesAt(o.Expires)
		}
	}
	return array(d, g, "outcomes", values)
}

// outerMaps are the outer maps of a generation, by name.
func (d *Datapath) outerMaps() map[string]*ebpf.Map {
	m := &d.objects.perimeterMaps
	return map[string]*ebpf.Map{
		"locals4": m.Locals4, "locals6": m.Locals6,
		"local_prefixes4": m.LocalPrefixes4, "local_prefixes6": m.LocalPrefixes6,
		"prefixes4": m.Prefixes4, "prefix_runs4": m.PrefixRuns4, "prefix_lengths4": m.PrefixLengths4, "prefix_marks4": m.PrefixMarks4, "prefix_changes4": m.PrefixChanges4,
		"prefixes6": m.Prefixes6, "prefix_lengths6": m.PrefixLengths6, "prefix_marks6": m.PrefixMarks6, "prefix_changes6": m.PrefixChanges6,
		"scope_classes": m.ScopeClasses, "class_parents": m.ClassParents, "members": m.Members, "spans": m.Spans, "outcomes": m.Outcomes,
		"name_classes": m.NameClasses, "name_meanings": m.NameMeanings, "name_sets": m.NameSets, "name_rules": m.NameRules,
	}
}

// enter puts a generation's maps into a slot of the outer maps, and returns when
// they stand there. Each call goes on until no packet uses what stood there before
// (an RCU grace period, some 10 ms), all of them at once; wait returns after that.
func (d *Datapath) enter(g *generation, slot uint32) (wait func() error, err error) {
	var calls errgroup.Group
	for name, outer := range d.outerMaps() {
		if standsIn(outer, slot, g.maps[name]) {
			continue // both generations share it
		}
		calls.Go(func() error {
			if err := outer.Put(slot, g.maps[name]); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			return nil
		})
	}
	returned := make(chan error, 1)
	go func() { returned <- calls.Wait() }()
	for name, outer := range d.outerMaps() {
		for !standsIn(outer, slot, g.maps[name]) {
			select {
			case err := <-returned: // then they stand, or one never will
				return func() error { return nil }, err
			case <-time.After(50 * time.Microsecond):
			}
		}
	}
	return sync.OnceValue(func() error { return <-returned }), nil
}

// standsIn reports whether an outer map has just this inner map in a slot. Where it
// cannot be told the answer is no.
func standsIn(outer *ebpf.Map, slot uint32, inner *ebpf.Map) bool {
	var there ebpf.MapID
	if err := outer.Lookup(slot, &there); err != nil {
		return false
	}
	info, err := inner.Info()
	if err != nil {
		return false
	}
	id, known := info.ID()
	return known && id == there
}

// put is enter, and waits.
func (d *Datapath) put(g *generation, slot uint32) error {
	wait, err := d.enter(g, slot)
	return errors.Join(err, wait())
}

// install puts a generation where packets will look for it once its number is
// in force. Its slot belonged to the generation before the last, which retire
// has cleared, so no packet reads it now, and it is whole when install returns.
func (d *Datapath) install(g *generation) (err error) {
	if g.entered, err = d.enter(g, g.slot()); err != nil {
		return err
	}
	if err := d.objects.MarkedLocals.Put(g.slot(), perimeterLocalMarks(g.marks)); err != nil {
		return fmt.Errorf("marked_locals: %w", err)
	}
	index := perimeterPrefixIndex{Of4: g.index4, Of6: g.index6}
	if err := d.objects.PrefixIndexes.Put(g.slot(), index); err != nil {
		return fmt.Errorf("prefix_indexes: %w", err)
	}
	return d.markPrivateInterfaces(g)
}

// retire frees what only the previous generation needed. First it waits until
// no packet is judged by it any more; then the current tables take its slot, so
// that its own are freed now and not with the generation after next.
func (d *Datapath) retire(old *generation) error {
	// Entering a map that is already there changes nothing, but waits.
	if err := d.objects.Spans.Put(d.inForce.slot(), d.inForce.maps["spans"]); err != nil {
		return fmt.Errorf("wait for packets: %w", err)
	}
	if err := d.put(d.inForce, 1-d.inForce.slot()); err != nil {
		return err
	}
	if old == nil {
		return nil
	}
	return old.release()
}

// Prefixes is what the policy in force takes in the kernel.
type Prefixes struct {
	IPv4, IPv6 int   // how many there are
	Bytes      int64 // an estimate of all tables of the generation, see bytesPerPrefix
}

// bytesPerPrefix is what a prefix in an LPM trie takes, inner nodes and the
// allocator's rounding included: measured, since the kernel's own figure
// (memlock) leaves out two thirds of it.
const bytesPerPrefix = 140

// Prefixes reports what the policy in force takes. Zero for a generation that an
// earlier process loaded.
func (d *Datapath) Prefixes() Prefixes {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.inForce == nil || d.inForce.tables == nil {
		return Prefixes{}
	}
	t := d.inForce.tables
	p := Prefixes{IPv4: t.Prefixes4.Len(), IPv6: t.Prefixes6.Len()}
	for _, m := range d.inForce.maps {
		if m.Type() == ebpf.LPMTrie { // max_entries is what it was made for, and filled with
			p.Bytes += int64(bytesPerPrefix) * int64(m.MaxEntries())
			continue
		}
		info, err := m.Info()
		if err != nil {
			continue // an estimate without this part is better than none
		}
		if bytes, ok := info.Memlock(); ok {
			p.Bytes += int64(bytes)
		}
	}
	return p
}
