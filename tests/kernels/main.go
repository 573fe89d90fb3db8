// Kernels runs the data path's tests in kernels that are not this machine's:
// Debian's own, fetched with apt from the mirror that is configured here, and
// booted by qemu without the help of a hypervisor. `scripts/kernels --help`.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/perimeterd/perimeterd/tests/kernels/verified"
)

const usage = `Usage: scripts/kernels [flags] [KERNEL...] [-- FLAGS OF THE TEST BINARY]

Runs the tests of pkg/datapath in Debian's kernels, emulated, and on the kernel of
this machine, which needs root. Without names in all of these:

%s
Packages are kept below $PERIMETERD_KERNELS, or else below the user's cache
directory; apt checks them at each run. Exit code 1: a test failed, was skipped
without a reason that holds for that kernel, or a kernel could not be run.

%s`

// tablePath is the record of what the programs cost each kernel's verifier. It is
// with the tests' data because the test that compares runs in all kernels.
const tablePath = "pkg/datapath/testdata/verified.tsv"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if errors.Is(err, pflag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "kernels:", err)
		os.Exit(1)
	}
}

// options are what the command line asks for.
type options struct {
	kernels   []kernel
	run       string        // -test.run
	arguments []string      // for the test binary, after ours
	limit     time.Duration // for each kernel
	jobs      int           // kernels at the same time
	record    bool          // write the table
	verbose   bool          // show what tests print while they run
}

func parse(args []string, out io.Writer) (options, error) {
	var o options
	flags := pflag.NewFlagSet("kernels", pflag.ContinueOnError)
	flags.StringVar(&o.run, "run", "", "run only tests that this regular expression matches")
	flags.DurationVar(&o.limit, "limit", 40*time.Minute, "time that one kernel may take")
	flags.IntVar(&o.jobs, "jobs", 2, "kernels to run at the same time; one keeps less than two processors busy")
	flags.BoolVar(&o.record, "record", false, "write what the verifiers of all kernels counted to "+tablePath)
	flags.BoolVarP(&o.verbose, "verbose", "v", false, "show what the tests print while they run")
	flags.SortFlags = false
	flags.Usage = func() {
		var list strings.Builder
		for _, k := range all {
			fmt.Fprintf(&list, "  %-8s %s\n", k.name, k.about)
		}
		fmt.Fprintf(out, usage, list.String(), flags.FlagUsages())
	}
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	names := flags.Args()
	if dash := flags.ArgsLenAtDash(); dash >= 0 {
		names, o.arguments = names[:dash], names[dash:]
	}
	for _, name := range names {
		k, err := kernelNamed(name)
		if err != nil {
			return o, err
		}
		o.kernels = append(o.kernels, k)
	}
	if o.record && len(names) > 0 {
		return o, errors.New("--record writes the table anew, so it needs all kernels")
	}
	if o.jobs < 1 {
		return o, errors.New("--jobs has to be 1 or more")
	}
	if len(names) == 0 {
		o.kernels = all
	}
	return o, nil
}

func run(ctx context.Context, args []string, out io.Writer) error {
	o, err := parse(args, out)
	if err != nil {
		return err
	}
	if runtime.GOARCH != "amd64" {
		return fmt.Errorf("the kernels are for x86-64, and this machine is %s", runtime.GOARCH)
	}
	table, err := verified.ReadFile(tablePath)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "perimeterd-kernels.")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	m := &matrix{options: o, dir: dir, table: table, out: out}
	if m.programs, err = build(ctx, dir); err != nil {
		return err
	}
	if m.cache, err = cacheDirectory(); err != nil {
		return err
	}
	return m.run(ctx)
}

// cacheDirectory is where fetched packages stay from run to run.
func cacheDirectory() (string, error) {
	if dir := os.Getenv("PERIMETERD_KERNELS"); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find a place for the kernels' packages, which PERIMETERD_KERNELS can name: %w", err)
	}
	return filepath.Join(dir, "perimeterd", "kernels"), nil
}
