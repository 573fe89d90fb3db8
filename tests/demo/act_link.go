package main

import "github.com/perimeterd/perimeterd/pkg/policy"

func link(d *demo) {
	d.step("A link between two perimeters", `Reports is in a perimeter of its own, on a server with its own perimeterd, so it is that one that lets nothing
		out. The payments team links the perimeters and opens its profile data; that alone changes nothing, until the
		analytics team approves.`)
	d.edit("payments.yaml", "    associations:\n", `    links:
      - {name: to-analytics, remotePerimeter: analytics, localInboundProfiles: [data]}
    associations:
`)
	const reference = "      - {name: from-payments, remotePerimeter: payments, localInboundProfiles: []"
	d.edit("analytics.yaml", "    associations:\n", "    linkReferences:\n"+reference+"}\n    associations:\n")
	d.try(attempt{d.reports, d.postgres, dropped, outbound(policy.ReasonNoAccessRule)})
	d.line("")

	d.edit("analytics.yaml", reference+"}", reference+", status: Approved}")
	d.try(
		attempt{d.reports, d.postgres, passes, outbound(policy.ReasonLinkedPerimeter, "from-payments")},
		attempt{d.reports, d.postgres, passes, inbound(policy.ReasonLinkedPerimeter, "to-analytics")},
		attempt{d.reports, d.queue, dropped, outbound(policy.ReasonNoAccessRule)},
	)
}
