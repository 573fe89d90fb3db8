package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/perimeterd/perimeterd/pkg/api"
	"github.com/perimeterd/perimeterd/pkg/atomicfile"
	"github.com/perimeterd/perimeterd/pkg/datapath"
)

// DisableDirectly removes enforcement without the agent: first the marker, so
// that an agent that starts meanwhile finds it, then what is pinned. It is for
// when no agent answers, whether or not there is one.
func DisableDirectly(s *Settings) (*api.Switched, error) {
	disabled, err := isDisabled(s)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(s.StateDirectory, 0o700); err != nil {
		return nil, fmt.Errorf("make the state directory: %w", err)
	}
	if err := atomicfile.Write(s.disabledMarker(), []byte(markerText), 0o600); err != nil {
		return nil, fmt.Errorf("note that enforcement is disabled: %w", err)
	}
	if err := datapath.Remove(s.PinDirectory); err != nil {
		return nil, fmt.Errorf("disable: %w", err)
	}
	return &api.Switched{State: api.Disabled, Changed: !disabled}, nil
}

// EnableDirectly has the next agent put its policy in force.
func EnableDirectly(s *Settings) (*api.Switched, error) {
	disabled, err := isDisabled(s)
	if err != nil {
		return nil, err
	}
	if disabled {
		if err := atomicfile.Remove(s.disabledMarker()); err != nil {
			return nil, fmt.Errorf("forget that enforcement was disabled: %w", err)
		}
	}
	return &api.Switched{Changed: disabled}, nil
}

func isDisabled(s *Settings) (bool, error) {
	_, err := os.Lstat(s.disabledMarker())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("look whether enforcement is disabled: %w", err)
	}
	return err == nil, nil
}
