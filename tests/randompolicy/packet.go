package randompolicy

import (
	"math/rand/v2"
	"net/netip"

	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/pkg/reference"
)

// Packet draws a packet that aims at what the policy says: mostly of a member
// or its neighbour, with a peer at the edge of some prefix and a port at the
// edge of some range. An ICMP error quotes another drawn packet, mostly one
// that its receiver could have sent.
//
// The packet is one a network could deliver: addresses are of one family, a
// multicast address is only ever a destination.
func Packet(r *rand.Rand, p *policy.Policy, facts policy.Facts) reference.Packet {
	pkt := flowPacket(r, p, facts)
	if pkt.Protocol != policy.ProtocolICMP && pkt.Protocol != policy.ProtocolICMPv6 {
		return pkt
	}
	v6 := pkt.Protocol == policy.ProtocolICMPv6
	pkt.EchoID = uint16(1 + r.IntN(3))
	switch kind := r.IntN(10); {
	case kind < 5:
		pkt.ICMPType = echoType(r, v6)
	case kind < 6 && !v6:
		pkt.ICMPType = 13 // timestamp: neither echo nor error
	default:
		pkt.ICMPType = errorType(r, v6)
		quoted := quotable(r, p, facts, pkt)
		pkt.Quoted = &quoted
	}
	return pkt
}

// echoType is that of an echo request or reply.
func echoType(r *rand.Rand, v6 bool) uint8 {
	if v6 {
		return pick(r, []uint8{128, 128, 129})
	}
	return pick(r, []uint8{8, 8, 0})
}

// errorType is one of those that quote a packet.
func errorType(r *rand.Rand, v6 bool) uint8 {
	if v6 {
		return pick(r, []uint8{1, 2, 3, 4})
	}
	return pick(r, []uint8{3, 4, 11, 12})
}

// quotable draws a packet that travelled against the error. It is neither an
// ICMP error nor a multicast packet, since nobody answers those with an error.
func quotable(r *rand.Rand, p *policy.Policy, facts policy.Facts, about reference.Packet) reference.Packet {
	usable := func(quoted reference.Packet) bool {
		return quoted.Local.Is4() == about.Local.Is4() && !isMulticast(quoted.Local) && !isMulticast(quoted.Peer)
	}
	quoted := flowPacket(r, p, facts)
	for !usable(quoted) {
		quoted = flowPacket(r, p, facts)
	}
	quoted.Towards = !about.Towards
	if chance(r, 85) && !isMulticast(about.Local) && !isMulticast(about.Peer) {
		quoted.Local = about.Local
		if !about.Towards || chance(r, 50) {
			quoted.Peer = about.Peer
		}
	}
	if quoted.Protocol == policy.ProtocolICMP || quoted.Protocol == policy.ProtocolICMPv6 {
		quoted.ICMPType = echoType(r, quoted.Protocol == policy.ProtocolICMPv6)
		quoted.EchoID = uint16(1 + r.IntN(3))
	}
	return quoted
}

// flowPacket draws all of a packet but what only ICMP has.
func flowPacket(r *rand.Rand, p *policy.Policy, facts policy.Facts) reference.Packet {
	local, services := drawLocal(r, p, facts)
	pkt := reference.Packet{
		Towards:   isMulticast(local) || chance(r, 50),
		Interface: "eth0",
		Local:     local,
	}
	if chance(r, 20) {
		pkt.Interface = pick(r, []string{"eth1", "wg0", "wg01"})
	}
	at := drawAim(r, p, facts, pkt)
	pkt.Peer = drawPeer(r, at, pkt)

	if pkt.Towards && len(services) > 0 && chance(r, 50) {
		at.ports = services
	}
	if len(at.ports) == 0 {
		at.ports = writtenPorts(p, facts)
	}
	ports := drawPorts(r, pick(r, at.ports), pkt.Towards)
	pkt.Protocol, pkt.LocalPort, pkt.PeerPort = ports.protocol, ports.local, ports.peer
	if pkt.Protocol == policy.ProtocolTCP && isMulticast(local) {
		pkt.Protocol = policy.ProtocolUDP
	}
	if pkt.Protocol == policy.ProtocolICMP && local.Is6() {
		pkt.Protocol = policy.ProtocolICMPv6
	}
	if pkt.Protocol == policy.ProtocolTCP {
		const syn, ack, rst, fin = reference.SYN, reference.ACK, reference.RST, reference.FIN
		pkt.TCPFlags = pick(r, []uint8{syn, syn, syn, syn, syn | ack, ack, ack, fin | ack, rst, rst | ack})
		pkt.Sequence, pkt.Acknowledgement = drawNumber(r), drawNumber(r)
	}
	if !policy.HasPorts(pkt.Protocol) {
		pkt.LocalPort, pkt.PeerPort = 0, 0
	}
	return pkt
}

// drawNumber draws a number of TCP: few, so that they meet, and such at the edges
// of what belongs to a connection that began at 0 or 1000.
func drawNumber(r *rand.Rand) uint32 {
	return pick(r, []uint32{0, 1, 1000, 1000, 1001, 1001, 1002, 999, 1001 + 1<<16, 1002 + 1<<16, 1001 + 1<<24, 1002 + 1<<24, 1 << 31, 1<<32 - 1})
}

// drawLocal draws an address at the edge of a member, and the services of that
// member; now and then a group's or anybody's.
func drawLocal(r *rand.Rand, p *policy.Policy, facts policy.Facts) (netip.Addr, []policy.Ports) {
	kind := r.IntN(100)
	if kind < 4 {
		return netip.MustParseAddr(pick(r, []string{"224.0.0.251", "239.255.255.255", "255.255.255.255", "ff02::fb"})), nil
	}
	if kind < 95 && len(p.Resources) > 0 {
		resource := pick(r, p.Resources)
		if prefixes := resource.AddressesOn(&facts); len(prefixes) > 0 {
			return edgeOf(r, pick(r, prefixes)), resource.Services
		}
	}
	return edgeOf(r, randomPrefix(r, 0)), nil
}

// drawPeer draws an address of local's family at the edge of what is aimed at,
// now and then of anything. A source is never a multicast address.
func drawPeer(r *rand.Rand, at aim, pkt reference.Packet) netip.Addr {
	if pkt.Local.Is6() && chance(r, 1) {
		return netip.MustParseAddr("::ffff:10.20.0.5") // looks like IPv4, and is not
	}
	for {
		prefix := randomPrefix(r, 0)
		if len(at.prefixes) > 0 && chance(r, 90) {
			prefix = pick(r, at.prefixes)
		}
		addr := edgeOf(r, prefix)
		if addr.Is4() == pkt.Local.Is4() && !(pkt.Towards && isMulticast(addr)) {
			return addr
		}
	}
}
