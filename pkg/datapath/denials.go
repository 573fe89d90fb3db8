package datapath

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/cilium/ebpf"

	"github.com/perimeterd/perimeterd/pkg/policy"
)

// denialTables are two tables of repeated denials: packets count in one while the
// other is at rest. Both are pinned, so that whoever drains needs no right to
// open maps by their number.
type denialTables struct {
	name     string    // of the outer map
	outer    *ebpf.Map // names the one that packets count in
	tables   [2]*ebpf.Map
	counting int // the index of that one
}

// adoptDenials opens the tables of denials by peer and of crowds, or makes them,
// and has packets count in one of each.
func (d *Datapath) adoptDenials() error {
	d.denials = denialTables{name: "denials", outer: d.objects.Denials}
	d.crowds = denialTables{name: "crowds", outer: d.objects.Crowds}
	return errors.Join(d.adoptTables(&d.denials, d.options.Limits.Denials), d.adoptTables(&d.crowds, d.options.Limits.Crowds))
}

func (d *Datapath) adoptTables(of *denialTables, rows uint32) error {
	for i := range of.tables {
		spec := d.inner[of.name].Copy()
		spec.Name, spec.Pinning = fmt.Sprintf("%s-%d", of.name, i), ebpf.PinByName
		spec.MaxEntries = rows
		if err := keepPinnedSize(filepath.Join(d.root, spec.Name), spec); err != nil {
			return err
		}
		table, err := ebpf.NewMapWithOptions(spec, ebpf.MapOptions{PinPath: d.root})
		if err != nil {
			return fmt.Errorf("make a table of %s with %d rows: %w", of.name, spec.MaxEntries, err)
		}
		of.tables[i] = table
	}
	var current ebpf.MapID
	err := of.outer.Lookup(uint32(0), &current)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return of.countIn(0)
	}
	if err != nil {
		return fmt.Errorf("look up the table of %s: %w", of.name, err)
	}
	for i, table := range of.tables {
		info, err := table.Info()
		if err != nil {
			return fmt.Errorf("look at the table of %s: %w", of.name, err)
		}
		if id, ok := info.ID(); ok && id == current {
			of.counting = i
			return nil
		}
	}
	return of.countIn(0) // the pin of the one that was in use is gone
}

// countIn has packets count in a table, and returns when none counts in the other
// any more.
func (t *denialTables) countIn(table int) error {
	if err := t.outer.Put(uint32(0), t.tables[table]); err != nil {
		return fmt.Errorf("swap the table of %s: %w", t.name, err)
	}
	t.counting = table
	return nil
}

// swap has packets count in the table at rest, and returns the other.
func (t *denialTables) swap() (*ebpf.Map, error) {
	counted := t.tables[t.counting]
	return counted, t.countIn(1 - t.counting)
}

func (t *denialTables) close() error {
	var errs []error
	for _, table := range t.tables {
		if table != nil {
			errs = append(errs, table.Close())
		}
	}
	return errors.Join(errs...)
}

// DrainDenials returns the denials that repeated one reported before, one event
// for each row of them, and begins to count anew. No count is lost or told
// twice: a table is read after the last packet has let go of it.
func (d *Datapath) DrainDenials() ([]Event, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	// In this order: a packet that still found no room among the peers must not
	// begin a crowd in the next table, where there is room for its peer.
	peers, err := d.denials.swap()
	if err != nil {
		return nil, err
	}
	crowds, err := d.crowds.swap()
	if err != nil {
		return nil, err
	}
	now, err := d.clock.now()
	if err != nil {
		return nil, err
	}

	var events []Event
	err = errors.Join(
		drainRows(peers, func(k *perimeterDenialKey, v *perimeterDenial) {
			if v.Count > 0 {
				events = append(events, d.denialEvent(k, v, now))
			}
		}),
		drainRows(crowds, func(k *perimeterCrowdKey, v *perimeterCrowd) {
			if v.Denial.Count > 0 {
				events = append(events, d.crowdEvent(k, v, now))
			}
		}),
	)
	return events, err
}

// drainRows empties a table at rest and tells of each row. One that counts nothing
// is of a denial that was told when it happened.
func drainRows[K, V any](table *ebpf.Map, tell func(*K, *V)) error {
	keys, values := make([]K, 1024), make([]V, 1024)
	var cursor ebpf.MapBatchCursor
	for {
		n, err := table.BatchLookupAndDelete(&cursor, keys, values, nil)
		for i := range n {
			tell(&keys[i], &values[i])
		}
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the table of repeated denials: %w", err)
		}
	}
}

func (d *Datapath) denialEvent(k *perimeterDenialKey, v *perimeterDenial, now moment) Event {
	e := d.rowEvent(v, now)
	e.Generation = k.Generation
	e.Direction = policy.Direction(k.Direction & 1)
	e.Verdict = policy.Verdict(k.Verdict & 1)
	e.Reason = d.words.reason(k.Reason)
	e.Protocol = k.Protocol
	e.Local, e.Peer = address(k.Family, k.Local.WordBe), address(k.Family, k.Peer.WordBe)
	e.LocalPort, e.PeerPort = openedPorts(e.Direction, k.Protocol, k.Port, v.OpenerPort)
	return e
}

// crowdEvent tells what the denials have in common, and nothing of any peer.
func (d *Datapath) crowdEvent(k *perimeterCrowdKey, v *perimeterCrowd, now moment) Event {
	e := d.rowEvent(&v.Denial, now)
	e.Crowd = true
	e.Generation = k.Generation
	e.Direction = policy.Direction(k.Direction & 1)
	e.Verdict = policy.Verdict(k.Verdict & 1)
	e.Reason = d.words.reason(k.Reason)
	if v.OtherProtocol == 0 {
		e.Protocol = v.Protocol
	}
	if v.OtherLocal == 0 {
		e.Local = address(k.Family, v.Local.WordBe)
	}
	if v.OtherPort == 0 {
		e.LocalPort, e.PeerPort = openedPorts(e.Direction, v.Protocol, v.Port, 0)
	}
	if v.OtherInterface != 0 {
		e.Ifindex = 0
	}
	return e
}

// rowEvent is what a row tells whatever its key is.
func (d *Datapath) rowEvent(v *perimeterDenial, now moment) Event {
	e := Event{
		Kind:     Denied,
		Time:     now.ofBoot(v.First),
		LastTime: now.ofJiffies(v.Last),
		Count:    v.Count,
		Member:   v.Member,
		Outcome:  v.Outcome,
		Ifindex:  v.Ifindex,
		WouldBe:  policy.Deny, // only what Enforced denies is counted here
		Category: d.words.category(v.Category),
	}
	if e.LastTime.Before(e.Time) {
		e.LastTime = e.Time // jiffies are coarser
	}
	return e
}

// openedPorts returns the local and the peer's port of a packet that opens, or
// would open, a flow in a direction.
func openedPorts(direction policy.Direction, protocol uint8, destination, source uint16) (local, peer uint16) {
	if direction == policy.Outbound {
		return shownPorts(protocol, source, destination)
	}
	return shownPorts(protocol, destination, source)
}
