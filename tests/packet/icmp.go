package packet

import "encoding/binary"

// ICMP returns a message of a type and code, with four zero bytes after its
// checksum; numbers are those of the addresses' family. The rest of the
// message is its Payload.
func ICMP[A Address](source, destination A, icmpType, code uint8) Packet {
	s := segment{
		header:         []byte{icmpType, code, 0, 0, 0, 0, 0, 0},
		checksum:       checksumPlain,
		checksumOffset: 2,
	}
	if from, _ := family(source, destination); from.Is4() {
		return ip(source, destination, protocolICMP, s)
	}
	s.checksum = checksumWithPseudoHeader
	return ip(source, destination, protocolICMPv6, s)
}

// ICMPEcho returns an echo request.
func ICMPEcho[A Address](source, destination A, id, sequence uint16) Packet {
	return echo(source, destination, 8, 128, id, sequence)
}

// ICMPEchoReply returns an echo reply.
func ICMPEchoReply[A Address](source, destination A, id, sequence uint16) Packet {
	return echo(source, destination, 0, 129, id, sequence)
}

func echo[A Address](source, destination A, type4, type6 uint8, id, sequence uint16) Packet {
	icmpType := type6
	if from, _ := family(source, destination); from.Is4() {
		icmpType = type4
	}
	p := ICMP(source, destination, icmpType, 0)
	binary.BigEndian.PutUint16(p.segment.header[4:], id)
	binary.BigEndian.PutUint16(p.segment.header[6:], sequence)
	return p
}

// Error is a kind of ICMP error that both families have.
type Error uint8

const (
	HostUnreachable Error = iota
	PortUnreachable
	Prohibited // by an administrator
	PacketTooBig
	TimeExceeded
	ParameterProblem
)

// errorCodes holds type and code per Error, for IPv4 and IPv6.
var errorCodes = [...]struct{ v4, v6 [2]uint8 }{
	HostUnreachable:  {[2]uint8{3, 1}, [2]uint8{1, 3}},
	PortUnreachable:  {[2]uint8{3, 3}, [2]uint8{1, 4}},
	Prohibited:       {[2]uint8{3, 13}, [2]uint8{1, 1}},
	PacketTooBig:     {[2]uint8{3, 4}, [2]uint8{2, 0}},
	TimeExceeded:     {[2]uint8{11, 0}, [2]uint8{3, 0}},
	ParameterProblem: {[2]uint8{12, 0}, [2]uint8{4, 0}},
}

// ICMPError returns the error that source sends to the sender of the quoted
// packet. It quotes as much as fits; cut the quoted packet to quote less.
func ICMPError[A Address](source A, kind Error, quoted Packet) Packet {
	from, to := address(source), quoted.network.source
	codes, room := errorCodes[kind].v4, 576-20-8
	if to.Is6() {
		codes, room = errorCodes[kind].v6, 1280-40-8
	}
	p := ICMP(from, to, codes[0], codes[1])
	if kind == PacketTooBig {
		const mtu = 1280
		binary.BigEndian.PutUint16(p.segment.header[6:], mtu)
	}
	quote := quoted.Datagram()
	return p.Payload(string(quote[:min(room, len(quote))]))
}

// To sends a packet to another address, as an error that is about somebody else's
// packet.
func (p Packet) To(destination string) Packet {
	_, p.network.destination = family(p.network.source, address(destination))
	p.ethernet.destination = destinationMAC(p.network.destination)
	return p
}
