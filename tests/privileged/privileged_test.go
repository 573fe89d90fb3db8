package privileged

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

func TestMissingRightSkipsOnlyWhereNobodyReliesOnTheTest(t *testing.T) {
	absent := errors.New("no BPF here")
	for _, test := range []struct {
		name        string
		missing     error
		environment map[string]string
		want        string
	}{
		{"nothing missing", nil, nil, "runs"},
		{"nothing missing, CI", nil, map[string]string{"CI": "true"}, "runs"},
		{"developer", absent, nil, "skipped"},
		{"developer, other values", absent, map[string]string{"CI": "false", Variable: "no"}, "skipped"},
		{"CI", absent, map[string]string{"CI": "true"}, "failed"},
		{"developer, a word like it", absent, map[string]string{Variable: "unprivileged,all-devices"}, "skipped"},
		{"privileged run", absent, map[string]string{Variable: "privileged"}, "failed"},
		{"privileged run of more", absent, map[string]string{Variable: "all-devices,privileged"}, "failed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			tb := &recorder{TB: t, outcome: "runs"}
			require(tb, test.missing, func(name string) string { return test.environment[name] })
			if tb.outcome != test.want {
				t.Errorf("the test %s, want %s", tb.outcome, test.want)
			}
		})
	}
}

// recorder notes how a test would have ended.
type recorder struct {
	testing.TB
	outcome string
}

func (r *recorder) Fatalf(string, ...any) { r.outcome = "failed" }
func (r *recorder) Skipf(string, ...any)  { r.outcome = "skipped" }

func TestMissingNamesTheRight(t *testing.T) {
	Require(t)
	missed := make(chan error)
	go func() {
		// Only this thread loses its rights, and it ends with the goroutine.
		runtime.LockOSThread()
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&header, &none[0]); err != nil {
			missed <- err
			return
		}
		missed <- programs()
	}()
	if err := <-missed; !errors.Is(err, unix.EPERM) {
		t.Errorf("without capabilities: %v, want %v", err, unix.EPERM)
	}
	if err := missing(); err != nil {
		t.Errorf("with all rights: %v", err)
	}
}

func TestBPFFSLivesAsLongAsItsTest(t *testing.T) {
	Require(t)
	var directory string
	t.Run("pins", func(t *testing.T) {
		directory = BPFFS(t)
		m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		if err := m.Pin(filepath.Join(directory, "map")); err != nil {
			t.Error(err)
		}
		if other := BPFFS(t); other == directory {
			t.Error("two file systems of one test share a directory")
		}
	})
	if _, err := os.Stat(directory); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s after the test: %v, want it gone", directory, err)
	}
}
