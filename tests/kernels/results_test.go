package main

import (
	"io"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/perimeterd/perimeterd/tests/kernels/verified"
)

// m is what a test binary puts before each of its own lines (-test.v=test2json).
const m = "\x16"

// read gives a binary's output to the real test2json.
func read(t *testing.T, printed string) *results {
	t.Helper()
	c := exec.Command("go", "tool", "test2json")
	c.Stdin = strings.NewReader(strings.ReplaceAll(printed, "^", m))
	events, err := c.Output()
	if err != nil {
		t.Fatal(err)
	}
	r, err := readResults(strings.NewReader(string(events)), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestResults(t *testing.T) {
	for name, c := range map[string]struct {
		printed string
		want    results
	}{
		"all is well": {
			printed: `init: load the module odd: invalid argument
^=== RUN   TestOne
^=== RUN   TestOne/sub
    one_test.go:7: a word
^=== ATTR  TestOne verified.towards 38000
^=== ATTR  TestOne another.key 1
^--- PASS: TestOne (0.00s)
^    --- PASS: TestOne/sub (0.00s)
^=== NAME
PASS

init: end: passed
`,
			want: results{passed: 2, end: endPassed, troubles: []string{"load the module odd: invalid argument"}, counts: verified.Counts{"towards": 38000}},
		},
		"one failed, one was skipped": {
			printed: `^=== RUN   TestOne
    one_test.go:7: got 1, want 2
^--- FAIL: TestOne (0.00s)
^=== RUN   TestTwo
    two_test.go:9: seed 7
    two_test.go:12: it has none: needs Linux 6.6
^--- SKIP: TestTwo (0.00s)
^=== NAME
FAIL

init: end: exit status 1
`,
			want: results{
				failed: 1, end: "exit status 1", counts: verified.Counts{},
				failures: []failure{{"TestOne", "=== RUN   TestOne\n    one_test.go:7: got 1, want 2\n--- FAIL: TestOne (0.00s)\n"}},
				skips:    []skip{{"TestTwo", "it has none: needs Linux 6.6"}},
			},
		},
		"the machine died in the middle": {
			printed: `^=== RUN   TestOne
^--- PASS: TestOne (0.00s)
^=== RUN   TestTwo
    two_test.go:9: the last wo`,
			want: results{
				passed: 1, failed: 1, counts: verified.Counts{},
				failures: []failure{{"TestTwo", "=== RUN   TestTwo\n    two_test.go:9: the last woThis test did not come to an end.\n"}},
			},
		},
		"the binary did not start": {
			printed: "flag provided but not defined: -polices\n\ninit: end: exit status 2\n",
			want:    results{end: "exit status 2", counts: verified.Counts{}, outside: "flag provided but not defined: -polices\n"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := read(t, c.printed)
			if c.want.outside == "" {
				got.outside = "" // PASS and FAIL
			} else {
				got.outside = strings.TrimRight(got.outside, "\n") + "\n"
			}
			if diff := cmp.Diff(&c.want, got, cmp.AllowUnexported(results{}, failure{}, skip{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestSkipsThatHideNothing: an older kernel may lack what a test needs, one that
// has it may not skip the test.
func TestSkipsThatHideNothing(t *testing.T) {
	for _, c := range []struct {
		reason string
		kernel verified.Series
		want   bool
	}{
		{"clsact orders by priority: needs TCX, Linux 6.6", verified.Series{Major: 6, Minor: 1}, true},
		{"clsact orders by priority: needs TCX, Linux 6.6", verified.Series{Major: 6, Minor: 6}, false},
		{"clsact orders by priority: needs TCX, Linux 6.6", verified.Series{Major: 6, Minor: 12}, false},
		{"it cannot be renamed: needs Linux 6.2", verified.Series{Major: 5, Minor: 10}, true},
		{"it cannot be renamed: needs Linux 6.2", verified.Series{Major: 6, Minor: 2}, false},
		{"needs a newer kernel", verified.Series{Major: 5, Minor: 10}, false},
		{"needs one later than 5.10", verified.Series{Major: 5, Minor: 10}, false},
		{"Linux 6.6 has it", verified.Series{Major: 5, Minor: 10}, false},
		{"", verified.Series{Major: 5, Minor: 10}, false},
	} {
		if got := (skip{"TestX", c.reason}).excuses(c.kernel); got != c.want {
			t.Errorf("%q in Linux %v: %v, want %v", c.reason, c.kernel, got, c.want)
		}
	}
}
