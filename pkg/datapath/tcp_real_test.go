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
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/tests/packet"
	"github.com/perimeterd/perimeterd/tests/privileged"
	"github.com/perimeterd/perimeterd/tests/traffic"
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

// numbers are the sequence number that a socket sends next and the one that it
// expects, as the kernel has them.
func numbers(t *testing.T, conn *net.TCPConn) (next, expected uint32) {
	t.Helper()
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var failed error
	get := func(fd, queue int) uint32 {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR_QUEUE, queue); err != nil {
			failed = err
		}
		n, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_QUEUE_SEQ)
		if err != nil {
			failed = err
		}
		return uint32(n)
	}
	const receiveQueue, sendQueue, endWithoutProbe = 1, 2, -1
	err = raw.Control(func(fd uintptr) {
		if failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_REPAIR, 1); failed != nil {
			return
		}
		next, expected = get(int(fd), sendQueue), get(int(fd), receiveQueue)
		failed = errors.Join(failed, unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_REPAIR, endWithoutProbe))
	})
	if err := errors.Join(err, failed); err != nil {
		t.Fatal(err)
	}
	return next, expected
}

// segment is what somebody sends in the name of one end of a connection.
type segment struct {
	flags   packet.Flags
	ahead   int // of the sequence number that this end sends next
	payload string
}

// forgedEnds do not end a connection, since its receiver does not believe them.
var forgedEnds = map[string][]segment{
	"a reset from long ago":                {{packet.RST, -100_000, ""}},
	"a reset from the last byte":           {{packet.RST, -1, ""}},
	"a reset far ahead":                    {{packet.RST, 50_000_000, ""}},
	"a reset from the other half":          {{packet.RST | packet.ACK, 1 << 31, ""}},
	"a reset in the window, but not next":  {{packet.RST, 1000, ""}},
	"data far ahead, and a reset after it": {{packet.ACK, 20_000_000, "x"}, {packet.RST, 20_000_001, ""}},
	"an end from long ago":                 {{packet.FIN | packet.ACK, -100_000, ""}},
	"an end far ahead":                     {{packet.FIN | packet.ACK, 50_000_000, ""}},
	"a beginning":                          {{packet.SYN, 12345, ""}},
}

// TestForgedEnds: nobody who sends in the partner's name ends a flow, or shortens
// its life, by what the member does not take for the connection's; what it does
// take ends it.
func TestForgedEnds(t *testing.T) {
	w := newEnforced(t)
	wire := openWire(t, w.partnerVeth)
	for _, s := range w.sides() {
		open := func(t *testing.T) (c connected, send func(segment)) {
			c = connect(t, s, 0)
			c.talk(t, "opened")
			w.awaitState(t, c, "established")
			partner := c.client
			if s.client == w.member {
				partner = c.server
			}
			from, to := partner.LocalAddr().(*net.TCPAddr).AddrPort(), partner.RemoteAddr().(*net.TCPAddr).AddrPort()
			return c, func(f segment) {
				t.Helper()
				before, denied := w.flowOf(t, c), w.counted(t)["no-access-rule"]
				next, expected := numbers(t, partner)
				p := packet.TCP(from.Addr(), to.Addr(), from.Port(), to.Port(), f.flags).Sequence(next+uint32(f.ahead), expected)
				if err := wire.Send(p.Payload(f.payload).Ethernet(w.partnerVeth.MAC, w.memberVeth.MAC)); err != nil {
					t.Fatal(err)
				}
				until(t, "the packet was judged", func() bool {
					some, _ := w.wentOn(t, c, before)
					return some || w.counted(t)["no-access-rule"] > denied
				})
			}
		}
		for what, segments := range forgedEnds {
			t.Run(s.name+", "+what, func(t *testing.T) {
				c, send := open(t)
				for _, f := range segments {
					send(f)
				}
				state := w.flowOf(t, c).State
				c.talk(t, "it goes on")
				if later := w.flowOf(t, c).State; state != "established" || later != "established" {
					t.Errorf("the connection goes on, but the flow is %s, and then %s", state, later)
				}
			})
		}
		t.Run(s.name+", the reset that is next", func(t *testing.T) {
			c, send := open(t)
			send(segment{packet.RST, 0, ""})
			member := c.server
			if s.client == w.member {
				member = c.client
			}
			if _, err := member.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
				t.Errorf("after the reset: %v", err)
			}
			w.awaitState(t, c, "closed")
		})
	}
}

// TestProbes: what a connection sends to see whether the other end is there, or has
// room again, which is not what it would send next, passes; and it goes on after.
func TestProbes(t *testing.T) {
	w := newEnforced(t)
	type probing struct {
		connected
		name          string
		prober, other *net.TCPConn
		before        Flow
	}
	var all []probing
	for _, s := range w.sides() {
		c := connect(t, s, 0)
		all = append(all, probing{connected: c, name: s.name + ", the client probes", prober: c.client, other: c.server})
		c = connect(t, s, 0)
		all = append(all, probing{connected: c, name: s.name + ", the server probes", prober: c.server, other: c.client})
	}
	// First where there is nothing to say.
	for i := range all {
		p := &all[i]
		p.talk(t, "opened")
		p.before = w.flowOf(t, p.connected)
		if err := p.prober.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: 9}); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range all {
		until(t, p.name+", and is answered", func() bool { _, each := w.wentOn(t, p.connected, p.before); return each })
		p.talk(t, "after a probe")
	}
	// Then where nobody listens.
	text := strings.Repeat("more than it takes ", 400_000)
	written := make(chan error, len(all))
	for _, p := range all {
		go func() {
			_, err := io.WriteString(p.prober, text)
			written <- err
		}()
	}
	for i := range all {
		p := &all[i]
		until(t, p.name+", and finds the other full", func() bool {
			info := tcpInfo(t, p.prober)
			return info.Notsent_bytes > 0 && info.Unacked == 0
		})
		p.before = w.flowOf(t, p.connected)
	}
	for _, p := range all {
		until(t, p.name+", and is told so again", func() bool { _, each := w.wentOn(t, p.connected, p.before); return each })
	}
	for _, p := range all {
		got := make([]byte, len(text))
		if _, err := io.ReadFull(p.other, got); err != nil || string(got) != text {
			t.Errorf("%s: other bytes came: %v", p.name, err)
		}
	}
	for range all {
		if err := <-written; err != nil {
			t.Error(err)
		}
	}
	counted := w.counted(t)
	expectUnderstood(t, counted)
	if counted["no-access-rule"] > 0 {
		t.Errorf("something was denied: %s", describe(counted))
	}
}

// TestOlderThanTheFilter: connections that were open before their packets were
// judged go on if either end may have opened them, and others do not.
func TestOlderThanTheFilter(t *testing.T) {
	w := newWired(t)
	w.join(t, w.memberVeth, w.partnerVeth)
	var old []connected
	for _, s := range w.sides() {
		c := connect(t, s, 0)
		c.talk(t, "opened")
		old = append(old, c)
		half := connect(t, s, 0)
		if err := half.client.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		old = append(old, half)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*enough)
	defer cancel()
	var denied []*traffic.Conversation
	for _, way := range []struct {
		host, to *world.Host
		address  string
	}{{w.partner, w.member, net.JoinHostPort(member4, "5433")}, {w.member, w.partner, net.JoinHostPort(partner6, "444")}} {
		database, err := traffic.Database(way.to, way.address)
		if err != nil {
			t.Fatal(err)
		}
		defer database.Close()
		v, err := traffic.Converse(ctx, way.host, "tcp", way.address, traffic.Pace{Patience: shortly})
		if err != nil {
			t.Fatal(err)
		}
		denied = append(denied, v)
	}
	w.enforce(t, Options{}, w.memberVeth)
	for i, c := range old {
		if i%2 == 0 {
			c.talk(t, "judged")
		} else if err := says(c.server, c.client, "after the end"); err != nil {
			t.Errorf("half closed: %v", err)
		}
	}
	midstream := 0
	for _, f := range w.flowsOf(t, policy.ProtocolTCP) {
		if f.Midstream {
			midstream++
		}
	}
	if midstream != len(old) {
		t.Errorf("%d flows from the middle of a connection, want %d", midstream, len(old))
	}
	for _, v := range denied {
		select {
		case <-v.Ended():
		case <-ctx.Done():
			t.Error("a connection that nobody may open goes on")
		}
	}
}

// TestConnectionsThroughARestart: connections in every state go on while nobody
// has the data path open, and under the next who opens it.
func TestConnectionsThroughARestart(t *testing.T) {
	w := newWired(t)
	w.join(t, w.memberVeth, w.partnerVeth)
	options := Options{Root: privileged.BPFFS(t) + "/perimeterd"}
	w.judgeBy(t, loaded(t, options, wiredPolicy(), hereFacts()), w.memberVeth)
	var open []connected
	for _, s := range w.sides() {
		busy, half := connect(t, s, 0), connect(t, s, 0)
		busy.talk(t, "opened")
		if err := half.client.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		open = append(open, busy, half)
	}
	goOn := func(when string) {
		t.Helper()
		for i, c := range open {
			if i%2 == 0 {
				c.talk(t, when)
			} else if err := says(c.server, c.client, when); err != nil {
				t.Errorf("%s, half closed: %v", when, err)
			}
		}
	}
	goOn("before")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	goOn("meanwhile")
	err := w.member.Run(func() (err error) {
		w.Datapath, err = Open(options)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	goOn("after")
	if n := len(w.flowsOf(t, policy.ProtocolTCP)); n != len(open) {
		t.Errorf("%d flows, want %d", n, len(open))
	}
	if n := w.counted(t)["no-access-rule"]; n > 0 {
		t.Errorf("%d packets were denied", n)
	}
}
