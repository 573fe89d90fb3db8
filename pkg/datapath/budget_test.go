package datapath

import (
	"errors"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"golang.org/x/sys/unix"

	"github.com/perimeterd/perimeterd/tests/kernels/verified"
)

// verifiedMax is the budget of instructions the verifier may process for one
// program: far below the kernel's million, so that no kernel we support comes
// near it, and noticed when a change costs much.
const verifiedMax = 60_000

// processed is how the verifier says it in its log, in every kernel; the
// program's info tells only from Linux 5.16 on.
var processed = regexp.MustCompile(`processed (\d+) insns`)

// TestVerifierBudget prints what each program costs the verifier, and how that
// compares with the committed table.
func TestVerifierBudget(t *testing.T) {
	objects := []object{{"perimeter", loadPerimeter}, {"xdp", loadXdp}, {"replay", loadReplay}, {"dns", loadDns}, {"answer", loadAnswer}}
	compiled, err := filepath.Glob("*_bpfel.o") // none, where only the test binary is
	if err != nil || len(compiled) != 0 && len(compiled) != len(objects) {
		t.Fatalf("there are %v (%v), and this test knows of %d objects", compiled, err, len(objects))
	}
	kernel, err := verified.Running()
	if err != nil {
		t.Fatal(err)
	}
	table, err := verified.ReadFile("testdata/verified.tsv")
	if err != nil {
		t.Fatal(err)
	}
	settings := loadedSettings(t)
	if errors.Is(features.HaveProgramHelper(ebpf.SchedCLS, asm.FnLoop), ebpf.ErrNotSupported) {
		objects = slices.DeleteFunc(objects, func(o object) bool { return o.name == "answer" }) // needs Linux 5.17
	}
	for _, o := range objects {
		logs := verifierLogs(t, o.load, settings)
		for _, name := range slices.Sorted(maps.Keys(logs)) {
			log := logs[name]
			said := processed.FindStringSubmatch(log)
			if said == nil {
				t.Errorf("%s: the verifier's log does not tell what was processed: %q", name, log)
				continue
			}
			count, err := strconv.Atoi(said[1])
			if err != nil {
				t.Fatal(err)
			}
			t.Log(table.Change(kernel, name, count))
			t.Attr(verified.Attribute(name), said[1])
			if count > verifiedMax {
				t.Errorf("%s: %d instructions verified, more than %d", name, count, verifiedMax)
			}
		}
	}
}

// object is a compiled one.
type object struct {
	name string
	load func() (*ebpf.CollectionSpec, error)
}

// loadedSettings are what Open gives the programs: what they turn into dead code
// is not verified.
func loadedSettings(t *testing.T) perimeterLoadSettings {
	t.Helper()
	var settings perimeterLoadSettings
	if err := newRig(t, Options{}).objects.Settings.Get(&settings); err != nil {
		t.Fatal(err)
	}
	return settings
}

// verifierLogs loads an object, on maps of its own, and returns what the verifier
// says of its programs.
func verifierLogs(t *testing.T, load func() (*ebpf.CollectionSpec, error), settings perimeterLoadSettings) map[string]string {
	t.Helper()
	spec, err := load()
	if err != nil {
		t.Fatal(err)
	}
	for _, program := range spec.Programs {
		if program.Type == ebpf.XDP && features.HaveProgramHelper(ebpf.XDP, asm.FnXdpGetBuffLen) == nil {
			settings.XdpFramesInParts = 1 // as loadXDP does
			program.Flags |= unix.BPF_F_XDP_HAS_FRAGS
		}
	}
	if err := spec.Variables["settings"].Set(settings); err != nil {
		t.Fatal(err)
	}
	collection, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{Programs: ebpf.ProgramOptions{LogLevel: ebpf.LogLevelStats}})
	if err != nil {
		t.Fatalf("%+v", err)
	}
	defer collection.Close()
	logs := map[string]string{}
	for name, program := range collection.Programs {
		logs[name] = program.VerifierLog
	}
	return logs
}
