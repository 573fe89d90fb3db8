package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/perimeterd/perimeterd/tests/bench/bed"
	"github.com/perimeterd/perimeterd/tests/bench/measure"
	"github.com/perimeterd/perimeterd/tests/packet"
	"github.com/perimeterd/perimeterd/tests/world"
)

// sender puts frames on a wire, many with one call.
type sender struct {
	fd       int
	messages []mmsghdr
	vectors  []unix.Iovec
	frames   [][]byte
	next     int
	// Of the frames, one in so many counts as permitted, the first, and so many of these
	// were sent. 0 = none does.
	onePermittedIn, permitted int
}

// mmsghdr is struct mmsghdr of sendmmsg(2).
type mmsghdr struct {
	header unix.Msghdr
	length uint32
	_      [4]byte
}

// sendAtOnce is how many frames go with one call.
const sendAtOnce = 64

func newSender(from world.Interface, frames [][]byte) (*sender, error) {
	s := &sender{frames: frames, messages: make([]mmsghdr, len(frames)), vectors: make([]unix.Iovec, len(frames))}
	for i := range frames {
		s.vectors[i].Base = &frames[i][0]
		s.vectors[i].SetLen(len(frames[i]))
		s.messages[i].header.Iov = &s.vectors[i]
		s.messages[i].header.SetIovlen(1)
	}
	return s, from.Host.Run(func() (err error) {
		if s.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return unix.Bind(s.fd, &unix.SockaddrLinklayer{Ifindex: from.Index, Protocol: 0})
	})
}

// send sends frames for a while and returns ns of CPU for each, and how many there
// were. What a frame meets up to the socket at the other end of a veth is done by the
// thread that sends it.
func (s *sender) send(duration time.Duration) (ns float64, sent int, err error) {
	began, used := time.Now(), bed.ThreadTime()
	for sent == 0 || time.Since(began) < duration {
		if s.next+sendAtOnce > len(s.messages) {
			s.next = 0
		}
		n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&s.messages[s.next])), sendAtOnce, 0, 0, 0)
		runtime.KeepAlive(s.frames)
		if errno != 0 {
			return 0, sent, fmt.Errorf("send frames: %w", errno)
		}
		sent += int(n)
		if in := s.onePermittedIn; in > 0 {
			s.permitted += (s.next+int(n)+in-1)/in - (s.next+in-1)/in
		}
		s.next += int(n)
	}
	return float64(bed.ThreadTime()-used) / float64(sent), sent, nil
}

// udpArrived is how many datagrams came to sockets of a host: those that found no
// room in a socket's buffer, which are all but the first few.
func udpArrived(host *world.Host) (arrived uint64, err error) {
	return arrived, host.Run(func() (err error) {
		arrived, err = udpErrors("/proc/thread-self/net/snmp")
		return err
	})
}

// udpErrors reads Udp: InErrors.
func udpErrors(file string) (uint64, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	var names []string
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if fields[0] != "Udp:" {
			continue
		}
		if names == nil {
			names = fields
			continue
		}
		return strconv.ParseUint(fields[slices.Index(names, "InErrors")], 10, 64)
	}
	return 0, fmt.Errorf("%s has no line for UDP", file)
}

// sent makes slices in which so many of the packets must arrive: all, or none.
func (l *lane) sent(s *sender, share func(sent int) int) measure.Slice {
	return func() (float64, error) {
		before, err := udpArrived(l.server)
		if err != nil {
			return 0, err
		}
		ns, sent, err := s.send(30 * time.Millisecond)
		if err != nil {
			return 0, err
		}
		want := share(sent)
		arrived, err := l.await(before, want)
		if err == nil && arrived != want {
			err = fmt.Errorf("%d of %d packets arrived, and not %d", arrived, sent, want)
		}
		return ns, err
	}
}

// await waits a second at most until so many packets have arrived, and returns how
// many have. More are an error.
func (l *lane) await(before uint64, want int) (arrived int, err error) {
	for deadline := time.Now().Add(time.Second); ; {
		after, err := udpArrived(l.server)
		arrived := int(after - before)
		if err == nil && arrived > want {
			err = fmt.Errorf("%d packets arrived, and not %d", arrived, want)
		}
		if err != nil || arrived == want || time.Now().After(deadline) {
			return arrived, err
		}
	}
}

func all(sent int) int { return sent }
func none(int) int     { return 0 }

// smallPackets measures datagrams of flows that are established, one way.
func (f *field) smallPackets() error {
	const flows = 64
	bySide := map[string]measure.Slice{}
	for _, name := range append(commonLanes(), laneEmpty, laneEmptyXDP, laneTrack) {
		l := f.lanes[name]
		sink, err := f.sink(l)
		if err != nil {
			return err
		}
		frames, err := l.answeredFlows(flows, sink)
		if err != nil {
			return err
		}
		s, err := f.sends(l, frames)
		if err != nil {
			return err
		}
		if err := l.fillSink(frames); err != nil {
			return err
		}
		bySide[name] = l.sent(s, all)
	}
	samples, err := f.compete(bySide)
	if err != nil {
		return err
	}
	rate := func(s measure.Series) measure.Series { return s.Inverse(1e9) }
	peer := samples.Absolute(laneNft)
	for _, lane := range []struct{ what, name, empty string }{{"tc", laneOurs, laneEmpty}, {"xdp", laneXDP, laneEmptyXDP}} {
		ours := samples.Absolute(lane.name)
		f.add(measure.Row{Name: f.name + "/" + lane.what, Unit: "packets/CPU s", Ours: rate(ours), Floor: rate(samples.Baseline(lane.name)), FloorIs: "none", Peer: rate(peer)},
			measure.Row{Name: f.name + "/" + lane.what + "/added", Unit: "ns CPU", Ours: samples.Net(lane.name), Floor: samples.Net(lane.empty), FloorIs: "empty program",
				Peer: samples.Net(laneNft), Targets: []measure.Target{{Of: measure.OfRatioPeer, Most: 0.3}}})
	}
	f.add(measure.Row{Name: f.name + "/track/added", Unit: "ns CPU", Ours: samples.Net(laneTrack), Peer: samples.Net(laneNft)})
	f.add(measure.Row{Name: f.name + "/noise", Unit: "packets/CPU s", Ours: rate(samples.Absolute(laneAgain)), Floor: rate(samples.Baseline(laneAgain)), FloorIs: "none"})
	return nil
}

// sink is a socket for datagrams with a small buffer that nobody empties. It is closed
// with the field.
func (f *field) sink(l *lane) (net.PacketConn, error) {
	conn, err := l.server.ListenPacket("udp4", fmt.Sprintf("%s:%d", bed.MemberAddress(4), bed.ServicePort))
	if err != nil {
		return nil, err
	}
	f.close = append(f.close, conn.Close)
	return conn, conn.(*net.UDPConn).SetReadBuffer(4096)
}

// sends makes a sender at a lane's client that is closed with the field.
func (f *field) sends(l *lane, frames [][]byte) (*sender, error) {
	s, err := newSender(l.near, frames)
	if err != nil {
		return nil, err
	}
	f.close = append(f.close, func() error { return unix.Close(s.fd) })
	return s, nil
}

// fillSink sends until there is no room for more, so that every further packet is counted.
func (l *lane) fillSink(frames [][]byte) error {
	before, err := udpArrived(l.server)
	if err != nil {
		return err
	}
	s, err := newSender(l.near, frames)
	if err != nil {
		return err
	}
	defer unix.Close(s.fd)
	for deadline := time.Now().Add(time.Second); ; {
		if _, _, err := s.send(time.Millisecond); err != nil {
			return err
		}
		after, err := udpArrived(l.server)
		if err != nil || after > before {
			return err
		}
		if time.Now().After(deadline) {
			return errors.New("no packet found the socket full")
		}
	}
}

// answeredFlows opens flows with real sockets, has each go on for a while with answers,
// and returns a frame of each.
func (l *lane) answeredFlows(flows int, server net.PacketConn) ([][]byte, error) {
	to := netip.AddrPortFrom(bed.MemberAddress(4), bed.ServicePort)
	frames := make([][]byte, flows)
	buffer := make([]byte, 64)
	for i := range frames {
		client, err := l.client.Dial(context.Background(), "udp4", to.String())
		if err != nil {
			return nil, err
		}
		deadline := time.Now().Add(2 * time.Second)
		if err := errors.Join(client.SetDeadline(deadline), server.SetReadDeadline(deadline)); err != nil {
			return nil, err
		}
		for range 6 {
			if _, err := client.Write([]byte("?")); err != nil {
				return nil, err
			}
			_, from, err := server.ReadFrom(buffer)
			if err != nil {
				return nil, fmt.Errorf("a datagram did not arrive: %w", err)
			}
			if _, err := server.WriteTo([]byte("!"), from); err != nil {
				return nil, err
			}
			if _, err := client.Read(buffer); err != nil {
				return nil, fmt.Errorf("an answer did not arrive: %w", err)
			}
		}
		from := netip.MustParseAddrPort(client.LocalAddr().String())
		if err := client.Close(); err != nil { // nothing comes back from here on
			return nil, err
		}
		frames[i] = l.address(packet.UDP(from.Addr(), to.Addr(), from.Port(), to.Port()).Frame())
	}
	// As many as one call takes.
	for len(frames) < 1024 {
		frames = append(frames, frames[:flows]...)
	}
	return frames, nil
}

// address gives a frame the addresses of the wire's ends.
func (l *lane) address(frame []byte) []byte {
	copy(frame, l.far.MAC)
	copy(frame[6:], l.near.MAC)
	return frame
}
