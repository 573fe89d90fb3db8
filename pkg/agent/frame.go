package agent

import (
	"encoding/binary"
	"net/netip"

	"github.com/perimeterd/perimeterd/pkg/policy"
)

// openerPort is the source port of a frame that asks: a port a client would
// have, and of no service.
const openerPort = 50000

// openingFrame returns an Ethernet frame with the first packet of a flow: for
// TCP a SYN, for ICMP an echo request, else the shortest packet that a socket of
// the protocol takes. Both addresses are of one family.
func openingFrame(from, to netip.Addr, protocol uint8, port uint16) []byte {
	if protocol == policy.ProtocolICMP && from.Is6() {
		protocol = policy.ProtocolICMPv6
	}
	segment := openingSegment(protocol, port)
	sum := checksumAt(protocol)
	if sum >= 0 {
		binary.BigEndian.PutUint16(segment[sum:], pseudoChecksum(from, to, protocol, segment))
	}

	frame := make([]byte, 12, 14+40+len(segment)) // MAC addresses do not count
	if from.Is4() {
		frame = binary.BigEndian.AppendUint16(frame, 0x0800)
		header := make([]byte, 20)
		header[0] = 4<<4 | 5
		binary.BigEndian.PutUint16(header[2:], uint16(len(header)+len(segment)))
		header[8], header[9] = 64, protocol
		copy(header[12:], from.AsSlice())
		copy(header[16:], to.AsSlice())
		binary.BigEndian.PutUint16(header[10:], ^fold(sumOf(header, 0)))
		frame = append(frame, header...)
	} else {
		frame = binary.BigEndian.AppendUint16(frame, 0x86dd)
		header := make([]byte, 40)
		header[0] = 6 << 4
		binary.BigEndian.PutUint16(header[4:], uint16(len(segment)))
		header[6], header[7] = protocol, 64
		copy(header[8:], from.AsSlice())
		copy(header[24:], to.AsSlice())
		frame = append(frame, header...)
	}
	return append(frame, segment...)
}

func openingSegment(protocol uint8, port uint16) []byte {
	ports := func(size int) []byte {
		s := make([]byte, size)
		binary.BigEndian.PutUint16(s, openerPort)
		binary.BigEndian.PutUint16(s[2:], port)
		return s
	}
	switch protocol {
	case policy.ProtocolTCP:
		s := ports(20)
		s[12], s[13] = 5<<4, 1<<1 // SYN
		return s
	case policy.ProtocolUDP, policy.ProtocolUDPLite:
		s := ports(8)
		binary.BigEndian.PutUint16(s[4:], uint16(len(s)))
		return s
	case policy.ProtocolSCTP:
		s := ports(12 + 20)
		s[12], s[15] = 1, 20 // INIT
		return s
	case policy.ProtocolDCCP:
		s := ports(20)
		s[4], s[8] = 5, 1 // Request
		return s
	case policy.ProtocolICMP:
		return []byte{8, 0, 0, 0, 0, 1, 0, 1}
	case policy.ProtocolICMPv6:
		return []byte{128, 0, 0, 0, 0, 1, 0, 1}
	}
	return make([]byte, 24) // longer than any other header that is read
}

// checksumAt is where a segment has its checksum, -1 if it has none that is
// worth getting right.
func checksumAt(protocol uint8) int {
	switch protocol {
	case policy.ProtocolTCP:
		return 16
	case policy.ProtocolUDP, policy.ProtocolUDPLite, policy.ProtocolDCCP:
		return 6
	case policy.ProtocolICMP, policy.ProtocolICMPv6:
		return 2
	}
	return -1
}

func pseudoChecksum(from, to netip.Addr, protocol uint8, segment []byte) uint16 {
	var sum uint32
	if protocol != policy.ProtocolICMP {
		sum = sumOf(from.AsSlice(), 0) + sumOf(to.AsSlice(), 0) + uint32(protocol) + uint32(len(segment))
	}
	return ^fold(sumOf(segment, sum))
}

func sumOf(b []byte, sum uint32) uint32 {
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	return sum
}

func fold(sum uint32) uint16 {
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return uint16(sum)
}
