package deployment

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"time"
)

// waitDelay is how long a command has to end after its context did.
const waitDelay = 5 * time.Second

// Result is how a command ended.
type Result struct {
	Stdout, Stderr string
	Code           int
}

// Ctl runs perimeterctl on the host, with the deployment's settings, and waits
// for it. Its error says that there is no Result.
func (d *Deployment) Ctl(ctx context.Context, args ...string) (Result, error) {
	cmd := exec.CommandContext(ctx, d.options.Binaries.Command, append(args, "--settings", d.Settings)...)
	cmd.WaitDelay = waitDelay
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := d.options.Host.Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || ctx.Err() != nil) {
		return Result{}, errors.Join(err, ctx.Err())
	}
	return Result{Stdout: stdout.String(), Stderr: stderr.String(), Code: cmd.ProcessState.ExitCode()}, nil
}

// Running is a command that goes on until it is interrupted.
type Running struct {
	Lines  *History[string] // of its standard output
	Errors *History[string]

	process *process
}

// Follow starts perimeterctl on the host, with the deployment's settings. The
// caller must stop it.
func (d *Deployment) Follow(args ...string) (*Running, error) {
	r := &Running{Lines: newHistory[string](), Errors: newHistory[string]()}
	cmd := exec.Command(d.options.Binaries.Command, append(args, "--settings", d.Settings)...)
	var err error
	if r.process, err = start(d.options.Host, cmd, r.Lines.add, r.Errors.add); err != nil {
		return nil, err
	}
	return r, nil
}

// Ended is closed when the command has ended.
func (r *Running) Ended() <-chan struct{} { return r.process.ended }

// Stop interrupts the command, unless it has ended, and returns its exit code.
func (r *Running) Stop() int {
	_ = r.process.cmd.Process.Signal(os.Interrupt) // fails only if it has ended
	<-r.process.ended
	return r.process.cmd.ProcessState.ExitCode()
}
