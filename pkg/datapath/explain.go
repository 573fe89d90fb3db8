package datapath

import (
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/perimeterd/perimeterd/pkg/policy"
)

// Answer is what the live programs would decide about a frame, if it were the
// first of its flow.
type Answer struct {
	Verdict, WouldBe            policy.Verdict
	Reason                      policy.Reason
	Category                    policy.Category // "" where none applies
	Direction                   policy.Direction
	Generation, Member, Outcome uint32
}

// Explain runs the live parser and judge on the live policy with an Ethernet
// frame that is towards a member, or from one. Nothing is counted, entered or
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
	packed := out.CB[3]
	return Answer{
		Outcome:    out.CB[0],
		Member:     out.CB[1],
		Generation: out.CB[2],
		Reason:     d.words.reason(uint8(packed)),
		Category:   d.words.category(uint8(packed >> 8)),
		Verdict:    policy.Verdict(packed >> 16 & 1),
		WouldBe:    policy.Verdict(packed >> 24 & 1),
		Direction:  policy.Direction(out.CB[4] & 1),
	}, nil
}
