package datapath

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/tests/world"
)

// Addresses of many hosts.
const (
	toAll     = "255.255.255.255"
	toNetwork = "10.20.0.255"
	toGroup4  = "239.1.2.3"
	toGroup6  = "ff0e::123"
)

// everybody is sockets of a host that hear what is sent to many.
type everybody struct{ v4, v6 map[string]*box } // by port

func hearEverybody(t *testing.T, on world.Interface, ports ...string) everybody {
	t.Helper()
	e := everybody{map[string]*box{}, map[string]*box{}}
	for _, port := range ports {
		for network, boxes := range map[string]map[string]*box{"udp4": e.v4, "udp6": e.v6} {
			conn, err := on.Host.ListenPacket(network, ":"+port)
			if err != nil {
				t.Fatal(err)
			}
			boxes[port] = &box{conn}
			raw, err := conn.(*net.UDPConn).SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			var failed error
			err = raw.Control(func(fd uintptr) {
				if network == "udp4" {
					group := &unix.IPMreqn{Multiaddr: netip.MustParseAddr(toGroup4).As4(), Ifindex: int32(on.Index)}
					failed = unix.SetsockoptIPMreqn(int(fd), unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, group)
				} else {
					group := &unix.IPv6Mreq{Multiaddr: netip.MustParseAddr(toGroup6).As16(), Interface: uint32(on.Index)}
					failed = unix.SetsockoptIPv6Mreq(int(fd), unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, group)
				}
			})
			if err := errors.Join(err, failed); err != nil {
				t.Fatal(err)
			}
		}
	}
	return e
}

// sendToEverybody sends a datagram from an address of each family to each of the
// addresses of many, on one port. It says where it goes.
func sendToEverybody(t *testing.T, from world.Interface, source4, source6, port string) {
	t.Helper()
	for network, to := range map[string][]string{"udp4": {toAll, toNetwork, toGroup4}, "udp6": {toGroup6}} {
		source := map[string]string{"udp4": source4, "udp6": source6}[network]
		conn, err := from.Host.ListenPacket(network, net.JoinHostPort(source, "0"))
		if err != nil {
			t.Fatal(err)
		}
		raw, err := conn.(*net.UDPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		var failed error
		if err := raw.Control(func(fd uintptr) { failed = unix.BindToDevice(int(fd), from.Name) }); err != nil || failed != nil {
			t.Fatal(err, failed)
		}
		for _, address := range to {
			_, err := conn.WriteTo([]byte(address+" "+port), net.UDPAddrFromAddrPort(netip.MustParseAddrPort(net.JoinHostPort(address, port))))
			if err != nil && !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.ENOBUFS) {
				t.Fatalf("send to %s: %v", address, err)
			}
		}
	}
}

// expect expects what sendToEverybody sends to have come on these ports,
// and nothing on others.
func (e everybody) expect(t *testing.T, ports ...string) {
	t.Helper()
	for port := range e.v4 {
		want4, want6, patience := []string(nil), []string(nil), shortly
		if slices.Contains(ports, port) {
			want4 = []string{toNetwork + " " + port, toGroup4 + " " + port, toAll + " " + port}
			want6, patience = []string{toGroup6 + " " + port}, enough
		}
		got4, got6 := e.v4[port].collect(t, max(1, len(want4)), patience), e.v6[port].collect(t, max(1, len(want6)), patience)
		if !slices.Equal(got4, want4) || !slices.Equal(got6, want6) {
			t.Errorf("port %s: got %q and %q, want %q and %q", port, got4, got6, want4, want6)
		}
	}
}

// TestToEverybody: what is sent to all hosts of a network, or to a group, is
// judged for the member, who hears it where a rule lets it, and not beside it;
// and so is what the member sends to them.
func TestToEverybody(t *testing.T) {
	w := newWired(t)
	w.join(t, w.memberVeth, w.partnerVeth)
	// So that the partner takes it for the broadcast address that it is to the member.
	_, network, err := net.ParseCIDR(toNetwork + "/32")
	if err == nil {
		err = w.partner.Netlink().RouteAdd(&netlink.Route{
			Dst: network, LinkIndex: w.partnerVeth.Index, Type: unix.RTN_BROADCAST, Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_LINK,
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	atMember := hearEverybody(t, w.memberVeth, "5432", "5433")
	atPartner := hearEverybody(t, w.partnerVeth, "443", "444")
	send := func() {
		t.Helper()
		for _, port := range []string{"5433", "5432"} {
			sendToEverybody(t, w.partnerVeth, partner4, partner6, port)
		}
		for _, port := range []string{"444", "443"} {
			sendToEverybody(t, w.memberVeth, member4, member6, port)
		}
	}
	send()
	atMember.expect(t, "5432", "5433")
	atPartner.expect(t, "443", "444")

	toMany := toPartnersOn443()
	toMany.AddressPrefixes = prefixes(toAll, toNetwork, toGroup4, toGroup6)
	facts := hereFacts()
	facts.Interfaces[0].Broadcasts = []netip.Addr{netip.MustParseAddr(toNetwork)}
	w.governAs(t, Options{}, memberPolicy(policy.Enforced, partnersOn5432(), toMany), facts, w.memberVeth)
	send()
	atMember.expect(t, "5432")
	atPartner.expect(t, "443")
	counted := w.counted(t)
	t.Log(describe(counted))
	expectUnderstood(t, counted)
	if counted["access-rule"] != 8 || counted["no-access-rule"] != 8 {
		t.Error("want the four to each port judged, both ways")
	}
}
