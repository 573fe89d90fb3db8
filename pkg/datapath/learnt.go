package datapath

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"

	"github.com/perimeterd/perimeterd/pkg/compile"
	"github.com/perimeterd/perimeterd/pkg/policy"
)

// LearntBy says who learnt an address.
type LearntBy string

// The words are those of enum learnt_by (bpf/vocabulary.h), in its order.
const (
	LearntInline   LearntBy = "inline"   // the data path, from an answer
	LearntAnswer   LearntBy = "answer"   // the agent, from an answer that the data path could not take
	LearntResolved LearntBy = "resolved" // the agent, which asked itself
	LearntKept     LearntBy = "kept"     // the agent, which had it from before
)

var learntBy = [perimeterLearntByLEARNT_BY_COUNT]LearntBy{LearntInline, LearntAnswer, LearntResolved, LearntKept}

// Learnt is an address that a name has opened.
type Learnt struct {
	Set     uint64 // compile.NameSet.ID
	Address netip.Addr
	Name    string // that was asked for
	Since   time.Time
	Expires time.Time // from then on it opens no flow
	Used    time.Time // when it opened one last; zero = never
	By      LearntBy
}

// learntOf reads an entry.
func learntOf(key *perimeterLearntKey, value *perimeterLearnt, now moment) Learnt {
	l := Learnt{
		Set: key.Set, Address: address(uint8(key.Family), key.Address.WordBe), Name: nameOf(value.Name),
		Since: now.ofJiffies(value.Since), Expires: now.ofJiffies(value.Expires),
		By: learntBy[int(value.By)%len(learntBy)],
	}
	if value.Used != 0 {
		l.Used = now.ofJiffies(value.Used)
	}
	return l
}

// Learnt returns the addresses that are open, and those that have expired and
// are kept for the flows they opened.
func (d *Datapath) Learnt() ([]Learnt, error) {
	now, err := d.clock.now()
	if err != nil {
		return nil, err
	}
	var out []Learnt
	err = d.eachLearnt(func(key perimeterLearntKey, value *perimeterLearnt) {
		out = append(out, learntOf(&key, value, now))
	})
	return out, err
}

func (d *Datapath) eachLearnt(yield func(perimeterLearntKey, *perimeterLearnt)) error {
	keys := make([]perimeterLearntKey, 1024)
	values := make([]perimeterLearnt, len(keys))
	var cursor ebpf.MapBatchCursor
	for {
		n, err := d.objects.LearntAddresses.BatchLookup(&cursor, keys, values, nil)
		for i := range n {
			yield(keys[i], &values[i])
		}
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("list the addresses of names: %w", err)
		}
	}
}

func learntKey(set uint64, a netip.Addr) perimeterLearntKey {
	key := perimeterLearntKey{Set: set, Family: 6}
	a = a.Unmap().WithZone("")
	if a.Is4() {
		key.Family = 4
	}
	key.Address.WordBe = wordsOf(a)
	return key
}

// LearntName returns the name by which a set has opened an address, "" if it has
// not.
func (d *Datapath) LearntName(set uint64, a netip.Addr) string {
	var value perimeterLearnt
	if d.objects.LearntAddresses.Lookup(learntKey(set, a), &value) != nil {
		return ""
	}
	return nameOf(value.Name)
}

// etherHeader is what the data of a test run begins with.
const etherHeader = 14

// Teach opens addresses, each until it expires, by the way on which the data path
// opens them itself: what is open longer already stays so. Since the zero time is
// since now. One that has expired is passed over.
func (d *Datapath) Teach(lessons []Learnt) error { return d.teach(lessons, false) }

// teach is Teach, perhaps with what has expired too, for flows that are open.
func (d *Datapath) teach(lessons []Learnt, expired bool) error {
	now, err := d.clock.now()
	if err != nil {
		return err
	}
	type lesson struct {
		Key    perimeterLearntKey
		Learnt perimeterLearnt
	}
	for _, l := range lessons {
		if !expired && !l.Expires.After(now.wall) {
			continue
		}
		of := lesson{Key: learntKey(l.Set, l.Address), Learnt: perimeterLearnt{Expires: now.jiffiesAt(l.Expires)}}
		if !l.Since.IsZero() {
			of.Learnt.Since = now.jiffiesAt(l.Since)
		}
		if !l.Used.IsZero() {
			of.Learnt.Used = now.jiffiesAt(l.Used)
		}
		if of.Learnt.Name, err = textOf(l.Name); err != nil {
			return err
		}
		for number, by := range learntBy {
			if by == l.By {
				of.Learnt.By = uint32(number)
			}
		}
		data := make([]byte, etherHeader, etherHeader+int(unsafe.Sizeof(of)))
		data = append(data, unsafe.Slice((*byte)(unsafe.Pointer(&of)), unsafe.Sizeof(of))...)
		returned, err := d.names.dns.DnsTeach.Run(&ebpf.RunOptions{Data: data})
		if err == nil && int32(returned) != -1 {
			err = fmt.Errorf("the program returned %d", int32(returned))
		}
		if err != nil {
			return fmt.Errorf("open %s for %s: %w", l.Address, l.Name, err)
		}
	}
	return nil
}

// ForgetLearnt closes the addresses for which drop returns true.
func (d *Datapath) ForgetLearnt(drop func(Learnt) bool) (dropped int, err error) {
	now, err := d.clock.now()
	if err != nil {
		return 0, err
	}
	var gone []perimeterLearntKey
	slots := map[perimeterLearntKey]uint32{}
	err = d.eachLearnt(func(key perimeterLearntKey, value *perimeterLearnt) {
		if drop(learntOf(&key, value, now)) {
			gone = append(gone, key)
			slots[key] = value.Slot
		}
	})
	for _, key := range gone {
		if e := d.objects.LearntAddresses.Delete(key); e != nil && !errors.Is(e, ebpf.ErrKeyNotExist) {
			err = errors.Join(err, fmt.Errorf("forget an address of a name: %w", e))
			continue
		}
		dropped++
		slot := perimeterLearntSlot{Set: key.Set, Slot: slots[key]}
		var occupant perimeterLearntKey
		if d.objects.LearntSlots.Lookup(slot, &occupant) == nil && occupant == key {
			if e := d.objects.LearntSlots.Delete(slot); e != nil && !errors.Is(e, ebpf.ErrKeyNotExist) {
				err = errors.Join(err, fmt.Errorf("free the place of an address of a name: %w", e))
			}
		}
	}
	return dropped, err
}

// SweepNames forgets addresses that have expired, but for those that an open flow
// still goes to: a flow that is judged again needs what let it in.
func (d *Datapath) SweepNames() (forgotten int, err error) {
	now := time.Now()
	expired := false
	all, err := d.Learnt()
	if err != nil {
		return 0, err
	}
	for _, l := range all {
		expired = expired || !l.Expires.After(now)
	}
	if !expired {
		return 0, nil
	}
	peers := map[netip.Addr]bool{}
	if err := d.Flows(func(f Flow) bool {
		if f.Direction == policy.Outbound {
			peers[f.Peer] = true
		}
		return true
	}); err != nil {
		return 0, err
	}
	return d.ForgetLearnt(func(l Learnt) bool { return !l.Expires.After(now) && !peers[l.Address] })
}

// OpenSets makes room for the addresses of sets of names: before any is taught them,
// or packets open any, which they do from Apply on.
func (d *Datapath) OpenSets(sets []compile.NameSet) error {
	for _, set := range sets {
		limit := uint32(min(uint64(len(set.Names))*uint64(d.options.Names.PerName), math.MaxUint32))
		var now perimeterLearntSet
		err := d.objects.LearntSets.Lookup(set.ID, &now)
		if err == nil && now.Limit == limit {
			continue
		}
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("look at a set of names: %w", err)
		}
		now.Limit = limit // where it counts on from is of no matter
		if err := d.objects.LearntSets.Put(set.ID, now); err != nil {
			return fmt.Errorf("make room for the addresses of %d names of %s: %w", len(set.Names), set.Owner, err)
		}
	}
	return nil
}

// forgetSets closes what sets have opened that the tables in force do not have.
// No packet asks for them any more.
func (d *Datapath) forgetSets(keep []uint64) error {
	kept := map[uint64]bool{}
	for _, id := range keep {
		kept[id] = true
	}
	_, err := d.ForgetLearnt(func(l Learnt) bool { return !kept[l.Set] })
	var set uint64
	var value perimeterLearntSet
	var gone []uint64
	entries := d.objects.LearntSets.Iterate()
	for entries.Next(&set, &value) {
		if !kept[set] {
			gone = append(gone, set)
		}
	}
	err = errors.Join(err, entries.Err())
	for _, set := range gone {
		if e := d.objects.LearntSets.Delete(set); e != nil && !errors.Is(e, ebpf.ErrKeyNotExist) {
			err = errors.Join(err, fmt.Errorf("forget a set of names: %w", e))
		}
	}
	return err
}

// NameCounts returns what came of questions, answers and addresses, since the
// data path was first loaded, by the words of enum name_event (bpf/vocabulary.h):
// NAME_NO_FLOW is "no-flow".
func (d *Datapath) NameCounts() (map[string]uint64, error) {
	out := map[string]uint64{}
	for number, word := range d.words.nameEvents {
		var perCPU []uint64
		if err := d.objects.NameCounts.Lookup(uint32(number), &perCPU); err != nil {
			return nil, fmt.Errorf("read the counters of names: %w", err)
		}
		var sum uint64
		for _, n := range perCPU {
			sum += n
		}
		out[word] = sum
	}
	return out, nil
}

// carryNames opens for sets that are new in tables what sets of the same owner
// have open by names that both have: so a rule may get another name without its
// addresses being closed. From when it is called on, answers must open both.
func (d *Datapath) carryNames(tables *compile.Tables) error {
	if d.inForce == nil || d.inForce.tables == nil {
		return nil
	}
	owners := map[uint64]string{}
	for _, set := range d.inForce.tables.Sets {
		owners[set.ID] = set.Owner
	}
	var fresh []compile.NameSet
	for _, set := range tables.Sets {
		if _, known := owners[set.ID]; !known {
			fresh = append(fresh, set)
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	all, err := d.Learnt()
	if err != nil {
		return err
	}
	var carried []Learnt
	for _, l := range all {
		for i := range fresh {
			if fresh[i].Owner == owners[l.Set] && fresh[i].Covers(l.Name) {
				of := l
				of.Set = fresh[i].ID
				carried = append(carried, of)
			}
		}
	}
	return d.teach(carried, true)
}
