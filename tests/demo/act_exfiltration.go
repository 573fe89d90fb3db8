package main

import "github.com/perimeterd/perimeterd/pkg/policy"

func exfiltration(d *demo) {
	d.step("Exfiltration", `Whoever has taken over the database wants to send it to the stranger. Outbound traffic is denied as inbound
		traffic is. What the database does need outside is the partner's service for rates, and it gets that by name:
		perimeterd resolves the name itself and follows its addresses.`)
	d.try(
		attempt{d.database, d.dropSite, dropped, outbound(policy.ReasonNoAccessRule)},
		attempt{d.database, d.rates, dropped, outbound(policy.ReasonNoAccessRule)},
	)
	d.expect(d.dropSite.server.Reached() == reachedInTheOpen, "nothing has reached the stranger since Enforced", "the stranger was reached")
	d.line("")
	d.edit("payments.yaml", partnersRule, partnersRule+ratesRule)
	d.try(
		attempt{d.database, d.rates, passes, outbound(policy.ReasonAccessRule, "rates")},
		attempt{d.vault, d.rates, dropped, outbound(policy.ReasonNoAccessRule)},
		attempt{d.database, d.dropSite, dropped, outbound(policy.ReasonNoAccessRule)},
	)
	d.line("")
	d.ctl(d.server, 0, "explain", "--from", "database", "--to", ratesName, "--port", "tcp/8443")
}

// reachedInTheOpen is how often the demo let the database reach the stranger
// before anything was enforced: in two steps, over both families.
const reachedInTheOpen = 2 * len(families)
