// Package deployment runs perimeterd on a host of a test world as an operator
// does: the real binaries, each a process of its own, with settings, a policy,
// state and a BPF file system that nobody else uses.
package deployment

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Binaries are the paths of what Build built.
type Binaries struct{ Agent, Command string }

// Build builds perimeterd and perimeterctl into a directory. The module must be
// the one the working directory is in.
func Build(ctx context.Context, directory string) (Binaries, error) {
	// Without the commit: git refuses root the checkout of somebody else.
	cmd := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-o", directory+"/", "github.com/perimeterd/perimeterd/cmd/...")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return Binaries{}, fmt.Errorf("build the binaries: %w\n%s", err, strings.TrimSpace(string(out)))
	}
	return Binaries{Agent: filepath.Join(directory, "perimeterd"), Command: filepath.Join(directory, "perimeterctl")}, nil
}
