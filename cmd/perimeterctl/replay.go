package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"strings"

	"github.com/spf13/pflag"

	"github.com/perimeterd/perimeterd/pkg/capture"
	"github.com/perimeterd/perimeterd/pkg/compile"
	"github.com/perimeterd/perimeterd/pkg/datapath"
	"github.com/perimeterd/perimeterd/pkg/policy"
)

func replayCommand() command {
	return command{
		name: "replay", summary: "what a policy would have done to a packet capture",
		help: `Runs each frame of a capture through the programs that judge packets, with a
policy that need not be in force, on the capture's clock. Needs root, but no
agent; touches no interface and leaves nothing behind. The capture is pcap or
pcapng, also compressed with gzip, of Ethernet, IP or Linux cooked frames.
Every resource is taken to live here, so each frame is judged for both ends.
Failsafe, timeouts and sizes are those of --settings. Names of rules have no
addresses in a replay; interfaces have those given with --interface.
Prints the first decision of each flow, a row of equal denials once, and a sum.
With -o json one object for each frame, and {"summary": …} at the end.
Exit code 0: nothing was denied. 1: something was, or the policy or the capture
is bad.

Examples:
  perimeterctl replay --policy new-policy/ --pcap yesterday.pcapng
  perimeterctl replay --policy new-policy/ --pcap a.pcap -o json | jq -c 'select(.verdict == "deny")'
`,
		flags: func(set *pflag.FlagSet, o *options) {
			set.StringVar(&o.policy, "policy", "", "the policy: a file or directory at this `path`")
			set.StringVar(&o.pcap, "pcap", "", "the capture `file`")
			set.StringArrayVar(&o.interfaces, "interface", nil, "`addresses` of an interface, as in eth0=10.20.0.5,fd20::5; may be repeated")
			set.StringVar(&o.host, "host", "", "`name` of the host that they are of (default this host's)")
		},
		run: (*session).replay,
	}
}

func (s *session) replay() (int, error) {
	for flag, value := range map[string]string{"policy": s.policy, "pcap": s.pcap} {
		if value == "" {
			return exitUsage, &usageError{fmt.Sprintf("--%s is needed", flag)}
		}
	}
	facts, err := s.replayFacts()
	if err != nil {
		return exitUsage, err
	}
	settings, err := s.agentSettings()
	if err != nil {
		return exitBad, err
	}
	p, code, err := s.loadPolicy(s.policy)
	if p == nil {
		return code, err
	}
	file, err := capture.Open(s.pcap)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return exitUsage, &usageError{err.Error()}
	}
	if err != nil {
		return exitBad, err
	}
	defer file.Close() // only read
	first, err := file.Next()
	if err != nil && !errors.Is(err, io.EOF) {
		return exitBad, err
	}

	if first.Number == 0 {
		first.Time = s.now()
	}
	facts.Now, facts.Failsafe = first.Time, settings.Failsafe
	for _, note := range replayNotes(p, facts, first.Interface) {
		fmt.Fprintf(s.stderr, "note: %s\n", note)
	}
	tables, legend, err := compile.Compile(p, facts)
	var bad policy.Problems
	if errors.As(err, &bad) {
		return exitBad, s.printProblems(bad)
	}
	if err != nil {
		return exitBad, err
	}
	replay, err := datapath.OpenReplay(datapath.ReplayOptions{Start: first.Time, Limits: settings.Limits, Timeouts: settings.Timeouts})
	if err != nil {
		return exitBad, err
	}
	if err := replay.Apply(tables, legend); err != nil {
		return exitBad, errors.Join(err, replay.Close())
	}
	show := newReplayShow(s, p, legend)
	failed := errors.Join(s.replayFrames(file, first, replay, show), show.finish(), replay.Close())
	if show.sum.Deny > 0 {
		return exitBad, failed
	}
	return exitGood, failed
}

// errInterrupted ends a replay before its capture.
var errInterrupted = errors.New("interrupted: the rest of the capture was not replayed")

// replayFrames replays a file from its first frame on, if it has one.
func (s *session) replayFrames(file *capture.Reader, frame capture.Frame, replay *datapath.Replay, show *replayShow) error {
	for frame.Number > 0 {
		if s.ctx.Err() != nil {
			return errInterrupted
		}
		step, err := replay.Frame(datapath.ReplayFrame{Data: frame.Data, Length: frame.Length, Time: frame.Time, Interface: frame.Interface})
		if err != nil {
			return fmt.Errorf("frame %d: %w", frame.Number, err)
		}
		if err := show.step(&frame, &step); err != nil {
			return err
		}
		frame, err = file.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// replayFacts are what can be known of the world of a capture: every member may
// be behind the place where it was taken.
func (s *session) replayFacts() (*policy.Facts, error) {
	f := &policy.Facts{Hostname: s.host, Interfaces: []policy.Interface{{Workload: true}}}
	if f.Hostname == "" {
		name, err := os.Hostname()
		if err != nil {
			return nil, &usageError{fmt.Sprintf("--host is needed: %v", err)}
		}
		f.Hostname = name
	}
	for _, text := range s.interfaces {
		name, list, ok := strings.Cut(text, "=")
		if !ok || name == "" {
			return nil, &usageError{fmt.Sprintf("--interface %q: write a name and its addresses, as in eth0=10.20.0.5,fd20::5", text)}
		}
		i := policy.Interface{Name: name}
		for _, word := range strings.Split(list, ",") {
			a, err := netip.ParseAddr(word)
			if err != nil {
				return nil, &usageError{fmt.Sprintf("--interface %q: %q is no address: write them as in eth0=10.20.0.5,fd20::5", text, word)}
			}
			i.Addresses = append(i.Addresses, a.Unmap().WithZone(""))
		}
		f.Interfaces = append(f.Interfaces, i)
	}
	return f, nil
}

// replayNotes tells what of a policy means nothing in a replay, since the world
// of the capture is not known.
func replayNotes(p *policy.Policy, facts *policy.Facts, firstInterface string) []string {
	var notes []string
	if rules := rulesByName(p); rules != nil {
		notes = append(notes, "names have no addresses in a replay, so these rules allow nothing: "+strings.Join(rules, ", "))
	}
	for i := range p.Resources {
		r := &p.Resources[i]
		if len(r.Interfaces) == 0 || len(r.AddressesOn(facts)) > 0 {
			continue
		}
		of := ""
		if r.Host != "" {
			of = fmt.Sprintf(" of hosts %s, and this is taken for host %s", r.Host, facts.Hostname)
		}
		notes = append(notes, fmt.Sprintf("resource %s (%s) has the addresses of interfaces %s%s: without them it has no traffic; give them with --interface NAME=ADDRESSES",
			r.Name, r.At, strings.Join(r.Interfaces, ", "), of))
	}
	for i := range p.PrivateEndpoints {
		e := &p.PrivateEndpoints[i]
		if len(e.Interfaces) > 0 && firstInterface == "" {
			notes = append(notes, fmt.Sprintf("private endpoint %s (%s) is interfaces %s, and this capture does not tell which interface a frame was on: what came over it is judged like all else",
				e.Name, e.At, strings.Join(e.Interfaces, ", ")))
		}
	}
	return notes
}

// rulesByName lists the rules that admit names.
func rulesByName(p *policy.Policy) []string {
	var out []string
	for i := range p.Perimeters {
		for j := range p.Perimeters[i].Profiles {
			profile := &p.Perimeters[i].Profiles[j]
			for k := range profile.AccessRules {
				if rule := &profile.AccessRules[k]; len(rule.FullyQualifiedDomainNames) > 0 {
					out = append(out, fmt.Sprintf("%s of %s/%s (%s)", rule.Name, p.Perimeters[i].Name, profile.Name, rule.At))
				}
			}
		}
	}
	return out
}
