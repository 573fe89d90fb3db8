package reference_test

import (
	"net/netip"
	"testing"

	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/pkg/reference"
)

// crowd is a host with four resources and one that lives elsewhere. "beta"
// admits only 198.51.100.0/24, "delta" nobody, on its own port.
func crowd() (*policy.Policy, policy.Facts) {
	p := &policy.Policy{Resources: []policy.Resource{
		host("alpha", "10.20.0.1", "fd20::1"),
		host("beta", "10.20.0.2"),
		service("delta", []policy.Ports{udp(5353, 5353)}, "10.20.0.3"),
		service("echo", []policy.Ports{udp(7, 7)}, "10.20.0.4"),
		host("absent", "10.99.0.1"),
	}}
	p.Resources[1].Firewall = []policy.AccessRule{rule("own", in, "198.51.100.0/24", "2001:db8::/32")}
	p.Resources[2].PublicNetworkAccess = policy.Disabled
	p.Resources[4].PublicNetworkAccess = policy.SecuredByPerimeter
	facts := policy.Facts{Now: now}
	for _, addr := range []string{"10.20.0.1", "10.20.0.2", "10.20.0.3", "10.20.0.4"} {
		facts.Interfaces = append(facts.Interfaces, policy.Interface{Name: "eth0", Addresses: []netip.Addr{netip.MustParseAddr(addr)}})
	}
	return p, facts
}

func TestMulticast(t *testing.T) {
	const open, noOwn = policy.ReasonPublicAccessEnabled, policy.ReasonNoFirewallRule
	p, facts := crowd()
	judge(t, reference.New(p, facts), []row{
		{"all admit it", udpPacket(in, "224.0.0.251", 9, rulePeer, 9), allowed, open, "alpha", ""},
		{"one does not", udpPacket(in, "224.0.0.251", 9, nobody, 9), denied, noOwn, "beta", ""},
		{"first that denies", udpPacket(in, "239.255.255.255", 5353, nobody, 9), denied, noOwn, "beta", ""},
		{"by its service", udpPacket(in, "239.255.255.255", 5353, rulePeer, 9), denied, policy.ReasonPublicAccessDisabled, "delta", ""},
		{"broadcast", udpPacket(in, "255.255.255.255", 9, nobody, 9), denied, noOwn, "beta", ""},
		{"ff02::fb", udpPacket(in, "ff02::fb", 9, "2001:db8::9", 9), allowed, open, "alpha", ""},
		{"ff02::fb, one does not", udpPacket(in, "ff02::fb", 9, "2001:db9::9", 9), denied, noOwn, "beta", ""},
		{"below", udpPacket(in, "223.255.255.255", 9, nobody, 9), allowed, reference.ReasonUngoverned, "", ""},
		{"above", udpPacket(in, "240.0.0.0", 9, nobody, 9), allowed, reference.ReasonUngoverned, "", ""},
		{"broadcast's neighbour", udpPacket(in, "255.255.255.254", 9, nobody, 9), allowed, reference.ReasonUngoverned, "", ""},
		{"below ff00::", udpPacket(in, "feff::1", 9, "2001:db9::9", 9), allowed, reference.ReasonUngoverned, "", ""},
		{"v4-mapped is not IPv4", udpPacket(in, "::ffff:224.0.0.251", 9, "2001:db9::9", 9), allowed, reference.ReasonUngoverned, "", ""},
		{"a group is never a source", udpPacket(out, "224.0.0.251", 9, nobody, 9), allowed, reference.ReasonUngoverned, "", ""},
		{"from a member to a group", udpPacket(out, "10.20.0.2", 9, "224.0.0.251", 9), allowed, open, "beta", ""},
	})

	p.Resources = p.Resources[2:4]
	judge(t, reference.New(p, facts), []row{
		{"nobody serves the port", udpPacket(in, "224.0.0.251", 9, nobody, 9), allowed, reference.ReasonUngoverned, "", ""},
		{"the first does", udpPacket(in, "224.0.0.251", 5353, nobody, 9), denied, policy.ReasonPublicAccessDisabled, "delta", ""},
		{"the second does", udpPacket(in, "224.0.0.251", 7, nobody, 9), allowed, open, "echo", ""},
	})
}

// TestMulticastBesideWorkloads: where workloads are attached, every resource
// may live here.
func TestMulticastBesideWorkloads(t *testing.T) {
	p, facts := crowd()
	facts.Interfaces = append(facts.Interfaces, policy.Interface{Name: "lxc1", Workload: true})
	judge(t, reference.New(p, facts), []row{
		{"one elsewhere counts", udpPacket(in, "224.0.0.251", 9, rulePeer, 9), denied, policy.ReasonSecuredByPerimeter, "absent", ""},
	})
}

// TestMulticastAudit: a would-be denial is no denial, and does not hide one.
func TestMulticastAudit(t *testing.T) {
	p, facts := crowd()
	p.Perimeters = []policy.Perimeter{single("alpha", policy.Audit)}
	e := reference.New(p, facts)
	judge(t, e, []row{
		{"first by name", udpPacket(in, "224.0.0.251", 9, rulePeer, 9), allowed, noRule, "alpha", ""},
		{"denied by another", udpPacket(in, "224.0.0.251", 9, nobody, 9), denied, policy.ReasonNoFirewallRule, "beta", ""},
	})
	if d := e.Judge(in, udpPacket(in, "224.0.0.251", 9, rulePeer, 9)); d.WouldBe != denied {
		t.Errorf("Audit: would be %v", d.WouldBe)
	}
}

// TestDirectedBroadcast: the broadcast addresses of the host's networks are
// judged as groups are, in both directions, if anybody lives here.
func TestDirectedBroadcast(t *testing.T) {
	const open, noOwn = policy.ReasonPublicAccessEnabled, policy.ReasonNoFirewallRule
	p, facts := crowd()
	facts.Interfaces[0].Broadcasts = []netip.Addr{netip.MustParseAddr("10.20.0.255")}
	judge(t, reference.New(p, facts), []row{
		{"all admit it", udpPacket(in, "10.20.0.255", 9, rulePeer, 9), allowed, open, "alpha", ""},
		{"one does not", udpPacket(in, "10.20.0.255", 9, nobody, 9), denied, noOwn, "beta", ""},
		{"the address before it", udpPacket(in, "10.20.0.254", 9, nobody, 9), allowed, reference.ReasonUngoverned, "", ""},
		{"in its name", udpPacket(out, "10.20.0.255", 9, nobody, 9), allowed, open, "alpha", ""},
	})
	d := reference.New(p, facts).Unjudged(reference.Packet{Towards: true, Local: netip.MustParseAddr("10.20.0.255"), Unjudgeable: "x"})
	if d.Resource != "delta" || d.Verdict != denied { // the only one here that is strict
		t.Errorf("what cannot be judged: %+v", d)
	}
	p.Resources = append(p.Resources[4:], host("around", "10.20.0.128/25"))
	judge(t, reference.New(p, facts), []row{
		{"nobody lives here", udpPacket(in, "10.20.0.255", 9, nobody, 9), allowed, open, "around", ""},
	})
}
