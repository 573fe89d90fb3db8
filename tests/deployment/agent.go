package deployment

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/perimeterd/perimeterd/pkg/decisionlog"
	"github.com/perimeterd/perimeterd/tests/world"
)

var errNotRunning = errors.New("the agent does not run")

// Start starts the agent and returns when it says that it is ready.
func (d *Deployment) Start(ctx context.Context) error {
	// The agent tells as it tells a service manager.
	path := filepath.Join(d.directory, "notify")
	if err := os.RemoveAll(path); err != nil { // of an earlier start
		return err
	}
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer socket.Close() // nothing is written to it
	before := d.Messages.Len()
	cmd := exec.Command(d.options.Binaries.Agent, "--settings", d.Settings)
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+path)
	if d.agent, err = start(d.options.Host, cmd, d.hear, d.Messages.add); err != nil {
		return fmt.Errorf("start the agent: %w", err)
	}
	ready := make(chan error, 1)
	go func() {
		message := make([]byte, 64)
		n, err := socket.Read(message)
		if err == nil && string(message[:n]) != "READY=1" {
			err = fmt.Errorf("it notifies %q", message[:n])
		}
		ready <- err
	}()
	select {
	case err = <-ready:
	case <-d.agent.ended:
		err = fmt.Errorf("it ended: %w", d.agent.err)
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		d.Kill()
		return fmt.Errorf("start the agent: %w\n%s", err, strings.Join(d.Messages.After(before), "\n"))
	}
	return nil
}

// hear takes a line of the agent's standard output.
func (d *Deployment) hear(line string) {
	record := new(decisionlog.Record)
	if err := json.Unmarshal([]byte(line), record); err != nil {
		d.Messages.add("not a record: " + line)
		return
	}
	d.Records.add(record)
}

// Kill ends the agent as nobody should, and returns when it is gone. It may not
// run.
func (d *Deployment) Kill() {
	if d.agent == nil {
		return
	}
	_ = d.agent.cmd.Process.Kill() // fails only if it has ended
	<-d.agent.ended
	d.agent = nil
}

// Stop ends the agent as a service manager does, and returns an error unless it
// ends well before ctx does.
func (d *Deployment) Stop(ctx context.Context) error {
	if err := d.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-d.agent.ended:
	case <-ctx.Done():
		return fmt.Errorf("stop the agent: %w", ctx.Err())
	}
	err := d.agent.err
	d.agent = nil
	return err
}

// Signal sends the agent a signal.
func (d *Deployment) Signal(s os.Signal) error {
	if d.agent == nil {
		return errNotRunning
	}
	return d.agent.cmd.Process.Signal(s)
}

// process is a program that runs on a host.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{}
	err   error // of cmd.Wait; to be read once ended is closed
}

// start starts a program on a host and has each line of its output heard.
func start(host *world.Host, cmd *exec.Cmd, out, err func(line string)) (*process, error) {
	// Control-C at a terminal is for the one who started us, who tells us.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdout, pipeErr := cmd.StdoutPipe()
	if pipeErr != nil {
		return nil, pipeErr
	}
	stderr, pipeErr := cmd.StderrPipe()
	if pipeErr != nil {
		return nil, pipeErr
	}
	if err := host.Start(cmd); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, ended: make(chan struct{})}
	read := make(chan struct{})
	go func() {
		defer close(read)
		eachLine(stderr, err)
	}()
	go func() {
		defer close(p.ended)
		eachLine(stdout, out)
		<-read
		p.err = cmd.Wait()
	}()
	return p, nil
}

// lineMax is more than a record can have.
const lineMax = 1 << 20

func eachLine(r io.Reader, hear func(string)) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, lineMax)
	for lines.Scan() {
		hear(lines.Text())
	}
	if err := lines.Err(); err != nil && !errors.Is(err, os.ErrClosed) {
		hear(fmt.Sprintf("its output cannot be read: %v", err))
		_, _ = io.Copy(io.Discard, r) // so that it is not held up
	}
}
