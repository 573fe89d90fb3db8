package packet

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"net/netip"
	"strings"
)

// Describe says in one line what a frame is. Two frames that say the same on
// the wire give the same line; MAC addresses are left out, as are fields that
// have their usual value. What is wrong with a frame is part of the line.
func Describe(frame []byte) string {
	d := &description{rest: frame}
	d.ethernet()
	return strings.Join(d.words, ", ")
}

// description reads a frame from the front; each method reads one header.
type description struct {
	words []string
	rest  []byte // not read yet

	source, destination netip.Addr
	partial             bool // the segment is not complete: no checksum can be checked
}

func (d *description) say(format string, args ...any) {
	d.words = append(d.words, fmt.Sprintf(format, args...))
}

// take reads n bytes, or says that they are missing.
func (d *description) take(n int, what string) ([]byte, bool) {
	if len(d.rest) < n {
		d.say("%s cut to %d of %d bytes", what, len(d.rest), n)
		d.rest = nil
		return nil, false
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b, true
}

func (d *description) ethernet() {
	if _, ok := d.take(12, "ethernet"); !ok {
		return
	}
	for {
		b, ok := d.take(2, "ethertype")
		if !ok {
			return
		}
		switch etherType := binary.BigEndian.Uint16(b); etherType {
		case etherTypeVLAN, etherTypeServiceVLAN:
			b, ok := d.take(2, "tag")
			if !ok {
				return
			}
			name := "vlan"
			if etherType == etherTypeServiceVLAN {
				name = "service vlan"
			}
			control := binary.BigEndian.Uint16(b)
			d.say("%s %d", name, control&0xfff)
			if control > 0xfff {
				d.say("priority %d", control>>12)
			}
			continue
		case etherTypeIPv4, etherTypeIPv6:
			d.ip()
		case etherTypeARP:
			d.arp()
		default:
			d.say("ethertype %#04x", etherType)
			d.payload()
		}
		return
	}
}

func (d *description) arp() {
	b, ok := d.take(28, "arp")
	if !ok {
		return
	}
	d.say("arp %d %s > %s", binary.BigEndian.Uint16(b[6:]), ipv4(b[14:]), ipv4(b[24:]))
}

func (d *description) ip() {
	if len(d.rest) == 0 {
		d.say("ip cut to 0 bytes")
		return
	}
	switch version := d.rest[0] >> 4; version {
	case 4:
		d.ip4()
	case 6:
		d.ip6()
	default:
		d.say("ip version %d", version)
		d.payload()
	}
}

func (d *description) ip4() {
	whole := d.rest
	b, ok := d.take(20, "ipv4")
	if !ok {
		return
	}
	d.source, d.destination = ipv4(b[12:]), ipv4(b[16:])
	d.say("%s > %s", d.source, d.destination)
	d.hopLimit(b[8])
	size := int(b[0]&0xf) * 4
	if size < 20 {
		d.say("header length %d", size)
		d.payload()
		return
	}
	if size > 20 {
		options, ok := d.take(size-20, "options")
		if !ok {
			return
		}
		d.say("options %x", options)
	}
	if fold(sum(0, whole[:size])) != 0xffff {
		d.say("wrong header checksum")
	}
	d.limit(int(binary.BigEndian.Uint16(b[2:])) - size)
	place := binary.BigEndian.Uint16(b[6:])
	offset, more := int(place&0x1fff)*8, place&0x2000 != 0
	d.reserved(place & 0x8000) // hosts set the other one, do not fragment, as they like
	if offset != 0 || more {
		d.fragment(offset, more, uint32(binary.BigEndian.Uint16(b[4:])))
	}
	d.behind(b[9], offset)
}

func (d *description) ip6() {
	b, ok := d.take(40, "ipv6")
	if !ok {
		return
	}
	d.source = netip.AddrFrom16([16]byte(b[8:24]))
	d.destination = netip.AddrFrom16([16]byte(b[24:40]))
	d.say("%s > %s", d.source, d.destination)
	d.hopLimit(b[7])
	d.limit(int(binary.BigEndian.Uint16(b[4:])))
	d.behind(b[6], 0)
}

func (d *description) hopLimit(n byte) {
	if n != 64 {
		d.say("hop limit %d", n)
	}
}

// limit drops what the IP length does not cover.
func (d *description) limit(size int) {
	switch {
	case size < 0:
		d.say("length %d too small", -size)
		d.partial = true
	case size > len(d.rest):
		d.say("cut to %d of %d bytes", len(d.rest), size)
		d.partial = true
	case size < len(d.rest):
		d.say("trailer of %d bytes", len(d.rest)-size)
		d.rest = d.rest[:size]
	}
}

func (d *description) fragment(offset int, more bool, id uint32) {
	d.partial = true
	last := "last"
	if more {
		last = "more"
	}
	d.say("fragment at %d, %s, id %d", offset, last, id)
}

// reserved tells of the bits beside a fragment's offset.
func (d *description) reserved(bits uint16) {
	if bits != 0 {
		d.say("reserved %#04x", bits)
	}
}

// behind reads extension headers and then the segment. What is in a fragment
// that is not the first is only payload.
func (d *description) behind(protocol uint8, offset int) {
	for offset == 0 {
		name := extensionNames(protocol)
		if name == "" {
			d.segment(protocol)
			return
		}
		start := d.rest
		b, ok := d.take(8, name)
		if !ok {
			return
		}
		size := (int(b[1]) + 1) * 8
		switch protocol {
		case kindFragment:
			place := binary.BigEndian.Uint16(b[2:])
			offset = int(place &^ 7)
			d.fragment(offset, place&1 != 0, binary.BigEndian.Uint32(b[4:]))
			d.reserved(uint16(b[1])<<8 | place&6)
			protocol = b[0]
			continue
		case Authentication:
			size = (int(b[1]) + 2) * 4
		}
		d.rest = start
		if _, ok := d.take(size, name); !ok {
			return
		}
		d.say("%s of %d bytes", name, size)
		protocol = start[0]
	}
	d.say("protocol %d", protocol)
	d.payload()
}

func extensionNames(kind uint8) string {
	switch kind {
	case HopByHop:
		return "hop-by-hop"
	case Routing:
		return "routing"
	case kindFragment:
		return "fragment"
	case Authentication:
		return "authentication"
	case DestinationOptions:
		return "destination options"
	case Mobility:
		return "mobility"
	case HIP:
		return "hip"
	case Shim6:
		return "shim6"
	}
	return ""
}

func (d *description) payload() {
	switch n := len(d.rest); {
	case n > 32:
		d.say("%d bytes with CRC %08x", n, crc32.ChecksumIEEE(d.rest))
	case n > 0:
		d.say("%q", d.rest)
	}
}

func ipv4(b []byte) netip.Addr { return netip.AddrFrom4([4]byte(b)) }
