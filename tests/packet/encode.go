package packet

import (
	"encoding/binary"
	"net/netip"
	"slices"
)

// Numbers that the IEEE and IANA gave.
const (
	etherTypeIPv4        = 0x0800
	etherTypeARP         = 0x0806
	etherTypeVLAN        = 0x8100
	etherTypeIPv6        = 0x86dd
	etherTypeServiceVLAN = 0x88a8

	protocolICMP    = 1
	protocolTCP     = 6
	protocolUDP     = 17
	protocolDCCP    = 33
	protocolGRE     = 47
	protocolESP     = 50
	protocolICMPv6  = 58
	protocolSCTP    = 132
	protocolUDPLite = 136
)

type ethernet struct {
	source, destination [6]byte
	tags                []tag
	etherType           uint16 // 0 = of the IP family
}

type tag struct{ etherType, control uint16 }

// Locally administered addresses, as veth has.
var (
	defaultEthernet = ethernet{source: [6]byte{2, 0, 0, 0, 0, 1}, destination: [6]byte{2, 0, 0, 0, 0, 2}}
	broadcastMAC    = [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
)

// destinationMAC returns the group address of an IP group.
func destinationMAC(a netip.Addr) [6]byte {
	b := a.AsSlice()
	switch {
	case a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return broadcastMAC
	case !a.IsMulticast():
		return defaultEthernet.destination
	case a.Is4():
		return [6]byte{0x01, 0x00, 0x5e, b[1] & 0x7f, b[2], b[3]}
	default:
		return [6]byte{0x33, 0x33, b[12], b[13], b[14], b[15]}
	}
}

// segment is what the protocol puts in front of the payload, with zeros where
// lengths and checksums belong.
type segment struct {
	header         []byte
	checksum       checksum
	checksumOffset int
	lengthOffset   int // 0 = none
}

func (p Packet) isIP() bool { return p.network.source.IsValid() }

func (p Packet) etherType() uint16 {
	switch {
	case !p.isIP():
		return p.ethernet.etherType
	case p.network.source.Is4():
		return etherTypeIPv4
	default:
		return etherTypeIPv6
	}
}

// Frame returns the Ethernet frame.
func (p Packet) Frame() []byte {
	b := slices.Concat(p.ethernet.destination[:], p.ethernet.source[:])
	for _, t := range p.ethernet.tags {
		b = binary.BigEndian.AppendUint16(b, t.etherType)
		b = binary.BigEndian.AppendUint16(b, t.control)
	}
	b = binary.BigEndian.AppendUint16(b, p.etherType())
	b = append(b, p.Datagram()...)
	return append(b, make([]byte, p.trailer)...)
}

// Datagram returns what follows the Ethernet header and its tags: the frame
// as an interface without Ethernet has it, or the inner packet of a tunnel.
func (p Packet) Datagram() []byte {
	var b []byte
	if p.isIP() {
		s := p.encodeSegment()
		b = p.network.encode(p.overrides, len(s))
		b = append(b, s[:kept(p.cutSegment, len(s))]...)
		if p.network.source.Is4() {
			putHeaderChecksum(p.overrides, b)
		}
	} else {
		b = slices.Clone(p.payload)
	}
	return b[:kept(p.cut, len(b))]
}

// kept returns how many of so many bytes a cut leaves.
func kept(cut, size int) int {
	if cut == whole {
		return size
	}
	return min(cut, size)
}

func (p Packet) encodeSegment() []byte {
	s := p.segment
	b := slices.Concat(s.header, p.payload)
	if s.lengthOffset != 0 {
		binary.BigEndian.PutUint16(b[s.lengthOffset:], p.overrides.or(SegmentLength, len(b)))
	}
	switch p.network.protocol {
	case protocolTCP:
		if v, ok := p.overrides[SegmentHeaderLength]; ok {
			b[12] = byte(v << 4)
		}
	case protocolDCCP:
		if v, ok := p.overrides[SegmentHeaderLength]; ok {
			b[4] = byte(v)
		}
	}
	if s.checksum != checksumNone {
		s.checksum.put(b, s.checksumOffset, p.network.source, p.network.destination, p.network.protocol)
		if v, ok := p.overrides[SegmentChecksum]; ok {
			binary.BigEndian.PutUint16(b[s.checksumOffset:], v)
		}
	}
	return b
}

// encode returns the IP header and the headers behind it, in front of a
// segment of this size. The checksum of an IPv4 header is still 0.
func (n *network) encode(set overrides, segmentSize int) []byte {
	reserved := set.or(FragmentReserved, 0)
	next, behind := chain(n.headers, n.protocol, reserved)
	if n.source.Is6() {
		b := make([]byte, 40, 40+len(behind))
		b[0] = byte(set.or(Version, 6) << 4)
		binary.BigEndian.PutUint16(b[4:], set.or(TotalLength, len(behind)+segmentSize))
		b[6] = next
		b[7] = byte(set.or(HopLimit, 64))
		copy(b[8:], n.source.AsSlice())
		copy(b[24:], n.destination.AsSlice())
		return append(b, behind...)
	}
	size := 20 + len(n.options)
	b := make([]byte, 20, size+len(behind))
	b[0] = byte(set.or(Version, 4)<<4 | set.or(HeaderLength, size/4)&0xf)
	binary.BigEndian.PutUint16(b[2:], set.or(TotalLength, size+len(behind)+segmentSize))
	binary.BigEndian.PutUint16(b[4:], uint16(n.fragment.id))
	binary.BigEndian.PutUint16(b[6:], uint16(n.fragment.offset/8)|bit(n.fragment.more, 13)|reserved)
	b[8] = byte(set.or(HopLimit, 64))
	b[9] = next
	copy(b[12:], n.source.AsSlice())
	copy(b[16:], n.destination.AsSlice())
	b = append(b, n.options...)
	return append(b, behind...)
}

// putHeaderChecksum protects the IPv4 header at the front of a datagram, as long
// as it says that it is.
func putHeaderChecksum(set overrides, datagram []byte) {
	size := max(20, int(datagram[0]&0xf)*4)
	right := ^fold(sum(0, datagram[:min(size, len(datagram))]))
	binary.BigEndian.PutUint16(datagram[10:], set.or(HeaderChecksum, int(right)))
}

// chain encodes headers in front of a protocol. It returns the kind of the
// first, or the protocol if there is none. Fragment headers get these reserved
// bits.
func chain(headers []header, protocol uint8, reserved uint16) (first uint8, encoded []byte) {
	for i, h := range headers {
		next := protocol
		if i+1 < len(headers) {
			next = headers[i+1].kind
		}
		encoded = append(encoded, h.encode(next, reserved)...)
	}
	if len(headers) == 0 {
		return protocol, nil
	}
	return headers[0].kind, encoded
}

func (h header) encode(next uint8, reserved uint16) []byte {
	if h.raw != nil {
		return append([]byte{next}, h.raw...)
	}
	b := make([]byte, h.size)
	b[0] = next
	if h.kind == kindFragment {
		b[1] = byte(reserved >> 8)
		binary.BigEndian.PutUint16(b[2:], uint16(h.fragment.offset)|bit(h.fragment.more, 0)|reserved&0xff)
		binary.BigEndian.PutUint32(b[4:], h.fragment.id)
		return b
	}
	b[1] = byte(h.size/8 - 1)
	switch h.kind {
	case Authentication:
		b[1] = byte(h.size/4 - 2)
		binary.BigEndian.PutUint32(b[4:], 1) // security parameters index, not 0
	case HopByHop, DestinationOptions:
		fillOptions(b[2:])
	}
	return b
}

// fillOptions fills the room with options that a receiver skips.
func fillOptions(room []byte) {
	const (
		padN         = 1    // the kernel takes no more than 7 bytes of padding
		experimental = 0x1e // RFC 4727, the two high bits say "skip"
	)
	kind := byte(experimental)
	if len(room) < 7 {
		kind = padN
	}
	for len(room) > 0 {
		size := min(len(room), 2+255)
		if len(room)-size == 1 { // one byte is no room for another option
			size--
		}
		room[0], room[1] = kind, byte(size-2)
		room = room[size:]
	}
}

func bit(set bool, position int) uint16 {
	if set {
		return 1 << position
	}
	return 0
}
