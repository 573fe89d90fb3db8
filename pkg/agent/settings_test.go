package agent

import (
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/perimeterd/perimeterd/pkg/decisionlog"
	"github.com/perimeterd/perimeterd/pkg/policy"
)

// The reference is the manual of all keys: each stands in it, and what it calls
// a default is one.
func TestReferenceSettings(t *testing.T) {
	got, err := LoadSettings("../../deploy/perimeterd.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Log) != 2 || !got.Log[0].Auto || got.Log[1].File.MaxAge != 720*time.Hour || got.Log[1].Format != decisionlog.FormatNSP {
		t.Errorf("log of the reference: %+v", got.Log)
	}
	want := DefaultSettings()
	want.PolicyOptional = false
	// What the reference sets to show how.
	want.File, want.Interfaces, want.Log, want.MetricsListen, want.DNS.Servers, want.DNS.Trusted = got.File, got.Interfaces, got.Log, got.MetricsListen, got.DNS.Servers, got.DNS.Trusted
	// What the data path fills in itself.
	want.Limits, want.Timeouts = got.Limits, got.Timeouts
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(policy.Position{}, netip.Addr{}), cmpopts.IgnoreFields(policy.AccessRule{}, "At")); diff != "" {
		t.Errorf("the reference does not show the defaults (-default +reference):\n%s", diff)
	}
}

func TestReferenceSettingsHaveEveryKey(t *testing.T) {
	text, err := os.ReadFile("../../deploy/perimeterd.yaml")
	if err != nil {
		t.Fatal(err)
	}
	// An unknown key's problem lists the known ones of its mapping.
	for _, where := range []string{"", "interfaces: ", "limits: ", "timeouts: ", "metrics: ", "dns: ", "failsafe: ", "log: "} {
		broken := where + "{zzz: 1}"
		if where == "failsafe: " || where == "log: " {
			broken = where + "[{zzz: 1}]"
		}
		_, err := ParseSettings("s", []byte(broken))
		var bad policy.Problems
		if !errors.As(err, &bad) {
			t.Fatalf("%s: %v", broken, err)
		}
		for _, key := range strings.Split(strings.TrimPrefix(bad[0].Instead, "write one of "), ", ") {
			if !strings.Contains(string(text), key+":") {
				t.Errorf("the reference lacks the key %s of %q", key, where)
			}
		}
	}
}

func TestParseSettings(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, text, want string }{
		{"empty", "", ""},
		{"comment", "# nothing\n", ""},
		{"unknown key", "polici: /x\n", `s:1:1: the settings has no key "polici"`},
		{"unknown key inside", "dns:\n  server: [192.0.2.1]\n", `s:2:3: dns has no key "server"`},
		{"twice", "hook: auto\nhook: auto\n", `s:2:1: key "hook" is written twice`},
		{"no value", "policy:\n", `s:1:8: key "policy" has no value`},
		{"relative path", "policy: policy\n", `s:1:9: "policy" is not an absolute path`},
		{"broken", "log: [\n", "not valid YAML"},
		{"two documents", "hook: auto\n---\nhook: auto\n", "a second document begins here"},
		{"no mapping", "- a\n", "the settings must be keys with values"},
		{"bad pattern", "interfaces: {uplinks: ['eth[']}\n", `s:1:24: "eth[" is not a pattern`},
		{"failsafe of all", "failsafe: [{name: all, direction: Inbound}]\n", `s:1:12: the failsafe entry "all" would let everything pass`},
		{"failsafe without direction", "failsafe: [{name: a, ports: [tcp/22]}]\n", `needs the key "direction"`},
		{"failsafe ports", "failsafe: [{name: a, direction: Inbound, ports: [ssh]}]\n", "s:1:50:"},
		{"failsafe none", "failsafe: []\n", ""},
		{"two stdout", "log: [{to: stdout}, {to: stdout}]\n", "two log sinks write to stdout"},
		{"rotated stdout", "log: [{to: stdout, maxFiles: 3}]\n", "stdout is not rotated"},
		{"auto file", "log: [{to: /x, format: auto}]\n", "format auto is for stdout"},
		{"format", "log: [{to: /x, format: xml}]\n", `s:1:24: format cannot be "xml"`},
		{"short window", "denialWindow: 10ms\n", `s:1:15: "10ms" is not a time that fits here`},
		{"window without unit", "denialWindow: 10\n", `s:1:15: "10" is not a time`},
		{"ring", "limits: {flowRing: 5000}\n", "s:1:20: a ring of 5000 bytes is not a power of two: write 8192"},
		{"few flows", "limits: {establishedFlows4: 10}\n", `"10" is not a number that fits here`},
		{"listen", "metrics: {listen: localhost}\n", `"localhost" is not an address and port`},
		{"listen everywhere", "metrics: {listen: ':9464'}\n", ""},
		{"resolver", "dns: {servers: [dns.example.com]}\n", `"dns.example.com" is not the address of a resolver`},
		{"intervals", "dns: {minimumInterval: 2h, maximumInterval: 1h}\n", "is more than maximumInterval"},
		{"all at once", "hook: xdp\ndenialWindow: 1\n", "s:2:15"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			_, err := ParseSettings("s", []byte(test.text))
			switch {
			case test.want == "" && err != nil:
				t.Errorf("got %v, want no problem", err)
			case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
				t.Errorf("got %v, want %q in it", err, test.want)
			}
		})
	}
}

func TestSettingsWithoutAFile(t *testing.T) {
	t.Parallel()
	if _, err := LoadSettings(t.TempDir() + "/none.yaml"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that somebody named and that is missing: %v", err)
	}
	s, err := ParseSettings("s", []byte("policy: /p\ndns: {servers: [192.0.2.53]}\n"))
	if err != nil || s.PolicyOptional || s.DNS.Servers[0] != "192.0.2.53:53" {
		t.Errorf("got %+v, %v", s, err)
	}
}
