package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/exec"
	ossignal "os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/perimeterd/perimeterd/pkg/api"
	"github.com/perimeterd/perimeterd/pkg/decisionlog"
	"github.com/perimeterd/perimeterd/tests/privileged"
	"github.com/perimeterd/perimeterd/tests/world"
)

// agentVariable has the test binary be an agent, with the settings file it
// names: an agent must be a process of its own, since all its threads have to be
// in the host's namespace, and since it is to be killed.
const agentVariable = "PERIMETERD_TEST_AGENT_SETTINGS"

func TestMain(m *testing.M) {
	if settings := os.Getenv(agentVariable); settings != "" {
		if err := beAgent(settings); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func beAgent(path string) error {
	settings, err := LoadSettings(path)
	if err != nil {
		return err
	}
	// The policy's path is the test's own; that nobody wrote it is not.
	settings.PolicyOptional = true
	ctx, stop := ossignal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	reload := make(chan os.Signal, 1)
	ossignal.Notify(reload, syscall.SIGHUP)
	a, err := New(Options{
		Settings: settings, Version: "test", Hostname: "db",
		Stdout: os.Stdout, Logger: log.New(os.Stderr, "", 0), NotifySocket: os.Getenv("NOTIFY_SOCKET"),
		Reload: reload,
	})
	if err != nil {
		return err
	}
	return a.Run(ctx)
}

// patience bounds every wait; it is met only on a failure.
const patience = 20 * time.Second

// bench is a host with an agent's files, and the agent while it runs.
type bench struct {
	t        *testing.T
	host     *world.Host
	dir      string
	settings *Settings
	process  *process
}

// process is one run of the agent.
type process struct {
	cmd     *exec.Cmd
	logs    chan string
	records chan decisionlog.Record
	seen    []decisionlog.Record // and not waited for: flows and denials have no common order
	ended   chan error
}

// newBench writes the settings; more are further lines of them.
func newBench(t *testing.T, host *world.Host, more ...string) *bench {
	t.Helper()
	b := &bench{t: t, host: host, dir: t.TempDir()}
	text := fmt.Sprintf("policy: %s/policy\nstateDirectory: %s/state\nrunDirectory: %s/run\npinDirectory: %s/perimeterd\nfailsafe: []\ndenialWindow: 1s\n",
		b.dir, b.dir, b.dir, privileged.BPFFS(t)) + strings.Join(more, "")
	path := filepath.Join(b.dir, "perimeterd.yaml")
	b.write(path, text)
	var err error
	if b.settings, err = LoadSettings(path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if b.process != nil {
			b.kill()
		}
	})
	return b
}

func (b *bench) write(path, text string) {
	b.t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		b.t.Fatal(err)
	}
}

// start starts the agent and returns when it says that it is ready.
func (b *bench) start() {
	b.t.Helper()
	socket := filepath.Join(b.dir, "notify")
	_ = os.Remove(socket) // of an earlier start
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		b.t.Fatal(err)
	}
	defer notify.Close()
	self, err := os.Executable()
	if err != nil {
		b.t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), agentVariable+"="+b.settings.File, "NOTIFY_SOCKET="+socket)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		b.t.Fatal(err)
	}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		b.t.Fatal(err)
	}
	if err := b.host.Start(cmd); err != nil {
		b.t.Fatal(err)
	}
	p := &process{cmd: cmd, logs: make(chan string, 1000), records: make(chan decisionlog.Record, 100000), ended: make(chan error, 1)}
	b.process = p
	read := make(chan struct{}, 2)
	go func() { p.readRecords(stdout); read <- struct{}{} }()
	go func() { p.readLogs(stderr); read <- struct{}{} }()
	go func() {
		<-read
		<-read
		p.ended <- cmd.Wait()
	}()
	message := make([]byte, 100)
	if err := notify.SetDeadline(time.Now().Add(patience)); err != nil {
		b.t.Fatal(err)
	}
	n, err := notify.Read(message)
	if err != nil || string(message[:n]) != "READY=1" {
		b.t.Fatalf("the agent is not ready: %q, %v\n%s", message[:n], err, p.told())
	}
}

func (p *process) readRecords(r io.Reader) {
	defer close(p.records)
	for lines := bufio.NewScanner(r); lines.Scan(); {
		var record decisionlog.Record
		if err := json.Unmarshal(lines.Bytes(), &record); err != nil {
			p.logs <- "not a record: " + lines.Text()
			continue
		}
		p.records <- record
	}
}

func (p *process) readLogs(r io.Reader) {
	defer close(p.logs)
	for lines := bufio.NewScanner(r); lines.Scan(); {
		p.logs <- lines.Text()
	}
}

// told returns what the agent has said and nobody has waited for.
func (p *process) told() string {
	var out []string
	for {
		select {
		case line, ok := <-p.logs:
			if !ok {
				return strings.Join(out, "\n")
			}
			out = append(out, line)
		default:
			return strings.Join(out, "\n")
		}
	}
}

// awaitLog returns when the agent has said something.
func (b *bench) awaitLog(part string) {
	b.t.Helper()
	deadline := time.After(patience)
	var others []string
	for {
		select {
		case line, ok := <-b.process.logs:
			if !ok {
				b.t.Fatalf("the agent ended without saying %q, but:\n%s", part, strings.Join(others, "\n"))
			}
			if strings.Contains(line, part) {
				return
			}
			others = append(others, line)
		case <-deadline:
			b.t.Fatalf("the agent does not say %q, but:\n%s", part, strings.Join(others, "\n"))
		}
	}
}

// awaitRecord returns the first record that is wanted and was not returned yet.
func (b *bench) awaitRecord(what string, wanted func(*decisionlog.Record) bool) decisionlog.Record {
	b.t.Helper()
	p := b.process
	for i := range p.seen {
		if r := p.seen[i]; wanted(&r) {
			p.seen = slices.Delete(p.seen, i, i+1)
			return r
		}
	}
	deadline := time.After(patience)
	for {
		select {
		case r, ok := <-p.records:
			if !ok {
				b.t.Fatalf("the agent ended without a record of %s", what)
			}
			if wanted(&r) {
				return r
			}
			p.seen = append(p.seen, r)
		case <-deadline:
			var others []byte
			for i := range p.seen {
				others = append(p.seen[i].AppendLine(others, decisionlog.LineStyle{}), '\n')
			}
			b.t.Fatalf("no record of %s, but:\n%s", what, others)
		}
	}
}

// allRecords returns all records that nobody has waited for, once the agent has
// ended.
func (p *process) allRecords() []decisionlog.Record {
	all := p.seen
	for r := range p.records {
		all = append(all, r)
	}
	return all
}

// await returns once something the agent does by itself is so.
func (b *bench) await(what string, so func() bool) {
	b.t.Helper()
	deadline := time.After(patience)
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for !so() {
		select {
		case <-again.C:
		case <-deadline:
			b.t.Fatalf("%s: not so after %s; status: %+v", what, patience, b.status())
		}
	}
}

// stop ends the agent as a service manager does.
func (b *bench) stop() {
	b.t.Helper()
	p := b.process
	b.process = nil
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		b.t.Fatal(err)
	}
	select {
	case err := <-p.ended:
		if err != nil {
			b.t.Fatalf("the agent did not end well: %v\n%s", err, p.told())
		}
	case <-time.After(patience):
		b.t.Fatal("the agent does not end")
	}
}

// kill ends it as nobody should.
func (b *bench) kill() {
	p := b.process
	b.process = nil
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.ended
}

func (b *bench) client() *api.Client { return api.NewClient(b.settings.Socket()) }

func (b *bench) status() *api.Status {
	b.t.Helper()
	status, err := b.client().Status(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	return status
}
