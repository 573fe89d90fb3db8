package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/perimeterd/perimeterd/tests/kernels/verified"
)

// results are what a test binary said in one kernel.
type results struct {
	passed, failed int
	failures       []failure
	skips          []skip
	counts         verified.Counts
	outside        string   // what was printed by no test
	troubles       []string // of the machine with its start
	end            string   // how the binary ended: endPassed, or how else; empty if nobody saw it
}

type failure struct{ test, output string }

type skip struct{ test, reason string }

// See tests/kernels/init.
const (
	fromInit  = "init: "
	fromEnd   = "end: "
	endPassed = "passed"
)

// readResults reads what `go tool test2json` makes of the output of a test
// binary, and shows the output. Tests that did not come to an end have failed.
func readResults(events io.Reader, shown io.Writer) (*results, error) {
	r := &results{counts: verified.Counts{}}
	running := map[string]*strings.Builder{}
	var outside strings.Builder
	decoder := json.NewDecoder(events)
	for {
		var event struct{ Action, Test, Output, Key, Value string }
		if err := decoder.Decode(&event); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("read what test2json made of the tests' output: %w", err)
		}
		if event.Test == "" && event.Action != "output" {
			continue // about the binary; test2json supposes an end if it saw none
		}
		said := &outside
		if event.Test != "" {
			if running[event.Test] == nil {
				running[event.Test] = &strings.Builder{}
			}
			said = running[event.Test]
		}
		switch event.Action {
		case "output":
			if word, ok := strings.CutPrefix(event.Output, fromInit); ok {
				r.fromInit(strings.TrimSpace(word))
			} else {
				said.WriteString(event.Output)
				io.WriteString(shown, event.Output)
			}
			continue
		case "attr":
			if err := r.attribute(event.Key, event.Value); err != nil {
				return nil, err
			}
			continue
		case "pass":
			r.passed++
		case "fail":
			r.failed++
			r.failures = append(r.failures, failure{event.Test, said.String()})
		case "skip":
			r.skips = append(r.skips, skip{event.Test, reasonOf(said.String())})
		default: // run, pause, cont
			continue
		}
		delete(running, event.Test)
	}
	for _, test := range slices.Sorted(maps.Keys(running)) {
		r.failed++
		r.failures = append(r.failures, failure{test, running[test].String() + "This test did not come to an end.\n"})
	}
	r.outside = outside.String()
	return r, nil
}

func (r *results) fromInit(word string) {
	if end, ok := strings.CutPrefix(word, fromEnd); ok {
		r.end = end
	} else {
		r.troubles = append(r.troubles, word)
	}
}

func (r *results) attribute(key, value string) error {
	program, ok := verified.ProgramOf(key)
	if !ok {
		return nil
	}
	count, err := strconv.Atoi(value)
	if err != nil {
		return fmt.Errorf("a test told %q as the count of %s", value, program)
	}
	r.counts[program] = count
	return nil
}

var logged = regexp.MustCompile(`^ +[a-z0-9_]+\.go:\d+: `)

// reasonOf is what a skipped test logged last.
func reasonOf(output string) string {
	reason := "no reason was given"
	for line := range strings.Lines(output) {
		if place := logged.FindString(line); place != "" {
			reason = strings.TrimSpace(line[len(place):])
		}
	}
	return reason
}

var needs = regexp.MustCompile(`needs (?:.* )?Linux (\d+\.\d+)`)

// excuses says whether a kernel may skip a test for a reason: only if that names
// the version that has what is missing, and the kernel is older. Otherwise a
// skip would hide what broke.
func (s skip) excuses(kernel verified.Series) bool {
	named := needs.FindStringSubmatch(s.reason)
	if named == nil {
		return false
	}
	since, err := verified.ParseSeries(named[1])
	return err == nil && since.Compare(kernel) > 0
}
