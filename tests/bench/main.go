// Command bench measures perimeterd against bare floors and against nftables, side
// by side in one run, and says which of the targets are met. README.md tells what
// the figures are.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/perimeterd/perimeterd/tests/bench/measure"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// bench is what every part needs.
type bench struct {
	ctx      context.Context
	only     *regexp.Regexp
	random   *rand.Rand
	rounds   int
	slice    time.Duration
	cpu      int
	progress io.Writer
	rows     []measure.Row
}

// part is one thing to measure, or several that share what they are measured on. It
// runs for those names of it that `only` matches.
type part struct {
	names []string
	run   func(b *bench, wanted []string) error
}

// parts are all that can be measured, in their order.
func parts() []part {
	return slices.Concat(lookupParts(), policyParts(), eventParts(), tableParts(), endToEndParts())
}

func run(ctx context.Context, args []string, out, progress io.Writer) error {
	flags := pflag.NewFlagSet("bench", pflag.ContinueOnError)
	only := flags.String("only", "", "run the parts that this regular expression matches")
	list := flags.Bool("list", false, "list the parts")
	seed := flags.Uint64("seed", 0, "seed of what is drawn; 0 = any")
	rounds := flags.Int("rounds", 11, "rounds of each comparison")
	slice := flags.Duration("slice", 12*time.Millisecond, "length of a slice in the test runs")
	file := flags.String("json", "bench.json", "file to write the medians to; \"\" = none")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			return nil
		}
		return err
	}
	matches, err := regexp.Compile(*only)
	if err != nil {
		return fmt.Errorf("--only: %w", err)
	}
	if *seed == 0 {
		*seed = uint64(time.Now().UnixNano())
	}
	b := &bench{
		ctx: ctx, only: matches, random: rand.New(rand.NewPCG(*seed, 0)), rounds: *rounds, slice: *slice,
		cpu: runtime.NumCPU() - 1, progress: progress,
	}
	if *list {
		for _, p := range parts() {
			fmt.Fprintln(out, strings.Join(p.names, "\n"))
		}
		return nil
	}
	machine, err := describeMachine()
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%s\nseed %d, %d rounds, slices of %v\n\n", machine, *seed, *rounds, *slice)
	began := time.Now()
	failed := b.runParts(parts())
	if err := measure.WriteTable(out, b.rows); err != nil {
		return errors.Join(failed, err)
	}
	missed, all := measure.Missed(b.rows)
	fmt.Fprintf(out, "\n%d of %d targets met, in %v\n", all-missed, all, time.Since(began).Round(time.Second))
	if *file != "" {
		failed = errors.Join(failed, writeFile(*file, b.rows))
	}
	return failed
}

// runParts runs what was asked for. What cannot be measured is left out, and is the
// error at the end.
func (b *bench) runParts(all []part) error {
	ran := 0
	var failed error
	for _, p := range all {
		var wanted []string
		for _, name := range p.names {
			if b.only.MatchString(name) {
				wanted = append(wanted, name)
			}
		}
		if len(wanted) == 0 {
			continue
		}
		if err := b.ctx.Err(); err != nil {
			return errors.Join(failed, err)
		}
		ran++
		began := time.Now()
		fmt.Fprintf(b.progress, "%s ...", strings.Join(wanted, ", "))
		if err := p.run(b, wanted); err != nil {
			err = fmt.Errorf("%s: %w", wanted[0], err)
			fmt.Fprintf(b.progress, " %v\n", err)
			failed = errors.Join(failed, err)
			continue
		}
		fmt.Fprintf(b.progress, " %.1f s\n", time.Since(began).Seconds())
	}
	if ran == 0 {
		return fmt.Errorf("no part is called like %q; --list tells them", b.only)
	}
	return failed
}

func (b *bench) add(rows ...measure.Row) { b.rows = append(b.rows, rows...) }

func writeFile(name string, rows []measure.Row) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	if err := measure.WriteJSON(f, rows); err != nil {
		return errors.Join(err, f.Close())
	}
	return f.Close()
}
