package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/perimeterd/perimeterd/tests/kernels/verified"
)

// matrix is one run of this program.
type matrix struct {
	options  options
	dir      string // for what is made during the run
	cache    string // for what is fetched
	programs *programs
	table    verified.Table
	out      io.Writer
}

// programs are paths of what runs in the machines.
type programs struct{ init, test string }

// build compiles the programs, static, into a directory.
func build(ctx context.Context, dir string) (*programs, error) {
	p := &programs{filepath.Join(dir, "init"), filepath.Join(dir, "test")}
	for _, args := range [][]string{
		{"build", "-trimpath", "-ldflags", "-s -w", "-o", p.init, "./tests/kernels/init"},
		{"test", "-c", "-trimpath", "-ldflags", "-s -w", "-o", p.test, "./pkg/datapath"},
	} {
		c := exec.CommandContext(ctx, "go", args...)
		c.Env = append(os.Environ(), "CGO_ENABLED=0")
		if said, err := c.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("go %s: %w\n%s", args[0], err, said)
		}
	}
	return p, nil
}

// outcome is what came of one kernel.
type outcome struct {
	kernel  kernel
	release string
	series  verified.Series
	results *results
	absent  []string // modules
	tail    string   // of the console, if the machine did not come to its end
	err     error    // the machine's own
	elapsed time.Duration
}

// run runs the kernels, as many at a time as was asked for. It goes on past those
// that fail.
func (m *matrix) run(ctx context.Context) error {
	var mutex sync.Mutex // of what follows, and of out
	counts := verified.Table{}
	var bad, silent []string

	var group errgroup.Group
	group.SetLimit(m.options.jobs)
	for _, k := range m.options.kernels {
		group.Go(func() error {
			o, err := m.try(ctx, k)
			mutex.Lock()
			defer mutex.Unlock()
			if err != nil {
				fmt.Fprintf(m.out, "%s: %v\n", k.name, err)
				bad, silent = append(bad, k.name), append(silent, k.name)
				return nil
			}
			if !o.report(m.out, m.table) {
				bad = append(bad, k.name)
			}
			if len(o.results.counts) == 0 {
				silent = append(silent, k.name)
			}
			counts[o.series] = o.results.counts
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	var errs []error
	if len(bad) > 0 {
		errs = append(errs, fmt.Errorf("%d of %d kernels failed: %s", len(bad), len(m.options.kernels), strings.Join(bad, ", ")))
	}
	if m.options.record {
		errs = append(errs, m.record(counts, silent))
	}
	return errors.Join(errs...)
}

// record writes the table, if it can be complete: a failed test elsewhere does
// not make the verifiers' counts wrong.
func (m *matrix) record(counts verified.Table, silent []string) error {
	if len(silent) > 0 {
		return fmt.Errorf("%s is as it was: no counts are known of %s", tablePath, strings.Join(silent, ", "))
	}
	var text strings.Builder
	if err := counts.Write(&text); err != nil {
		return err
	}
	return os.WriteFile(tablePath, []byte(text.String()), 0o644)
}

// try runs the tests in one kernel. An error is about what comes before them.
func (m *matrix) try(ctx context.Context, k kernel) (*outcome, error) {
	o := &outcome{kernel: k}
	started := time.Now()
	var err error
	if k.suites == nil {
		err = m.tryHere(ctx, o)
	} else {
		err = m.tryEmulated(ctx, o)
	}
	if err != nil {
		return nil, err
	}
	o.elapsed = time.Since(started)
	o.series, err = verified.ParseSeries(o.release)
	return o, err
}

// emulatedFlags ask less of tests that take random inputs, or do the same many
// times: an emulated processor is some ten times slower. They are those of the
// tests in pkg/datapath.
var emulatedFlags = []string{"-policies=12", "-packets=120", "-replay-policies=4", "-crafted=400", "-flips=20"}

func (m *matrix) arguments(extra ...string) []string {
	args := []string{"-test.v=test2json", "-test.run=" + m.options.run,
		// Earlier than the machine is taken off, so that Go can say where it hangs.
		"-test.timeout=" + (m.options.limit * 9 / 10).String()}
	return slices.Concat(args, extra, m.options.arguments)
}

func (m *matrix) tryEmulated(ctx context.Context, o *outcome) error {
	uri, err := configuredMirror(ctx)
	if err != nil {
		return err
	}
	mirror, err := openMirror(ctx, uri, filepath.Join(m.cache, o.kernel.name), o.kernel.suites)
	if err != nil {
		return err
	}
	tree, err := mirror.unpackKernel(ctx)
	if err != nil {
		return err
	}
	dir := filepath.Join(m.dir, o.kernel.name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	machine, err := prepare(ctx, dir, tree, m.programs, m.arguments(emulatedFlags...))
	if err != nil {
		return err
	}
	o.release, o.absent = machine.release, machine.absent
	o.results, o.err, err = m.judge(ctx, func(says io.Writer) error {
		return machine.run(ctx, m.options.limit, says)
	})
	if err != nil || o.results.end != "" {
		return err
	}
	o.tail, err = machine.consoleTail(40)
	return err
}

// tryHere runs the tests on the kernel of this machine.
func (m *matrix) tryHere(ctx context.Context, o *outcome) error {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return fmt.Errorf("ask for the kernel's version: %w", err)
	}
	o.release = unix.ByteSliceToString(name.Release[:])
	var err error
	o.results, o.err, err = m.judge(ctx, func(says io.Writer) error {
		c := exec.CommandContext(ctx, m.programs.test, m.arguments()...)
		c.Dir = "pkg/datapath"
		c.Env = append(os.Environ(), "PERIMETERD_TESTS=privileged")
		c.Stdout, c.Stderr = says, says
		return c.Run()
	})
	if err == nil && o.err == nil {
		o.results.end = endPassed
	}
	return err
}

// judge runs tests and reads what they say. The first error is that of the run,
// which has results all the same.
func (m *matrix) judge(ctx context.Context, run func(says io.Writer) error) (r *results, ran, err error) {
	convert := exec.CommandContext(ctx, "go", "tool", "test2json")
	says, err := convert.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	events, err := convert.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := convert.Start(); err != nil {
		return nil, nil, err
	}
	ended := make(chan error, 1)
	go func() {
		err := run(says)
		ended <- errors.Join(err, says.Close())
	}()
	var shown io.Writer = io.Discard
	if m.options.verbose {
		shown = m.out
	}
	r, err = readResults(events, shown)
	if err != nil {
		// Whoever writes to it must not wait for ever.
		err = errors.Join(err, convert.Process.Kill())
	}
	ran = <-ended
	return r, ran, errors.Join(err, convert.Wait())
}
