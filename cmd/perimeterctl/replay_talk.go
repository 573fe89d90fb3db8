package main

import (
	"encoding/binary"
	"math"
	"net/netip"

	"github.com/perimeterd/perimeterd/pkg/policy"
)

// talk is who talks to whom, as far as a frame says, for people: what was decided
// about it is not read here.
type talk struct {
	source, destination netip.AddrPort // port 0: none, or not in this frame
	protocol            uint8
}

// readTalk reads an Ethernet frame that may end anywhere.
func readTalk(frame []byte) talk {
	rest := frame[min(len(frame), 12):]
	for len(rest) >= 2 {
		etherType := binary.BigEndian.Uint16(rest)
		rest = rest[2:]
		switch etherType {
		case 0x0800:
			return readTalk4(rest)
		case 0x86dd:
			return readTalk6(rest)
		case 0x8100, 0x88a8: // a VLAN tag
			rest = rest[min(len(rest), 2):]
		default:
			return talk{}
		}
	}
	return talk{}
}

func readTalk4(ip []byte) talk {
	if len(ip) < 20 {
		return talk{}
	}
	source, destination := netip.AddrFrom4([4]byte(ip[12:16])), netip.AddrFrom4([4]byte(ip[16:20]))
	segment := ip[min(len(ip), int(ip[0]&0xf)*4):]
	if binary.BigEndian.Uint16(ip[6:])&0x1fff != 0 {
		segment = nil // a later fragment
	}
	return talkOf(source, destination, ip[9], segment)
}

func readTalk6(ip []byte) talk {
	if len(ip) < 40 {
		return talk{}
	}
	source, destination := netip.AddrFrom16([16]byte(ip[8:24])), netip.AddrFrom16([16]byte(ip[24:40]))
	next, rest := ip[6], ip[40:]
	for len(rest) >= 8 {
		size := (int(rest[1]) + 1) * 8
		switch next {
		case 0, 43, 60, 135: // hop-by-hop, routing, destination options, mobility
		case 51: // authentication
			size = (int(rest[1]) + 2) * 4
		case 44: // fragment
			size = 8
			if binary.BigEndian.Uint16(rest[2:])&^7 != 0 {
				return talkOf(source, destination, rest[0], nil)
			}
		default:
			return talkOf(source, destination, next, rest)
		}
		next, rest = rest[0], rest[min(len(rest), size):]
	}
	return talkOf(source, destination, next, rest)
}

func talkOf(source, destination netip.Addr, protocol uint8, segment []byte) talk {
	t := talk{protocol: protocol}
	var ports [2]uint16
	if policy.HasPorts(protocol) && len(segment) >= 4 {
		ports = [2]uint16{binary.BigEndian.Uint16(segment), binary.BigEndian.Uint16(segment[2:])}
	}
	t.source, t.destination = netip.AddrPortFrom(source, ports[0]), netip.AddrPortFrom(destination, ports[1])
	return t
}

// protocolName is the protocol as a policy writes it.
func (t talk) protocolName() string {
	if !t.source.Addr().IsValid() {
		return ""
	}
	return policy.Ports{Protocol: t.protocol, Last: math.MaxUint16}.String()
}
