package datapath

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/cilium/ebpf"

	"github.com/perimeterd/perimeterd/pkg/policy"
)

// denialTables are the names of the two tables of repeated denials. Packets count
// in one while the other is at rest. Both are pinned, so that whoever drains
// needs no right to open maps by their number.
var denialTables = [2]string{"denials-0", "denials-1"}

// adoptDenials opens both tables, or makes them, and has packets count in one.
func (d *Datapath) adoptDenials() error {
	for i, name := range denialTables {
		spec := d.inner["denials"].Copy()
		spec.Name, spec.Pinning = name, ebpf.PinByName
		spec.MaxEntries = d.options.Limits.Denials
		if err := keepPinnedSize(filepath.Join(d.root, name), spec); err != nil {
			return err
		}
		table, err := ebpf.NewMapWithOptions(spec, ebpf.MapOptions{PinPath: d.root})
		if err != nil {
			return fmt.Errorf("make a table for %d repeated denials: %w", spec.MaxEntries, err)
		}
		d.denials[i] = table
	}
	var current ebpf.MapID
	err := d.objects.Denials.Lookup(uint32(0), &current)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return d.countDenialsIn(0)
	}
	if err != nil {
		return fmt.Errorf("look up the table of repeated denials: %w", err)
	}
	for i, table := range d.denials {
		info, err := table.Info()
		if err != nil {
			return fmt.Errorf("look at the table of repeated denials: %w", err)
		}
		if id, ok := info.ID(); ok && id == current {
			d.counting = i
			return nil
		}
	}
	return d.countDenialsIn(0) // the pin of the one that was in use is gone
}

// countDenialsIn has packets count in a table, and returns when none counts in
// the other any more.
func (d *Datapath) countDenialsIn(table int) error {
	if err := d.objects.Denials.Put(uint32(0), d.denials[table]); err != nil {
		return fmt.Errorf("swap the table of repeated denials: %w", err)
	}
	d.counting = table
	return nil
}

// DrainDenials returns the denials that repeated one reported before, one event
// for each row of them, and begins to count anew. No count is lost or told
// twice: a table is read after the last packet has let go of it.
func (d *Datapath) DrainDenials() ([]Event, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	full := d.denials[d.counting]
	if err := d.countDenialsIn(1 - d.counting); err != nil {
		return nil, err
	}
	now, err := d.clock.now()
	if err != nil {
		return nil, err
	}

	var events []Event
	keys := make([]perimeterDenialKey, 1024)
	values := make([]perimeterDenial, len(keys))
	var cursor ebpf.MapBatchCursor
	for {
		n, err := full.BatchLookupAndDelete(&cursor, keys, values, nil)
		for i := range n {
			// A row of one was told when it happened.
			if values[i].Count > 0 {
				events = append(events, d.denialEvent(&keys[i], &values[i], now))
			}
		}
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return events, nil
		}
		if err != nil {
			return events, fmt.Errorf("read the table of repeated denials: %w", err)
		}
	}
}

func (d *Datapath) denialEvent(k *perimeterDenialKey, v *perimeterDenial, now moment) Event {
	direction := policy.Direction(k.Direction & 1)
	e := Event{
		Kind:       Denied,
		Time:       now.ofBoot(v.First),
		LastTime:   now.ofJiffies(v.Last),
		Count:      v.Count,
		Generation: k.Generation,
		Member:     v.Member,
		Outcome:    v.Outcome,
		Ifindex:    v.Ifindex,
		Direction:  direction,
		Verdict:    policy.Verdict(k.Verdict & 1),
		WouldBe:    policy.Deny, // only what Enforced denies is counted here
		Reason:     d.words.reason(k.Reason),
		Category:   d.words.category(v.Category),
		Protocol:   k.Protocol,
		Local:      address(k.Family, k.Local.WordBe),
		Peer:       address(k.Family, k.Peer.WordBe),
	}
	if e.LastTime.Before(e.Time) {
		e.LastTime = e.Time // jiffies are coarser
	}
	local, peer := k.Port, v.OpenerPort
	if direction == policy.Outbound {
		local, peer = peer, local
	}
	e.LocalPort, e.PeerPort = shownPorts(k.Protocol, local, peer)
	return e
}
