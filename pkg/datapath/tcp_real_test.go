package datapath

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/tests/world"
)

// newEnforced is a member over a veth pair, enforced.
func newEnforced(t *testing.T) *wired {
	t.Helper()
	w := newWired(t)
	w.join(t, w.memberVeth, w.partnerVeth)
	w.enforce(t, Options{}, w.memberVeth)
	return w
}

// side is who opens a connection, and to where, by family.
type side struct {
	name           string
	client, server *world.Host
	local          string // address of the client
	to             string // address and allowed port of the server
}

// sides are both ends as the client of the other, by both families.
func (w *wired) sides() []side {
	var out []side
	members, partners := bothFamilies.addresses()
	for i := range members {
		out = append(out,
			side{"partner to " + members[i], w.partner, w.member, partners[i], net.JoinHostPort(members[i], "5432")},
			side{"member to " + partners[i], w.member, w.partner, members[i], net.JoinHostPort(partners[i], "443")})
	}
	return out
}

// connected are both ends of one connection.
type connected struct{ client, server *net.TCPConn }

// connect connects from a port of the client, 0 for any.
func connect(t *testing.T, s side, port int) connected {
	t.Helper()
	listener, err := s.server.Listen("tcp", s.to)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return connectTo(t, s, listener, port)
}

func connectTo(t *testing.T, s side, listener net.Listener, port int) connected {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), enough)
	defer cancel()
	client, err := s.client.DialFrom(ctx, "tcp", net.JoinHostPort(s.local, fmt.Sprint(port)), s.to)
	if err != nil {
		t.Fatal(err)
	}
	server, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c := connected{client.(*net.TCPConn), server.(*net.TCPConn)}
	t.Cleanup(func() { c.client.Close(); c.server.Close() })
	limit := time.Now().Add(2 * enough)
	if err := errors.Join(c.client.SetDeadline(limit), c.server.SetDeadline(limit)); err != nil {
		t.Fatal(err)
	}
	return c
}

// says sends a line one way and expects it at the other end.
func says(from, to net.Conn, text string) error {
	if _, err := fmt.Fprintln(from, text); err != nil {
		return err
	}
	got, err := bufio.NewReader(to).ReadString('\n')
	if err == nil && got != text+"\n" {
		err = fmt.Errorf("got %q, want %q", got, text)
	}
	return err
}

// talk has both ends say something.
func (c connected) talk(t *testing.T, about string) {
	t.Helper()
	if err := errors.Join(says(c.client, c.server, about+"?"), says(c.server, c.client, about+"!")); err != nil {
		t.Fatalf("%s: %v", about, err)
	}
}

// flowOf returns the flow of a connection.
func (w *wired) flowOf(t *testing.T, c connected) Flow {
	t.Helper()
	client := c.client.LocalAddr().(*net.TCPAddr).AddrPort()
	for _, f := range w.flowsOf(t, policy.ProtocolTCP) {
		if netip.AddrPortFrom(f.Local, f.LocalPort) == client || netip.AddrPortFrom(f.Peer, f.PeerPort) == client {
			return f
		}
	}
	t.Fatalf("the connection of %s has no flow", client)
	return Flow{}
}

func (w *wired) awaitState(t *testing.T, c connected, state string) {
	t.Helper()
	until(t, "the flow is "+state, func() bool { return w.flowOf(t, c).State == state })
}

// wentOn reports whether packets of the connection crossed since then: in some
// way, and in each.
func (w *wired) wentOn(t *testing.T, c connected, since Flow) (some, each bool) {
	t.Helper()
	now := w.flowOf(t, c)
	towards, from := now.PacketsTowards > since.PacketsTowards, now.PacketsFrom > since.PacketsFrom
	return towards || from, towards && from
}

// TestHalfClose: after one side has said all it has to say, the other goes on for
// as long as it likes, whichever side that is.
func TestHalfClose(t *testing.T) {
	w := newEnforced(t)
	for _, s := range w.sides() {
		for _, first := range []string{"the client", "the server"} {
			t.Run(fmt.Sprintf("%s, %s finishes first", s.name, first), func(t *testing.T) {
				c := connect(t, s, 0)
				c.talk(t, "opened")
				w.awaitState(t, c, "established")
				finished, other := c.client, c.server
				if first == "the server" {
					finished, other = other, finished
				}
				if err := finished.CloseWrite(); err != nil {
					t.Fatal(err)
				}
				w.awaitState(t, c, "closing")
				for range 20 {
					if err := says(other, finished, "still here"); err != nil {
						t.Fatal(err)
					}
				}
				if state := w.flowOf(t, c).State; state != "closing" {
					t.Errorf("the flow is %s", state)
				}
				if err := other.CloseWrite(); err != nil {
					t.Fatal(err)
				}
				if n, err := io.Copy(io.Discard, finished); n != 0 || err != nil {
					t.Errorf("at the end: %d bytes, %v", n, err)
				}
				w.awaitState(t, c, "closed")
			})
		}
	}
	counted := w.counted(t)
	expectUnderstood(t, counted)
	if counted["no-access-rule"] > 0 {
		t.Errorf("something was denied: %s", describe(counted))
	}
}

// TestPortsAreReused: a connection between the ports of one that has just ended
// works at its first packet, however that ended.
func TestPortsAreReused(t *testing.T) {
	w := newEnforced(t)
	for _, host := range []*world.Host{w.member, w.partner} {
		err := host.Run(func() error { return os.WriteFile("/proc/sys/net/ipv4/tcp_tw_reuse", []byte("1"), 0) })
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range w.sides() {
		for _, end := range []struct {
			name string
			how  func(t *testing.T, c connected)
		}{
			{"reset by the client", func(t *testing.T, c connected) { reset(t, c.client, c.server) }},
			{"reset by the server", func(t *testing.T, c connected) { reset(t, c.server, c.client) }},
			{"closed by the client", func(t *testing.T, c connected) { finish(t, c.client, c.server) }},
			{"closed by the server", func(t *testing.T, c connected) { finish(t, c.server, c.client) }},
		} {
			t.Run(s.name+", "+end.name, func(t *testing.T) {
				listener, err := s.server.Listen("tcp", s.to)
				if err != nil {
					t.Fatal(err)
				}
				defer listener.Close()
				port := 0
				for range 3 {
					var c connected
					until(t, "the port is free again", func() bool { // the client's own TIME-WAIT takes a second
						free, err := connectNow(s, port, enough)
						if errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EADDRINUSE) {
							return false
						}
						if err != nil {
							t.Fatal(err)
						}
						server, err := listener.Accept()
						if err != nil {
							t.Fatal(err)
						}
						c = connected{free, server.(*net.TCPConn)}
						return true
					})
					defer c.client.Close()
					defer c.server.Close()
					port = c.client.LocalAddr().(*net.TCPAddr).Port
					c.talk(t, "once more")
					if n := retransmitted(t, c.client); n > 0 {
						t.Errorf("%d packets had to be sent again", n)
					}
					end.how(t, c)
				}
			})
		}
	}
	counted := w.counted(t)
	expectUnderstood(t, counted)
	if counted["no-access-rule"] > 0 {
		t.Errorf("something was denied: %s", describe(counted))
	}
}

// connectNow connects from a port that may still be taken by a connection before.
func connectNow(s side, port int, patience time.Duration) (*net.TCPConn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	dialer := net.Dialer{
		LocalAddr: &net.TCPAddr{IP: net.ParseIP(s.local), Port: port},
		Control: func(_, _ string, raw syscall.RawConn) error {
			var failed error
			err := raw.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
			return errors.Join(err, failed)
		},
	}
	var conn net.Conn
	err := s.client.Run(func() (err error) {
		conn, err = dialer.DialContext(ctx, "tcp", s.to)
		return err
	})
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), conn.SetDeadline(time.Now().Add(2 * enough))
}

// retransmitted returns how many packets a socket had to send again.
func retransmitted(t *testing.T, conn *net.TCPConn) uint32 {
	t.Helper()
	return tcpInfo(t, conn).Total_retrans
}

func tcpInfo(t *testing.T, conn *net.TCPConn) *unix.TCPInfo {
	t.Helper()
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var info *unix.TCPInfo
	var failed error
	if err := raw.Control(func(fd uintptr) { info, failed = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) }); err != nil || failed != nil {
		t.Fatal(err, failed)
	}
	return info
}

// reset ends a connection at once, and returns when the other end knows.
func reset(t *testing.T, by, other *net.TCPConn) {
	t.Helper()
	if err := errors.Join(by.SetLinger(0), by.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("after a reset: %v", err)
	}
	other.Close()
}

// finish ends a connection in good order.
func finish(t *testing.T, by, other *net.TCPConn) {
	t.Helper()
	if err := by.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("after the end: %v", err)
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := by.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("after the other's end: %v", err)
	}
	by.Close()
}
