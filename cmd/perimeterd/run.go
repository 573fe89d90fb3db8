package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"

	"github.com/spf13/pflag"

	"github.com/perimeterd/perimeterd/pkg/agent"
	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/pkg/version"
)

// env is all that the outside world gives.
type env struct {
	ctx            context.Context // ends when the agent is to stop
	stdout, stderr io.Writer
	terminal       bool // stdout is one
	noColour       bool
	reload         <-chan os.Signal
	hostname       string
	hostnameErr    error
	notifySocket   string
}

// Exit codes, as in the help.
const (
	exitGood = iota
	exitFailed
	exitUsage
)

const usage = `perimeterd puts the policy of this host in force and logs every decision.

Usage:
  perimeterd [flags]

With no settings and no policy it starts in its embedded default: every address
of the host is in Audit, so that what flows is shown and nothing is dropped.
Stopping it, in whatever way, leaves enforcement as it is; "perimeterctl
disable" takes it away. SIGHUP has it read the policy again.

Flags:
%s
Example:
  perimeterd --settings /etc/perimeterd/perimeterd.yaml --check

Exit codes: 0 ended as asked, or the check was good; 1 failed, or the check was
bad; 2 wrong use.
`

type flags struct {
	settings, policy, state, run, pins, metrics, hostname string
	check, version                                        bool
}

func run(e env, args []string) int {
	var f flags
	set := pflag.NewFlagSet("perimeterd", pflag.ContinueOnError)
	set.SetOutput(io.Discard)
	set.SortFlags = false
	set.StringVar(&f.settings, "settings", agent.DefaultSettingsPath, "settings file")
	set.StringVar(&f.policy, "policy", "", "policy file or directory, instead of the settings'")
	set.StringVar(&f.state, "state-directory", "", "what is to outlive a reboot, instead of the settings'")
	set.StringVar(&f.run, "run-directory", "", "directory of the API's socket, instead of the settings'")
	set.StringVar(&f.pins, "pin-directory", "", "where in a BPF file system to pin, instead of the settings'")
	set.StringVar(&f.metrics, "metrics-listen", "", "address of /metrics, /healthz and /readyz, instead of the settings'")
	set.StringVar(&f.hostname, "hostname", "", "name of the host for policies that several hosts share, instead of the kernel's")
	set.BoolVar(&f.check, "check", false, "check settings and policy, then exit")
	set.BoolVar(&f.version, "version", false, "print the version, then exit")
	switch err := set.Parse(args); {
	case errors.Is(err, pflag.ErrHelp):
		fmt.Fprintf(e.stdout, usage, set.FlagUsages())
		return exitGood
	case err == nil && set.NArg() > 0:
		err = fmt.Errorf("unknown argument %q", set.Arg(0))
		fallthrough
	case err != nil:
		fmt.Fprintf(e.stderr, "perimeterd: %v\nSee perimeterd --help.\n", err)
		return exitUsage
	case f.version:
		fmt.Fprintln(e.stdout, version.String())
		return exitGood
	}
	if f.hostname != "" {
		e.hostname, e.hostnameErr = f.hostname, nil
	}
	settings, err := f.load()
	if err == nil && f.check {
		err = check(e, settings)
	} else if err == nil {
		err = serve(e, settings)
	}
	if err != nil {
		fmt.Fprintln(e.stderr, describe(err))
		return exitFailed
	}
	return exitGood
}

// load reads the settings and lays the flags over them.
func (f *flags) load() (*agent.Settings, error) {
	s, err := agent.LoadSettings(f.settings)
	if err != nil {
		return nil, err
	}
	for _, o := range []struct {
		given string
		into  *string
	}{
		{f.policy, &s.Policy}, {f.state, &s.StateDirectory}, {f.run, &s.RunDirectory},
		{f.pins, &s.PinDirectory}, {f.metrics, &s.MetricsListen},
	} {
		if o.given != "" {
			*o.into = o.given
		}
	}
	if f.policy != "" {
		s.PolicyOptional = false
	}
	return s, nil
}

func check(e env, s *agent.Settings) error {
	p, err := policy.Load(s.Policy)
	if err != nil {
		return err
	}
	from := s.File
	if from == "" {
		from = "defaults"
	}
	fmt.Fprintf(e.stdout, "settings (%s) and policy (%s) are good (resources: %d, perimeters: %d)\n", from, s.Policy, len(p.Resources), len(p.Perimeters))
	return nil
}

func serve(e env, s *agent.Settings) error {
	if e.hostnameErr != nil {
		return fmt.Errorf("read the host's name: %w", e.hostnameErr)
	}
	a, err := agent.New(agent.Options{
		Settings: s, Version: version.String(), Hostname: e.hostname,
		Stdout: e.stdout, Terminal: e.terminal && !e.noColour,
		Logger: log.New(e.stderr, "", 0), // the journal adds the time
		Reload: e.reload, NotifySocket: e.notifySocket,
	})
	if err != nil {
		return err
	}
	return a.Run(e.ctx)
}

// describe prints problems as they are, one a line, so that editors find them.
func describe(err error) string {
	var bad policy.Problems
	if errors.As(err, &bad) {
		return bad.Error()
	}
	return "perimeterd: " + err.Error()
}
