package main

import (
	"fmt"
	"net/netip"
	"strings"
	"text/tabwriter"

	"github.com/spf13/pflag"

	"github.com/perimeterd/perimeterd/pkg/api"
	"github.com/perimeterd/perimeterd/pkg/policy"
)

func flowsCommand() command {
	return command{
		name: "flows", summary: "the allowed flows in the kernel's table",
		help: `Lists flows that were allowed and have not ended. Bytes are counted from the IP
header on, towards and from the resource. A flow with a generation behind its
reason was judged under an older policy; it is judged again at its next packet.

Example:
  perimeterctl flows --resource orders-db --peer 198.51.100.0/24
`,
		flags: func(set *pflag.FlagSet, o *options) {
			set.StringVar(&o.resource, "resource", "", "only flows of this `resource`")
			set.StringVar(&o.peer, "peer", "", "only flows with peers in this address or `prefix`")
			set.StringVar(&o.state, "state", "", "only flows in this `state`: opening, established, closing or closed")
			set.IntVar(&o.limit, "limit", 1000, "at most so many; 0 = all")
		},
		run: func(s *session) (int, error) {
			filter := api.FlowFilter{Resource: s.resource, State: s.state, Limit: s.limit}
			var err error
			if s.peer != "" {
				if filter.Peer, err = policy.ParsePrefix(s.peer); err != nil {
					return exitUsage, &usageError{"--peer: " + err.Error()}
				}
			}
			if s.limit < 0 {
				return exitUsage, &usageError{"--limit cannot be negative"}
			}
			client, err := s.client()
			if err != nil {
				return exitBad, err
			}
			flows, err := client.Flows(s.ctx, filter)
			if err != nil {
				return exitBad, err
			}
			if s.json() {
				return exitGood, s.printJSON(flows)
			}
			s.printFlows(flows)
			return exitGood, nil
		},
	}
}

func (s *session) printFlows(flows *api.Flows) {
	t := tabwriter.NewWriter(s.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "RESOURCE\tLOCAL\t\tPEER\tPROTOCOL\tSTATE\tREASON\tIN\tOUT\tSTARTED\n")
	for i := range flows.Flows {
		f := &flows.Flows[i]
		arrow, resource := "←", f.Resource
		if f.Direction == policy.Outbound.String() {
			arrow = "→"
		}
		if resource == "" {
			resource = "-"
		}
		reason := strings.TrimSpace(string(f.Reason) + " " + f.Rule)
		if f.WouldBe == policy.Deny.String() {
			reason += " (would be denied)"
		}
		if f.Generation != flows.Generation {
			reason += fmt.Sprintf(" (in generation %d)", f.Generation)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", resource, end(f.Local), arrow, end(f.Peer), f.Protocol, f.State,
			reason, size(f.BytesTowards), size(f.BytesFrom), s.when(f.Started))
	}
	t.Flush()
	if left := flows.Matching - len(flows.Flows); left > 0 {
		s.printf("… and %d more; see --limit\n", left)
	}
}

// end leaves out the port where there is none.
func end(a netip.AddrPort) string {
	if a.Port() == 0 {
		return a.Addr().String()
	}
	return a.String()
}
