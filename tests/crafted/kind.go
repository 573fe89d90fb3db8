package crafted

import (
	"encoding/binary"

	"github.com/perimeterd/perimeterd/tests/packet"
)

// Numbers of protocols.
const (
	protocolICMP    = 1
	protocolIGMP    = 2
	protocolTCP     = 6
	protocolUDP     = 17
	protocolICMPv6  = 58
	protocolUDPLite = 136
)

// kind is what a draft is before anything is done to it.
type kind struct {
	class    Class
	weight   int   // how often it is drawn, beside the others
	protocol uint8 // 0 where it differs
	// build makes the packet. It is asked more than once and must always answer
	// alike: what differs between cases follows from their numbers.
	build func(d *draft, port uint16) packet.Packet
}

var kinds = []kind{
	{UDP, 40, protocolUDP, func(d *draft, port uint16) packet.Packet {
		return packet.UDP(d.source, d.destination, d.sourcePort, port).Payload(d.payload)
	}},
	{TCP, 28, protocolTCP, func(d *draft, port uint16) packet.Packet {
		return packet.TCP(d.source, d.destination, d.sourcePort, port, packet.SYN).Sequence(d.number, 0).Payload(d.payload)
	}},
	{TCPFlags, 5, protocolTCP, func(d *draft, port uint16) packet.Packet {
		flags := packet.Flags(d.number * 37)
		return packet.TCP(d.source, d.destination, d.sourcePort, port, flags).Sequence(d.number, d.number*7).Payload(d.payload)
	}},
	{UDPLite, 3, protocolUDPLite, func(d *draft, port uint16) packet.Packet {
		return packet.UDPLite(d.source, d.destination, d.sourcePort, port).Payload(d.payload)
	}},
	{SCTP, 2, 0, func(d *draft, port uint16) packet.Packet {
		return packet.SCTP(d.source, d.destination, d.sourcePort, port).Payload(d.payload)
	}},
	{DCCP, 2, 0, func(d *draft, port uint16) packet.Packet {
		return packet.DCCP(d.source, d.destination, d.sourcePort, port).Payload(d.payload)
	}},
	{Echo, 4, 0, func(d *draft, _ uint16) packet.Packet {
		if d.number%3 == 0 {
			return packet.ICMPEchoReply(d.source, d.destination, d.sourcePort, 1).Payload(d.payload)
		}
		return packet.ICMPEcho(d.source, d.destination, d.sourcePort, 1).Payload(d.payload)
	}},
	{ICMP, 4, 0, func(d *draft, _ uint16) packet.Packet {
		return packet.ICMP(d.source, d.destination, uint8(d.number*11), uint8(d.number%4)).Payload(d.payload)
	}},
	{Discovery, 3, 0, func(d *draft, _ uint16) packet.Packet {
		// What is told is nonsense to the host, which so keeps its own tables.
		hops := uint16(255)
		if d.number%3 == 0 {
			hops = uint16(d.number % 255)
		}
		return packet.ICMP(d.source, d.destination, uint8(133+d.number%5), 0).Payload(d.payload).With(packet.HopLimit, hops)
	}},
	{Membership, 3, 0, func(d *draft, _ uint16) packet.Packet {
		hops := uint16(1 + d.number%2)
		if d.v6 {
			return packet.ICMP(d.source, d.destination, uint8(130+d.number%4), 0).Payload(d.payload).With(packet.HopLimit, hops)
		}
		report := append([]byte{0x16, 0, 0, 0}, d.destination.AsSlice()...)
		return packet.Protocol(d.source, d.destination, protocolIGMP).Payload(string(report)+d.payload).With(packet.HopLimit, hops)
	}},
	{DHCP, 3, protocolUDP, func(d *draft, _ uint16) packet.Packet {
		server, client := uint16(67), uint16(68)
		if d.v6 {
			server, client = 547, 546
		}
		ports := [][2]uint16{{server, client}, {server, client}, {client, server}, {client, client}, {client + 1, client}, {server, client + 1}}
		pair := ports[d.number%uint32(len(ports))]
		return packet.UDP(d.source, d.destination, pair[0], pair[1]).Payload(d.payload)
	}},
	{AnyProtocol, 6, 0, func(d *draft, port uint16) packet.Packet {
		known := []uint8{4, 41, 47, 50, 51, 94, 103, 112, 115, 253, protocolIGMP, protocolICMP, protocolICMPv6, packet.Mobility}
		protocol := known[d.number%uint32(len(known))]
		if d.number%5 == 0 {
			protocol = uint8(d.number / 5)
		}
		// Looks like a datagram to the port.
		looks := binary.BigEndian.AppendUint16(nil, d.sourcePort)
		looks = binary.BigEndian.AppendUint16(looks, port)
		looks = binary.BigEndian.AppendUint16(looks, uint16(8+len(d.payload)))
		looks = append(looks, 0, 0)
		if protocol == 4 || protocol == 41 {
			inner := packet.UDP(d.source, d.destination, d.sourcePort, port).Payload(d.payload)
			return packet.Protocol(d.source, d.destination, protocol).Payload(string(inner.Datagram()))
		}
		return packet.Protocol(d.source, d.destination, protocol).Payload(string(looks) + d.payload)
	}},
}

func (d *draft) drawKind() *kind {
	sum := 0
	for i := range kinds {
		sum += kinds[i].weight
	}
	at := d.IntN(sum)
	for i := range kinds {
		if at -= kinds[i].weight; at < 0 {
			return &kinds[i]
		}
	}
	panic("crafted: weights changed while summing them")
}
