package agent

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/perimeterd/perimeterd/tests/privileged"
)

func TestMountBPFFS(t *testing.T) {
	privileged.Require(t)
	isBPF := func(path string) bool {
		var stat unix.Statfs_t
		if err := unix.Statfs(path, &stat); err != nil {
			t.Fatal(err)
		}
		return stat.Type == unix.BPF_FS_MAGIC
	}

	parent := filepath.Join(t.TempDir(), "bpf")
	for range 2 { // the second time it is there
		if err := mountBPFFS(filepath.Join(parent, "perimeterd")); err != nil {
			t.Fatal(err)
		}
		if !isBPF(parent) {
			t.Fatalf("%s is no BPF file system", parent)
		}
	}
	if err := unix.Unmount(parent, 0); err != nil { // EBUSY or EINVAL if it was not mounted just once
		t.Fatal(err)
	}
	if isBPF(parent) {
		t.Error("it was mounted twice")
	}

	if err := os.WriteFile(filepath.Join(parent, "precious"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := mountBPFFS(filepath.Join(parent, "perimeterd")); err != nil {
		t.Fatal(err)
	}
	if isBPF(parent) {
		t.Error("it was mounted over somebody's files")
	}
}
