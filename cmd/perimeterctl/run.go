package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/perimeterd/perimeterd/pkg/agent"
	"github.com/perimeterd/perimeterd/pkg/api"
)

// env is all that the outside world gives.
type env struct {
	ctx            context.Context
	stdout, stderr io.Writer
	colour         bool
	now            func() time.Time
	location       *time.Location
}

// Exit codes, as in the help.
const (
	exitGood = iota
	exitBad
	exitUsage
	exitNotRunning
)

// command is one word of perimeterctl. Nouns read, verbs change.
type command struct {
	name    string
	args    string // synopsis of what follows the flags
	summary string
	help    string // the details, with an example
	flags   func(*pflag.FlagSet, *options)
	nargs   int // exactly so many arguments
	run     func(*session) (int, error)
}

// commands is the table, in the order of the help.
func commands() []command {
	return []command{
		statusCommand(), validateCommand(), explainCommand(), replayCommand(), watchCommand(), rulesCommand(), flowsCommand(), namesCommand(),
		disableCommand(), enableCommand(), versionCommand(),
	}
}

// options are all flags of all commands; each command offers its own.
type options struct {
	settings, socket, output string

	from, to, port, inter string // explain
	policy, pcap, host    string // replay
	interfaces            []string
	resource, peer, state string // watch, flows, rules
	denied                bool   // watch
	unused                bool   // rules
	limit                 int    // flows
	all                   bool   // status
}

func (o *options) json() bool { return o.output == "json" }

// session is one call of one command.
type session struct {
	env
	options
	args   []string
	loaded *agent.Settings // see agentSettings
}

const usage = `perimeterctl asks perimeterd, the agent on this host, and switches enforcement.

Usage:
  perimeterctl COMMAND [flags]

Commands (nouns read, verbs change):
%s
Flags of every command:
  -o, --output text|json   how to answer (default text)
      --settings FILE      the agent's settings (default %s)
      --socket PATH        the agent's socket, instead of the settings'
  -h, --help               help for the command, with an example

Exit codes: 0 good; 1 bad, denied, degraded or failed; 2 wrong use; 3 the agent
is not running.
`

// run does what the arguments say and returns the exit code.
func run(e env, args []string) int {
	if len(args) == 0 {
		fmt.Fprint(e.stderr, overview())
		return exitUsage
	}
	switch args[0] {
	case "help", "-h", "--help":
		if len(args) < 2 {
			fmt.Fprint(e.stdout, overview())
			return exitGood
		}
		args = []string{args[1], "--help"}
	case "--version":
		args = []string{"version"}
	}
	for _, c := range commands() {
		if c.name == args[0] {
			return c.execute(e, args[1:])
		}
	}
	return misuse(e, fmt.Errorf("there is no command %q", args[0]), "perimeterctl --help")
}

func overview() string {
	var list strings.Builder
	for _, c := range commands() {
		fmt.Fprintf(&list, "  %-10s %s\n", c.name, c.summary)
	}
	return fmt.Sprintf(usage, list.String(), agent.DefaultSettingsPath)
}

func misuse(e env, err error, see string) int {
	fmt.Fprintf(e.stderr, "perimeterctl: %v\nSee %s.\n", err, see)
	return exitUsage
}

func (c *command) execute(e env, args []string) int {
	s := session{env: e}
	set := pflag.NewFlagSet(c.name, pflag.ContinueOnError)
	set.SetOutput(io.Discard)
	set.SortFlags = false
	if c.flags != nil {
		c.flags(set, &s.options)
	}
	set.StringVarP(&s.output, "output", "o", "text", "how to answer: text or json")
	set.StringVar(&s.settings, "settings", agent.DefaultSettingsPath, "the agent's settings `file`")
	set.StringVar(&s.socket, "socket", "", "`path` of the agent's socket, instead of the settings'")
	see := "perimeterctl " + c.name + " --help"
	err := set.Parse(args)
	s.args = set.Args()
	switch {
	case errors.Is(err, pflag.ErrHelp):
		fmt.Fprintf(e.stdout, "perimeterctl %s: %s\n\nUsage:\n  perimeterctl %s\n\n%s\nFlags:\n%s", c.name, c.summary,
			strings.TrimSpace(c.name+" [flags] "+c.args), c.help, set.FlagUsages())
		return exitGood
	case err != nil:
		return misuse(e, err, see)
	case s.output != "text" && s.output != "json":
		return misuse(e, fmt.Errorf("--output cannot be %q: write text or json", s.output), see)
	case len(s.args) != c.nargs:
		return misuse(e, fmt.Errorf("%s takes %d arguments, not %d", c.name, c.nargs, len(s.args)), see)
	}
	code, err := c.run(&s)
	var wrong *usageError
	switch {
	case err == nil:
		return code
	case errors.As(err, &wrong), errors.Is(err, api.ErrBadRequest):
		return misuse(e, err, see)
	case errors.Is(err, api.ErrNotRunning):
		code = exitNotRunning
	default:
		code = max(code, exitBad)
	}
	fmt.Fprintf(e.stderr, "perimeterctl: %v\n", err)
	return code
}

// usageError is the caller's mistake.
type usageError struct{ text string }

func (u *usageError) Error() string { return u.text }

// client finds the agent.
func (s *session) client() (*api.Client, error) {
	if s.socket != "" {
		return api.NewClient(s.socket), nil
	}
	settings, err := s.agentSettings()
	if err != nil {
		return nil, err
	}
	return api.NewClient(settings.Socket()), nil
}

// agentSettings reads the agent's settings, once: they may be a pipe.
func (s *session) agentSettings() (*agent.Settings, error) {
	if s.loaded == nil {
		settings, err := agent.LoadSettings(s.settings)
		if err != nil {
			return nil, err
		}
		s.loaded = settings
	}
	return s.loaded, nil
}

// printJSON writes a value for machines.
func (s *session) printJSON(value any) error {
	encoder := json.NewEncoder(s.stdout)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}

func (s *session) printf(format string, args ...any) { fmt.Fprintf(s.stdout, format, args...) }
