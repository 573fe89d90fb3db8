package datapath

import (
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/perimeterd/perimeterd/pkg/policy"
)

// Answer is what the programs decide about a frame, at one of its ends.
type Answer struct {
	Verdict, WouldBe            policy.Verdict
	Reason                      policy.Reason
	Category                    policy.Category // "" where none applies
	Direction                   policy.Direction
	Generation, Member, Outcome uint32
}

// Explain runs the live parser and judge on the live policy with an Ethernet
// frame that is towards a member, or from one, and answers what they would decide
// if it were the first of its flow. Nothing is counted, entered or
// reported. ifindex is the interface it would cross, 0 for none in particular.
func (d *Datapath) Explain(frame []byte, towards bool, ifindex uint32) (Answer, error) {
	program := d.objects.ExplainFrom
	if towards {
		program = d.objects.ExplainTowards
	}
	in, out := skbContext{Ifindex: ifindex}, skbContext{}
	if _, err := program.Run(&ebpf.RunOptions{Data: frame, Context: in, ContextOut: &out}); err != nil {
		return Answer{}, fmt.Errorf("run the program: %w", err)
	}
	return d.words.answer(out.CB), nil
}

// answer reads what a program told in skb->cb, see skb_answer in bpf/skb.h.
func (v *vocabulary) answer(cb [5]uint32) Answer {
	packed := cb[3]
	return Answer{
		Outcome:    cb[0],
		Member:     cb[1],
		Generation: cb[2],
		Reason:     v.reason(uint8(packed)),
		Category:   v.category(uint8(packed >> 8)),
		Verdict:    policy.Verdict(packed >> 16 & 1),
		WouldBe:    policy.Verdict(packed >> 24 & 1),
		Direction:  policy.Direction(cb[4] & 1),
	}
}
