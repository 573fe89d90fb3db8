package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func call(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	code = run(env{ctx: t.Context(), stdout: &out, stderr: &err, hostname: "db"}, args)
	return code, out.String(), err.String()
}

func TestUse(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		args        []string
		code        int
		out, stderr string
	}{
		{[]string{"--help"}, exitGood, "--settings", ""},
		{[]string{"--version"}, exitGood, "devel", ""},
		{[]string{"--frob"}, exitUsage, "", "unknown flag: --frob"},
		{[]string{"frob"}, exitUsage, "", `unknown argument "frob"`},
		{[]string{"--settings", "/nowhere.yaml"}, exitFailed, "", "read the settings"},
	} {
		code, out, err := call(t, test.args...)
		if code != test.code || !strings.Contains(out, test.out) || !strings.Contains(err, test.stderr) {
			t.Errorf("%q: exit code %d, stdout %q, stderr %q", test.args, code, out, err)
		}
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	policy := write("policy.yaml", "resources:\n  - {name: db, addresses: [192.0.2.1]}\n")
	settings := write("perimeterd.yaml", "policy: "+policy+"\n")
	badSettings := write("bad.yaml", "polici: "+policy+"\nhook: x\n")
	badPolicy := write("bad-policy.yaml", "resources: 7\n")

	if code, out, err := call(t, "--check", "--settings", settings); code != exitGood || !strings.Contains(out, "are good (resources: 1") {
		t.Errorf("good: %d, %s, %s", code, out, err)
	}
	if code, _, err := call(t, "--check", "--settings", badSettings); code != exitFailed || strings.Count(err, badSettings+":") != 2 {
		t.Errorf("bad settings: %d, %s", code, err)
	}
	if code, _, err := call(t, "--check", "--settings", settings, "--policy", badPolicy); code != exitFailed || !strings.HasPrefix(err, badPolicy+":1:") {
		t.Errorf("bad policy: %d, %s", code, err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 4 {
		t.Errorf("--check left something: %v, %v", entries, err)
	}
}

func TestFlagsLieOverTheSettings(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "perimeterd.yaml")
	if err := os.WriteFile(path, []byte("stateDirectory: /a\nrunDirectory: /b\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f := flags{settings: path, policy: "/p", state: "/c", metrics: ":1"}
	s, err := f.load()
	if err != nil {
		t.Fatal(err)
	}
	if s.Policy != "/p" || s.PolicyOptional || s.StateDirectory != "/c" || s.RunDirectory != "/b" || s.MetricsListen != ":1" {
		t.Errorf("got %+v", s)
	}
}

func TestWithoutAHostName(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "perimeterd.yaml")
	if err := os.WriteFile(path, []byte("stateDirectory: "+t.TempDir()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var out, stderr bytes.Buffer
	code := run(env{ctx: t.Context(), stdout: &out, stderr: &stderr, hostnameErr: errors.New("no name")}, []string{"--settings", path})
	if code != exitFailed || !strings.Contains(stderr.String(), "perimeterd: read the host's name: no name") {
		t.Errorf("exit code %d, %s", code, stderr.String())
	}
}
