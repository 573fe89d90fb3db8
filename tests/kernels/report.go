package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/perimeterd/perimeterd/tests/kernels/verified"
)

// report prints what came of a kernel, and returns whether all is well.
func (o *outcome) report(w io.Writer, table verified.Table) bool {
	r := o.results
	faults := o.faults()
	for _, f := range r.failures {
		fmt.Fprintf(w, "\nFailed in Linux %s: %s\n%s", o.release, f.test, f.output)
	}
	if len(faults) > 0 && len(r.failures) == 0 && r.outside != "" {
		fmt.Fprintf(w, "\nPrinted in Linux %s by no test:\n%s", o.release, r.outside)
	}
	if o.tail != "" {
		fmt.Fprintf(w, "\nThe last that Linux %s printed:\n%s\n", o.release, o.tail)
	}
	fmt.Fprintf(w, "Linux %s: %d passed, %d failed, %d skipped, %d s\n", o.release, r.passed, r.failed, len(r.skips), int(o.elapsed.Round(time.Second).Seconds()))
	for _, s := range r.skips {
		fmt.Fprintf(w, "  skipped %s: %s\n", s.test, s.reason)
	}
	for _, trouble := range r.troubles {
		fmt.Fprintf(w, "  %s\n", trouble)
	}
	if len(o.absent) > 0 {
		fmt.Fprintf(w, "  modules it does not have: %s\n", strings.Join(o.absent, ", "))
	}
	for _, program := range slices.Sorted(maps.Keys(r.counts)) {
		fmt.Fprintf(w, "  %s\n", table.Change(o.series, program, r.counts[program]))
	}
	for _, fault := range faults {
		fmt.Fprintf(w, "  FAIL: %s\n", fault)
	}
	return len(faults) == 0
}

// faults are the reasons for which the kernel has not passed.
func (o *outcome) faults() []string {
	r := o.results
	var faults []string
	switch {
	case o.err != nil:
		faults = append(faults, o.err.Error())
	case r.end == "":
		faults = append(faults, "the machine went off before the tests had come to their end")
	case r.end != endPassed:
		faults = append(faults, "the tests ended with: "+r.end)
	case r.passed == 0:
		faults = append(faults, "no test was run")
	}
	if r.failed > 0 {
		faults = append(faults, fmt.Sprintf("%d tests failed", r.failed))
	}
	for _, s := range r.skips {
		if !s.excuses(o.series) {
			faults = append(faults, fmt.Sprintf("%s was skipped, and the reason does not hold for Linux %v: it has to name a newer version (\"needs Linux 6.6\")", s.test, o.series))
		}
	}
	return faults
}
