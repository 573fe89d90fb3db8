package packet

import (
	"fmt"
	"maps"
)

// Field names a field that With sets.
type Field uint8

const (
	Version        Field = iota // of IP, 4 bits
	HeaderLength                // of IPv4, in words of 4 bytes
	TotalLength                 // of IPv4; on IPv6 the payload length
	HopLimit                    // the time to live of IPv4
	HeaderChecksum              // of IPv4

	// FragmentReserved is the bits beside a fragment's offset that say nothing of
	// it: on IPv4 0x8000 and 0x4000, do not fragment; on IPv6 the reserved byte in
	// the high half, and 0x0006.
	FragmentReserved

	SegmentLength       // of UDP; of UDP-Lite the coverage
	SegmentHeaderLength // the data offset of TCP and DCCP, in words of 4 bytes
	SegmentChecksum     // what follows the IP headers; of SCTP the first half
)

// overrides are the values that With set. They are never changed in place.
type overrides map[Field]uint16

// ofNetwork returns those that are not of the segment.
func (o overrides) ofNetwork() overrides {
	out := maps.Clone(o)
	maps.DeleteFunc(out, func(field Field, _ uint16) bool { return field >= SegmentLength })
	return out
}

// or returns the field's value if With set it, and the right one otherwise.
func (o overrides) or(field Field, right int) uint16 {
	if value, ok := o[field]; ok {
		return value
	}
	if right > 0xffff {
		panic(fmt.Sprintf("packet: %d does not fit field %d: the packet is too large", right, field))
	}
	return uint16(right)
}

// With sets a field to a value, right or wrong. Only that field is wrong then:
// checksums are computed over what With set, unless it sets the checksum.
func (p Packet) With(field Field, value uint16) Packet {
	if !p.has(field) {
		panic(fmt.Sprintf("packet: this packet has no field %d to set", field))
	}
	p.overrides = maps.Clone(p.overrides)
	if p.overrides == nil {
		p.overrides = overrides{}
	}
	p.overrides[field] = value
	return p
}

func (p Packet) has(field Field) bool {
	switch field {
	case Version, TotalLength, HopLimit, FragmentReserved:
		return p.isIP()
	case HeaderLength, HeaderChecksum:
		return p.network.source.Is4()
	case SegmentLength:
		return p.segment.lengthOffset != 0
	case SegmentHeaderLength:
		return p.network.protocol == protocolTCP || p.network.protocol == protocolDCCP
	case SegmentChecksum:
		return p.segment.checksum != checksumNone
	}
	return false
}
