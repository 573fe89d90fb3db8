package policy

import (
	"fmt"
	"net/netip"
	"testing"
)

func TestAddressesOn(t *testing.T) {
	addresses := func(s ...string) (out []netip.Addr) {
		for _, a := range s {
			out = append(out, netip.MustParseAddr(a))
		}
		return out
	}
	facts := &Facts{Hostname: "edge-1", Interfaces: []Interface{
		{Name: "lo", Addresses: addresses("127.0.0.1"), Loopback: true},
		{Name: "eth0", Addresses: addresses("192.0.2.1", "fe80::1%eth0")},
		{Name: "eth1", Addresses: addresses("192.0.2.2")},
	}}
	for _, c := range []struct {
		resource Resource
		want     string
	}{
		{Resource{Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}, "[10.0.0.0/8]"},
		{Resource{Interfaces: []string{"eth0"}}, "[192.0.2.1/32 fe80::1/128]"},
		{Resource{Interfaces: []string{"eth?"}, Host: "edge-*"}, "[192.0.2.1/32 fe80::1/128 192.0.2.2/32]"},
		{Resource{Interfaces: []string{"eth?"}, Host: "core-*"}, "[]"},
		{Resource{Interfaces: []string{"*"}}, "[192.0.2.1/32 fe80::1/128 192.0.2.2/32]"},
		{Resource{Interfaces: []string{"lo"}}, "[127.0.0.1/32]"},
		{Resource{Interfaces: []string{"eth2"}}, "[]"},
	} {
		if got := fmt.Sprint(c.resource.AddressesOn(facts)); got != c.want {
			t.Errorf("%v on %q: %s, want %s", c.resource.Interfaces, c.resource.Host, got, c.want)
		}
	}

	here := []netip.Prefix{netip.MustParsePrefix("fe80::/64")}
	elsewhere := []netip.Prefix{netip.MustParsePrefix("fe81::/64"), netip.MustParsePrefix("192.0.2.3/32")}
	if !facts.LivesHere(here) || facts.LivesHere(elsewhere) {
		t.Errorf("lives here: %v and %v, want true and false", facts.LivesHere(here), facts.LivesHere(elsewhere))
	}
	facts.Interfaces[2].Workload = true
	if !facts.LivesHere(elsewhere) {
		t.Errorf("with workloads attached, any address may live here")
	}
}

func TestCovers(t *testing.T) {
	e := PrivateEndpoint{Interfaces: []string{"wg0", "tun*"}}
	for name, want := range map[string]bool{"wg0": true, "wg1": false, "wg00": false, "tun": true, "tun7": true, "eth0": false} {
		if e.Covers(name) != want {
			t.Errorf("covers %s: %v, want %v", name, !want, want)
		}
	}
}

func TestPortsContains(t *testing.T) {
	for _, c := range []struct {
		ports    string
		protocol uint8
		port     uint16
		want     bool
	}{
		{"tcp/80", ProtocolTCP, 80, true},
		{"tcp/80", ProtocolTCP, 81, false},
		{"tcp/80", ProtocolUDP, 80, false},
		{"udp/10-20", ProtocolUDP, 10, true},
		{"udp/10-20", ProtocolUDP, 20, true},
		{"udp/10-20", ProtocolUDP, 9, false},
		{"udp/10-20", ProtocolUDP, 21, false},
		{"tcp", ProtocolTCP, 0, true},
		{"icmp", ProtocolICMP, 0, true},
		{"icmp", ProtocolICMPv6, 0, true},
		{"esp", ProtocolAH, 0, false},
		{"tcp/5432", ProtocolESP, 0, false},
	} {
		ports, err := ParsePorts(c.ports)
		if err != nil {
			t.Fatal(err)
		}
		if got := ports.Contains(c.protocol, c.port); got != c.want {
			t.Errorf("%s contains %d/%d: %v, want %v", c.ports, c.protocol, c.port, got, c.want)
		}
	}
}
