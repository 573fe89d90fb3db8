package main

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/pflag"

	"github.com/perimeterd/perimeterd/pkg/api"
)

func explainCommand() command {
	return command{
		name: "explain", summary: "what would happen to the first packet of a flow, and why",
		help: `Runs the live programs on the live policy with a packet that opens a flow (for
TCP a SYN) and says what they decide and why. Nothing is counted or changed.
FROM and TO are an address, the name of a resource, or a name that an outbound
rule has. Both ends are asked, since each decides for itself.
Exit code 0: it passes. 1: it is denied.

Examples:
  perimeterctl explain --from 198.51.100.7 --to orders-db --port tcp/5432
  perimeterctl explain --from orders-db --to vault.example.com --port tcp/443
`,
		flags: func(set *pflag.FlagSet, o *options) {
			set.StringVar(&o.from, "from", "", "who opens the flow: `address`, resource or name")
			set.StringVar(&o.to, "to", "", "to whom: `address`, resource or name")
			set.StringVar(&o.port, "port", "", "protocol and destination port, `such` as tcp/5432, udp/53 or icmp")
			set.StringVar(&o.inter, "interface", "", "the `interface` it crosses, which matters for private endpoints")
		},
		run: func(s *session) (int, error) {
			for flag, value := range map[string]string{"from": s.from, "to": s.to, "port": s.port} {
				if value == "" {
					return exitUsage, &usageError{fmt.Sprintf("--%s is needed", flag)}
				}
			}
			client, err := s.client()
			if err != nil {
				return exitBad, err
			}
			explanation, err := client.Explain(s.ctx, api.Question{From: s.from, To: s.to, Port: s.port, Interface: s.inter})
			if err != nil {
				return exitBad, err
			}
			code := exitGood
			if explanation.Verdict() == "deny" {
				code = exitBad
			}
			if s.json() {
				return code, s.printJSON(explanation)
			}
			s.printf("%s → %s %s\n", explanation.From, explanation.To, s.port)
			for i := range explanation.Answers {
				s.printAnswer(&explanation.Answers[i])
			}
			return code, nil
		},
	}
}

func (s *session) printAnswer(a *api.Answer) {
	verdict := strings.ToUpper(a.Verdict)
	if s.colour {
		colour := "\x1b[32m"
		if a.Verdict == "deny" {
			colour = "\x1b[1;31m"
		}
		verdict = colour + verdict + "\x1b[0m"
	}
	who := ""
	if a.Resource != "" {
		who = fmt.Sprintf(" (%s of %s)", strings.ToLower(a.Direction), a.Resource)
	}
	s.printf("\n%s%s: %s\n", verdict, who, a.Words)
	t := tabwriter.NewWriter(s.stdout, 0, 0, 2, ' ', 0)
	defer t.Flush()
	row := func(name, value string) {
		if value != "" {
			fmt.Fprintf(t, "  %s\t%s\n", name, value)
		}
	}
	if a.WouldBe != a.Verdict {
		row("would be", a.WouldBe+", if Enforced")
	}
	row("reason", string(a.Reason))
	row("category", string(a.Category))
	row("rule", strings.TrimSpace(a.Rule+" "+a.RuleAt))
	if a.Perimeter != "" {
		row("profile", a.Perimeter+"/"+a.Profile)
	}
	row("mode", a.AccessMode)
	if a.Generation != 0 {
		row("generation", fmt.Sprint(a.Generation))
	}
	if a.Elsewhere {
		row("note", "the address is not one of this host: its packets are judged here only if they cross an attached interface")
	}
}
