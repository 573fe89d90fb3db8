package packet

import (
	"fmt"
	"net/netip"
	"slices"
)

// network is the IP header and what stands between it and the segment.
type network struct {
	source, destination netip.Addr
	protocol            uint8 // of the segment
	headers             []header

	options  []byte   // IPv4
	fragment fragment // IPv4; for IPv6 it is a header
}

// header is an IPv6 extension header, or an authentication header.
type header struct {
	kind     uint8
	size     int // bytes
	fragment fragment
	raw      []byte // instead of the above, all behind the next header
}

type fragment struct {
	offset int // bytes
	more   bool
	id     uint32
}

// Kinds of IPv6 extension headers. Authentication is also for IPv4.
const (
	HopByHop           = 0
	Routing            = 43
	Authentication     = 51
	NoNextHeader       = 59
	DestinationOptions = 60
	Mobility           = 135
	HIP                = 139
	Shim6              = 140

	kindFragment = 44
)

// Options sets the options of an IPv4 header, which it pads with zeros.
func (p Packet) Options(options ...byte) Packet {
	if !p.network.source.Is4() {
		panic("packet: Options is for IPv4; use Extensions for IPv6")
	}
	padded := (len(options) + 3) / 4 * 4
	if padded > 40 {
		panic("packet: IPv4 has no room for more than 40 bytes of options")
	}
	p.network.options = append(slices.Clone(options), make([]byte, padded-len(options))...)
	return p
}

// Extensions adds headers of the shortest form behind those already there.
func (p Packet) Extensions(kinds ...uint8) Packet {
	for _, kind := range kinds {
		size := 8
		if kind == Authentication {
			size = 24
		}
		p = p.LongExtension(kind, size)
	}
	return p
}

// LongExtension adds a header of so many bytes behind those already there.
// Hop-by-hop and destination options are filled with an option that receivers
// skip when they do not know it.
func (p Packet) LongExtension(kind uint8, size int) Packet {
	switch {
	case kind == kindFragment:
		panic("packet: use Fragment")
	case kind == Authentication && (size < 12 || size%4 != 0 || size > 1028):
		panic("packet: an authentication header has 12 to 1028 bytes, a multiple of 4")
	case kind != Authentication && p.network.source.Is4():
		panic("packet: IPv4 has no extension headers but Authentication")
	case kind != Authentication && (size < 8 || size%8 != 0 || size > 2048):
		panic("packet: an extension header has 8 to 2048 bytes, a multiple of 8")
	}
	return p.withHeader(header{kind: kind, size: size})
}

// RawExtension adds a header of any kind behind those already there; content is
// all of it behind its first byte, the next header: normally its length and what
// follows, right or wrong.
func (p Packet) RawExtension(kind uint8, content ...byte) Packet {
	if p.network.source.Is4() && kind != Authentication {
		panic("packet: IPv4 has no extension headers but Authentication")
	}
	return p.withHeader(header{kind: kind, raw: append([]byte{}, content...)})
}

// Fragment says that the packet is a fragment at this byte offset, with more
// fragments behind it or not. What the packet carries stays as it is: at an
// offset other than 0, it is data that only looks like ports. On IPv6, the
// fragment header comes behind the headers already there. To really cut a
// packet in fragments use Split.
func (p Packet) Fragment(offset int, more bool, id uint32) Packet {
	if offset%8 != 0 || offset < 0 || offset > 0xfff8 {
		panic(fmt.Sprintf("packet: %d is no multiple of 8 up to 65528, as a fragment's offset must be", offset))
	}
	f := fragment{offset, more, id}
	if p.network.source.Is4() {
		p.network.fragment = f
		return p
	}
	return p.withHeader(header{kind: kindFragment, size: 8, fragment: f})
}

// Split returns the fragments of the packet, in order, cut at these offsets
// into what can be cut: on IPv6, all behind the last hop-by-hop or routing
// header. Cut and Trailer, if used, apply to every fragment.
func (p Packet) Split(id uint32, offsets ...int) []Packet {
	each := p.repeated()
	protocol, body := chain(p.network.headers[each:], p.network.protocol, 0)
	body = append(body, p.encodeSegment()...)
	piece := p
	piece.network.protocol = protocol
	piece.network.headers = p.network.headers[:each]
	piece.segment = segment{}
	piece.overrides = p.overrides.ofNetwork() // the rest is in the body already
	var pieces []Packet
	start := 0
	for i := range len(offsets) + 1 {
		end := len(body)
		if i < len(offsets) {
			end = offsets[i]
		}
		pieces = append(pieces, piece.Payload(string(body[start:end])).Fragment(start, i < len(offsets), id))
		start = end
	}
	return pieces
}

// Fragmentable returns how many bytes Split has to cut.
func (p Packet) Fragmentable() int {
	_, body := chain(p.network.headers[p.repeated():], p.network.protocol, 0)
	return len(body) + len(p.encodeSegment())
}

// repeated returns how many of the headers each fragment repeats.
func (p Packet) repeated() int {
	each := 0
	if p.network.source.Is6() {
		for i, h := range p.network.headers {
			if h.kind == HopByHop || h.kind == Routing {
				each = i + 1
			}
		}
	}
	return each
}

func (p Packet) withHeader(h header) Packet {
	p.network.headers = append(slices.Clone(p.network.headers), h)
	return p
}
