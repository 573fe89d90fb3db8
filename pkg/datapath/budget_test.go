package datapath

import (
	"testing"

	"github.com/cilium/ebpf"
)

// verifiedMax is the budget of instructions the verifier may process for one
// program: far below the kernel's million, so that no kernel we support comes
// near it, and noticed when a change costs much.
const verifiedMax = 60_000

// TestVerifierBudget prints what each program costs the verifier.
func TestVerifierBudget(t *testing.T) {
	r := newRig(t, Options{})
	p := &r.objects.perimeterPrograms
	for _, program := range []*ebpf.Program{p.Towards, p.From, p.TowardsL3, p.FromL3, p.ExplainTowards, p.ExplainFrom} {
		info, err := program.Info()
		if err != nil {
			t.Fatal(err)
		}
		verified, ok := info.VerifiedInstructions()
		if !ok {
			t.Logf("%s: this kernel does not tell (Linux 5.16 does)", info.Name)
			continue
		}
		jited, err := info.JitedSize()
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d instructions verified, %d bytes of machine code", info.Name, verified, jited)
		if verified > verifiedMax {
			t.Errorf("%s: %d instructions verified, more than %d", info.Name, verified, verifiedMax)
		}
	}
}
