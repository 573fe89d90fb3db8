package packet

import (
	"encoding/binary"
	"hash/crc32"
	"net/netip"
)

// checksum is how a protocol protects its segment.
type checksum uint8

const (
	checksumNone             checksum = iota
	checksumPlain                     // the Internet checksum of the segment
	checksumWithPseudoHeader          // with addresses, length and protocol
	checksumCRC32C                    // of SCTP
)

// put computes the checksum of a segment whose checksum is zero.
func (c checksum) put(segment []byte, offset int, source, destination netip.Addr, protocol uint8) {
	switch c {
	case checksumCRC32C:
		crc := crc32.Checksum(segment, crc32.MakeTable(crc32.Castagnoli))
		binary.LittleEndian.PutUint32(segment[offset:], crc)
	case checksumPlain:
		binary.BigEndian.PutUint16(segment[offset:], ^fold(sum(0, segment)))
	case checksumWithPseudoHeader:
		value := Checksum(source, destination, protocol, segment)
		if value == 0 && (protocol == protocolUDP || protocol == protocolUDPLite) {
			value = 0xffff // zero says that there is no checksum
		}
		binary.BigEndian.PutUint16(segment[offset:], value)
	}
}

// Checksum returns the Internet checksum of a segment and its pseudo header, for
// protocols of which this package knows nothing. The segment's own is zero.
func Checksum(source, destination netip.Addr, protocol uint8, segment []byte) uint16 {
	s := sum(uint32(len(segment))+uint32(protocol), source.AsSlice())
	return ^fold(sum(sum(s, destination.AsSlice()), segment))
}

// sum adds 16-bit words, the last one padded with zero. A datagram's 64 KiB
// cannot overflow it.
func sum(s uint32, b []byte) uint32 {
	for ; len(b) >= 2; b = b[2:] {
		s += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	return s
}

func fold(s uint32) uint16 {
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}
