package datapath

import (
	"fmt"

	"github.com/perimeterd/perimeterd/pkg/policy"
)

// Counters are the kernel's counters since the data path was first loaded. They
// outlive the agent.
type Counters struct {
	// Packets by reason, every packet once.
	Packets map[policy.Reason]PacketCount
	// Decisions by category.
	Decisions map[policy.Category]DecisionCount
}

// PacketCount counts packets and their L3 bytes.
type PacketCount struct{ Packets, Bytes uint64 }

// DecisionCount is one category's books: Decided = Submitted + Folded + Lost.
type DecisionCount struct {
	Decided   uint64 // flows begun, packets denied, flows cut
	Submitted uint64 // handed to user space as events
	Folded    uint64 // counted as repetitions, to be drained
	Crowded   uint64 // of Folded, those whose peers were not told apart
	Lost      uint64 // refused by a full ring
	// Ends of flows are no decisions, and counted apart.
	EndsSubmitted, EndsLost uint64
}

// Counters reads the counters of all CPUs. Counting goes on meanwhile, so sums
// agree to the unit only while nothing is decided.
func (d *Datapath) Counters() (Counters, error) {
	c := Counters{Packets: map[policy.Reason]PacketCount{}, Decisions: map[policy.Category]DecisionCount{}}
	var packets []perimeterPacketCount
	for number, reason := range d.words.reasons {
		if err := d.objects.PacketCounts.Lookup(uint32(number), &packets); err != nil {
			return c, fmt.Errorf("read the packet counters: %w", err)
		}
		var sum PacketCount
		for _, p := range packets {
			sum.Packets += p.Packets
			sum.Bytes += p.Bytes
		}
		c.Packets[reason] = sum
	}
	var decisions []perimeterDecisionCount
	for number, category := range d.words.categories {
		if err := d.objects.DecisionCounts.Lookup(uint32(number), &decisions); err != nil {
			return c, fmt.Errorf("read the decision counters: %w", err)
		}
		var sum DecisionCount
		for _, v := range decisions {
			sum.Decided += v.Decided
			sum.Submitted += v.Submitted
			sum.Folded += v.Folded
			sum.Crowded += v.Crowded
			sum.Lost += v.Lost
			sum.EndsSubmitted += v.EndsSubmitted
			sum.EndsLost += v.EndsLost
		}
		c.Decisions[category] = sum
	}
	delete(c.Packets, d.words.reasons[0])
	delete(c.Decisions, "")
	return c, nil
}
