package deployment

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/perimeterd/perimeterd/pkg/api"
	"github.com/perimeterd/perimeterd/pkg/decisionlog"
	"github.com/perimeterd/perimeterd/tests/world"
)

// Options of a Deployment.
type Options struct {
	Binaries Binaries    // required
	Host     *world.Host // required
	// Policy is a policy directory of another deployment, to share it. Optional,
	// defaults to one of its own.
	Policy string
	// Settings are lines for the settings file, besides the places of things and
	// the log. Optional.
	Settings string
	// File are keys of the log's file, such as "maxMegabytes: 1". Optional.
	File string
}

// Deployment is perimeterd on one host. What its agent says is kept over
// restarts.
type Deployment struct {
	Policy string // directory
	// Settings is the path of the settings file.
	Settings string
	// DecisionFile is where decisions are written, besides standard output.
	DecisionFile string

	Messages *History[string]              // what the agent says to its operator
	Records  *History[*decisionlog.Record] // what it decides

	options   Options
	directory string
	agent     *process // nil unless it runs
}

// New writes what an agent needs. The caller must close the Deployment.
func New(o Options) (*Deployment, error) {
	directory, err := os.MkdirTemp("", "perimeterd-")
	if err != nil {
		return nil, err
	}
	d := &Deployment{
		Policy:       o.Policy,
		Settings:     filepath.Join(directory, "perimeterd.yaml"),
		DecisionFile: filepath.Join(directory, "log", "decisions.json"),
		Messages:     newHistory[string](),
		Records:      newHistory[*decisionlog.Record](),
		options:      o,
		directory:    directory,
	}
	if err := d.write(); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

func (d *Deployment) write() error {
	if d.Policy == "" {
		d.Policy = filepath.Join(d.directory, "policy")
		if err := os.Mkdir(d.Policy, 0o755); err != nil {
			return err
		}
	}
	settings := fmt.Sprintf(`policy: %[1]s
stateDirectory: %[2]s/state
runDirectory: %[2]s/run
pinDirectory: %[2]s/bpf/perimeterd
log:
  - {to: stdout, format: nsp}
  - {to: %[3]s, format: nsp, %[4]s}
%[5]s`, d.Policy, d.directory, d.DecisionFile, d.options.File, d.options.Settings)
	return os.WriteFile(d.Settings, []byte(settings), 0o600)
}

// Close kills the agent if it runs and removes everything: unmounting the BPF
// file system lets go of all that is pinned, and so ends enforcement.
func (d *Deployment) Close() error {
	d.Kill()
	// The agent mounts it when it starts; there is none before.
	err := unix.Unmount(filepath.Join(d.directory, "bpf"), unix.MNT_DETACH)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("unmount the BPF file system of %s: %w", d.directory, err)
	}
	return os.RemoveAll(d.directory)
}

// Client asks the agent.
func (d *Deployment) Client() *api.Client {
	return api.NewClient(filepath.Join(d.directory, "run", "api.sock"))
}

// WritePolicy writes one file of the policy, in one step.
func (d *Deployment) WritePolicy(name, text string) error {
	// Written elsewhere, so that whoever watches sees a single event.
	made := filepath.Join(d.directory, "policy-file")
	if err := os.WriteFile(made, []byte(text), 0o644); err != nil {
		return err
	}
	return os.Rename(made, filepath.Join(d.Policy, name))
}

// Apply writes one file of the policy and returns when the agent has put the
// policy in force, or with what the agent says against it.
func (d *Deployment) Apply(ctx context.Context, name, text string) error {
	before := d.Messages.Len()
	if err := d.WritePolicy(name, text); err != nil {
		return err
	}
	return d.AwaitInForce(ctx, before)
}

// AwaitInForce returns when the agent says, after so many messages, that a
// policy is in force, or with what it says against one.
func (d *Deployment) AwaitInForce(ctx context.Context, after int) error {
	said, err := d.Messages.Await(ctx, after, func(m string) bool {
		return strings.Contains(m, " is in force") || strings.Contains(m, "is not put in force")
	})
	if err != nil {
		return fmt.Errorf("wait for the policy to be in force: %w; the agent said: %s", err, strings.Join(d.Messages.After(after), "\n"))
	}
	if strings.Contains(said, "is not put in force") {
		return errors.New(said)
	}
	return nil
}
