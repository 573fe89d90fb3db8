package agent

import (
	"context"
	"net/netip"
	"strconv"
	"strings"

	"github.com/perimeterd/perimeterd/pkg/api"
	"github.com/perimeterd/perimeterd/pkg/compile"
	"github.com/perimeterd/perimeterd/pkg/datapath"
	"github.com/perimeterd/perimeterd/pkg/decisionlog"
	"github.com/perimeterd/perimeterd/pkg/policy"
)

// Subscribe returns a live view of the decision log.
func (a *Agent) Subscribe(o decisionlog.SubscribeOptions) (*decisionlog.Subscription, error) {
	return a.log.Subscribe(o)
}

// Disable removes enforcement until Enable, over restarts too.
func (a *Agent) Disable(ctx context.Context) (*api.Switched, error) { return a.command(ctx, true) }

// Enable puts enforcement back.
func (a *Agent) Enable(ctx context.Context) (*api.Switched, error) { return a.command(ctx, false) }

func (a *Agent) command(ctx context.Context, disable bool) (*api.Switched, error) {
	replies := make(chan reply, 1)
	select {
	case a.reconciler.commands <- command{disable, replies}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case r := <-replies:
		return r.switched, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Flows lists the allowed flows that a filter lets through.
func (a *Agent) Flows(ctx context.Context, f api.FlowFilter) (*api.Flows, error) {
	out := &api.Flows{Flows: []api.Flow{}}
	legends := map[uint32]*compile.Legend{}
	list := func(flow datapath.Flow) bool {
		l, ok := legends[flow.Generation]
		if !ok {
			l = a.legends.of(flow.Generation)
			legends[flow.Generation] = l
		}
		listed := a.describeFlow(&flow, l)
		if f.Resource != "" && !strings.EqualFold(f.Resource, listed.Resource) ||
			f.Peer.IsValid() && !f.Peer.Contains(flow.Peer) || f.State != "" && f.State != flow.State {
			return true
		}
		out.Matching++
		if f.Limit == 0 || len(out.Flows) < f.Limit {
			out.Flows = append(out.Flows, listed)
		}
		return ctx.Err() == nil
	}
	v := a.reconciler.look()
	err := v.use(func(dp *datapath.Datapath) error {
		out.Generation = dp.Generation()
		return dp.Flows(list)
	})
	return out, err
}

func (a *Agent) describeFlow(flow *datapath.Flow, l *compile.Legend) api.Flow {
	out := api.Flow{
		Protocol:  protocolName(flow.Protocol),
		Local:     netip.AddrPortFrom(flow.Local, flow.LocalPort),
		Peer:      netip.AddrPortFrom(flow.Peer, flow.PeerPort),
		Direction: flow.Direction.String(), State: flow.State, Reason: flow.Reason, WouldBe: flow.WouldBe.String(),
		Midstream: flow.Midstream, Generation: flow.Generation, Interface: a.links.Name(flow.Ifindex),
		Started: flow.Started, Seen: flow.Seen,
		PacketsTowards: flow.PacketsTowards, BytesTowards: flow.BytesTowards,
		PacketsFrom: flow.PacketsFrom, BytesFrom: flow.BytesFrom,
	}
	if l != nil && flow.Member != 0 && int(flow.Member) < len(l.Members) {
		out.Resource = l.Members[flow.Member].Resource
	}
	if l != nil && flow.Outcome != 0 && int(flow.Outcome) < len(l.Outcomes) {
		out.Rule = l.Outcomes[flow.Outcome].Rule
	}
	return out
}

// protocolName is how a policy writes a protocol.
func protocolName(protocol uint8) string {
	if protocol == policy.ProtocolICMPv6 {
		return "icmpv6" // a policy has one word for both
	}
	name := policy.Ports{Protocol: protocol, Last: 65535}.String()
	name, _, _ = strings.Cut(name, "/")
	if name == "ip" {
		return "ip/" + strconv.Itoa(int(protocol))
	}
	return name
}
