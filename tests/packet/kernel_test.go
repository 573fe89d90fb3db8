package packet_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/perimeterd/perimeterd/tests/packet"
	"golang.org/x/sys/unix"
)

func TestKernelAnswersSYN(t *testing.T) {
	r := newReferee(t)
	listener, err := r.host.Listen("tcp", fmt.Sprintf(":%d", port))
	if err != nil {
		t.Fatal(err)
	}
	families(t, r, func(t *testing.T, away, here string) {
		r.send(t, packet.TCP(away, here, 4000, port, packet.SYN).Sequence(41, 0))
		r.awaitAnswer(t, fmt.Sprintf("%s > %s, tcp %d > 4000 SYN|ACK", here, away, port))
		r.send(t, packet.TCP(away, here, 4000, port+1, packet.SYN).Sequence(41, 0))
		r.awaitAnswer(t, fmt.Sprintf("%s > %s, tcp %d > 4000 RST|ACK, sequence 0, acknowledgement 42", here, away, port+1))
	})
	if err := listener.Close(); err != nil {
		t.Error(err)
	}
}

func TestKernelAnswersEcho(t *testing.T) {
	r := newReferee(t)
	families(t, r, func(t *testing.T, away, here string) {
		request := packet.ICMPEcho(away, here, 7, 1).Payload("hi")
		r.send(t, request.With(packet.SegmentChecksum, 1), request)
		r.awaitAnswer(t, packet.ICMPEchoReply(here, away, 7, 1).Payload("hi").String())
	})
}

func TestKernelDelivers(t *testing.T) {
	r := newReferee(t)
	socket := r.datagrams(t)
	families(t, r, func(t *testing.T, away, here string) {
		udp := packet.UDP(away, here, 4000, port)
		type variant struct {
			name    string
			packets func(packet.Packet) []packet.Packet
		}
		one := func(f func(packet.Packet) packet.Packet) func(packet.Packet) []packet.Packet {
			return func(p packet.Packet) []packet.Packet { return []packet.Packet{f(p)} }
		}
		variants := []variant{
			{"plain", one(func(p packet.Packet) packet.Packet { return p })},
			{"padded", one(func(p packet.Packet) packet.Packet { return p.Trailer(6) })},
			{"priority tag", one(func(p packet.Packet) packet.Packet { return p.Tagged(0) })},
			{"whole as a fragment", one(func(p packet.Packet) packet.Packet { return p.Fragment(0, false, 1) })},
			{"fragments", func(p packet.Packet) []packet.Packet { return p.Split(2, 8, 24) }},
		}
		if here == here4 {
			variants = append(variants,
				variant{"options", one(func(p packet.Packet) packet.Packet { return p.Options(0x94, 4, 0, 0, 1) })},
				variant{"no checksum", one(func(p packet.Packet) packet.Packet { return p.With(packet.SegmentChecksum, 0) })})
		} else {
			variants = append(variants,
				variant{"extensions", one(func(p packet.Packet) packet.Packet {
					return p.Extensions(packet.HopByHop, packet.DestinationOptions, packet.Routing, packet.DestinationOptions)
				})},
				variant{"long extension", one(func(p packet.Packet) packet.Packet {
					return p.LongExtension(packet.DestinationOptions, 1024)
				})},
				variant{"extensions around a fragment", func(p packet.Packet) []packet.Packet {
					return p.Extensions(packet.HopByHop, packet.DestinationOptions).Split(3, 16, 24)
				}})
		}
		for _, v := range variants {
			t.Run(v.name, func(t *testing.T) {
				payload := v.name + strings.Repeat(".", 31) // odd and even lengths
				r.send(t, v.packets(udp.Payload(payload))...)
				if got := next(t, socket); got != payload {
					t.Errorf("received %q, want %q", got, payload)
				}
			})
		}
	})
}

// TestKernelRefuses proves that the referee looks: what With breaks is not
// delivered, the right packet sent after it is.
func TestKernelRefuses(t *testing.T) {
	r := newReferee(t)
	socket := r.datagrams(t)
	families(t, r, func(t *testing.T, away, here string) {
		udp := packet.UDP(away, here, 4000, port)
		broken := map[string][]packet.Packet{
			"wrong checksum":   {udp.With(packet.SegmentChecksum, 1)},
			"length too large": {udp.With(packet.SegmentLength, 100)},
			"total too large":  {udp.With(packet.TotalLength, 200)},
			"version":          {udp.With(packet.Version, 7)},
			"cut":              {udp.Payload("some more").Cut(30)},
			"other VLAN":       {udp.Tagged(5)},
			"first of two":     {udp.Fragment(0, true, 1)},
			"second of two":    {udp.Fragment(8, false, 2)},
		}
		if here == here4 {
			broken["header checksum"] = []packet.Packet{udp.With(packet.HeaderChecksum, 1)}
			broken["header length"] = []packet.Packet{udp.With(packet.HeaderLength, 4)}
		} else {
			// All headers must be in the first fragment, RFC 7112.
			broken["late header"] = udp.Payload("some more").Extensions(packet.DestinationOptions).Split(3, 8)
		}
		for name, packets := range broken {
			t.Run(name, func(t *testing.T) {
				r.send(t, packets...)
				r.send(t, udp.Payload("right"))
				if got := next(t, socket); got != "right" {
					t.Errorf("received %q of %v", got, packets)
				}
			})
		}
	})
}

// TestKernelAcceptsErrors sends an ICMP error about a datagram that the
// referee sent: its socket reports it if the quote is right.
func TestKernelAcceptsErrors(t *testing.T) {
	r := newReferee(t)
	families(t, r, func(t *testing.T, away, here string) {
		conn, err := r.host.DialFrom(t.Context(), "udp", net.JoinHostPort(here, "6000"), net.JoinHostPort(away, "53"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.Write([]byte("question")); err != nil {
			t.Fatal(err)
		}
		question := packet.UDP(here, away, 6000, 53).Payload("question")
		r.awaitAnswer(t, strings.SplitN(question.String(), ", \"", 2)[0])
		r.send(t, packet.ICMPError(away, packet.PortUnreachable, question))
		if err := conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("the socket reports %v, want %v", err, unix.ECONNREFUSED)
		}
	})
}

// TestKernelHandsOverEveryProtocol receives the protocols for which the kernel
// has no socket of its own with a raw one: addresses, lengths, header checksum
// and protocol number are right.
func TestKernelHandsOverEveryProtocol(t *testing.T) {
	r := newReferee(t)
	families(t, r, func(t *testing.T, away, here string) {
		for protocol, p := range map[int]packet.Packet{
			132: packet.SCTP(away, here, 4000, port),
			33:  packet.DCCP(away, here, 4000, port),
			136: packet.UDPLite(away, here, 4000, port),
			47:  packet.GRE(away, here).Payload("inner"),
			50:  packet.ESP(away, here, 1).Payload("secret"),
			253: packet.Protocol(away, here, 253).Payload("own"),
		} {
			t.Run(fmt.Sprint(protocol), func(t *testing.T) {
				raw := r.raw(t, protocol, here == here4)
				r.send(t, p)
				b := make([]byte, 2048)
				n, err := raw.Read(b)
				if err != nil {
					t.Fatal(err)
				}
				want := p.Datagram()
				if here == here6 {
					want = want[40:] // a raw IPv6 socket gives no IP header
				}
				if string(b[:n]) != string(want) {
					t.Errorf("received %x, want %x", b[:n], want)
				}
			})
		}
	})
}

// TestKernelDeliversUDPLite has a checksum that a raw socket does not judge.
func TestKernelDeliversUDPLite(t *testing.T) {
	r := newReferee(t)
	families(t, r, func(t *testing.T, away, here string) {
		var socket *os.File
		err := r.host.Run(func() error {
			family, address := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: port})
			if here == here4 {
				family, address = unix.AF_INET, &unix.SockaddrInet4{Port: port}
			}
			fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_UDPLITE)
			if err != nil {
				return err
			}
			socket = os.NewFile(uintptr(fd), "UDP-Lite socket")
			return unix.Bind(fd, address)
		})
		if errors.Is(err, unix.EPROTONOSUPPORT) {
			t.Skip("this kernel has no UDP-Lite (removed in new ones)")
		}
		if err != nil {
			t.Fatal(err)
		}
		defer socket.Close()
		if err := socket.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		p := packet.UDPLite(away, here, 4000, port)
		r.send(t, p.Payload("wrong").With(packet.SegmentChecksum, 1), p.Payload("right"))
		b := make([]byte, 64)
		if n, err := socket.Read(b); err != nil || string(b[:n]) != "right" {
			t.Errorf("received %q, %v", b[:n], err)
		}
	})
}
