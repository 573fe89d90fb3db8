package datapath

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/tests/packet"
)

// bench is one policy on the bench: the member is the host that packets are sent
// to, or the partner who sends them.
type bench struct {
	name    string
	towards bool
	rules   []policy.AccessRule
	own     []netip.Addr // the host's addresses, if it is the member
	// open: TCP and UDP between partner and host, port refereePort, may pass.
	open bool
	// forgeable: the filter is not on the host, so it cannot know that the host
	// does not send to itself this way.
	forgeable bool
	// midstream: TCP from these ports of the partner may pass unless it opens a
	// connection, since the host may have asked.
	midstream []uint16
}

// benches are the policies for a post.
func (r *referee) benches(p post) []bench {
	direction := policy.Outbound
	if p.towards() {
		direction = policy.Inbound
	}
	admit := policy.AccessRule{
		Name: "partners", Direction: direction,
		AddressPrefixes: prefixes(partner4+"/32", partner6+"/128"),
		Ports: []policy.Ports{
			{Protocol: policy.ProtocolTCP, First: refereePort, Last: refereePort},
			{Protocol: policy.ProtocolUDP, First: refereePort, Last: refereePort},
		},
	}
	if !p.towards() {
		admit.AddressPrefixes = prefixes("0.0.0.0/0", "::/0")
		return []bench{
			{name: "nothing allowed"},
			{name: "one port allowed", rules: []policy.AccessRule{admit}, open: true},
		}
	}
	ask := policy.AccessRule{
		Name: "questions", Direction: policy.Outbound, AddressPrefixes: admit.AddressPrefixes,
		Ports: []policy.Ports{{Protocol: policy.ProtocolTCP, First: 443, Last: 443}, {Protocol: policy.ProtocolUDP, First: 53, Last: 53}},
	}
	all := []bench{
		{name: "nothing allowed"},
		{name: "one port allowed", rules: []policy.AccessRule{admit}, open: true},
		{name: "one port allowed, and questions", rules: []policy.AccessRule{admit, ask}, open: true, midstream: []uint16{443}},
	}
	for i := range all {
		all[i].towards, all[i].forgeable, all[i].own = true, p.atSender, r.ends.Host
	}
	return all
}

// policy makes the member Enforced with the bench's rules.
func (b *bench) policy(facts *policy.Facts) *policy.Policy {
	addresses := prefixes(partner4, partner6)
	if b.towards {
		addresses = nil
		for _, i := range facts.Interfaces {
			for _, a := range i.Addresses {
				if !i.Loopback {
					addresses = append(addresses, netip.PrefixFrom(a, a.BitLen()))
				}
			}
		}
	}
	p := memberPolicy(policy.Enforced, b.rules...)
	p.Resources[0].Addresses = addresses
	return p
}

// permits reports whether a packet that reached a socket was one that may.
func (b *bench) permits(r *receipt) bool {
	fromPartner := r.source == netip.MustParseAddr(partner4) || r.source == netip.MustParseAddr(partner6)
	if !b.towards && !fromPartner {
		return true // of no member
	}
	protocol := r.door.protocol
	switch {
	case b.forgeable && slices.Contains(b.own, r.source):
		return true
	case r.v6 && protocol == packet.Authentication:
		// Only a kernel with the right key reads on. Without it a raw socket may
		// have what would be allowed with it.
		inner := *r
		inner.door = &door{raw: true}
		inner.door.protocol, inner.body = skipExtensions(protocol, r.body)
		inner.readPorts()
		switch inner.door.protocol {
		case packet.Authentication: // cut short
			return false
		case fragmentHeader: // of a packet whose first fragment was permitted
			return b.open && fromPartner
		}
		return b.permits(&inner)
	case isFailsafe(r, b.towards), b.complainsToItself(r):
		return true
	case !b.open:
		return false
	case fromPartner && r.port == refereePort && (protocol == unix.IPPROTO_TCP || protocol == unix.IPPROTO_UDP):
		return true
	case fromPartner && protocol == unix.IPPROTO_TCP && r.door.raw && slices.Contains(b.midstream, r.sourcePort):
		flags := packet.Flags(r.body[13])
		return flags&(packet.SYN|packet.ACK) != packet.SYN
	}
	return isErrorAboutOpen(r)
}

// isFailsafe reports what no policy may cut off.
func isFailsafe(r *receipt, towards bool) bool {
	local, peer := r.sourcePort, r.port
	if towards {
		local, peer = peer, local
	}
	switch {
	case r.door.protocol == unix.IPPROTO_UDP && r.v6:
		return local == 546 && peer == 547
	case r.door.protocol == unix.IPPROTO_UDP:
		return local == 68 && peer == 67
	case r.door.protocol == unix.IPPROTO_IGMP && !r.v6:
		return r.hops == 1
	case r.door.protocol == unix.IPPROTO_ICMPV6 && r.v6 && len(r.body) > 0:
		kind := r.body[0]
		discovery, membership := kind >= 133 && kind <= 137, kind >= 130 && kind <= 132 || kind == 143
		return discovery && r.hops == 255 || membership && r.hops == 1
	}
	return false
}

// complainsToItself reports an ICMPv6 error over loopback, which no filter sees:
// the failsafe let a packet in that carries the host's own address as its source
// (duplicate address detection, RFC 4862 section 5.4, needs such), and the host
// rejects an option of it, which it tells the source.
func (b *bench) complainsToItself(r *receipt) bool {
	if !r.v6 || !slices.Contains(b.own, r.source) || r.source != r.destination || !isError(r) {
		return false
	}
	quoted := *r
	quoted.door = &door{}
	quoted.hops = int(r.body[8+7])
	quoted.door.protocol, quoted.source, quoted.destination, quoted.body = quotedBy(r)
	quoted.readPorts()
	return quoted.source == r.source && quoted.destination == r.source && isFailsafe(&quoted, b.towards)
}

// isErrorAboutOpen reports an ICMP error that quotes what the host may have sent
// from the open port to the partner.
func isErrorAboutOpen(r *receipt) bool {
	if !isError(r) {
		return false
	}
	protocol, source, destination, segment := quotedBy(r)
	return (protocol == unix.IPPROTO_TCP || protocol == unix.IPPROTO_UDP) && len(segment) >= 4 &&
		source == r.destination && (destination == netip.MustParseAddr(partner4) || destination == netip.MustParseAddr(partner6)) &&
		binary.BigEndian.Uint16(segment) == refereePort
}

// isError reports an ICMP error that quotes at least the packet's IP header.
func isError(r *receipt) bool {
	switch {
	case !r.door.raw:
		return false
	case r.door.protocol == unix.IPPROTO_ICMP && !r.v6:
		return len(r.body) >= 8+20 && slices.Contains([]byte{3, 4, 11, 12}, r.body[0])
	case r.door.protocol == unix.IPPROTO_ICMPV6 && r.v6:
		return len(r.body) >= 8+40 && r.body[0] >= 1 && r.body[0] <= 4
	}
	return false
}

// quotedBy reads the packet in an ICMP error as Linux does to find the socket.
func quotedBy(r *receipt) (protocol uint8, source, destination netip.Addr, segment []byte) {
	q := r.body[8:]
	if !r.v6 {
		if len(q) < 20 || len(q) < int(q[0]&0xf)*4 {
			return
		}
		return q[9], netip.AddrFrom4([4]byte(q[12:])), netip.AddrFrom4([4]byte(q[16:])), q[int(q[0]&0xf)*4:]
	}
	if len(q) < 40 {
		return
	}
	protocol, source, destination, segment = q[6], netip.AddrFrom16([16]byte(q[8:])), netip.AddrFrom16([16]byte(q[24:])), q[40:]
	protocol, segment = skipExtensions(protocol, segment)
	return protocol, source, destination, segment
}

const fragmentHeader = 44

// skipExtensions steps over what Linux takes for extension headers, up to what a
// later fragment carries.
func skipExtensions(protocol uint8, b []byte) (uint8, []byte) {
	for len(b) >= 8 && slices.Contains([]uint8{packet.HopByHop, packet.Routing, fragmentHeader, packet.Authentication, packet.DestinationOptions}, protocol) {
		size := (int(b[1]) + 1) * 8
		later := false
		switch protocol {
		case packet.Authentication:
			size = (int(b[1]) + 2) * 4
		case fragmentHeader:
			size, later = 8, binary.BigEndian.Uint16(b[2:]) >= 8
		}
		if len(b) < size || later {
			break
		}
		protocol, b = b[0], b[size:]
	}
	return protocol, b
}

// permitsAnswer reports whether the host may have sent this. It is asked only
// where the host is the member: what it says betrays what reached it.
func (b *bench) permitsAnswer(frame []byte) bool {
	a, ok := readAnswer(frame)
	if !ok || a.isLink() {
		return true // no IP packet, or what hosts say by themselves
	}
	if !b.open || a.destination != netip.MustParseAddr(partner4) && a.destination != netip.MustParseAddr(partner6) {
		return false
	}
	switch a.protocol {
	case unix.IPPROTO_TCP:
		return a.sourcePort == refereePort || slices.Contains(b.midstream, a.port) && packet.Flags(a.segment[13])&packet.SYN == 0
	case unix.IPPROTO_ICMP:
		return a.isError() && a.segment[0] != 3 // neither port nor protocol unreachable
	case unix.IPPROTO_ICMPV6:
		return a.isError() && a.segment[0] != 1
	}
	return false
}

// answer is a packet that the host sent.
type answer struct {
	v6               bool
	destination      netip.Addr
	protocol         uint8
	sourcePort, port uint16
	segment          []byte
}

func readAnswer(frame []byte) (answer, bool) {
	const ip = 14
	var a answer
	switch etherType := binary.BigEndian.Uint16(frame[12:]); {
	case etherType == 0x0800 && len(frame) >= ip+20:
		a = answer{destination: netip.AddrFrom4([4]byte(frame[ip+16:])), protocol: frame[ip+9], segment: frame[ip+int(frame[ip]&0xf)*4:]}
	case etherType == 0x86dd && len(frame) >= ip+40:
		a = answer{v6: true, destination: netip.AddrFrom16([16]byte(frame[ip+24:])), protocol: frame[ip+6], segment: frame[ip+40:]}
		if a.protocol == packet.HopByHop && len(a.segment) >= 8 { // a group's report
			a.protocol, a.segment = a.segment[0], a.segment[(int(a.segment[1])+1)*8:]
		}
	default:
		return a, false
	}
	if hasPorts(a.protocol) && len(a.segment) >= 14 {
		a.sourcePort, a.port = binary.BigEndian.Uint16(a.segment), binary.BigEndian.Uint16(a.segment[2:])
	}
	return a, len(a.segment) >= 8
}

// isLink reports neighbour discovery and reports of groups.
func (a *answer) isLink() bool {
	if a.protocol == unix.IPPROTO_ICMPV6 && a.v6 {
		return a.segment[0] >= 130 && a.segment[0] <= 137 || a.segment[0] == 143
	}
	return a.protocol == unix.IPPROTO_IGMP
}

func (a *answer) isError() bool {
	if a.v6 {
		return a.segment[0] < 128
	}
	return slices.Contains([]byte{3, 4, 11, 12}, a.segment[0])
}
