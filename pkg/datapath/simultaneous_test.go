package datapath

import (
	"errors"
	"net"
	"os"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/tests/packet"
	"github.com/perimeterd/perimeterd/tests/traffic"
	"github.com/perimeterd/perimeterd/tests/world"
)

// TestSimultaneousOpen: two ends that connect to each other in the same moment, so
// that their SYNs cross, come to one connection, which is one flow; also where
// only one of them may open it.
func TestSimultaneousOpen(t *testing.T) {
	inbound, outbound := partnersOn5432(), toPartnersOn443()
	loads := newLoads(t)
	for _, test := range []struct {
		name    string
		rules   []policy.AccessRule
		opens   bool
		getsOut bool // the member's SYN
	}{
		{"both may open", []policy.AccessRule{inbound, outbound}, true, true},
		{"only the partner may", []policy.AccessRule{inbound}, true, false},
		{"only the member may", []policy.AccessRule{outbound}, true, true},
		{"neither may", nil, false, false},
	} {
		for family, ends := range map[string][2]string{"IPv4": {member4, partner4}, "IPv6": {member6, partner6}} {
			t.Run(test.name+", "+family, func(t *testing.T) {
				w := newWired(t)
				fromMember, fromPartner := w.crossing(t)
				w.governBy(t, loads.with(t, Options{}), memberPolicy(policy.Enforced, test.rules...), fromMember.on)
				attempts := make(chan attempt, 2)
				for _, s := range []side{
					{client: w.member, local: ends[0], to: net.JoinHostPort(ends[1], "443")},
					{client: w.partner, local: ends[1], to: net.JoinHostPort(ends[0], "5432")},
				} {
					port := 5432
					if s.client == w.partner {
						port = 443
					}
					go func() {
						patience := enough
						if !test.opens {
							patience = shortly
						}
						conn, err := connectNow(s, port, patience)
						attempts <- attempt{conn, err}
					}()
				}
				// Each has sent its SYN before it gets the other's.
				<-fromPartner.held
				if test.getsOut {
					<-fromMember.held
				} else {
					until(t, "the member's SYN was denied", func() bool { return w.counted(t)["no-access-rule"] > 0 })
				}
				close(fromPartner.release)
				close(fromMember.release)
				one, other := <-attempts, <-attempts
				counted := w.counted(t)
				t.Log(describe(counted))
				expectUnderstood(t, counted)
				if !test.opens {
					if traffic.OutcomeOf(one.err) != traffic.TimedOut || traffic.OutcomeOf(other.err) != traffic.TimedOut {
						t.Errorf("%v and %v, want both to time out", one.err, other.err)
					}
					return
				}
				if err := errors.Join(one.err, other.err); err != nil {
					t.Fatal(err)
				}
				defer one.conn.Close()
				defer other.conn.Close()
				c := connected{one.conn, other.conn}
				c.talk(t, "opened")
				w.awaitState(t, c, "established")
			})
		}
	}
}

type attempt struct {
	conn *net.TCPConn
	err  error
}

// gate is one way of a line. It holds the first SYN, and all behind it.
type gate struct {
	on      world.Interface // where the way begins
	held    chan struct{}   // closed when a SYN is held
	release chan struct{}   // closed to let it go
}

// crossing is a line between the two hosts with a gate in each way.
func (w *wired) crossing(t *testing.T) (fromMember, fromPartner gate) {
	t.Helper()
	var files [2]*os.File
	gates := []*gate{&fromMember, &fromPartner}
	for i, host := range []*world.Host{w.member, w.partner} {
		file, err := openTunnel(host, netlink.TUNTAP_MODE_TUN, false)
		if err != nil {
			t.Fatal(err)
		}
		files[i] = file
		t.Cleanup(func() { file.Close() })
		on, err := raise(host, "line0")
		if err != nil {
			t.Fatal(err)
		}
		*gates[i] = gate{on: on, held: make(chan struct{}), release: make(chan struct{})}
	}
	w.join(t, fromMember.on, fromPartner.on)
	for i, g := range gates {
		go g.pass(files[i], files[1-i])
	}
	return fromMember, fromPartner
}

// isSYN reports a TCP packet with the flag, without options or extension headers of IP.
func isSYN(datagram []byte) bool {
	size := 20
	if datagram[0]>>4 == 6 {
		size = 40
	}
	const protocol4, protocol6, flags = 9, 6, 13
	next := protocol4
	if size == 40 {
		next = protocol6
	}
	return len(datagram) > size+flags && datagram[next] == policy.ProtocolTCP && packet.Flags(datagram[size+flags])&packet.SYN != 0
}

// pass carries packets until one of the files is closed.
func (g *gate) pass(from, to *os.File) {
	frame := make([]byte, 1<<16)
	for held := false; ; {
		n, err := from.Read(frame)
		if err != nil {
			return
		}
		if !held && isSYN(frame[:n]) {
			held = true
			close(g.held)
			<-g.release
		}
		if _, err := to.Write(frame[:n]); errors.Is(err, os.ErrClosed) {
			return
		}
	}
}
