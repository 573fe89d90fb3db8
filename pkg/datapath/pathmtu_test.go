package datapath

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/tests/packet"
	"github.com/perimeterd/perimeterd/tests/privileged"
	"github.com/perimeterd/perimeterd/tests/traffic"
	"github.com/perimeterd/perimeterd/tests/world"
)

// narrow is the MTU of the narrow link.
const narrow = 1400

// newNarrow has two routers between member and partner, and between these a link
// that takes less than all others. The member is enforced.
func newNarrow(t *testing.T, loads *loads) *wired {
	t.Helper()
	privileged.Require(t)
	w := &wired{world: world.New(t)}
	w.member, w.partner = w.world.Host("member"), w.world.Host("partner")
	near, far := w.world.Router("near"), w.world.Router("far")
	w.memberVeth, _ = w.world.Uplink(w.member, near, member4+"/24", member6+"/64")
	w.partnerVeth, _ = w.world.Uplink(w.partner, far, partner4+"/24", partner6+"/64")
	a, b := w.world.Connect(near, far, "192.0.2.0/31", "192.0.2.1/31", "fd99::/127", "fd99::1/127")
	near.Route("198.51.100.0/24", "192.0.2.1")
	near.Route("2001:db8:100::/48", "fd99::1")
	far.Route("10.20.0.0/24", "192.0.2.0")
	far.Route("fd20::/64", "fd99::")
	for _, i := range []world.Interface{a, b} {
		link, err := i.Host.Netlink().LinkByIndex(i.Index)
		if err == nil {
			err = i.Host.Netlink().LinkSetMTU(link, narrow)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	w.enforceBy(t, loads.with(t, Options{}), w.memberVeth)
	return w
}

// pathMTU is what a host has learnt of the way to an address, 0 if nothing.
func pathMTU(t *testing.T, host *world.Host, to string) int {
	t.Helper()
	routes, err := host.Netlink().RouteGet(net.ParseIP(to))
	if err != nil || len(routes) == 0 {
		t.Fatalf("the route of %s to %s: %v", host.Name, to, err)
	}
	return routes[0].MTU
}

// TestPathMTUOfConnections: bulk TCP from the member gets through a link that is
// narrower than its own, whoever opened the connection, since the error of the
// router in between gets to it.
func TestPathMTUOfConnections(t *testing.T) {
	const size = 1 << 20
	members, partners := bothFamilies.addresses()
	loads := newLoads(t)
	for i := range members {
		t.Run("opened by the member, to "+partners[i], func(t *testing.T) {
			w := newNarrow(t, loads)
			store, err := traffic.Store(w.partner, ":443")
			if err != nil {
				t.Fatal(err)
			}
			defer store.Close()
			ctx, cancel := context.WithTimeout(t.Context(), enough)
			defer cancel()
			if err := traffic.Upload(ctx, w.member, net.JoinHostPort(partners[i], "443"), size); err != nil {
				t.Error(err)
			}
			w.expectNarrow(t, partners[i])
		})
		t.Run("opened by the partner, to "+members[i], func(t *testing.T) {
			w := newNarrow(t, loads)
			listener, err := w.member.Listen("tcp", ":5432")
			if err != nil {
				t.Fatal(err)
			}
			go func() {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				_, _ = conn.Write(make([]byte, size)) // the partner notices
				_ = conn.Close()
			}()
			ctx, cancel := context.WithTimeout(t.Context(), enough)
			defer cancel()
			conn, err := w.partner.Dial(ctx, "tcp", net.JoinHostPort(members[i], "5432"))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := conn.SetDeadline(time.Now().Add(enough)); err != nil {
				t.Fatal(err)
			}
			if n, err := io.Copy(io.Discard, conn); n != size || err != nil {
				t.Errorf("%d of %d bytes came: %v", n, size, err)
			}
			w.expectNarrow(t, partners[i])
		})
	}
}

// expectNarrow expects the member to know of the narrow link.
func (w *wired) expectNarrow(t *testing.T, to string) {
	t.Helper()
	if mtu := pathMTU(t, w.member, to); mtu != narrow {
		t.Errorf("the path MTU to %s is %d, want %d", to, mtu, narrow)
	}
	counted := w.counted(t)
	t.Log(describe(counted))
	expectUnderstood(t, counted)
	if counted["related"] == 0 || counted["no-access-rule"] > 0 {
		t.Error("the error was not taken for what it is")
	}
}

// TestPathMTUOfDatagrams: a socket that does not let its datagrams be cut hears
// that one was too long, and what is short enough gets through; in a flow that
// the member opened and in one that it answers.
func TestPathMTUOfDatagrams(t *testing.T) {
	members, partners := bothFamilies.addresses()
	loads := newLoads(t)
	for i := range members {
		network, level, discover := "udp4", unix.IPPROTO_IP, unix.IP_MTU_DISCOVER
		if i == 1 {
			network, level, discover = "udp6", unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER
		}
		for _, opened := range []string{"by the member", "by the partner"} {
			t.Run(fmt.Sprintf("%s, opened %s", network, opened), func(t *testing.T) {
				w := newNarrow(t, loads)
				inbox, err := w.member.ListenPacket(network, ":5432")
				if err != nil {
					t.Fatal(err)
				}
				outbox, err := w.partner.ListenPacket(network, ":443")
				if err != nil {
					t.Fatal(err)
				}
				to, from := net.UDPAddr{IP: net.ParseIP(partners[i]), Port: 443}, inbox
				if opened == "by the partner" {
					if _, err := outbox.WriteTo([]byte("hello"), &net.UDPAddr{IP: net.ParseIP(members[i]), Port: 5432}); err != nil {
						t.Fatal(err)
					}
					if got := (&box{inbox}).collect(t, 1, enough); len(got) != 1 {
						t.Fatal("the partner's datagram did not come")
					}
				} else if from, err = w.member.ListenPacket(network, ":0"); err != nil {
					t.Fatal(err)
				}
				// PMTUDISC_DO: neither cut it nor send what is known to be too long.
				if err := setOption(from.(*net.UDPConn), level, discover, unix.IP_PMTUDISC_DO); err != nil {
					t.Fatal(err)
				}
				until(t, "a datagram too long for the path is refused", func() bool {
					_, err := from.WriteTo(make([]byte, 1440), &to)
					return errors.Is(err, unix.EMSGSIZE)
				})
				w.expectNarrow(t, partners[i])
				if _, err := from.WriteTo(make([]byte, 1340), &to); err != nil {
					t.Fatal(err)
				}
				if got := (&box{outbox}).collect(t, 1, enough); len(got) != 1 || len(got[0]) != 1340 {
					t.Errorf("%d datagrams came, want the one that is short enough", len(got))
				}
			})
		}
	}
}

// forgedError is an error that nobody but a liar sends. Each is about another peer, so
// that what it does to a path MTU is seen.
type forgedError struct {
	name string
	// opens: the member's socket sends to the peer's port 443 first.
	opens bool
	// quotes returns what the error quotes, of the socket's address and the peer.
	quotes func(local, peer string, port uint16) packet.Packet
	second bool // the socket is of the second member, while the error goes to the first
	// believed: every Linux believes it, also without a socket that could have sent
	// that. The others only some do.
	believed bool
}

var forgedErrors = []forgedError{
	{name: "an echo reply that nobody sent", believed: true, quotes: func(local, peer string, _ uint16) packet.Packet {
		return packet.ICMPEchoReply(local, peer, 1, 1)
	}},
	{name: "a datagram that nobody sent", believed: true, quotes: func(local, peer string, port uint16) packet.Packet {
		return packet.UDP(local, peer, port, 443)
	}},
	{name: "another port of a flow's peer", opens: true, believed: true, quotes: func(local, peer string, port uint16) packet.Packet {
		return packet.UDP(local, peer, port, 444)
	}},
	{name: "another port of the member", opens: true, quotes: func(local, peer string, port uint16) packet.Packet {
		return packet.UDP(local, peer, port^1, 443)
	}},
	{name: "what came from the peer", opens: true, quotes: func(local, peer string, port uint16) packet.Packet {
		return packet.UDP(peer, local, 443, port)
	}},
	{name: "another member's flow", opens: true, second: true, believed: true, quotes: func(local, peer string, port uint16) packet.Packet {
		return packet.UDP(local, peer, port, 443)
	}},
}

// TestForgedPathMTU: an error that quotes what the member did not send, or not in
// a flow of its own, changes no path MTU, though Linux would believe most of them.
func TestForgedPathMTU(t *testing.T) {
	const second4, second6 = "10.20.0.6", "fd20::6"
	for _, enforced := range []bool{false, true} {
		t.Run(fmt.Sprintf("enforced %v", enforced), func(t *testing.T) {
			w := newWired(t)
			w.join(t, w.memberVeth, w.partnerVeth)
			w.memberVeth.Address(second4+"/24", second6+"/64")
			openBox(t, w.partner, "443") // so that the partner has nothing to say
			if enforced {
				p := wiredPolicy()
				p.Resources = append(p.Resources, policy.Resource{Name: "second", Addresses: prefixes(second4, second6)})
				p.Perimeters[0].Associations = append(p.Perimeters[0].Associations, policy.Association{
					Name: "second", Resource: "second", Profile: "data", AccessMode: policy.Enforced,
				})
				w.govern(t, Options{}, p, w.memberVeth)
			}
			wire := openWire(t, w.partnerVeth)
			for family, own := range [][3]string{{member4, second4, partner4}, {member6, second6, partner6}} {
				member, second, partner := own[0], own[1], own[2]
				neighbour := []string{"198.51.100.%d", "2001:db8:100::%d"}[family] // of the partner
				peers := make([]string, len(forgedErrors))
				for i, f := range forgedErrors {
					local := member
					if f.second {
						local = second
					}
					peers[i] = fmt.Sprintf(neighbour, 20+i)
					port := w.opened(t, family, local, peers[i], f.opens)
					forged := packet.ICMPError(partner, packet.PacketTooBig, f.quotes(local, peers[i], port)).To(member)
					if err := wire.Send(forged.Ethernet(w.partnerVeth.MAC, w.memberVeth.MAC)); err != nil {
						t.Fatal(err)
					}
					if !enforced && f.believed {
						until(t, f.name+" is believed", func() bool { return pathMTU(t, w.member, peers[i]) == 1280 })
					}
				}
				if enforced {
					judged := uint64((family + 1) * len(forgedErrors))
					until(t, "all are judged", func() bool { return w.counted(t)["no-access-rule"] >= judged })
				}
				// Now the truth, or all the rest would prove nothing.
				peer := fmt.Sprintf(neighbour, 19)
				port := w.opened(t, family, member, peer, true)
				truth := packet.ICMPError(partner, packet.PacketTooBig, packet.UDP(member, peer, port, 443))
				if err := wire.Send(truth.Ethernet(w.partnerVeth.MAC, w.memberVeth.MAC)); err != nil {
					t.Fatal(err)
				}
				until(t, "the truth is believed", func() bool { return pathMTU(t, w.member, peer) == 1280 })
				for i, f := range forgedErrors {
					if mtu := pathMTU(t, w.member, peers[i]); enforced && mtu != 0 {
						t.Errorf("%s, to %s: the path MTU is %d now", f.name, peers[i], mtu)
					}
				}
			}
			if enforced {
				counted := w.counted(t)
				t.Log(describe(counted))
				expectUnderstood(t, counted)
				if counted["related"] != 2 || counted["no-access-rule"] != uint64(2*len(forgedErrors)) {
					t.Error("want the 2 true ones related, and all others denied")
				}
			}
		})
	}
}

// opened opens a socket of the member on one of its addresses and, where asked to,
// a flow from there to the peer, which gets that address. It returns the port.
func (w *wired) opened(t *testing.T, family int, local, peer string, opens bool) uint16 {
	t.Helper()
	w.partnerVeth.Address(peer + []string{"/24", "/64"}[family])
	socket, err := w.member.ListenPacket([]string{"udp4", "udp6"}[family], net.JoinHostPort(local, "0"))
	if err != nil {
		t.Fatal(err)
	}
	if opens {
		if _, err := socket.WriteTo([]byte("hello"), &net.UDPAddr{IP: net.ParseIP(peer), Port: 443}); err != nil {
			t.Fatal(err)
		}
		if w.Datapath != nil {
			until(t, "the flow is there", func() bool {
				for _, f := range w.flowsOf(t, policy.ProtocolUDP) {
					if f.Peer.String() == peer {
						return true
					}
				}
				return false
			})
		}
	}
	return uint16(socket.LocalAddr().(*net.UDPAddr).Port)
}

// openWire opens a wire on an interface until the test ends.
func openWire(t *testing.T, on world.Interface) *packet.Wire {
	t.Helper()
	var wire *packet.Wire
	err := on.Host.Run(func() (err error) {
		wire, err = packet.OpenWire(on.Name)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { wire.Close() })
	return wire
}
