package datapath

import (
	"errors"
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/perimeterd/perimeterd/tests/packet"
)

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
				// Until the member has said what it has, any reset since its last
				// word may be the next: the filter cannot know better.
				until(t, "the member has acknowledged everything", func() bool { return tcpInfo(t, partner).Unacked == 0 })
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
