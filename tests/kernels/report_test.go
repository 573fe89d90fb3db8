package main

import (
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/perimeterd/perimeterd/tests/kernels/verified"
)

func TestWhatMakesAKernelFail(t *testing.T) {
	six := verified.Series{Major: 6, Minor: 1}
	for name, c := range map[string]struct {
		o    outcome
		want []string
	}{
		"passed":                  {outcome{results: &results{passed: 2, end: endPassed}}, nil},
		"skipped for a reason":    {outcome{results: &results{passed: 2, end: endPassed, skips: []skip{{"TestX", "needs Linux 6.6"}}}}, nil},
		"a module is not there":   {outcome{results: &results{passed: 2, end: endPassed}, absent: []string{"ppp_async"}}, nil},
		"skipped for no reason":   {outcome{results: &results{passed: 2, end: endPassed, skips: []skip{{"TestX", "needs Linux 6.0"}}}}, []string{`TestX was skipped, and the reason does not hold for Linux 6.1: it has to name a newer version ("needs Linux 6.6")`}},
		"a test failed":           {outcome{results: &results{passed: 2, failed: 1, end: "exit status 1"}}, []string{"the tests ended with: exit status 1", "1 tests failed"}},
		"nothing was run":         {outcome{results: &results{end: endPassed}}, []string{"no test was run"}},
		"the kernel panicked":     {outcome{results: &results{passed: 2, failed: 1}}, []string{"the machine went off before the tests had come to their end", "1 tests failed"}},
		"it hung":                 {outcome{results: &results{passed: 2}, err: errDeadline}, []string{errDeadline.Error()}},
		"it hung after the tests": {outcome{results: &results{passed: 2, end: endPassed}, err: errDeadline}, []string{errDeadline.Error()}},
	} {
		c.o.series = six
		if diff := cmp.Diff(c.want, c.o.faults()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if ok := c.o.report(io.Discard, verified.Table{}); ok != (c.want == nil) {
			t.Errorf("%s: reported as well: %v", name, ok)
		}
	}
}

func TestCommandLine(t *testing.T) {
	o, err := parse([]string{"5.10", "--run", "TestHooks", "own", "--", "-policies=3"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if len(o.kernels) != 2 || o.kernels[0].name != "5.10" || o.kernels[1].name != "own" || o.run != "TestHooks" {
		t.Errorf("read as %+v", o)
	}
	if diff := cmp.Diff([]string{"-policies=3"}, o.arguments); diff != "" {
		t.Errorf("arguments (-want +got):\n%s", diff)
	}
	if o, err := parse([]string{"--record"}, io.Discard); err != nil || len(o.kernels) != len(all) || !o.record {
		t.Errorf("--record: %+v, %v", o, err)
	}
	for _, args := range [][]string{{"6.7"}, {"--record", "5.10"}, {"--polices"}, {"--jobs=0"}} {
		if _, err := parse(args, io.Discard); err == nil {
			t.Errorf("%q: no error", args)
		}
	}
}
