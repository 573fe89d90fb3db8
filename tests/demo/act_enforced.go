package main

import (
	"fmt"

	"github.com/perimeterd/perimeterd/pkg/decisionlog"
	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/tests/traffic"
)

func enforced(d *demo) {
	d.step("Enforced", `From now on what no rule allows is dropped. The members of the perimeter go on talking to each other, whatever
		their profiles. The stranger is cut off, also where it is connected already.`)
	mark := d.server.Records.Len()
	d.edit("analytics.yaml", "accessMode: Learning", "accessMode: Enforced")
	d.edit("payments.yaml", "accessMode: Audit", "accessMode: Enforced")
	d.edit("payments.yaml", "accessMode: Learning", "accessMode: Enforced")
	d.isCut(d.live.stranger, "the stranger's session in the database", d.stranger, mark)
	d.try(
		attempt{d.stranger, d.postgres, dropped, inbound(policy.ReasonNoAccessRule)},
		attempt{d.stranger, d.queue, dropped, inbound(policy.ReasonNoAccessRule)},
		attempt{d.stranger, d.secrets, dropped, inbound(policy.ReasonNoAccessRule)},
		attempt{d.partner, d.postgres, dropped, inbound(policy.ReasonNoAccessRule)},
		attempt{d.vault, d.postgres, passes, inbound(policy.ReasonSamePerimeter)},
		attempt{d.database, d.secrets, passes, outbound(policy.ReasonSamePerimeter)},
		attempt{d.database, d.queue, passes, inbound(policy.ReasonSamePerimeter)},
	)
	d.stillInside()
	d.line("")
	d.ctl(d.server, 1, "explain", "--from", d.stranger.addresses[0].String(), "--to", "database", "--port", "tcp/5432")
}

// isCut checks that a conversation ends because the policy does not allow it any
// more, and that the log says so.
func (d *demo) isCut(talk *traffic.Conversation, what string, peer *place, mark int) {
	record, err := d.server.Records.Await(d.within(), mark, func(r *decisionlog.Record) bool {
		return r.Operation == decisionlog.OperationFlowCut && r.Properties.Source.IPAddress == peer.addresses[0]
	})
	if err != nil {
		d.fail(fmt.Errorf("%s is not cut: %w", what, err))
	}
	select {
	case <-talk.Ended():
	case <-d.within().Done():
		d.fail(fmt.Errorf("%s goes on", what))
	}
	got := traffic.OutcomeOf(talk.Report().Err)
	d.expect(got == traffic.TimedOut, what+" is cut, after "+fmt.Sprint(talk.Report().Answers)+" answers", fmt.Sprintf("%s %s", what, got))
	d.record(record)
}
