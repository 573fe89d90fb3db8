package main

import "github.com/perimeterd/perimeterd/pkg/policy"

func liveConnectionCut(d *demo) {
	d.step("A rule goes, and with it a live connection", `The contract with the partner ends while it is connected. A flow is judged again at its next packet after a
		change, so the connection is cut, and everybody else's goes on.`)
	talk := d.converse(d.partner, d.postgres, 0)
	d.goesOn(talk, "the partner's session in the database")
	d.ctl(d.server, 0, "flows", "--state", "established")
	mark := d.server.Records.Len()
	d.edit("payments.yaml", partnersRule, "")
	d.isCut(talk, "the partner's session in the database", d.partner, mark)
	d.try(
		attempt{d.partner, d.postgres, dropped, inbound(policy.ReasonNoAccessRule)},
		attempt{d.batch, d.postgres, passes, inbound(policy.ReasonAccessRule, "nightly-jobs")},
	)
	d.stillInside()
	d.line("")

	d.edit("payments.yaml", nightlyRule, partnersRule+nightlyRule)
	d.try(attempt{d.partner, d.postgres, passes, inbound(policy.ReasonAccessRule, "partners")})
}
