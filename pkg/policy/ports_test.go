package policy

import "testing"

func TestPortsRoundTrip(t *testing.T) {
	for _, s := range []string{"tcp", "tcp/443", "tcp/0", "tcp/65535", "udp/1000-2000", "sctp", "dccp/5", "udplite/1-2", "icmp", "igmp", "gre", "esp", "ah", "ip/89", "ip/255"} {
		ports, err := ParsePorts(s)
		if err != nil || ports.String() != s {
			t.Errorf("%s became %v, %v", s, ports, err)
		}
	}
	// Every protocol has exactly one spelling.
	for n := range 256 {
		ports := Ports{Protocol: uint8(n), Last: 65535}
		again, err := ParsePorts(ports.String())
		switch {
		case isExtensionHeader(uint8(n)):
			if err == nil {
				t.Errorf("extension header %d was accepted", n)
			}
		case n == ProtocolICMPv6:
			if err != nil || again.Protocol != ProtocolICMP {
				t.Errorf("ICMPv6 became %v, %v; want icmp", again, err)
			}
		case err != nil || again != ports:
			t.Errorf("protocol %d became %v, %v", n, again, err)
		}
	}
}

func TestNearest(t *testing.T) {
	words := []string{"addresses", "addressPrefixes", "name", "ports"}
	for word, want := range map[string]string{
		"adresses": "addresses", "addreses": "addresses", "ADDRESSES": "addresses", "addresess": "addresses",
		"nmae": "name", "names": "name", "port": "ports", "addressPrefix": "addressPrefixes",
		"n": "", "xyz": "", "": "", "direction": "", "poets": "ports",
	} {
		if got := nearest(word, words); got != want {
			t.Errorf("nearest(%q) = %q, want %q", word, got, want)
		}
	}
}
