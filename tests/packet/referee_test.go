package packet_test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/perimeterd/perimeterd/tests/packet"
	"github.com/perimeterd/perimeterd/tests/privileged"
	"github.com/perimeterd/perimeterd/tests/world"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// referee is a host whose kernel judges packets: what its sockets receive is
// right. The packets come over a wire from a host without addresses, whose own
// kernel so has no say.
type referee struct {
	host           *world.Host
	wire           *packet.Wire
	wireMAC, myMAC net.HardwareAddr
}

const (
	away4, here4 = "10.20.0.7", "10.20.0.5"
	away6, here6 = "fd20::7", "fd20::5"
	port         = 5000
)

// families runs a test for IPv4 and IPv6, with the address of the wire's side
// and the referee's own.
func families(t *testing.T, r *referee, f func(t *testing.T, away, here string)) {
	t.Run("IPv4", func(t *testing.T) { f(t, away4, here4) })
	t.Run("IPv6", func(t *testing.T) { f(t, away6, here6) })
}

func newReferee(t *testing.T) *referee {
	t.Helper()
	privileged.Require(t)
	w := world.New(t)
	sender, host := w.Host("sender"), w.Host("referee")
	far, near := w.Connect(sender, host, "", here4+"/24", "", here6+"/64")
	r := &referee{host: host, wireMAC: far.MAC, myMAC: near.MAC}
	for _, away := range []string{away4, away6} {
		neighbour := &netlink.Neigh{LinkIndex: near.Index, IP: net.ParseIP(away), HardwareAddr: far.MAC, State: netlink.NUD_PERMANENT}
		if err := host.Netlink().NeighSet(neighbour); err != nil {
			t.Fatal(err)
		}
	}
	if err := sender.Run(func() (err error) {
		r.wire, err = packet.OpenWire(far.Name)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.wire.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func (r *referee) send(t *testing.T, packets ...packet.Packet) {
	t.Helper()
	for _, p := range packets {
		if err := r.wire.Send(p.Ethernet(r.wireMAC, r.myMAC)); err != nil {
			t.Fatal(err)
		}
	}
}

// awaitAnswer waits for a frame from the referee whose description begins so.
func (r *referee) awaitAnswer(t *testing.T, want string) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	var heard []string
	for {
		frame, err := r.wire.Receive(deadline)
		if err != nil {
			t.Fatalf("waiting for %q: %v; heard %q", want, err, heard)
		}
		got := packet.Describe(frame)
		if strings.HasPrefix(got, want) {
			return
		}
		heard = append(heard, got)
	}
}

// datagrams opens a UDP socket of the referee, for both families.
func (r *referee) datagrams(t *testing.T) net.PacketConn {
	t.Helper()
	socket, err := r.host.ListenPacket("udp", fmt.Sprintf(":%d", port))
	if err != nil {
		t.Fatal(err)
	}
	if err := socket.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return socket
}

// next returns the payload of the next datagram.
func next(t *testing.T, socket net.PacketConn) string {
	t.Helper()
	b := make([]byte, 1<<16)
	n, from, err := socket.ReadFrom(b)
	if err != nil {
		t.Fatal(err)
	}
	if addr, err := netip.ParseAddrPort(from.String()); err != nil || addr.Port() != 4000 {
		t.Errorf("a datagram from %v, want port 4000", from)
	}
	return string(b[:n])
}

// raw opens a raw socket of the referee for a protocol.
func (r *referee) raw(t *testing.T, protocol int, v4 bool) *os.File {
	t.Helper()
	family := unix.AF_INET6
	if v4 {
		family = unix.AF_INET
	}
	var socket *os.File
	if err := r.host.Run(func() error {
		fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
		if err != nil {
			return err
		}
		socket = os.NewFile(uintptr(fd), "raw socket")
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = socket.Close() }) // only read from
	if err := socket.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return socket
}
