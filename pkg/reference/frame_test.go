package reference_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/pkg/reference"
	"github.com/perimeterd/perimeterd/tests/packet"
)

const (
	peer4, local4 = "198.51.100.7", "10.20.0.5"
	peer6, local6 = "2001:db8::7", "fd20::5"
)

// summary says in a line what a frame was read as, without addresses.
func summary(f reference.Frame) string {
	p := f.Packet
	switch {
	case f.NotIP:
		return "not IP"
	case p.Unjudgeable != "" && p.Local.IsValid():
		return string(p.Unjudgeable)
	case p.Unjudgeable != "":
		return string(p.Unjudgeable) + ", of nobody"
	}
	words := []string{fmt.Sprintf("protocol %d", p.Protocol)}
	if policy.HasPorts(p.Protocol) {
		words = append(words, fmt.Sprintf("%d to %d", p.PeerPort, p.LocalPort))
	}
	if p.ICMPType != 0 {
		words = append(words, fmt.Sprintf("type %d/%d", p.ICMPType, p.ICMPCode))
	}
	if p.EchoID != 0 {
		words = append(words, fmt.Sprintf("id %d", p.EchoID))
	}
	if p.Quoted != nil {
		words = append(words, "about ["+summary(reference.Frame{Packet: *p.Quoted})+"]")
	}
	switch f.Fragment.Part {
	case reference.First:
		words = append(words, fmt.Sprintf("first of %d with %d bytes of headers", f.Fragment.ID, f.Fragment.Headers))
	case reference.Later:
		words = append(words, fmt.Sprintf("later of %d at %d", f.Fragment.ID, f.Fragment.Offset))
	}
	return strings.Join(words, ", ")
}

// TestReadFrame has one frame a row, towards the member, next to the one that
// must be read as something else.
func TestReadFrame(t *testing.T) {
	const plain4, plain6 = "protocol 17, 4000 to 53", "protocol 17, 4000 to 53"
	udp4, udp6 := packet.UDP(peer4, local4, 4000, 53), packet.UDP(peer6, local6, 4000, 53)
	syn4, syn6 := packet.TCP(peer4, local4, 4000, 53, packet.SYN), packet.TCP(peer6, local6, 4000, 53, packet.SYN)
	destinations := func(n int) packet.Packet {
		p := udp6
		for range n {
			p = p.Extensions(packet.DestinationOptions)
		}
		return p
	}
	for _, row := range []struct {
		name  string
		frame []byte
		want  string
	}{
		{"IPv4", udp4.Frame(), plain4},
		{"IPv6", udp6.Frame(), plain6},
		{"UDP-Lite", packet.UDPLite(peer4, local4, 1, 2).Frame(), "protocol 136, 1 to 2"},
		{"SCTP", packet.SCTP(peer4, local4, 1, 2).Frame(), "protocol 132, 1 to 2"},
		{"DCCP", packet.DCCP(peer6, local6, 1, 2).Frame(), "protocol 33, 1 to 2"},
		{"GRE", packet.GRE(peer4, local4).Frame(), "protocol 47"},
		{"a protocol without a header", packet.Protocol(peer4, local4, 253).Frame(), "protocol 253"},
		{"no next header", packet.Protocol(peer6, local6, packet.NoNextHeader).Frame(), "protocol 59"},
		{"ARP", packet.ARP(peer4, local4).Frame(), "not IP"},
		{"a length for a type", packet.EtherType(38).Payload("\x42\x42\x03").Frame(), "not IP"},

		{"one tag", udp4.Tagged(5).Frame(), plain4},
		{"four tags", udp6.ServiceTagged(5).Tagged(0, 0, 0).Frame(), plain6},
		{"five tags", udp6.ServiceTagged(5).Tagged(0, 0, 0, 0).Frame(), "too-many-tags, of nobody"},
		{"a tag in nothing", udp4.Frame()[:13], "truncated-link, of nobody"},
		{"a tag cut short", udp4.Tagged(5).Frame()[:17], "truncated-link, of nobody"},
		{"another's tag", packet.EtherType(0x9100).Payload("12345678").Frame(), "not IP"},

		{"IPv4 cut in its header", udp4.Frame()[:14+19], "truncated-ip, of nobody"},
		{"IPv6 cut in its header", udp6.Frame()[:14+39], "truncated-ip, of nobody"},
		{"IPv4 of version 5", udp4.With(packet.Version, 5).Frame(), "malformed-ip, of nobody"},
		{"IPv6 of version 4", udp6.With(packet.Version, 4).Frame(), "malformed-ip, of nobody"},
		{"a header of 16 bytes", udp4.With(packet.HeaderLength, 4).Frame(), "malformed-ip"},
		{"a header longer than the packet", udp4.With(packet.HeaderLength, 8).Frame(), "malformed-ip"},
		{"a packet longer than the frame", udp4.With(packet.TotalLength, 29).Frame(), "malformed-ip"},
		{"a packet as long as its header", udp4.With(packet.TotalLength, 20).Frame(), "truncated-l4"},
		{"a payload longer than the frame", udp6.With(packet.TotalLength, 9).Frame(), "malformed-ip"},
		{"a jumbogram", udp6.Extensions(packet.HopByHop).With(packet.TotalLength, 0).Frame(), plain6},
		{"length 0 that is no jumbogram", udp6.With(packet.TotalLength, 0).Frame(), "truncated-l4"},
		{"padding", udp4.Trailer(18).Frame(), plain4},
		{"options", udp4.Options(1, 1, 1, 1).Frame(), plain4},

		{"all extensions", udp6.Extensions(packet.HopByHop, packet.Routing, packet.Authentication).Frame(), plain6},
		{"AH in its own units", udp6.LongExtension(packet.Authentication, 28).Frame(), plain6},
		{"AH in IPv4 is a protocol", udp4.Extensions(packet.Authentication).Frame(), "protocol 51"},
		{"eight extensions", destinations(8).Frame(), plain6},
		{"nine extensions", destinations(9).Frame(), "too-many-headers"},
		{"512 bytes", udp6.LongExtension(packet.DestinationOptions, 456).Frame(), plain6},
		{"more than 512 bytes", udp6.LongExtension(packet.DestinationOptions, 464).Frame(), "too-many-headers"},
		{"an extension cut short", udp6.LongExtension(packet.DestinationOptions, 16).CutSegment(0).Cut(48).With(packet.TotalLength, 8).Frame(), "truncated-header"},

		{"TCP cut short", syn4.CutSegment(19).With(packet.TotalLength, 39).Frame(), "truncated-l4"},
		{"SYN and FIN", packet.TCP(peer4, local4, 1, 2, packet.SYN|packet.FIN).Frame(), "malformed-l4"},
		{"SYN and RST", packet.TCP(peer6, local6, 1, 2, packet.SYN|packet.RST).Frame(), "malformed-l4"},
		{"FIN and RST", packet.TCP(peer6, local6, 1, 2, packet.FIN|packet.RST).Frame(), "protocol 6, 1 to 2"},

		{"IPv4 first", syn4.Fragment(0, true, 7).Frame(), "protocol 6, 4000 to 53, first of 7 with 20 bytes of headers"},
		{"IPv4 whole", syn4.Fragment(0, false, 7).Frame(), "protocol 6, 4000 to 53"},
		{"IPv4 later", syn4.Fragment(8, true, 7).Frame(), "protocol 6, 0 to 0, later of 7 at 8"},
		{"IPv4 tiny", syn4.Fragment(0, true, 7).CutSegment(16).With(packet.TotalLength, 36).Frame(), "tiny-fragment"},
		{"IPv6 first", syn6.Fragment(0, true, 7).Extensions(packet.DestinationOptions).Frame(), "protocol 6, 4000 to 53, first of 7 with 28 bytes of headers"},
		{"IPv6 whole", syn6.Fragment(0, false, 7).Frame(), "protocol 6, 4000 to 53"},
		{"IPv6 later", syn6.Fragment(8, true, 7).Extensions(packet.DestinationOptions).Frame(), "protocol 60, later of 7 at 8"},
		{"IPv6 tiny", syn6.Fragment(0, true, 7).LongExtension(packet.DestinationOptions, 16).CutSegment(0).Cut(56).With(packet.TotalLength, 16).Frame(), "tiny-fragment"},
		{"IPv6 tinier", syn6.Fragment(0, true, 7).Extensions(packet.DestinationOptions).CutSegment(0).Cut(52).With(packet.TotalLength, 12).Frame(), "tiny-fragment"},

		{"echo", packet.ICMPEcho(peer4, local4, 7, 1).Frame(), "protocol 1, type 8/0, id 7"},
		{"echo cut short", packet.ICMPEcho(peer4, local4, 7, 1).CutSegment(7).With(packet.TotalLength, 27).Frame(), "truncated-l4"},
		{"the other family's ICMP", packet.Protocol(peer4, local4, 58).Payload("\x80\x0012345678").Frame(), "protocol 58"},
		{"the other family's ICMP cut short", packet.Protocol(peer6, local6, 1).Payload("\x08").Frame(), "truncated-l4"},
		{"an error", packet.ICMPError("192.0.2.1", packet.PortUnreachable, packet.UDP(local4, peer4, 53, 4000)).Frame(), "protocol 1, type 3/3, about [protocol 17, 4000 to 53]"},
		{"an error that quotes 8 bytes", packet.ICMPError("2001:db8::1", packet.PacketTooBig, packet.TCP(local6, peer6, 53, 4000, packet.ACK).CutSegment(8)).Frame(), "protocol 58, type 2/0, about [protocol 6, 4000 to 53]"},
		{"an error that quotes 7 bytes", packet.ICMPError("2001:db8::1", packet.PacketTooBig, packet.TCP(local6, peer6, 53, 4000, packet.ACK).CutSegment(7)).Frame(), "protocol 58, type 2/0"},
		{"an error about a later fragment", packet.ICMPError("192.0.2.1", packet.TimeExceeded, packet.UDP(local4, peer4, 53, 4000).Fragment(8, false, 1)).Frame(), "protocol 1, type 11/0"},
		{"an error that quotes its padding", packet.ICMPError("192.0.2.1", packet.PortUnreachable, packet.UDP(local4, peer4, 53, 4000)).With(packet.TotalLength, 28).Frame(), "protocol 1, type 3/3"},
		{"no error", packet.ICMP(peer4, local4, 13, 0).Payload(string(packet.UDP(local4, peer4, 53, 4000).Datagram())).Frame(), "protocol 1, type 13/0"},
	} {
		if got := summary(reference.ReadFrame(row.frame, true)); got != row.want {
			t.Errorf("%s, %s:\n got  %s\n want %s", row.name, packet.Describe(row.frame), got, row.want)
		}
	}
}

// TestReadFrameFindsTheEnds: local and peer depend on the way the frame goes.
func TestReadFrameFindsTheEnds(t *testing.T) {
	local, peer := netip.MustParseAddr(local4), netip.MustParseAddr(peer4)
	segment := func(p packet.Packet, sequence, acknowledgement uint32) []byte {
		return p.Sequence(sequence, acknowledgement).Payload("12345").Trailer(9).Frame()
	}
	want := reference.Packet{
		Towards: true, Local: local, Peer: peer, Protocol: policy.ProtocolTCP, LocalPort: 53, PeerPort: 4000,
		TCPFlags: reference.ACK, Sequence: 70, Acknowledgement: 80, PayloadLength: 5,
	}
	got := reference.ReadFrame(segment(packet.TCP(peer4, local4, 4000, 53, packet.ACK), 70, 80), true).Packet
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("towards (-want +got)\n%s", diff)
	}
	want.Towards = false
	got = reference.ReadFrame(segment(packet.TCP(local4, peer4, 53, 4000, packet.ACK), 70, 80), false).Packet
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("from (-want +got)\n%s", diff)
	}
}

// TestReadFrameNeverPanics cuts frames with every kind of header anywhere.
func TestReadFrameNeverPanics(t *testing.T) {
	inner := packet.TCP(local6, peer6, 53, 4000, packet.ACK).Extensions(packet.HopByHop, packet.Authentication, packet.Routing)
	for _, frame := range [][]byte{
		packet.ICMPError("2001:db8::1", packet.PacketTooBig, inner).Tagged(1, 2).Extensions(packet.DestinationOptions).Frame(),
		packet.ICMPError("192.0.2.1", packet.TimeExceeded, packet.UDP(local4, peer4, 1, 2).Options(1, 2, 3)).Options(4).Frame(),
		inner.Fragment(0, true, 1).Fragment(8, false, 2).Frame(),
	} {
		for n := range len(frame) + 1 {
			for _, towards := range []bool{true, false} {
				if f := reference.ReadFrame(frame[:n], towards); n < 14 && f.Packet.Unjudgeable != reference.ReasonTruncatedLink {
					t.Errorf("%d bytes were read as %+v", n, f)
				}
			}
		}
	}
}
