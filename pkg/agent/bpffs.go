package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// mountBPFFS makes sure that a pin directory is in a BPF file system: where it
// is not, one is mounted on the directory above it, as systemd does at boot for
// /sys/fs/bpf. In a container that directory must come from the host. Nothing is
// mounted over a directory with something in it; whoever opens the pin directory
// then says what is wrong with it.
func mountBPFFS(pins string) error {
	parent := filepath.Dir(pins)
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return fmt.Errorf("make the directory for a BPF file system: %w", err)
	}
	var stat unix.Statfs_t
	if err := unix.Statfs(parent, &stat); err != nil {
		return fmt.Errorf("look at %s: %w", parent, err)
	}
	if stat.Type == unix.BPF_FS_MAGIC {
		return nil
	}
	inside, err := os.ReadDir(parent)
	if err != nil {
		return fmt.Errorf("look into %s: %w", parent, err)
	}
	if len(inside) > 0 {
		return nil
	}
	if err := unix.Mount("bpf", parent, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil && !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("mount a BPF file system on %s: %w", parent, err)
	}
	return nil
}
