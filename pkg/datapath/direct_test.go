package datapath

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// TestFlowLookupsAreDirect looks for lookups of flows that the compiler made for
// several maps: the verifier makes no direct call of such a one, and each packet pays
// for it (see flow_map_done in bpf/flow.h). Such a lookup has something jump to it,
// or to between it and the load of its map.
func TestFlowLookupsAreDirect(t *testing.T) {
	tables := map[string]bool{"established4": true, "established6": true, "opening4": true, "opening6": true}
	for _, load := range []func() (*ebpf.CollectionSpec, error){loadPerimeter, loadXdp, loadDns} {
		spec, err := load()
		if err != nil {
			t.Fatal(err)
		}
		found := 0
		for name, program := range spec.Programs {
			targets := jumpTargets(program.Instructions)
			table, shared := "", false
			for i := program.Instructions.Iterate(); i.Next(); {
				if targets[i.Offset] {
					shared = true
				}
				if i.Ins.IsLoadFromMap() {
					table, shared = i.Ins.Reference(), false
				}
				if !i.Ins.IsBuiltinCall() || i.Ins.Constant != int64(asm.FnMapLookupElem) || !tables[table] {
					continue
				}
				if found++; shared {
					t.Errorf("%s: the lookup at %d is of %s and of another map", name, i.Offset, table)
				}
				table = ""
			}
		}
		if found == 0 {
			t.Error("there are no lookups of flows")
		}
	}
}

// jumpTargets is the places that instructions of a program jump to.
func jumpTargets(instructions asm.Instructions) map[asm.RawInstructionOffset]bool {
	targets := map[asm.RawInstructionOffset]bool{}
	for i := instructions.Iterate(); i.Next(); {
		op := i.Ins.OpCode
		if op.Class().IsJump() && op.JumpOp() != asm.Call && op.JumpOp() != asm.Exit {
			targets[asm.RawInstructionOffset(int64(i.Offset)+1+int64(i.Ins.Offset))] = true
		}
	}
	return targets
}
