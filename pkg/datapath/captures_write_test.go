package datapath

import (
	"bytes"
	"compress/gzip"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"github.com/perimeterd/perimeterd/tests/packet"
)

var updateFlag = flag.Bool("update", false, "write the captures in testdata/captures anew instead of comparing with them")

// TestCapturesAreWhatIsWritten holds the captures that are committed against
// what they are made of.
func TestCapturesAreWhatIsWritten(t *testing.T) {
	for name, content := range map[string][]byte{
		"tags-extensions-fragments.pcap": pcapOf(t, layers.LinkTypeEthernet, 0, framesOf(strangeHeaders())),
		"conversations.pcapng":           pcapngOf(t, framesOf(dayAtTheOffice())),
		"raw-and-snapped.pcap.gz":        packed(t, pcapOf(t, layers.LinkTypeRaw, 60, datagramsOf(dayAtTheOffice()))),
	} {
		path := filepath.Join(capturesFolder, name)
		if *updateFlag {
			if err := os.WriteFile(path, content, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		committed, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(unpacked(t, path, committed), unpacked(t, path, content)) {
			t.Errorf("%s is not what it is made of: write it with -update", path)
		}
	}
}

// strangeHeaders are the frames that filters were got past with, between a
// member and a peer.
func strangeHeaders() []packet.Packet {
	udp6 := packet.UDP(partner6, member6, 4000, 5432).Payload("behind a row of headers")
	udp4 := packet.UDP(partner4, member4, 4000, 5432).Payload("cut into pieces that come in any order")
	pieces4, pieces6 := udp4.Split(4, 16, 32), udp6.Extensions(packet.HopByHop, packet.DestinationOptions).Split(6, 16, 32)
	syn := packet.TCP(partner4, member4, 4001, 5433, packet.SYN)
	all := []packet.Packet{
		packet.ARP(partner4, member4),
		udp4.ServiceTagged(100).Tagged(5), udp6.Tagged(0, 0, 0, 0), udp6.Tagged(0, 0, 0, 0, 0),
		udp6.Extensions(packet.HopByHop, packet.Routing, packet.DestinationOptions, packet.Authentication),
		udp6.LongExtension(packet.DestinationOptions, 256), udp6.LongExtension(packet.DestinationOptions, 1024),
		udp4.Options(7, 7, 4, 0, 0, 0, 0),
	}
	all = append(all, pieces4[0], pieces4[2], pieces4[1], pieces6[1], pieces6[0], pieces6[2])
	all = append(all, syn.Split(5, 8, 16)...)
	return append(all,
		packet.Protocol(partner4, member4, 6).Payload("\x10\x00\x15\x38").Fragment(8, false, 4),
		packet.TCP(partner4, member4, 4002, 5432, packet.SYN|packet.FIN),
		udp4.With(packet.TotalLength, 27), udp4.With(packet.HeaderLength, 15), udp6.With(packet.TotalLength, 4000),
		packet.EtherType(0x88cc).Payload("lldp"),
	)
}

// dayAtTheOffice are conversations as hosts have them all day.
func dayAtTheOffice() []packet.Packet {
	const SYN, ACK, FIN, RST, PSH = packet.SYN, packet.ACK, packet.FIN, packet.RST, packet.PSH
	var all []packet.Packet
	for _, ends := range []struct{ member, partner, stranger, router string }{
		{member4, partner4, stranger4, "192.0.2.1"}, {member6, partner6, stranger6, "2001:db8::1"},
	} {
		to := func(peer string, flags packet.Flags, sequence, acknowledgement uint32) packet.Packet {
			return packet.TCP(ends.member, peer, 5432, 40000, flags).Sequence(sequence, acknowledgement)
		}
		by := func(peer string, flags packet.Flags, sequence, acknowledgement uint32) packet.Packet {
			return packet.TCP(peer, ends.member, 40000, 5432, flags).Sequence(sequence, acknowledgement)
		}
		p, s := ends.partner, ends.stranger
		query := packet.UDP(ends.member, ends.stranger, 50000, 53).Payload("who is vault.example.com?")
		all = append(all,
			by(p, SYN, 100, 0), to(p, SYN|ACK, 900, 101), by(p, ACK, 101, 901),
			by(p, PSH|ACK, 101, 901).Payload("select 1"), to(p, PSH|ACK, 901, 109).Payload("1"),
			packet.ICMPError(ends.router, packet.PacketTooBig, to(p, PSH|ACK, 902, 109).Payload(strings.Repeat("rows", 100))),
			by(s, SYN, 7000, 0), by(s, SYN, 7000, 0), by(s, RST, 1<<31, 0),
			by(p, FIN|ACK, 109, 902), to(p, FIN|ACK, 902, 110), by(p, ACK, 110, 903), by(p, SYN, 70000, 0), to(p, RST|ACK, 0, 70001),
			query, packet.UDP(ends.stranger, ends.member, 53, 50000).Payload("192.0.2.99"),
			packet.ICMPError(ends.stranger, packet.PortUnreachable, query),
			packet.ICMPEcho(ends.partner, ends.member, 1, 1), packet.ICMPEchoReply(ends.member, ends.partner, 1, 1),
			packet.SCTP(ends.partner, ends.member, 1, 2), packet.ESP(ends.partner, ends.member, 7), packet.GRE(ends.member, ends.partner),
		)
	}
	return append(all,
		packet.UDP("0.0.0.0", "255.255.255.255", 68, 67), packet.UDP(partner4, "224.0.0.251", 5353, 5353),
		packet.ICMP("fe80::1", "ff02::1", 134, 0).With(packet.HopLimit, 255),
		packet.ICMP(partner6, member6, 135, 0).With(packet.HopLimit, 255),
		packet.ICMP(member6, "ff02::16", 143, 0).Extensions(packet.HopByHop).With(packet.HopLimit, 1),
	)
}

func framesOf(packets []packet.Packet) [][]byte {
	var out [][]byte
	for _, p := range packets {
		out = append(out, p.Frame())
	}
	return out
}

// datagramsOf are the packets without Ethernet headers.
func datagramsOf(packets []packet.Packet) [][]byte {
	var out [][]byte
	for _, p := range packets {
		out = append(out, p.Datagram())
	}
	return out
}

// frameInfo is what a capture says of its nth frame.
func frameInfo(n int, frame []byte, snap int) (gopacket.CaptureInfo, []byte) {
	kept := frame
	if snap > 0 && len(kept) > snap {
		kept = kept[:snap]
	}
	at := time.Date(2026, 11, 20, 9, 15, 0, 0, time.UTC).Add(time.Duration(n) * 40 * time.Millisecond)
	return gopacket.CaptureInfo{Timestamp: at, CaptureLength: len(kept), Length: len(frame)}, kept
}

// pcapOf is a pcap file of frames, of which no more than snap bytes are kept.
func pcapOf(t *testing.T, link layers.LinkType, snap int, frames [][]byte) []byte {
	t.Helper()
	var file bytes.Buffer
	w := pcapgo.NewWriter(&file)
	if err := w.WriteFileHeader(1<<16, link); err != nil {
		t.Fatal(err)
	}
	for i, frame := range frames {
		if err := w.WritePacket(frameInfo(i, frame, snap)); err != nil {
			t.Fatal(err)
		}
	}
	return file.Bytes()
}

func pcapngOf(t *testing.T, frames [][]byte) []byte {
	t.Helper()
	var file bytes.Buffer
	on := pcapgo.NgInterface{Name: "eth0", LinkType: layers.LinkTypeEthernet, TimestampResolution: 9}
	w, err := pcapgo.NewNgWriterInterface(&file, on, pcapgo.NgWriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i, frame := range frames {
		if err := w.WritePacket(frameInfo(i, frame, 0)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	return file.Bytes()
}

// packed and unpacked are gzip. Versions of Go need not pack alike.
func packed(t *testing.T, content []byte) []byte {
	t.Helper()
	var file bytes.Buffer
	w := gzip.NewWriter(&file)
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return file.Bytes()
}

func unpacked(t *testing.T, path string, content []byte) []byte {
	t.Helper()
	if filepath.Ext(path) != ".gz" {
		return content
	}
	r, err := gzip.NewReader(bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return plain
}
