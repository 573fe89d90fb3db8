// Package privileged is for tests that need root and BPF. It makes sure that
// they run where they must: a missing right skips a test on a developer's
// machine and fails it where the tests are the proof.
package privileged

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/rlimit"
	"github.com/perimeterd/perimeterd/tests/world"
	"golang.org/x/sys/unix"
)

// Variable is the environment variable that says of what the tests are the proof:
// words with commas between them. "privileged" makes a missing right a failure;
// CI=true does the same.
const Variable = "PERIMETERD_TESTS"

// AllDevices is the word that makes it a failure if the kernel lacks a kind of
// network device, or of socket, that has a test.
const AllDevices = "all-devices"

// Demanded reports whether Variable has the word.
func Demanded(word string) bool { return demanded(word, os.Getenv) }

func demanded(word string, getenv func(string) string) bool {
	return slices.Contains(strings.Split(getenv(Variable), ","), word)
}

// Require returns when this process may do what a privileged test does: be
// root, make network namespaces, load programs for TC. Otherwise it skips the
// test and says what is missing, or fails it where CI=true is set or
// PERIMETERD_TESTS says "privileged".
func Require(tb testing.TB) {
	tb.Helper()
	require(tb, missing(), os.Getenv)
}

// BPFFS returns a directory with a BPF file system of the test's own. It is
// unmounted at the test's end, which also releases what was pinned there.
func BPFFS(tb testing.TB) string {
	tb.Helper()
	directory := tb.TempDir()
	if err := unix.Mount("bpffs", directory, "bpf", 0, "mode=0700"); err != nil {
		tb.Fatalf("mount a BPF file system on %s: %v", directory, err)
	}
	tb.Cleanup(func() { // before the removal of TempDir, which was registered first
		// Lazily, since a failed test may have left a file of it open.
		if err := unix.Unmount(directory, unix.MNT_DETACH); err != nil {
			tb.Errorf("unmount the BPF file system %s: %v", directory, err)
		}
	})
	return directory
}

func require(tb testing.TB, missing error, getenv func(string) string) {
	tb.Helper()
	switch {
	case missing == nil:
	case getenv("CI") == "true" || demanded("privileged", getenv):
		tb.Fatalf("a privileged test cannot run here: %v", missing)
	default:
		tb.Skipf("a privileged test cannot run here: %v", missing)
	}
}

// missing returns what stands in the way, nil if nothing does. It does what
// the tests will do rather than guess from capabilities and versions.
func missing() error {
	if uid := os.Geteuid(); uid != 0 {
		return fmt.Errorf("the user id is %d, and root is needed", uid)
	}
	if err := namespaces(); err != nil {
		return fmt.Errorf("a network namespace cannot be set up (CAP_SYS_ADMIN and CAP_NET_ADMIN are needed): %w", err)
	}
	if err := rlimit.RemoveMemlock(); err != nil {
		return fmt.Errorf("the limit on locked memory cannot be lifted (CAP_SYS_RESOURCE is needed): %w", err)
	}
	if err := programs(); err != nil {
		return fmt.Errorf("BPF programs for TC cannot be loaded (CAP_BPF and CAP_NET_ADMIN are needed): %w", err)
	}
	return nil
}

func namespaces() error {
	return world.Build(func(w *world.World) error {
		w.Host("probe")
		return nil
	})
}

func programs() error {
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type:         ebpf.SchedCLS,
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
		License:      "Dual BSD/GPL",
	})
	if errors.Is(err, ebpf.ErrNotSupported) {
		return fmt.Errorf("the kernel has no BPF or no TC: %w", err)
	}
	if err != nil {
		return err
	}
	return program.Close()
}
