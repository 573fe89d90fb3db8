package reference_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/pkg/reference"
)

// layers is services laid over hosts and over each other. Nothing is
// associated: the resource's name is what these tests look at.
func layers() *policy.Policy {
	p := &policy.Policy{Resources: []policy.Resource{
		host("everything", "0.0.0.0/0"),
		service("ssh", []policy.Ports{tcp(22, 22)}, "10.0.0.0/8"),
		host("site", "10.20.0.0/16"),
		service("web", []policy.Ports{tcp(80, 80), tcp(443, 443)}, "10.20.0.0/24"),
		service("mail", []policy.Ports{tcp(25, 25)}, "10.20.0.0/24"),
		service("db", []policy.Ports{tcp(5432, 5432)}, "10.20.0.5"),
		service("ping", []policy.Ports{whole(policy.ProtocolICMP)}, "10.20.0.5", "fd20::5"),
		host("box", "10.20.0.6"),
		service("ntp", []policy.Ports{udp(123, 123)}, "10.20.0.8", "10.20.0.0/16", "10.20.0.9"),
	}}
	return p
}

func TestCarried(t *testing.T) {
	e := evaluator(layers())
	for _, test := range []struct{ addr, want string }{
		{"9.255.255.255", "[[everything]]"},
		{"10.0.0.1", "[[ssh] [everything]]"},
		{"10.19.255.255", "[[ssh] [everything]]"},
		{"10.20.1.0", "[[ntp site]]"},
		{"10.20.0.1", "[[mail web] [ntp site]]"},
		{"10.20.0.5", "[[db ping] [mail web] [ntp site]]"},
		{"10.20.0.6", "[[box]]"},
		{"10.20.0.8", "[[ntp] [mail web] [site]]"}, // by its longest prefix only
		{"11.0.0.0", "[[everything]]"},
		{"fd20::5", "[[ping]]"},
		{"fd20::6", "[]"},
	} {
		var names [][]string
		for _, group := range e.Carried(netip.MustParseAddr(test.addr)) {
			var list []string
			for _, resource := range group {
				list = append(list, resource.Name)
			}
			names = append(names, list)
		}
		if got := fmt.Sprint(names); got != test.want {
			t.Errorf("%s carries %s, want %s", test.addr, got, test.want)
		}
	}
}

func TestAttribution(t *testing.T) {
	const open = policy.ReasonPublicAccessEnabled
	to := func(local string, port uint16) reference.Packet { return tcpPacket(in, local, port, nobody, 9) }
	from := func(local string, port uint16) reference.Packet { return tcpPacket(out, local, port, nobody, 9) }
	none := reference.ReasonUngoverned
	judge(t, evaluator(layers()), []row{
		{"own service", to("10.20.0.5", 5432), allowed, open, "db", ""},
		{"port beside it", to("10.20.0.5", 5433), allowed, open, "site", ""},
		{"same port in udp", udpPacket(in, "10.20.0.5", 5432, nobody, 9), allowed, open, "site", ""},
		{"service beneath", to("10.20.0.5", 443), allowed, open, "web", ""},
		{"other service beneath", to("10.20.0.5", 25), allowed, open, "mail", ""},
		{"beneath a resource of all traffic", to("10.20.0.5", 22), allowed, open, "site", ""},
		{"protocol of a service", bare(in, policy.ProtocolICMP, "10.20.0.5", nobody), allowed, open, "ping", ""},
		{"protocol of no service", bare(in, policy.ProtocolGRE, "10.20.0.5", nobody), allowed, open, "site", ""},
		{"a host hides what is beneath", to("10.20.0.6", 443), allowed, open, "box", ""},
		{"wide service", to("10.0.0.1", 22), allowed, open, "ssh", ""},
		{"beneath the wide service", to("10.0.0.1", 23), allowed, open, "everything", ""},
		{"outbound, first by name", from("10.20.0.5", 9), allowed, open, "db", ""},
		{"outbound, whatever the port", from("10.20.0.5", 443), allowed, open, "db", ""},
		{"outbound, first of the group", from("10.20.0.7", 9), allowed, open, "mail", ""},
		{"icmpv6 is icmp", bare(in, policy.ProtocolICMPv6, "fd20::5", "fd20::9"), allowed, open, "ping", ""},
		{"service of the address, nothing beneath", tcpPacket(in, "fd20::5", 22, "fd20::9", 9), allowed, none, "", ""},
		{"outbound of it", tcpPacket(out, "fd20::5", 22, "fd20::9", 9), allowed, open, "ping", ""},
		{"no resource", tcpPacket(out, "fd20::6", 22, "fd20::9", 9), allowed, none, "", ""},
	})
}

// TestPortsOfProtocolsWithout: a packet of a protocol without ports has port 0,
// whatever stands in the fields.
func TestPortsOfProtocolsWithout(t *testing.T) {
	p := &policy.Policy{Resources: []policy.Resource{
		service("odd", []policy.Ports{{Protocol: policy.ProtocolGRE, First: 7, Last: 7}}, memberAddr),
		service("esp", []policy.Ports{whole(policy.ProtocolESP)}, memberAddr),
	}}
	gre := bare(in, policy.ProtocolGRE, memberAddr, nobody)
	gre.LocalPort = 7
	esp := bare(in, policy.ProtocolESP, memberAddr, nobody)
	esp.LocalPort = 7
	judge(t, evaluator(p), []row{
		{"gre", gre, allowed, reference.ReasonUngoverned, "", ""},
		{"esp", esp, allowed, policy.ReasonPublicAccessEnabled, "esp", ""},
	})
}

// TestPeerIsKnownByAddress: the ports of a peer's services play no role.
func TestPeerIsKnownByAddress(t *testing.T) {
	p := plain(policy.Enforced, policy.Enabled, false)
	p.Resources = append(p.Resources,
		service("broker", []policy.Ports{tcp(5671, 5671)}, "10.20.0.6/31"),
		host("alone", "10.20.0.7"),
	)
	p.Perimeters[0].Associations = append(p.Perimeters[0].Associations, associate("broker", "p", policy.Learning))
	const same = policy.ReasonSamePerimeter
	judge(t, evaluator(p), []row{
		{"its port", tcpPacket(out, memberAddr, 9, "10.20.0.6", 5671), allowed, same, "db", ""},
		{"any port", tcpPacket(out, memberAddr, 9, "10.20.0.6", 22), allowed, same, "db", ""},
		{"inbound", tcpPacket(in, memberAddr, 22, "10.20.0.6", 9), allowed, same, "db", ""},
		{"hidden by a host", tcpPacket(out, memberAddr, 9, "10.20.0.7", 5671), denied, noRule, "db", ""},
		{"itself", tcpPacket(in, memberAddr, 22, memberAddr, 9), allowed, same, "db", ""},
	})
}

// TestInterfaces: the addresses of a resource may be those of interfaces, on
// the hosts it names.
func TestInterfaces(t *testing.T) {
	p := &policy.Policy{Resources: []policy.Resource{
		{Name: "nic", Interfaces: []string{"eth*"}, Host: "db-*"},
		{Name: "elsewhere", Interfaces: []string{"eth*"}, Host: "web-*"},
	}}
	e := reference.New(p, policy.Facts{Now: now, Hostname: "db-1", Interfaces: []policy.Interface{
		{Name: "eth0", Addresses: []netip.Addr{netip.MustParseAddr(memberAddr), netip.MustParseAddr("fe80::1%eth0")}},
		{Name: "wlan0", Addresses: []netip.Addr{netip.MustParseAddr("10.20.0.6")}},
	}})
	judge(t, e, []row{
		{"v4", tcpPacket(in, memberAddr, 9, nobody, 9), allowed, policy.ReasonPublicAccessEnabled, "nic", ""},
		{"v6 with a zone", tcpPacket(in, "fe80::1", 9, "fe80::2", 9), allowed, policy.ReasonPublicAccessEnabled, "nic", ""},
		{"other interface", tcpPacket(in, "10.20.0.6", 9, nobody, 9), allowed, reference.ReasonUngoverned, "", ""},
	})
}
