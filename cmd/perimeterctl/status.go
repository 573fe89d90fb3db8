package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/pflag"

	"github.com/perimeterd/perimeterd/pkg/api"
)

func statusCommand() command {
	return command{
		name: "status", summary: "how the agent is and what is in force",
		help: `Says which policy is in force since when, and all that is not as it should be.
Exit code 0: healthy. 1: degraded (an earlier policy is in force, decisions are
being lost, an interface cannot be attached) or disabled. 3: not running; what
was in force when the agent ended still is.

Example:
  perimeterctl status -o json | jq -r '.problems[]?'
`,
		flags: func(set *pflag.FlagSet, o *options) {
			set.BoolVarP(&o.all, "all", "a", false, "also packets by reason, every address and the policy's files")
		},
		run: func(s *session) (int, error) {
			client, err := s.client()
			if err != nil {
				return exitBad, err
			}
			status, err := client.Status(s.ctx)
			if errors.Is(err, api.ErrNotRunning) {
				return exitNotRunning, fmt.Errorf("%w; what it put in force stays in force until `perimeterctl disable`", err)
			}
			if err != nil {
				return exitBad, err
			}
			code := exitBad
			if status.State == api.Healthy {
				code = exitGood
			}
			if s.json() {
				return code, s.printJSON(status)
			}
			(&statusPage{s, status}).print()
			return code, nil
		},
	}
}

// statusPage prints a status for people.
type statusPage struct {
	*session
	*api.Status
}

func (p *statusPage) print() {
	p.printf("%s  perimeterd %s, since %s\n", p.paint(p.State), p.Version, p.when(p.Started))
	for _, problem := range p.Problems {
		p.printf("  ! %s\n", strings.ReplaceAll(problem, "\n", "\n    "))
	}
	for _, notice := range p.Notices {
		p.printf("  · %s\n", notice)
	}
	p.printf("\n")
	p.policy()
	p.interfaces()
	p.traffic()
	p.names()
}

func (p *statusPage) policy() {
	t := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	defer t.Flush()
	in := "nothing in force"
	if p.Generation != 0 {
		in = fmt.Sprintf("%d", p.Generation)
		if !p.GenerationSince.IsZero() {
			in += ", since " + p.when(p.GenerationSince)
		}
	}
	fmt.Fprintf(t, "generation\t%s\n", in)
	from := string(p.Policy.Source)
	if !p.Policy.Since.IsZero() {
		from += ", since " + p.when(p.Policy.Since)
	}
	fmt.Fprintf(t, "policy\t%s (%s)\n", p.Policy.Path, from)
	if p.all {
		for _, file := range p.Policy.Files {
			fmt.Fprintf(t, "\t%s\n", file)
		}
	}
	fmt.Fprintf(t, "resources\t%d, of which here %d%s\n", p.Resources.Total, p.Resources.Here, modes(p.Resources.ByMode))
	fmt.Fprintf(t, "perimeters\t%d\n", p.Resources.Perimeters)
	fmt.Fprintf(t, "prefixes\t%d IPv4, %d IPv6, %s", p.Tables.PrefixesIPv4, p.Tables.PrefixesIPv6, size(uint64(p.Tables.Bytes)))
	if p.Tables.PrefixesIPv4+p.Tables.PrefixesIPv6 >= 1000 { // below, the tables themselves weigh more
		fmt.Fprintf(t, " (%d bytes each, tables included)", p.Tables.BytesPerPrefix)
	}
	fmt.Fprintf(t, "\nfailsafe\t%s\n", failsafes(p.Failsafe))
	for _, rule := range p.Expiring {
		fmt.Fprintf(t, "expiring\trule %s of %s, %s\n", rule.Rule, rule.Owner, p.when(rule.Expires))
	}
	kernel := p.Kernel.Release
	for _, why := range p.Kernel.Degraded {
		kernel += "; " + why
	}
	fmt.Fprintf(t, "kernel\t%s\n", kernel)
}

func (p *statusPage) interfaces() {
	p.printf("\ninterfaces\n")
	t := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	defer t.Flush()
	for _, i := range p.Interfaces {
		state := fmt.Sprintf("%s\t%s", i.Role, i.Hook)
		if i.Degraded != "" {
			state += ", " + i.Degraded
		}
		if i.XDP != "" {
			state += ", xdp " + i.XDP
		}
		if i.XDPProblem != "" {
			state += ", not at xdp: " + i.XDPProblem
		}
		if !i.Attached {
			state = "-\tnot attached: " + i.Reason
		}
		fmt.Fprintf(t, "  %s\t%s", i.Name, state)
		if p.all {
			fmt.Fprintf(t, "\t%s", join(i.Addresses))
		}
		fmt.Fprintln(t)
	}
}

func (p *statusPage) traffic() {
	p.printf("\nflows       %d\n", p.Flows)
	if f := p.Fragments; f.Remembered > 0 {
		p.printf("fragments   of %d packets, room for %d\n", f.Remembered, f.Max)
	}
	var crowded uint64
	t := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	for i, d := range slices.DeleteFunc(slices.Clone(p.Decisions), func(d api.DecisionCount) bool { return d.Decided == 0 }) {
		if i == 0 {
			fmt.Fprintf(t, "decided\tsubmitted\tfolded\tlost\t category\n")
		}
		fmt.Fprintf(t, "%d\t%d\t%d\t%d\t %s\n", d.Decided, d.Submitted, d.Folded, d.Lost, d.Category)
		crowded += d.Crowded
	}
	t.Flush()
	if crowded > 0 {
		p.printf("crowded     %d of the folded, of peers that were not told apart\n", crowded)
	}
	if p.all {
		t := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintf(t, "packets\tbytes\t reason\n")
		for _, c := range p.Packets {
			if c.Packets > 0 {
				fmt.Fprintf(t, "%d\t%s\t %s\n", c.Packets, size(c.Bytes), c.Reason)
			}
		}
		t.Flush()
	}
	var lost []string
	for _, l := range p.Losses {
		if l.Count > 0 {
			lost = append(lost, strings.TrimSpace(fmt.Sprintf("%d in %s %s", l.Count, l.Stage, l.Sink)))
		}
	}
	if lost == nil {
		lost = []string{"none"}
	}
	p.printf("losses      %s\n", strings.Join(lost, ", "))
	for _, sink := range p.Sinks {
		p.printf("log         %s: %d records, %d decisions pending\n", sink.Name, sink.Records, sink.Pending)
	}
}

func (p *statusPage) names() {
	if len(p.Names) == 0 {
		return
	}
	p.printf("\nnames\n")
	t := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	defer t.Flush()
	for _, n := range p.Names {
		addresses := fmt.Sprintf("%d addresses", len(n.Addresses))
		if p.all || len(n.Addresses) <= 3 {
			addresses = join(n.Addresses)
		}
		fmt.Fprintf(t, "  %s\t%s\tnext %s\n", n.Name, addresses, p.when(n.Next))
	}
}

func (p *statusPage) paint(state api.State) string {
	colours := map[api.State]string{api.Healthy: "\x1b[32m", api.Degraded: "\x1b[1;33m", api.Disabled: "\x1b[1;31m"}
	if !p.colour {
		return string(state)
	}
	return colours[state] + string(state) + "\x1b[0m"
}

// when is a time, short if it is near.
func (s *session) when(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	t = t.In(s.location)
	if d := s.now().Sub(t); d > -20*time.Hour && d < 20*time.Hour {
		return t.Format("15:04:05")
	}
	return t.Format("2006-01-02 15:04:05")
}

func modes(by map[string]int) string {
	var words []string
	for mode, n := range by {
		words = append(words, fmt.Sprintf("%d %s", n, mode))
	}
	if words == nil {
		return ""
	}
	slices.Sort(words)
	return ": " + strings.Join(words, ", ")
}

func failsafes(all []api.Failsafe) string {
	if len(all) == 0 {
		return "none: the policy can cut off every session, yours too"
	}
	var words []string
	for _, f := range all {
		peers, ports := "any address", "every port"
		if len(f.AddressPrefixes) > 0 {
			peers = join(f.AddressPrefixes)
		}
		if len(f.Ports) > 0 {
			ports = strings.Join(f.Ports, " ")
		}
		way := "from"
		if f.Direction == "Outbound" {
			way = "to"
		}
		words = append(words, fmt.Sprintf("%s (%s %s %s)", f.Name, ports, way, peers))
	}
	return strings.Join(words, ", ")
}

func join[T fmt.Stringer](items []T) string {
	words := make([]string, len(items))
	for i, item := range items {
		words[i] = item.String()
	}
	if len(words) == 0 {
		return "-"
	}
	return strings.Join(words, " ")
}

// size is a number of bytes in the largest unit that leaves one before the
// point.
func size(n uint64) string {
	value, unit := float64(n), 0
	for units := "KMGTPE"; value >= 1024 && unit < len(units); unit++ {
		value /= 1024
	}
	if unit == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %ciB", value, "KMGTPE"[unit-1])
}
