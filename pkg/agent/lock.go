package agent

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// ErrLocked means that another agent uses the state directory.
var ErrLocked = errors.New("another perimeterd is running with this state directory")

// lockState takes the state directory for this process. The kernel gives the
// lock back when the process ends, however it ends.
func lockState(s *Settings) (*os.File, error) {
	if err := os.MkdirAll(s.StateDirectory, 0o700); err != nil {
		return nil, fmt.Errorf("make the state directory: %w", err)
	}
	f, err := os.OpenFile(s.lockFile(), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the state directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrLocked
		}
		return nil, errors.Join(fmt.Errorf("lock %s: %w", s.lockFile(), err), f.Close())
	}
	return f, nil
}
