package bed

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// BPFFS mounts a BPF file system of its own, and returns where and what removes it
// with all that is pinned there.
func BPFFS() (directory string, remove func() error, err error) {
	directory, err = os.MkdirTemp("", "perimeterd-bench-")
	if err != nil {
		return "", nil, err
	}
	if err := unix.Mount("bpffs", directory, "bpf", 0, "mode=0700"); err != nil {
		return "", nil, errors.Join(fmt.Errorf("mount a BPF file system on %s (root is needed): %w", directory, err), os.Remove(directory))
	}
	return directory, func() error {
		if err := unix.Unmount(directory, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", directory, err)
		}
		return os.Remove(directory)
	}, nil
}
