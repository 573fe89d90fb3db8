package main

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/pflag"

	"github.com/perimeterd/perimeterd/pkg/api"
)

func rulesCommand() command {
	return command{
		name: "rules", summary: "the rules and links of the policy, and how often each decided",
		help: `Lists the access rules of every profile, the own rules of every resource and the
links of every perimeter, with the decisions by each since the agent started.

Example:
  perimeterctl rules --unused
`,
		flags: func(set *pflag.FlagSet, o *options) {
			set.BoolVar(&o.unused, "unused", false, "only rules that have decided nothing")
		},
		run: func(s *session) (int, error) {
			client, err := s.client()
			if err != nil {
				return exitBad, err
			}
			rules, err := client.Rules(s.ctx)
			if err != nil {
				return exitBad, err
			}
			if s.unused {
				kept := []api.Rule{}
				for _, r := range rules.Rules {
					if r.Hits == 0 {
						kept = append(kept, r)
					}
				}
				rules.Rules = kept
			}
			if s.json() {
				return exitGood, s.printJSON(rules)
			}
			s.printRules(rules.Rules)
			return exitGood, nil
		},
	}
}

func (s *session) printRules(rules []api.Rule) {
	t := tabwriter.NewWriter(s.stdout, 0, 0, 2, ' ', 0)
	defer t.Flush()
	before := ""
	for _, r := range rules {
		owner := r.Perimeter + "/" + r.Profile
		switch {
		case r.Resource != "":
			owner = "resource " + r.Resource
		case r.Profile == "":
			owner = "links of " + r.Perimeter
		}
		if owner != before {
			t.Flush()
			if before != "" {
				s.printf("\n")
			}
			s.printf("%s\n", owner)
			before = owner
		}
		ports, notes := "all ports", ""
		if r.Resource == "" && r.Profile == "" {
			ports = "" // a link has none
		}
		if len(r.Ports) > 0 {
			ports = strings.Join(r.Ports, " ")
		}
		if !r.Expires.IsZero() {
			notes = "expires " + s.when(r.Expires)
		}
		if !r.InForce {
			notes = strings.TrimPrefix(notes+"; not in force: "+r.Why, "; ")
		}
		fmt.Fprintf(t, "  %s\t%s\t%s\t%s\t%d hits\t%s\n", r.Name, strings.ToLower(r.Direction), r.Selector, ports, r.Hits, notes)
	}
	if len(rules) == 0 {
		s.printf("no rules\n")
	}
}
