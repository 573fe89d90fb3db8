package packet

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"strings"
)

// segment reads what follows the IP headers.
func (d *description) segment(protocol uint8) {
	whole := d.rest
	switch protocol {
	case protocolTCP:
		b, ok := d.take(20, "tcp")
		if !ok {
			return
		}
		d.say("tcp %s %s", portPair(b), Flags(b[13]))
		if sequence, acknowledgement := binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint32(b[8:]); sequence|acknowledgement != 0 {
			d.say("sequence %d, acknowledgement %d", sequence, acknowledgement)
		}
		if size := int(b[12]>>4) * 4; size < 20 {
			d.say("header length %d", size)
		} else if options, ok := d.take(size-20, "options"); ok && len(options) > 0 {
			d.say("options %x", options)
		}
		d.pseudo(whole, protocol)
	case protocolUDP, protocolUDPLite:
		name := "udp"
		if protocol == protocolUDPLite {
			name = "udplite"
		}
		b, ok := d.take(8, name)
		if !ok {
			return
		}
		d.say("%s %s", name, portPair(b))
		if size := int(binary.BigEndian.Uint16(b[4:])); size != len(whole) && !d.partial {
			d.say("length %d of %d bytes", size, len(whole))
		}
		if b[6]|b[7] == 0 {
			d.say("no checksum")
		} else {
			d.pseudo(whole, protocol)
		}
	case protocolDCCP:
		b, ok := d.take(20, "dccp")
		if !ok {
			return
		}
		d.say("dccp %s type %d", portPair(b), b[8]>>1&0xf)
		if b[4] != 20/4 {
			d.say("header length %d", int(b[4])*4)
		}
		d.pseudo(whole, protocol)
	case protocolSCTP:
		b, ok := d.take(12, "sctp")
		if !ok {
			return
		}
		d.say("sctp %s", portPair(b))
		d.crc32c(whole)
	case protocolICMP, protocolICMPv6:
		d.icmp(protocol)
		return
	default:
		d.say("protocol %d", protocol)
	}
	d.payload()
}

func (d *description) icmp(protocol uint8) {
	whole := d.rest
	b, ok := d.take(8, "icmp")
	if !ok {
		return
	}
	d.say("icmp %d/%d", b[0], b[1])
	if rest := binary.BigEndian.Uint32(b[4:]); rest != 0 {
		d.say("%d:%d", rest>>16, rest&0xffff)
	}
	isError := b[0] >= 1 && b[0] <= 4
	if protocol == protocolICMP {
		isError = b[0] == 3 || b[0] == 4 || b[0] == 11 || b[0] == 12
		if !d.partial && fold(sum(0, whole)) != 0xffff {
			d.say("wrong checksum")
		}
	} else {
		d.pseudo(whole, protocol)
	}
	if !isError {
		d.payload()
		return
	}
	quoted := &description{rest: d.rest}
	quoted.ip()
	d.say("about [%s]", strings.Join(quoted.words, ", "))
}

// pseudo checks a checksum over the segment and the pseudo header.
func (d *description) pseudo(segment []byte, protocol uint8) {
	s := sum(uint32(protocol)+uint32(len(segment)), d.source.AsSlice())
	if !d.partial && fold(sum(sum(s, d.destination.AsSlice()), segment)) != 0xffff {
		d.say("wrong checksum")
	}
}

func (d *description) crc32c(segment []byte) {
	without := append([]byte(nil), segment...)
	clear(without[8:12])
	crc := crc32.Checksum(without, crc32.MakeTable(crc32.Castagnoli))
	if !d.partial && binary.LittleEndian.Uint32(segment[8:]) != crc {
		d.say("wrong checksum")
	}
}

func portPair(b []byte) string {
	return fmt.Sprintf("%d > %d", binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:]))
}

// String returns the names of the bits, such as SYN|ACK.
func (f Flags) String() string {
	var names []string
	for i, name := range [...]string{"FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"} {
		if f&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	if names == nil {
		return "no flags"
	}
	return strings.Join(names, "|")
}
