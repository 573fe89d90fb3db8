package main

import "github.com/perimeterd/perimeterd/pkg/policy"

const (
	partnersRule = `          - {name: partners, direction: Inbound, addressPrefixes: [198.51.100.0/28, "2001:db8:98::/64"], ports: [tcp/5432]}
`
	nightlyRule = `          - {name: nightly-jobs, direction: Inbound, subscriptions: [nightly]}
`
	ratesRule = `          - {name: rates, direction: Outbound, fullyQualifiedDomainNames: [` + ratesName + `], ports: [tcp/8443]}
`
)

func inboundRule(d *demo) {
	d.step("An inbound rule, by prefix", `The partner needs the database, and only that. The rule is one of the profile data, which the database has and
		the broker has not.`)
	d.edit("payments.yaml", "      - {name: data, accessRules: []}\n", "      - name: data\n        accessRules:\n"+partnersRule)
	d.try(
		attempt{d.partner, d.postgres, passes, inbound(policy.ReasonAccessRule, "partners")},
		attempt{d.partner, d.queue, dropped, inbound(policy.ReasonNoAccessRule)},
		attempt{d.stranger, d.postgres, dropped, inbound(policy.ReasonNoAccessRule)},
	)
}

func subscriptionRule(d *demo) {
	d.step("A subscription rule", `A rule can name an owner group instead of addresses: it admits all resources of that subscription, in a
		perimeter or not, wherever they are. Batch is such a resource.`)
	d.edit("payments.yaml", partnersRule, partnersRule+nightlyRule)
	d.try(
		attempt{d.batch, d.postgres, passes, inbound(policy.ReasonAccessRule, "nightly-jobs")},
		attempt{d.batch, d.queue, dropped, inbound(policy.ReasonNoAccessRule)},
		attempt{d.stranger, d.postgres, dropped, inbound(policy.ReasonNoAccessRule)},
	)
	d.line("")
	d.ctl(d.server, 0, "rules")
}
