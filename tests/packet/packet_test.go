package packet_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/perimeterd/perimeterd/tests/packet"
)

const (
	peer4, member4 = "198.51.100.7", "10.20.0.5"
	peer6, member6 = "2001:db8::7", "fd20::5"
	on4            = "198.51.100.7 > 10.20.0.5, "
	on6            = "2001:db8::7 > fd20::5, "
)

func TestDescribe(t *testing.T) {
	udp4 := packet.UDP(peer4, member4, 4000, 53)
	udp6 := packet.UDP(peer6, member6, 4000, 53)
	syn4 := packet.TCP(peer4, member4, 4000, 5432, packet.SYN)
	syn6 := packet.TCP(peer6, member6, 4000, 5432, packet.SYN)
	long := strings.Repeat("x", 100)
	for _, test := range []struct {
		packet packet.Packet
		want   string
	}{
		{syn4, on4 + "tcp 4000 > 5432 SYN"},
		{syn6, on6 + "tcp 4000 > 5432 SYN"},
		{packet.TCP(peer4, member4, 1, 2, packet.SYN|packet.ACK).Sequence(7, 8), on4 + "tcp 1 > 2 SYN|ACK, sequence 7, acknowledgement 8"},
		{packet.TCP(peer4, member4, 1, 2, 0).Payload("hi"), on4 + `tcp 1 > 2 no flags, "hi"`},
		{udp4.Payload("hi"), on4 + `udp 4000 > 53, "hi"`},
		{udp6.Payload(long), on6 + `udp 4000 > 53, 100 bytes with CRC 5e0e5d8f`},
		{packet.UDP(netip.MustParseAddr(peer4), netip.MustParseAddr(member4), 4000, 53), on4 + "udp 4000 > 53"},
		{packet.UDPLite(peer6, member6, 4000, 53).Payload("hi"), on6 + `udplite 4000 > 53, "hi"`},
		{packet.DCCP(peer4, member4, 4000, 53), on4 + "dccp 4000 > 53 type 0"},
		{packet.GRE(peer4, member4), on4 + `protocol 47, "\x00\x00\b\x00"`},
		{packet.GRE(peer6, member6), on6 + `protocol 47, "\x00\x00\x86\xdd"`},
		{packet.ESP(peer4, member4, 5), on4 + `protocol 50, "\x00\x00\x00\x05\x00\x00\x00\x01"`},
		{packet.Protocol(peer6, member6, 253).Payload("hi"), on6 + `protocol 253, "hi"`},
		{packet.Protocol(peer6, member6, packet.NoNextHeader), on6 + "protocol 59"},
		{packet.ARP(peer4, member4), "arp 1 198.51.100.7 > 10.20.0.5"},
		{packet.EtherType(0x88cc).Payload("hi"), `ethertype 0x88cc, "hi"`},

		{packet.ICMPEcho(peer4, member4, 7, 1).Payload("hi"), on4 + `icmp 8/0, 7:1, "hi"`},
		{packet.ICMPEchoReply(peer6, member6, 7, 1), on6 + "icmp 129/0, 7:1"},
		{packet.ICMP(peer6, member6, 135, 0).With(packet.HopLimit, 255), on6 + "hop limit 255, icmp 135/0"},
		{packet.ICMPError("192.0.2.1", packet.TimeExceeded, udp4), "192.0.2.1 > 198.51.100.7, icmp 11/0, about [" + on4 + "udp 4000 > 53]"},
		{packet.ICMPError("2001:db8::1", packet.PacketTooBig, syn6), "2001:db8::1 > 2001:db8::7, icmp 2/0, 0:1280, about [" + on6 + "tcp 4000 > 5432 SYN]"},
		{packet.ICMPError("192.0.2.1", packet.PortUnreachable, udp4.CutSegment(4)), "192.0.2.1 > 198.51.100.7, icmp 3/3, about [" + on4 + "cut to 4 of 8 bytes, udp cut to 4 of 8 bytes]"},

		{udp4.Tagged(5), "vlan 5, " + on4 + "udp 4000 > 53"},
		{udp6.ServiceTagged(7).Tagged(5, 0), "service vlan 7, vlan 5, vlan 0, " + on6 + "udp 4000 > 53"},
		{udp4.TaggedAs(0x8100, 0xa005), "vlan 5, priority 10, " + on4 + "udp 4000 > 53"},
		{udp4.Options(1, 1, 1), on4 + "options 01010100, udp 4000 > 53"},
		{udp6.Extensions(packet.HopByHop, packet.Routing, packet.DestinationOptions), on6 + "hop-by-hop of 8 bytes, routing of 8 bytes, destination options of 8 bytes, udp 4000 > 53"},
		{udp6.LongExtension(packet.DestinationOptions, 2048), on6 + "destination options of 2048 bytes, udp 4000 > 53"},
		{udp4.Extensions(packet.Authentication), on4 + "authentication of 24 bytes, udp 4000 > 53"},
		{udp6.Extensions(packet.Authentication), on6 + "authentication of 24 bytes, udp 4000 > 53"},

		{udp6.RawExtension(packet.Routing, 0, 4, 1, 0, 0, 0, 0), on6 + "routing of 8 bytes, udp 4000 > 53"},
		{udp6.RawExtension(packet.DestinationOptions, 1, 2, 3), on6 + "destination options cut to 12 of 16 bytes"},
		{udp6.Fragment(0, true, 9).With(packet.FragmentReserved, 0x1806), on6 + "fragment at 0, more, id 9, reserved 0x1806, udp 4000 > 53"},
		{udp4.Fragment(0, true, 9).With(packet.FragmentReserved, 0x8000), on4 + "reserved 0x8000, fragment at 0, more, id 9, udp 4000 > 53"},
		{udp4.With(packet.FragmentReserved, 0x4000), on4 + "udp 4000 > 53"},
		{udp4.Fragment(0, true, 9), on4 + "fragment at 0, more, id 9, udp 4000 > 53"},
		{udp6.Fragment(0, false, 9), on6 + "fragment at 0, last, id 9, udp 4000 > 53"},
		{udp4.Fragment(8, false, 9).CutSegment(1), on4 + "cut to 1 of 8 bytes, fragment at 8, last, id 9, protocol 17, \"\\x0f\""},
		{udp6.Extensions(packet.HopByHop).Fragment(16, true, 9).CutSegment(0), on6 + "cut to 16 of 24 bytes, hop-by-hop of 8 bytes, fragment at 16, more, id 9, protocol 17"},

		{syn4.Cut(19), "ipv4 cut to 19 of 20 bytes"},
		{syn6.Cut(39), "ipv6 cut to 39 of 40 bytes"},
		{syn4.Cut(0), "ip cut to 0 bytes"},
		{syn6.CutSegment(19), on6 + "cut to 19 of 20 bytes, tcp cut to 19 of 20 bytes"},
		{syn4.Trailer(6), on4 + "trailer of 6 bytes, tcp 4000 > 5432 SYN"},
		{syn4.Cut(24).With(packet.TotalLength, 24), on4 + "tcp cut to 4 of 20 bytes"},

		{udp4.With(packet.Version, 5).Cut(1), `ip version 5, "U"`},
		{syn4.With(packet.HeaderLength, 4).CutSegment(0), on4 + "header length 16"},
		{syn4.With(packet.HeaderChecksum, 0), on4 + "wrong header checksum, tcp 4000 > 5432 SYN"},
		{syn4.With(packet.TotalLength, 41), on4 + "cut to 20 of 21 bytes, tcp 4000 > 5432 SYN"},
		{syn6.With(packet.SegmentHeaderLength, 4), on6 + "tcp 4000 > 5432 SYN, header length 16"},
		{syn6.With(packet.SegmentChecksum, 0), on6 + "tcp 4000 > 5432 SYN, wrong checksum"},
		{udp6.With(packet.SegmentLength, 9), on6 + "udp 4000 > 53, length 9 of 8 bytes"},
		{udp4.With(packet.SegmentChecksum, 0), on4 + "udp 4000 > 53, no checksum"},
		{packet.SCTP(peer4, member4, 1, 2).With(packet.SegmentChecksum, 0).CutSegment(12).With(packet.TotalLength, 32), on4 + "sctp 1 > 2, wrong checksum"},
	} {
		if diff := cmp.Diff(test.want, test.packet.String()); diff != "" {
			t.Errorf("frame %x (-want +got)\n%s", test.packet.Frame(), diff)
		}
	}
}

func TestDescribeNeverPanics(t *testing.T) {
	frame := packet.ICMPError(peer6, packet.PortUnreachable,
		packet.TCP(member6, peer6, 1, 2, packet.SYN).Extensions(packet.HopByHop, packet.Authentication)).Tagged(1).Frame()
	for n := range frame {
		if got := packet.Describe(frame[:n]); got == "" {
			t.Errorf("%d bytes have no description", n)
		}
	}
}

func TestFragmentable(t *testing.T) {
	for _, test := range []struct {
		packet packet.Packet
		want   int
	}{
		{packet.UDP(peer4, member4, 1, 2).Payload("hi").Options(1), 10},
		{packet.UDP(peer6, member6, 1, 2).Extensions(packet.HopByHop, packet.DestinationOptions), 16},
	} {
		pieces := test.packet.Split(1, 8)
		if got := test.packet.Fragmentable(); got != test.want || len(pieces) != 2 {
			t.Errorf("%s: %d bytes, want %d", test.packet, got, test.want)
		}
	}
}

func TestSplitCutsWhatWithSet(t *testing.T) {
	p := packet.TCP(peer4, member4, 1, 2, packet.SYN).With(packet.SegmentHeaderLength, 4).With(packet.HopLimit, 9)
	pieces := p.Split(1, 8, 16)
	if got := pieces[1].Datagram()[20+4]; got != 4<<4 {
		t.Errorf("the data offset is %#x, want %#x", got, 4<<4)
	}
	for _, piece := range pieces {
		if !strings.Contains(piece.String(), "hop limit 9") {
			t.Errorf("%s: want hop limit 9", piece)
		}
	}
}

func TestMethodsReturnCopies(t *testing.T) {
	p := packet.TCP(peer6, member6, 1, 2, packet.SYN).Tagged(1).Extensions(packet.HopByHop).With(packet.HopLimit, 1)
	want := p.String()
	_ = p.Tagged(2)
	_ = p.Extensions(packet.Routing)
	_ = p.With(packet.HopLimit, 2)
	_ = p.Sequence(1, 2)
	_ = p.Fragment(0, true, 1)
	if diff := cmp.Diff(want, p.String()); diff != "" {
		t.Errorf("the packet changed (-before +after)\n%s", diff)
	}
}

func TestGroupAddressesHaveGroupMACs(t *testing.T) {
	for _, test := range []struct{ source, destination, want string }{
		{peer4, "239.129.2.3", "\x01\x00\x5e\x01\x02\x03"},
		{peer4, "255.255.255.255", "\xff\xff\xff\xff\xff\xff"},
		{peer6, "ff02::1:2", "\x33\x33\x00\x01\x00\x02"},
		{peer4, member4, "\x02\x00\x00\x00\x00\x02"},
	} {
		if got := string(packet.UDP(test.source, test.destination, 1, 2).Frame()[:6]); got != test.want {
			t.Errorf("%s: destination MAC %x, want %x", test.destination, got, test.want)
		}
	}
}

func TestMistakesPanic(t *testing.T) {
	udp4, udp6 := packet.UDP(peer4, member4, 1, 2), packet.UDP(peer6, member6, 1, 2)
	for name, mistake := range map[string]func(){
		"no address":           func() { packet.UDP("10.0.0", member4, 1, 2) },
		"two families":         func() { packet.UDP(peer4, member6, 1, 2) },
		"options on IPv6":      func() { udp6.Options(1) },
		"extension on IPv4":    func() { udp4.Extensions(packet.HopByHop) },
		"raw one on IPv4":      func() { udp4.RawExtension(packet.HopByHop, 0) },
		"fragment offset":      func() { udp4.Fragment(7, true, 1) },
		"sequence of UDP":      func() { udp4.Sequence(1, 2) },
		"checksum of IPv6":     func() { udp6.With(packet.HeaderChecksum, 1) },
		"length of TCP":        func() { packet.TCP(peer4, member4, 1, 2, 0).With(packet.SegmentLength, 1) },
		"checksum of ESP":      func() { packet.ESP(peer4, member4, 1).With(packet.SegmentChecksum, 1) },
		"more than 64 KiB":     func() { udp4.Payload(strings.Repeat("x", 65536)).Frame() },
		"ARP for IPv6":         func() { packet.ARP(peer6, member6) },
		"header of odd length": func() { udp6.LongExtension(packet.HopByHop, 12) },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			mistake()
		})
	}
}
