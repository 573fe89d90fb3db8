package main

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/perimeterd/perimeterd/pkg/api"
)

func namesCommand() command {
	return command{
		name: "names", summary: "what the names of outbound rules have opened",
		help: `Lists each rule with names, and the addresses that are open for it: by which name,
until when, how many outbound flows go there, and how it was learnt:
  inline    by the data path, from an answer on its way to the resource
  answer    by the agent, from an answer that the data path could not take
  resolved  by the agent, which asked itself
  kept      by the agent, which had it from before a reboot
An address that has expired opens nothing and is listed while a flow goes there.

Example:
  perimeterctl names
`,
		run: func(s *session) (int, error) {
			client, err := s.client()
			if err != nil {
				return exitBad, err
			}
			names, err := client.Names(s.ctx)
			if err != nil {
				return exitBad, err
			}
			if s.json() {
				return exitGood, s.printJSON(names)
			}
			s.printNames(names)
			return exitGood, nil
		},
	}
}

func (s *session) printNames(names *api.Names) {
	if names.ByAgent != "" {
		fmt.Fprintf(s.stdout, "answers are read by the agent: %s\n", names.ByAgent)
	}
	for i := range names.Rules {
		r := &names.Rules[i]
		fmt.Fprintf(s.stdout, "%s of %s: %s\n", r.Rule, r.Owner, strings.Join(r.Written, ", "))
		t := tabwriter.NewWriter(s.stdout, 0, 0, 2, ' ', 0)
		for j := range r.Addresses {
			a := &r.Addresses[j]
			until := "until " + s.when(a.Expires)
			if a.Expired {
				until = "expired " + s.when(a.Expires)
			}
			fmt.Fprintf(t, "  %s\t%s\t%s\t%d flows\tlast used %s\t%s\n", a.Name, a.Address, until, a.Flows, s.when(a.Used), a.By)
		}
		_ = t.Flush() // to the same place as all else
		if len(r.Addresses) == 0 {
			fmt.Fprintln(s.stdout, "  no address is open")
		}
	}
	if len(names.Rules) == 0 {
		fmt.Fprintln(s.stdout, "no outbound rule has names")
	}
}
