package capture

import (
	"encoding/binary"
	"fmt"

	"github.com/gopacket/gopacket/layers"
)

// What DLT_RAW was called in the files of some systems.
const (
	linkTypeRawBSD     layers.LinkType = 12
	linkTypeRawOpenBSD layers.LinkType = 14
)

const (
	ethernetSize = 14
	macsSize     = 12 // the two addresses, before the ethertype
	sllSize      = 16
	sll2Size     = 20
	nullSize     = 4
)

const (
	etherTypeIPv4 = 0x0800
	etherTypeIPv6 = 0x86dd
	etherTypeNone = 0 // of nothing that we know
)

// supported returns an error for a link whose frames are not read.
func supported(link layers.LinkType) error {
	switch link {
	case layers.LinkTypeEthernet, layers.LinkTypeRaw, linkTypeRawBSD, linkTypeRawOpenBSD, layers.LinkTypeIPv4,
		layers.LinkTypeIPv6, layers.LinkTypeLinuxSLL, layers.LinkTypeLinuxSLL2, layers.LinkTypeNull, layers.LinkTypeLoop:
		return nil
	}
	return fmt.Errorf("link type %d (see tcpdump.org/linktypes.html) is not read: capture on an interface with Ethernet or IP, or on `any`", link)
}

// asEthernet fills in the frame's bytes, length and way from what a link of this
// type carried, of which so many bytes were on the wire.
func (r *Reader) asEthernet(f *Frame, link layers.LinkType, data []byte, length int) error {
	if err := supported(link); err != nil {
		return err
	}
	if link == layers.LinkTypeEthernet {
		f.Data, f.Length = data, length
		return nil
	}
	header, size := readLink(link, data)
	f.Way = header.way
	r.room = append(r.room[:0], make([]byte, macsSize)...)
	if header.whole {
		r.room = binary.BigEndian.AppendUint16(r.room, header.etherType)
		r.room = append(r.room, data[size:]...)
	}
	f.Data = r.room
	// A frame whose header was not captured whole is one that ends inside it.
	f.Length = max(length-size+ethernetSize, len(f.Data))
	return nil
}

// linkHeader is what the header of a link without Ethernet says.
type linkHeader struct {
	whole     bool // false: it ends too soon, and says nothing
	etherType uint16
	way       Way
}

// readLink reads the header that a frame of this link begins with, and returns
// its size. What comes after an ethertype of a VLAN tag is the same in cooked
// frames as in those of Ethernet.
func readLink(link layers.LinkType, data []byte) (h linkHeader, size int) {
	switch link {
	case layers.LinkTypeIPv4:
		return linkHeader{whole: true, etherType: etherTypeIPv4}, 0
	case layers.LinkTypeIPv6:
		return linkHeader{whole: true, etherType: etherTypeIPv6}, 0
	case layers.LinkTypeRaw, linkTypeRawBSD, linkTypeRawOpenBSD:
		return linkHeader{whole: true, etherType: etherTypeByVersion(data)}, 0
	case layers.LinkTypeLinuxSLL:
		if len(data) >= sllSize {
			h = linkHeader{whole: true, etherType: binary.BigEndian.Uint16(data[14:]), way: wayOf(binary.BigEndian.Uint16(data))}
		}
		return h, sllSize
	case layers.LinkTypeLinuxSLL2:
		if len(data) >= sll2Size {
			h = linkHeader{whole: true, etherType: binary.BigEndian.Uint16(data), way: wayOf(uint16(data[10]))}
		}
		return h, sll2Size
	default: // NULL and LOOP
		if len(data) >= nullSize {
			h = linkHeader{whole: true, etherType: etherTypeByFamily(binary.BigEndian.Uint32(data))}
		}
		return h, nullSize
	}
}

func etherTypeByVersion(datagram []byte) uint16 {
	if len(datagram) == 0 {
		return etherTypeNone
	}
	switch datagram[0] >> 4 {
	case 4:
		return etherTypeIPv4
	case 6:
		return etherTypeIPv6
	}
	return etherTypeNone
}

// etherTypeByFamily reads the address family of NULL, which is in the byte order
// of the host that captured, and of LOOP, which is in network order.
func etherTypeByFamily(family uint32) uint16 {
	if family > 0xffff {
		family = family>>24 | family>>8&0xff00
	}
	switch family {
	case 2:
		return etherTypeIPv4
	case 10, 23, 24, 28, 30: // Linux, Windows, and three BSDs
		return etherTypeIPv6
	}
	return etherTypeNone
}

// wayOf reads the packet type of cooked frames.
func wayOf(packetType uint16) Way {
	switch packetType {
	case 0, 1, 2, 3: // to us, broadcast, multicast, to another host
		return Received
	case 4:
		return Sent
	}
	return WayUnknown
}
