package reference_test

import (
	"net/netip"
	"testing"

	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/pkg/reference"
)

const cutShort policy.Reason = "truncated-l4"

// unjudgeable is a packet whose L4 header was cut short; with an empty local
// address, not even that could be read.
func unjudgeable(direction policy.Direction, local, peer string) reference.Packet {
	pkt := reference.Packet{Towards: direction == in, Interface: "eth0", Unjudgeable: cutShort}
	if local != "" {
		pkt.Local, pkt.Peer = netip.MustParseAddr(local), netip.MustParseAddr(peer)
	}
	return pkt
}

// TestStrict is mode by publicNetworkAccess: what becomes of a packet that
// cannot be judged, towards and from the member, and when no address is known.
func TestStrict(t *testing.T) {
	const (
		drop  = "drop"
		pass  = "pass"
		would = "pass, would drop"
	)
	for _, test := range []struct {
		mode             policy.AccessMode
		access           policy.PublicNetworkAccess
		in, out, nowhere string
	}{
		{policy.Unassociated, policy.Enabled, pass, pass, pass},
		{policy.Unassociated, policy.Disabled, drop, pass, drop},
		{policy.Unassociated, policy.SecuredByPerimeter, drop, drop, drop},
		{policy.Learning, policy.Enabled, pass, pass, pass},
		{policy.Learning, policy.Disabled, pass, pass, pass},
		{policy.Learning, policy.SecuredByPerimeter, drop, drop, drop},
		{policy.Enforced, policy.Enabled, drop, drop, drop},
		{policy.Enforced, policy.Disabled, drop, drop, drop},
		{policy.Enforced, policy.SecuredByPerimeter, drop, drop, drop},
		{policy.Audit, policy.Enabled, would, would, would},
		{policy.Audit, policy.Disabled, would, would, would},
		{policy.Audit, policy.SecuredByPerimeter, would, would, would},
	} {
		p := plain(test.mode, test.access, true)
		here := policy.Facts{Now: now, Interfaces: []policy.Interface{
			{Name: "eth0", Addresses: []netip.Addr{netip.MustParseAddr(memberAddr)}},
		}}
		e := reference.New(p, here)
		check := func(name string, pkt reference.Packet, want, resource string) {
			t.Helper()
			d := e.Unjudged(pkt)
			got := pass
			switch {
			case d.Verdict == denied && d.WouldBe == denied:
				got = drop
			case d.WouldBe == denied:
				got = would
			}
			if got != want || d.Resource != resource || d.Reason != cutShort {
				t.Errorf("%v %v, %s: got %s of %q by %s, want %s of %q", test.mode, test.access, name, got, d.Resource, d.Reason, want, resource)
			}
			if logged := d.Category != ""; logged != (want != pass) {
				t.Errorf("%v %v, %s: category %q", test.mode, test.access, name, d.Category)
			}
		}
		check("towards", unjudgeable(in, memberAddr, rulePeer), test.in, "db")
		check("from", unjudgeable(out, memberAddr, rulePeer), test.out, "db")
		check("multicast", unjudgeable(in, "224.0.0.1", rulePeer), test.in, "db")
		check("of no member", unjudgeable(in, "10.20.0.4", rulePeer), pass, "")
		check("unreadable, towards", unjudgeable(in, "", ""), test.nowhere, "")
		check("unreadable, from", unjudgeable(out, "", ""), test.nowhere, "")

		here.Interfaces[0].Addresses[0] = netip.MustParseAddr("10.20.0.4")
		e = reference.New(p, here)
		check("towards a member elsewhere", unjudgeable(in, memberAddr, rulePeer), test.in, "db")
		check("unreadable, member elsewhere", unjudgeable(in, "", ""), pass, "")
		check("multicast, member elsewhere", unjudgeable(in, "224.0.0.1", rulePeer), pass, "")
	}
}

// TestStrictOfAnyLayer: the port is not known, so any resource of the address
// will do; the first that is strict is named, and Audit hides no other.
func TestStrictOfAnyLayer(t *testing.T) {
	p := &policy.Policy{Resources: []policy.Resource{
		service("db", []policy.Ports{tcp(5432, 5432)}, memberAddr),
		service("web", []policy.Ports{tcp(80, 80)}, "10.20.0.0/24"),
		host("site", "10.20.0.0/16"),
	}}
	p.Resources[1].PublicNetworkAccess = policy.Disabled
	p.Resources[2].PublicNetworkAccess = policy.Disabled
	e := evaluator(p)
	for _, test := range []struct {
		local   string
		by      string
		verdict policy.Verdict
	}{
		{memberAddr, "web", denied},
		{"10.20.1.0", "site", denied},
		{"10.21.0.0", "", allowed},
	} {
		d := e.Unjudged(unjudgeable(in, test.local, rulePeer))
		if d.Verdict != test.verdict || d.Resource != test.by {
			t.Errorf("%s: got %v by %q, want %v by %q", test.local, d.Verdict, d.Resource, test.verdict, test.by)
		}
	}
	if d := e.Unjudged(unjudgeable(out, memberAddr, rulePeer)); d.Verdict != allowed || d.Resource != "db" {
		t.Errorf("outbound: got %v by %q", d.Verdict, d.Resource)
	}
}
