package reference_test

import (
	"testing"

	"github.com/perimeterd/perimeterd/pkg/policy"
)

const (
	paymentsA = "10.1.0.1" // member of payments, profile a
	paymentsB = "10.1.0.2" // member of payments, profile b
	reportsA  = "10.2.0.1" // member of reports, profile a
	reportsB  = "10.2.0.2" // member of reports, profile b
	stranger  = "10.3.0.1" // member of a perimeter that is linked with none
)

// towns is three perimeters of Enforced members. The function may change
// payments and reports before they are judged.
func towns(change func(payments, reports *policy.Perimeter)) *policy.Policy {
	perimeter := func(name string) policy.Perimeter {
		return policy.Perimeter{
			Name:     name,
			Profiles: []policy.Profile{{Name: "a"}, {Name: "b"}},
			Associations: []policy.Association{
				associate(name+"-a", "a", policy.Enforced),
				associate(name+"-b", "b", policy.Enforced),
			},
		}
	}
	p := &policy.Policy{
		Resources: []policy.Resource{
			host("payments-a", paymentsA), host("payments-b", paymentsB),
			host("reports-a", reportsA), host("reports-b", reportsB),
			host("strange-a", stranger), host("strange-b", "10.3.0.2"),
		},
		Perimeters: []policy.Perimeter{perimeter("payments"), perimeter("reports"), perimeter("strange")},
	}
	change(&p.Perimeters[0], &p.Perimeters[1])
	return p
}

func link(name, remote string, profiles ...string) policy.Link {
	return policy.Link{Name: name, RemotePerimeter: remote, LocalInboundProfiles: profiles}
}

func answer(name, remote string, status policy.LinkStatus, profiles ...string) policy.LinkReference {
	return policy.LinkReference{Name: name, RemotePerimeter: remote, Status: status, LocalInboundProfiles: profiles}
}

// TestLinkDirections: payments has the link and accepts inbound for profile a,
// reports has the linkReference and accepts for profile b. Outbound is from
// all profiles.
func TestLinkDirections(t *testing.T) {
	p := towns(func(payments, reports *policy.Perimeter) {
		payments.Links = []policy.Link{link("to-reports", "reports", "a")}
		reports.LinkReferences = []policy.LinkReference{answer("from-payments", "payments", policy.Approved, "b")}
	})
	const linked = policy.ReasonLinkedPerimeter
	to := func(direction policy.Direction, local, peer string) row {
		return row{pkt: tcpPacket(direction, local, 1, peer, 2)}
	}
	expect := func(r row, verdict policy.Verdict, by, rule string) row {
		r.name = r.pkt.Direction().String() + " " + r.pkt.Local.String() + " " + r.pkt.Peer.String()
		r.verdict, r.by, r.rule, r.reason = verdict, by, rule, linked
		if verdict == denied {
			r.reason = noRule
		}
		return r
	}
	judge(t, evaluator(p), []row{
		expect(to(in, paymentsA, reportsA), allowed, "payments-a", "to-reports"),
		expect(to(in, paymentsA, reportsB), allowed, "payments-a", "to-reports"),
		expect(to(in, paymentsB, reportsA), denied, "payments-b", ""),
		expect(to(out, reportsA, paymentsA), allowed, "reports-a", "from-payments"),
		expect(to(out, reportsB, paymentsA), allowed, "reports-b", "from-payments"),
		expect(to(out, reportsA, paymentsB), denied, "reports-a", ""),

		expect(to(in, reportsB, paymentsA), allowed, "reports-b", "from-payments"),
		expect(to(in, reportsB, paymentsB), allowed, "reports-b", "from-payments"),
		expect(to(in, reportsA, paymentsA), denied, "reports-a", ""),
		expect(to(out, paymentsA, reportsB), allowed, "payments-a", "to-reports"),
		expect(to(out, paymentsB, reportsB), allowed, "payments-b", "to-reports"),
		expect(to(out, paymentsA, reportsA), denied, "payments-a", ""),

		expect(to(in, paymentsA, stranger), denied, "payments-a", ""),
		expect(to(out, paymentsA, stranger), denied, "payments-a", ""),
	})
}

// TestLinkNeedsBothSides takes away one part of a link that works after the other.
func TestLinkNeedsBothSides(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(payments, reports *policy.Perimeter)
		linked bool
	}{
		{"whole", func(payments, reports *policy.Perimeter) {}, true},
		{"no link", func(payments, _ *policy.Perimeter) { payments.Links = nil }, false},
		{"link elsewhere", func(payments, _ *policy.Perimeter) { payments.Links[0].RemotePerimeter = "strange" }, false},
		{"no reference", func(_, reports *policy.Perimeter) { reports.LinkReferences = nil }, false},
		{"reference elsewhere", func(_, reports *policy.Perimeter) { reports.LinkReferences[0].RemotePerimeter = "strange" }, false},
		{"pending", func(_, reports *policy.Perimeter) { reports.LinkReferences[0].Status = policy.Pending }, false},
		{"rejected", func(_, reports *policy.Perimeter) { reports.LinkReferences[0].Status = policy.Rejected }, false},
		{"disconnected", func(_, reports *policy.Perimeter) { reports.LinkReferences[0].Status = policy.Disconnected }, false},
		{"two links, no reference", func(payments, reports *policy.Perimeter) {
			reports.LinkReferences = nil
			reports.Links = []policy.Link{link("to-payments", "payments", "*")}
		}, false},
		{"no profile here", func(payments, _ *policy.Perimeter) { payments.Links[0].LocalInboundProfiles = nil }, false},
		{"profile listed", func(payments, _ *policy.Perimeter) { payments.Links[0].LocalInboundProfiles = []string{"b", "a"} }, true},
	} {
		p := towns(func(payments, reports *policy.Perimeter) {
			payments.Links = []policy.Link{link("to-reports", "reports", "*")}
			reports.LinkReferences = []policy.LinkReference{answer("from-payments", "payments", policy.Approved, "*")}
			test.change(payments, reports)
		})
		inbound := row{test.name, tcpPacket(in, paymentsA, 1, reportsA, 2), denied, noRule, "payments-a", ""}
		outbound := row{test.name, tcpPacket(out, reportsA, 1, paymentsA, 2), denied, noRule, "reports-a", ""}
		if test.linked {
			inbound = row{test.name, inbound.pkt, allowed, policy.ReasonLinkedPerimeter, "payments-a", "to-reports"}
			outbound = row{test.name, outbound.pkt, allowed, policy.ReasonLinkedPerimeter, "reports-a", "from-payments"}
		}
		judge(t, evaluator(p), []row{inbound, outbound})
	}
}

// TestSeveralLinks: the profiles of several approved links are a union, and the
// first name of those that allow is told. A link that is not approved gives
// nothing to the union.
func TestSeveralLinks(t *testing.T) {
	p := towns(func(payments, reports *policy.Perimeter) {
		payments.Links = []policy.Link{link("m", "reports", "a"), link("c", "strange", "*")}
		reports.LinkReferences = []policy.LinkReference{answer("n", "payments", policy.Approved, "a")}
		reports.Links = []policy.Link{link("k", "payments", "a", "b")}
		payments.LinkReferences = []policy.LinkReference{
			answer("d", "reports", policy.Approved, "b"),
			answer("b", "strange", policy.Approved, "*"),
		}
	})
	const linked = policy.ReasonLinkedPerimeter
	judge(t, evaluator(p), []row{
		{"by the link", tcpPacket(in, paymentsA, 1, reportsA, 2), allowed, linked, "payments-a", "m"},
		{"by the reference", tcpPacket(in, paymentsB, 1, reportsA, 2), allowed, linked, "payments-b", "d"},
		{"both, first by name", tcpPacket(out, paymentsB, 1, reportsA, 2), allowed, linked, "payments-b", "d"},
		{"only the reference's", tcpPacket(out, paymentsB, 1, reportsB, 2), allowed, linked, "payments-b", "d"},
		{"from the other side, both", tcpPacket(in, reportsA, 1, paymentsB, 2), allowed, linked, "reports-a", "k"},
		{"from the other side, the link", tcpPacket(in, reportsB, 1, paymentsB, 2), allowed, linked, "reports-b", "k"},
		{"out to a", tcpPacket(out, reportsB, 1, paymentsA, 2), allowed, linked, "reports-b", "n"},
		{"out to b", tcpPacket(out, reportsB, 1, paymentsB, 2), allowed, linked, "reports-b", "k"},
	})

	p.Perimeters[0].LinkReferences[0].Status = policy.Pending
	judge(t, evaluator(p), []row{
		{"still by the link", tcpPacket(in, paymentsA, 1, reportsA, 2), allowed, linked, "payments-a", "m"},
		{"no longer by the reference", tcpPacket(in, paymentsB, 1, reportsA, 2), denied, noRule, "payments-b", ""},
		{"no longer to b", tcpPacket(out, reportsB, 1, paymentsB, 2), denied, noRule, "reports-b", ""},
	})
}
