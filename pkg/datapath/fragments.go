package datapath

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
)

// countFragments counts the first fragments whose verdict still holds for what
// follows them. Others stay in their table until their place is needed.
func (d *Datapath) countFragments(now moment) (int, error) {
	m := d.objects.Fragments
	keys := make([]perimeterFragmentKey, 4096)
	values := make([]perimeterFragment, len(keys))
	timeout := uint32(d.clock.jiffiesIn(d.options.Timeouts.Fragment))
	count := 0
	var cursor ebpf.MapBatchCursor
	for {
		n, err := m.BatchLookup(&cursor, keys, values, nil)
		for i := range n {
			// Signed: a packet may have come after `now` was read.
			if age := int32(uint32(now.jiffies) - values[i].Seen); age <= int32(timeout) {
				count++
			}
		}
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return count, nil
		}
		if err != nil {
			return 0, fmt.Errorf("list the first fragments: %w", err)
		}
	}
}
