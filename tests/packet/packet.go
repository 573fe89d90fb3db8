// Package packet builds Ethernet frames for tests, one readable line each:
//
//	packet.TCP("198.51.100.7", "10.20.0.5", 4000, 5432, packet.SYN)
//	packet.UDP("fd20::7", "fd20::5", 4000, 53).Payload("hello").Tagged(5)
//	packet.UDP(peer, member, 1, 2).Fragment(0, true, 7).With(packet.HeaderChecksum, 0)
//
// The addresses choose between IPv4 and IPv6. Lengths and checksums are right
// unless With makes one of them wrong. A Packet is a value: its methods return
// changed copies, so one packet can be the start of many.
//
// What makes no sense, such as an address that does not parse or an IPv4
// option on IPv6, is a mistake in the test and panics.
package packet

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
)

// Packet describes a frame; Frame encodes it.
type Packet struct {
	ethernet ethernet
	network  network
	segment  segment
	payload  []byte

	overrides       overrides
	cut, cutSegment int // bytes kept; whole = all
	trailer         int
}

// whole says that nothing is cut.
const whole = -1

// Address is how a test writes an address. The addresses of one packet are of
// one family. ::ffff:0:0/96 is IPv6.
type Address interface{ string | netip.Addr }

// Flags are the control bits of TCP.
type Flags uint8

const (
	FIN Flags = 1 << iota
	SYN
	RST
	PSH
	ACK
	URG
	ECE
	CWR
)

// TCP returns a segment without options.
func TCP[A Address](source, destination A, sourcePort, destinationPort uint16, flags Flags) Packet {
	header := ports(20, sourcePort, destinationPort)
	header[12] = 20 / 4 << 4
	header[13] = byte(flags)
	binary.BigEndian.PutUint16(header[14:], 65535) // window
	return ip(source, destination, protocolTCP, segment{
		header:         header,
		checksum:       checksumWithPseudoHeader,
		checksumOffset: 16,
	})
}

// UDP returns a datagram.
func UDP[A Address](source, destination A, sourcePort, destinationPort uint16) Packet {
	return ip(source, destination, protocolUDP, segment{
		header:         ports(8, sourcePort, destinationPort),
		checksum:       checksumWithPseudoHeader,
		checksumOffset: 6,
		lengthOffset:   4,
	})
}

// UDPLite returns a datagram whose checksum covers all of it.
func UDPLite[A Address](source, destination A, sourcePort, destinationPort uint16) Packet {
	return ip(source, destination, protocolUDPLite, segment{
		header:         ports(8, sourcePort, destinationPort),
		checksum:       checksumWithPseudoHeader,
		checksumOffset: 6,
		lengthOffset:   4, // the coverage, which is the length
	})
}

// SCTP returns a packet with an INIT chunk.
func SCTP[A Address](source, destination A, sourcePort, destinationPort uint16) Packet {
	header := ports(12+20, sourcePort, destinationPort)
	chunk := header[12:]
	chunk[0] = 1 // INIT
	binary.BigEndian.PutUint16(chunk[2:], 20)
	binary.BigEndian.PutUint32(chunk[4:], 1)        // initiate tag, not 0
	binary.BigEndian.PutUint32(chunk[8:], 65535)    // receiver window
	binary.BigEndian.PutUint32(chunk[12:], 1<<16|1) // streams
	return ip(source, destination, protocolSCTP, segment{
		header:         header,
		checksum:       checksumCRC32C,
		checksumOffset: 8,
	})
}

// DCCP returns a DCCP-Request.
func DCCP[A Address](source, destination A, sourcePort, destinationPort uint16) Packet {
	header := ports(20, sourcePort, destinationPort)
	header[4] = 20 / 4
	header[8] = 1 // type Request, 48-bit sequence number
	return ip(source, destination, protocolDCCP, segment{
		header:         header,
		checksum:       checksumWithPseudoHeader,
		checksumOffset: 6,
	})
}

// GRE returns a version 0 header without options that announces the packet's
// own IP family as its payload.
func GRE[A Address](source, destination A) Packet {
	p := ip(source, destination, protocolGRE, segment{})
	p.segment.header = binary.BigEndian.AppendUint32(nil, uint32(p.etherType()))
	return p
}

// ESP returns an encrypted packet as far as anyone can see it.
func ESP[A Address](source, destination A, spi uint32) Packet {
	header := binary.BigEndian.AppendUint32(nil, spi)
	return ip(source, destination, protocolESP, segment{header: binary.BigEndian.AppendUint32(header, 1)})
}

// Protocol returns a packet of any protocol. All after the IP header is its
// Payload.
func Protocol[A Address](source, destination A, protocol uint8) Packet {
	return ip(source, destination, protocol, segment{})
}

// EtherType returns a frame that is not IP. All of it is its Payload.
func EtherType(etherType uint16) Packet {
	p := Packet{cut: whole, cutSegment: whole}
	p.ethernet = defaultEthernet
	p.ethernet.etherType = etherType
	return p
}

// ARP returns a request of source for destination, both IPv4.
func ARP[A Address](source, destination A) Packet {
	from, to := family(source, destination)
	if !from.Is4() {
		panic("packet: ARP is for IPv4 addresses only")
	}
	body := []byte{0, 1, 8, 0, 6, 4, 0, 1} // Ethernet, IPv4, request
	body = append(body, defaultEthernet.source[:]...)
	body = append(body, from.AsSlice()...)
	body = append(body, make([]byte, 6)...)
	body = append(body, to.AsSlice()...)
	p := EtherType(etherTypeARP).Payload(string(body))
	p.ethernet.destination = broadcastMAC
	return p
}

// ip returns a packet with everything but the payload.
func ip[A Address](source, destination A, protocol uint8, s segment) Packet {
	p := EtherType(0)
	p.network.source, p.network.destination = family(source, destination)
	p.network.protocol = protocol
	p.segment = s
	p.ethernet.destination = destinationMAC(p.network.destination)
	return p
}

func family[A Address](source, destination A) (netip.Addr, netip.Addr) {
	from, to := address(source), address(destination)
	if from.Is4() != to.Is4() {
		panic(fmt.Sprintf("packet: %s and %s are of different families", from, to))
	}
	return from, to
}

func address[A Address](a A) netip.Addr {
	switch a := any(a).(type) {
	case netip.Addr:
		return a.WithZone("")
	default:
		return netip.MustParseAddr(a.(string))
	}
}

// ports returns a zeroed header that begins with two ports.
func ports(size int, source, destination uint16) []byte {
	header := make([]byte, size)
	binary.BigEndian.PutUint16(header, source)
	binary.BigEndian.PutUint16(header[2:], destination)
	return header
}

// Source and Destination return the IP addresses.
func (p Packet) Source() netip.Addr { return p.network.source }

func (p Packet) Destination() netip.Addr { return p.network.destination }

// Payload sets what follows the headers.
func (p Packet) Payload(data string) Packet {
	p.payload = []byte(data)
	return p
}

// Sequence sets the sequence and acknowledgement numbers of TCP.
func (p Packet) Sequence(sequence, acknowledgement uint32) Packet {
	p.only(protocolTCP, "Sequence")
	p.segment.header = slices.Clone(p.segment.header)
	binary.BigEndian.PutUint32(p.segment.header[4:], sequence)
	binary.BigEndian.PutUint32(p.segment.header[8:], acknowledgement)
	return p
}

// Tagged adds 802.1Q tags, outermost first, inside those already there.
func (p Packet) Tagged(vids ...uint16) Packet {
	return p.TaggedAs(etherTypeVLAN, vids...)
}

// ServiceTagged adds 802.1ad tags, as the outer ones of a provider's network.
func (p Packet) ServiceTagged(vids ...uint16) Packet {
	return p.TaggedAs(etherTypeServiceVLAN, vids...)
}

// TaggedAs adds tags of any ethertype with all of their control information:
// 3 bits of priority, one of drop eligibility, 12 of VLAN.
func (p Packet) TaggedAs(etherType uint16, controls ...uint16) Packet {
	p.ethernet.tags = slices.Clone(p.ethernet.tags)
	for _, control := range controls {
		p.ethernet.tags = append(p.ethernet.tags, tag{etherType, control})
	}
	return p
}

// Ethernet sets the MAC addresses. By default the source is 02:00:00:00:00:01
// and the destination 02:00:00:00:00:02, or the group address that belongs to
// the IP destination.
func (p Packet) Ethernet(source, destination net.HardwareAddr) Packet {
	p.ethernet.source = [6]byte(source)
	p.ethernet.destination = [6]byte(destination)
	return p
}

// Cut keeps only the first n bytes that follow the Ethernet header and its
// tags, as a snapped or truncated frame has them: length fields still tell of
// the whole.
func (p Packet) Cut(n int) Packet {
	p.cut = n
	return p
}

// CutSegment keeps only the first n bytes that follow the IP headers, in the
// way of Cut.
func (p Packet) CutSegment(n int) Packet {
	p.cutSegment = n
	return p
}

// Trailer adds n bytes that belong to the frame and not to the IP datagram, as
// the padding of short frames does.
func (p Packet) Trailer(n int) Packet {
	p.trailer = n
	return p
}

// String describes the frame, see Describe.
func (p Packet) String() string { return Describe(p.Frame()) }

// only panics unless the packet is of the protocol.
func (p Packet) only(protocol uint8, method string) {
	if !p.isIP() || p.network.protocol != protocol {
		panic(fmt.Sprintf("packet: %s is only for protocol %d", method, protocol))
	}
}
