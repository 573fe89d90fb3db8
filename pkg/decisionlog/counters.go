package decisionlog

import (
	"fmt"
	"maps"

	"github.com/perimeterd/perimeterd/pkg/datapath"
	"github.com/perimeterd/perimeterd/pkg/policy"
)

// Counters are the books of a Log, all read at the same moment. They count
// from New and never fall, except what waits (Queued, Pending).
type Counters struct {
	Received  Tally // handed to Submit
	LostQueue Tally // refused by Submit: the encoder did not keep up, or the Log was closed
	Queued    Tally // waits to be encoded
	Sinks     []SinkCounters

	Subscribers    int    // subscriptions that are open
	SubscriberLost uint64 // records that subscribers were too slow for, of all there were
}

// SinkCounters are the books of one sink.
type SinkCounters struct {
	Name        string
	Exported    Tally // written
	Pending     Tally // encoded and waiting to be written
	LostBacklog Tally // encoded and dropped: the sink did not keep up
	LostWrite   Tally // given up because the sink still failed or hung when the Log ended

	Records uint64 // lines written
	Bytes   uint64 // bytes written
	Writes  uint64 // calls of Write
	Errors  uint64 // calls of Write that failed
	// Err is why the last call of Write failed, nil if it did not.
	Err error
}

// Tally counts decisions by category, and flow ends, which are no decisions.
type Tally struct {
	Decisions map[policy.Category]uint64 // categories that never occurred are absent
	FlowEnds  uint64
}

// Total is the number of decisions of all categories.
func (t Tally) Total() uint64 {
	var n uint64
	for _, count := range t.Decisions {
		n += count
	}
	return n
}

// Verify checks that for every sink and category what was received equals
// what was exported, waits, and was lost at each stage. It returns nil, or says
// what is missing.
func (c Counters) Verify() error {
	for _, s := range c.Sinks {
		sum := sum(c.LostQueue, c.Queued, s.Exported, s.Pending, s.LostBacklog, s.LostWrite)
		if sum.FlowEnds != c.Received.FlowEnds {
			return fmt.Errorf("sink %s: %d flow ends received, %d accounted for", s.Name, c.Received.FlowEnds, sum.FlowEnds)
		}
		for category, received := range c.Received.Decisions {
			if sum.Decisions[category] != received {
				return fmt.Errorf("sink %s: %d decisions of category %q received, %d accounted for", s.Name, received, category, sum.Decisions[category])
			}
		}
		if !maps.Equal(sum.Decisions, c.Received.Decisions) {
			return fmt.Errorf("sink %s: accounts for categories that were never received", s.Name)
		}
	}
	return nil
}

func sum(tallies ...Tally) Tally {
	out := Tally{Decisions: make(map[policy.Category]uint64)}
	for _, t := range tallies {
		for category, n := range t.Decisions {
			out.Decisions[category] += n
		}
		out.FlowEnds += t.FlowEnds
	}
	return out
}

// maxCategories is the room a tally has. There are 14 categories; any beyond
// the room are counted together as "".
const maxCategories = 32

// categories numbers the categories in the order they are met. Number 0 is "".
type categories struct {
	names []policy.Category
}

func (c *categories) number(name policy.Category) uint8 {
	for i, known := range c.names {
		if known == name {
			return uint8(i)
		}
	}
	if len(c.names) == 0 {
		c.names = append(c.names, "")
		return c.number(name)
	}
	if len(c.names) == maxCategories {
		return 0
	}
	c.names = append(c.names, name)
	return uint8(len(c.names) - 1)
}

// tally is a Tally that costs no allocation.
type tally struct {
	decisions [maxCategories]uint64
	flowEnds  uint64
}

// entry is what one event puts into the books.
type entry struct {
	count    uint64
	category uint8
	flowEnd  bool
}

func entryOf(e *datapath.Event, c *categories) entry {
	return entry{
		// An event is at least one decision, whatever it says.
		count:    max(e.Count, 1),
		category: c.number(e.Category),
		flowEnd:  e.Kind == datapath.FlowEnd,
	}
}

func (t *tally) enter(e entry) {
	if e.flowEnd {
		t.flowEnds++
	} else {
		t.decisions[e.category] += e.count
	}
}

func (t *tally) add(o *tally) {
	for i, n := range o.decisions {
		t.decisions[i] += n
	}
	t.flowEnds += o.flowEnds
}

// subtract takes away what was added before.
func (t *tally) subtract(o *tally) {
	for i, n := range o.decisions {
		t.decisions[i] -= n
	}
	t.flowEnds -= o.flowEnds
}

// public names the categories; one is shown once it has occurred anywhere.
func (t *tally) public(c *categories) Tally {
	out := Tally{Decisions: make(map[policy.Category]uint64), FlowEnds: t.flowEnds}
	for i, name := range c.names {
		if n := t.decisions[i]; n != 0 {
			out.Decisions[name] = n
		}
	}
	return out
}
