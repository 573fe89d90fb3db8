package main

import "github.com/perimeterd/perimeterd/pkg/policy"

func disabled(d *demo) {
	d.step("Away with it", `Stopping perimeterd changes nothing, since what is in force is in the kernel. perimeterctl disable removes it, also
		without perimeterd.`)
	d.ctl(d.server, 0, "status")
	d.try(attempt{d.stranger, d.postgres, dropped, inbound(policy.ReasonNoAccessRule)})
	d.typed("systemctl stop perimeterd    (on server)")
	d.must(d.server.Stop(d.within()))
	d.try(
		attempt{d.stranger, d.postgres, dropped, unjudged},
		attempt{d.partner, d.postgres, passes, unjudged},
	)
	d.line("")
	d.ctl(d.server, 0, "disable")
	d.try(
		attempt{d.stranger, d.postgres, passes, unjudged},
		attempt{d.database, d.dropSite, passes, unjudged},
	)
	d.stillInside()
}
