package datapath

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/perimeterd/perimeterd/pkg/policy"
)

// adoptDenials makes the table at rest, and the one packets count in if there is
// none yet.
func (d *Datapath) adoptDenials() error {
	make := func() (*ebpf.Map, error) {
		spec := d.inner["denials"].Copy()
		spec.MaxEntries = d.options.Limits.Denials
		m, err := ebpf.NewMap(spec)
		if err != nil {
			return nil, fmt.Errorf("make a table for %d repeated denials: %w", spec.MaxEntries, err)
		}
		return m, nil
	}
	var err error
	if d.denials, err = make(); err != nil {
		return err
	}
	var id ebpf.MapID
	err = d.objects.Denials.Lookup(uint32(0), &id)
	if err == nil {
		return nil
	}
	if !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("look up the table of repeated denials: %w", err)
	}
	first, err := make()
	if err != nil {
		return err
	}
	defer first.Close()
	if err := d.objects.Denials.Put(uint32(0), first); err != nil {
		return fmt.Errorf("enter the table of repeated denials: %w", err)
	}
	return nil
}

// DrainDenials returns the denials that repeated one reported before, one event
// for each row of them, and begins to count anew. No count is lost or told
// twice: the table is read after the last packet has let go of it.
func (d *Datapath) DrainDenials() ([]Event, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var id ebpf.MapID
	if err := d.objects.Denials.Lookup(uint32(0), &id); err != nil {
		return nil, fmt.Errorf("look up the table of repeated denials: %w", err)
	}
	full, err := ebpf.NewMapFromID(id)
	if err != nil {
		return nil, fmt.Errorf("open the table of repeated denials: %w", err)
	}
	if err := d.objects.Denials.Put(uint32(0), d.denials); err != nil {
		return nil, errors.Join(fmt.Errorf("swap the table of repeated denials: %w", err), full.Close())
	}
	err = d.denials.Close() // packets hold on to it now
	d.denials = full
	if err != nil {
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
