package datapath

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sync/errgroup"
)

// readInterval is how long an event may wait in its ring. The kernel wakes the
// reader earlier only when a ring fills: waking it for each event would cost
// each packet more than its verdict.
const readInterval = 20 * time.Millisecond

// batchMax bounds how many events are handed on at once.
const batchMax = 2048

// recordSize is what an event takes in a ring.
const recordSize = eventSize + 8

// Read hands the events of both rings to sink, in batches, until the context
// ends; then it hands on what is left and returns nil. sink is called by one
// goroutine at a time and must not keep the slice. Only one Read may run.
func (d *Datapath) Read(ctx context.Context, sink func([]Event)) error {
	var mu sync.Mutex
	serial := func(batch []Event) {
		mu.Lock()
		defer mu.Unlock()
		sink(batch)
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, ring := range []*ebpf.Map{d.objects.FlowEvents, d.objects.DenialEvents} {
		group.Go(func() error { return d.readRing(ctx, ring, serial) })
	}
	return group.Wait()
}

func (d *Datapath) readRing(ctx context.Context, ring *ebpf.Map, sink func([]Event)) error {
	reader, err := ringbuf.NewReader(ring)
	if err != nil {
		return fmt.Errorf("read a ring of events: %w", err)
	}
	defer reader.Close()
	batch := make([]Event, 0, batchMax)
	var record ringbuf.Record
	left := -1 // bytes still to be read once the context has ended
	for ended := false; !ended; {
		if ctx.Err() != nil && left < 0 {
			left = reader.AvailableBytes() // and no more: a flood must not keep us
		}
		ended = left >= 0 && left <= batchMax*recordSize // then one last round
		wait := readInterval
		if left >= 0 {
			wait = 0
			left -= batchMax * recordSize
		}
		reader.SetDeadline(time.Now().Add(wait))
		boot, err := bootToWall()
		if err != nil {
			return err
		}
		for {
			err := reader.ReadInto(&record)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				return fmt.Errorf("read a ring of events: %w", err)
			}
			batch = batch[:len(batch)+1]
			if !d.words.decodeEvent(record.RawSample, boot, &batch[len(batch)-1]) {
				return fmt.Errorf("an event of %d bytes, where %d were expected: agent and programs are of different versions", len(record.RawSample), eventSize)
			}
			if len(batch) == batchMax {
				break
			}
			if reader.AvailableBytes() == 0 {
				break
			}
		}
		if len(batch) > 0 {
			sink(batch)
			batch = batch[:0]
		}
	}
	return nil
}
