package reference_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/pkg/reference"
)

// TestOrder takes away one reason to allow after the other and sees the next
// one in line decide.
func TestOrder(t *testing.T) {
	p := plain(policy.Enforced, policy.Enabled, true)
	p.PrivateEndpoints = []policy.PrivateEndpoint{{Name: "wg", AddressPrefixes: prefixes("10.20.0.6")}}
	p.Resources = append(p.Resources, host("mate", "10.20.0.0/24"), host("far", "10.20.0.0/16"))
	p.Perimeters[0].Associations = append(p.Perimeters[0].Associations, associate("mate", "p", policy.Enforced))
	p.Perimeters[0].Profiles[0].AccessRules = append(p.Perimeters[0].Profiles[0].AccessRules, rule("all-ten", in, "10.0.0.0/8"))
	p.Perimeters[0].Links = []policy.Link{{Name: "link", RemotePerimeter: "remote", LocalInboundProfiles: []string{"*"}}}
	p.Perimeters = append(p.Perimeters, policy.Perimeter{
		Name:           "remote",
		Profiles:       []policy.Profile{{Name: "p"}},
		Associations:   []policy.Association{associate("far", "p", policy.Enforced)},
		LinkReferences: []policy.LinkReference{{Name: "reference", RemotePerimeter: "perimeter", Status: policy.Approved}},
	})
	e := reference.New(p, policy.Facts{Now: now, Failsafe: []policy.AccessRule{
		limited(policy.AccessRule{Name: "ssh", Direction: in}, tcp(22, 22)),
	}})
	judge(t, e, []row{
		{"failsafe", tcpPacket(in, memberAddr, 22, "10.20.0.6", 9), policy.Allow, policy.ReasonFailsafe, "db", "ssh"},
		{"private path", tcpPacket(in, memberAddr, 23, "10.20.0.6", 9), policy.Allow, policy.ReasonPrivatePath, "db", "wg"},
		{"same perimeter", tcpPacket(in, memberAddr, 23, "10.20.0.7", 9), policy.Allow, policy.ReasonSamePerimeter, "db", ""},
		{"linked perimeter", tcpPacket(in, memberAddr, 23, "10.20.1.7", 9), policy.Allow, policy.ReasonLinkedPerimeter, "db", "link"},
		{"access rule", tcpPacket(in, memberAddr, 23, "10.21.0.7", 9), policy.Allow, policy.ReasonAccessRule, "db", "all-ten"},
		{"default", tcpPacket(in, memberAddr, 23, "11.0.0.0", 9), policy.Deny, policy.ReasonNoAccessRule, "db", ""},
	})
}

func TestFailsafe(t *testing.T) {
	p := plain(policy.Unassociated, policy.SecuredByPerimeter, false)
	e := reference.New(p, policy.Facts{Now: now, Failsafe: []policy.AccessRule{
		limited(policy.AccessRule{Name: "ssh", Direction: in}, tcp(22, 22)),
		limited(rule("ntp", out, "192.0.2.0/24"), udp(123, 123)),
		// Of a failsafe rule the end does not count.
		until(limited(rule("old", in, "192.0.2.9"), tcp(8022, 8022)), now.Add(-time.Hour)),
	}})
	secured := policy.ReasonSecuredByPerimeter
	judge(t, e, []row{
		{"any peer", tcpPacket(in, memberAddr, 22, nobody, 9), policy.Allow, policy.ReasonFailsafe, "db", "ssh"},
		{"next port", tcpPacket(in, memberAddr, 23, nobody, 9), policy.Deny, secured, "db", ""},
		{"other protocol", udpPacket(in, memberAddr, 22, nobody, 9), policy.Deny, secured, "db", ""},
		{"port is the peer's", tcpPacket(in, memberAddr, 9, nobody, 22), policy.Deny, secured, "db", ""},
		{"other direction", tcpPacket(out, memberAddr, 22, nobody, 22), policy.Deny, secured, "db", ""},
		{"outbound, the peer's port", udpPacket(out, memberAddr, 9, nobody, 123), policy.Allow, policy.ReasonFailsafe, "db", "ntp"},
		{"outbound, the local port", udpPacket(out, memberAddr, 123, nobody, 9), policy.Deny, secured, "db", ""},
		{"outbound, other peer", udpPacket(out, memberAddr, 9, "192.0.3.0", 123), policy.Deny, secured, "db", ""},
		{"never ends", tcpPacket(in, memberAddr, 8022, nobody, 9), policy.Allow, policy.ReasonFailsafe, "db", "old"},
		{"of no member", tcpPacket(in, "10.20.0.4", 22, nobody, 9), policy.Allow, reference.ReasonUngoverned, "", ""},
	})
}

func TestFailsafeForEveryPeerIsForBothFamilies(t *testing.T) {
	p := &policy.Policy{Resources: []policy.Resource{host("db", "fd20::5")}}
	p.Resources[0].PublicNetworkAccess = policy.Disabled
	e := reference.New(p, policy.Facts{Now: now, Failsafe: []policy.AccessRule{
		limited(policy.AccessRule{Name: "ssh", Direction: in}, tcp(22, 22)),
		limited(rule("v4", in, "0.0.0.0/0"), tcp(23, 23)),
	}})
	judge(t, e, []row{
		{"every peer", tcpPacket(in, "fd20::5", 22, "2001:db8::9", 9), policy.Allow, policy.ReasonFailsafe, "db", "ssh"},
		{"every IPv4 peer", tcpPacket(in, "fd20::5", 23, "2001:db8::9", 9), policy.Deny, policy.ReasonPublicAccessDisabled, "db", ""},
	})
}

func TestPrivateEndpoints(t *testing.T) {
	p := plain(policy.Enforced, policy.Enabled, false)
	p.PrivateEndpoints = []policy.PrivateEndpoint{
		{Name: "wide", AddressPrefixes: prefixes("172.16.0.0/12", "fd99::/16")},
		{Name: "narrow", AddressPrefixes: prefixes("172.16.4.0/24")},
		{Name: "also-narrow", AddressPrefixes: prefixes("172.16.4.0/24")},
		{Name: "tunnels", Interfaces: []string{"wg*", "tun0"}},
		{Name: "z-tunnels", Interfaces: []string{"wg7"}},
	}
	over := func(itf, peer string, direction policy.Direction) reference.Packet {
		pkt := tcpPacket(direction, memberAddr, 5432, peer, 443)
		pkt.Interface = itf
		return pkt
	}
	judge(t, evaluator(p), []row{
		{"pattern", over("wg7", nobody, in), policy.Allow, policy.ReasonPrivatePath, "db", "tunnels"},
		{"outbound", over("wg7", nobody, out), policy.Allow, policy.ReasonPrivatePath, "db", "tunnels"},
		{"name", over("tun0", nobody, in), policy.Allow, policy.ReasonPrivatePath, "db", "tunnels"},
		{"longer name", over("tun01", nobody, in), policy.Deny, policy.ReasonNoAccessRule, "db", ""},
		{"prefix", over("eth0", "172.31.255.255", in), policy.Allow, policy.ReasonPrivatePath, "db", "wide"},
		{"prefix outbound", over("eth0", "172.16.0.0", out), policy.Allow, policy.ReasonPrivatePath, "db", "wide"},
		{"before the prefix", over("eth0", "172.15.255.255", in), policy.Deny, policy.ReasonNoAccessRule, "db", ""},
		{"after the prefix", over("eth0", "172.32.0.0", in), policy.Deny, policy.ReasonNoAccessRule, "db", ""},
		{"longest prefix, first name", over("eth0", "172.16.4.1", in), policy.Allow, policy.ReasonPrivatePath, "db", "also-narrow"},
		{"interface before prefix", over("wg0", "172.16.4.1", in), policy.Allow, policy.ReasonPrivatePath, "db", "tunnels"},
	})
	ungoverned := over("wg7", nobody, in)
	ungoverned.Local = netip.MustParseAddr("10.20.0.4")
	judge(t, evaluator(p), []row{
		{"of no member", ungoverned, policy.Allow, reference.ReasonUngoverned, "", ""},
	})
}
