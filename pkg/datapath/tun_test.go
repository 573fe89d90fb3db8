package datapath

import (
	"encoding/binary"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/perimeterd/perimeterd/tests/packet"
	"github.com/perimeterd/perimeterd/tests/world"
)

// openTun is a tun device of the member, whose address is on it, and the file that
// its other end is.
func openTun(t *testing.T) (*wired, world.Interface, *os.File) {
	t.Helper()
	w := newWired(t)
	file, err := openTunnelWith(w.member, unix.IFF_TUN|unix.IFF_NO_PI)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	line, err := raise(w.member, "line0")
	if err != nil {
		t.Fatal(err)
	}
	w.join(t, line, w.partnerVeth)
	return w, line, file
}

// TestMoreThanAPacketThroughTun: who writes more to a tun device than an IP packet
// can have does not choose where its header is read. Linux trims it, and delivers.
func TestMoreThanAPacketThroughTun(t *testing.T) {
	w, line, file := openTun(t)
	closed := openBox(t, w.member, "5433")
	send := func(b []byte) {
		t.Helper()
		if _, err := file.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	attack := func(at int) []byte {
		b := make([]byte, 1<<16+at)
		copy(b[at:], packet.UDP(partner4, member4, 4000, 5432).Payload("decoy").Datagram())
		copy(b, packet.UDP(partner4, member4, 4000, 5433).Payload(fmt.Sprint("past ", at)).Datagram())
		return b
	}
	send(attack(64))
	if got := closed.collect(t, 1, enough); len(got) != 1 {
		t.Fatal("Linux does not deliver it even without a filter, so it proves nothing")
	}
	open := openBox(t, w.member, "5432")
	w.enforce(t, Options{}, line)
	for _, at := range []int{1, 2, 40, 64, 511, 512, 513, 600} {
		send(attack(at))
	}
	send(packet.UDP(partner4, member4, 4000, 5432).Payload("welcome").Datagram())
	if got := open.collect(t, 1, enough); len(got) != 1 || got[0] != "welcome" {
		t.Errorf("the open port got %q", got)
	}
	if got := closed.collect(t, 1, shortly); len(got) > 0 {
		t.Errorf("got past: %q", got)
	}
}

// TestNothingAtHandOnTun: a packet of which nothing is in the linear part of its skb
// is judged as any other, also where there is no link header.
func TestNothingAtHandOnTun(t *testing.T) {
	w, line, _ := openTun(t)
	w.enforce(t, Options{}, line)
	ring := openRing(t, line)
	protocol := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_IP))
	if err := unix.Bind(ring.fd, &unix.SockaddrLinklayer{Protocol: protocol, Ifindex: line.Index}); err != nil {
		t.Fatal(err)
	}
	ring.send(t, packet.UDP(member4, partner4, 4000, 443).Payload("allowed").Datagram())
	ring.send(t, packet.TCP(member4, partner4, 4000, 443, packet.SYN).Datagram())
	ring.send(t, packet.UDP(member4, partner4, 4000, 444).Payload("denied").Datagram())
	counted := w.counted(t)
	delete(counted, "link-failsafe") // of the host's own
	if got := describe(counted); got != "access-rule 2, no-access-rule 1" {
		t.Errorf("counted %s", got)
	}
}
