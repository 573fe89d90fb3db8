package secondopinion_test

import (
	"encoding/binary"
	"net/netip"

	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/tests/packet"
)

// message is what a step's ICMP header says.
type message struct {
	kind  kind
	about *step // what an error quotes
	twist twist
}

type kind uint8

const (
	noMessage kind = iota
	echoRequest
	echoReply
	anError
	redirect    // quotes a packet, like an error
	query       // a question other than echo
	queryAnswer // of it
	anything    // a type that means nothing
)

// twist is what is odd about what an error quotes.
type twist uint8

const (
	straight     twist = iota
	byRouter           // of another address than the quoted packet went to
	otherPort          // of its sender
	otherAddress       // the quoted packet is of another sender than the error goes to
	turned             // source and destination are exchanged
	cutShort           // less than ports is left
)

// echo appends a question or an answer. The identifier is in memberPort.
func (s *session) echo(from side, k kind, sequence uint16) *step {
	source, destination, _, _ := s.addressed(from)
	p := packet.ICMPEcho(source, destination, s.memberPort, sequence)
	if k == echoReply {
		p = packet.ICMPEchoReply(source, destination, s.memberPort, sequence)
	}
	st := s.add(from, p)
	st.message.kind = k
	return st
}

// icmpTypes of what is neither echo nor error, for IPv4 and IPv6.
func icmpTypes(k kind) (v4, v6 uint8) {
	switch k {
	case redirect:
		return 5, 137
	case query:
		return 13, 139 // timestamp, node information
	case queryAnswer:
		return 14, 140
	}
	return 42, 201
}

// icmp appends a message that is neither echo nor error.
func (s *session) icmp(from side, k kind) *step {
	source, destination, _, _ := s.addressed(from)
	v4, v6 := icmpTypes(k)
	p := packet.ICMP(source, destination, v6, 0)
	if s.peer.Is4() {
		p = packet.ICMP(source, destination, v4, 0)
	}
	st := s.add(from, p)
	st.message.kind = k
	return st
}

// fail appends an error about a step, sent by the side that should have got it.
func (s *session) fail(about *step, what packet.Error, as twist) *step {
	quoted, of := about.whole, about.from
	if about.pieces != nil {
		quoted = about.pieces[0]
	}
	e := about.ends
	switch as {
	case otherPort:
		e.peerPort, e.memberPort = e.peerPort^1, e.memberPort^1
		quoted = e.simple(of)
	case otherAddress:
		if of == peer {
			e.peer = e.peer.Next()
		} else {
			e.member = e.member.Next()
		}
		quoted = e.simple(of)
	case turned:
		quoted = e.simple(of.other())
	case cutShort:
		quoted = quoted.CutSegment(2)
	}
	at := s.ends
	if as == byRouter {
		at = at.byRouter(of.other())
	}
	source, destination, _, _ := at.addressed(of.other())
	st := s.add(of.other(), readdressed(packet.ICMPError(source, what, quoted), source, destination))
	st.ends = s.icmpEnds(at)
	st.message = message{kind: anError, about: about, twist: as}
	return st
}

// turn appends a redirect about a step, as a router on its way would send it.
func (s *session) turn(about *step) *step {
	source, destination, _, _ := s.addressed(about.from.other())
	v4, v6 := icmpTypes(redirect)
	p := packet.ICMP(source, destination, v6, 0)
	if s.peer.Is4() {
		p = packet.ICMP(source, destination, v4, 1)
	}
	st := s.add(about.from.other(), p.Payload(string(about.whole.Datagram())))
	st.ends = s.icmpEnds(s.ends)
	st.message = message{kind: redirect, about: about}
	return st
}

// icmpEnds are those of a message about a session of another protocol.
func (s *session) icmpEnds(e ends) ends {
	e.protocol, e.peerPort, e.memberPort = policy.ProtocolICMP, 0, 0
	if !e.peer.Is4() {
		e.protocol = policy.ProtocolICMPv6
	}
	e.allowed = [2]bool{peer: allows(s.policy, &e, peer), member: allows(s.policy, &e, member)}
	return e
}

// byRouter are the ends with a router of a side in the place of who is there.
func (e ends) byRouter(at side) ends {
	router := map[bool][2]string{
		true:  {peer: "198.51.101.1", member: "10.20.255.2"},
		false: {peer: "3fff:1::1", member: "fd20:ffff::1"},
	}[e.peer.Is4()][at]
	if at == peer {
		e.peer = netip.MustParseAddr(router)
	} else {
		e.member = netip.MustParseAddr(router)
	}
	return e
}

// readdressed is an ICMP error with these addresses, whoever it should go to.
func readdressed(p packet.Packet, source, destination string) packet.Packet {
	const header = 8
	datagram := p.Datagram()
	body := datagram[40:]
	if isIPv4(datagram) {
		body = datagram[20:]
	}
	return packet.ICMP(source, destination, body[0], body[1]).Payload(string(body[header:]))
}

// datagram appends the plainest datagram of the session's protocol.
func (s *session) datagram(from side, text string) *step {
	return s.add(from, s.simple(from).Payload(text))
}

// fromAnotherPort appends a datagram of a port that is not the session's.
func (s *session) fromAnotherPort(from side) *step {
	e := s.ends
	if from == peer {
		e.peerPort++
	} else {
		e.memberPort++
	}
	e.allowed = [2]bool{peer: allows(s.policy, &e, peer), member: allows(s.policy, &e, member)}
	st := s.add(from, e.simple(from).Payload("of another port"))
	st.ends = e
	return st
}

// likedByConntrack gives a datagram of UDP-Lite the checksum that conntrack takes
// for right, see the row udplite-checksum.
func likedByConntrack(p packet.Packet) packet.Packet {
	datagram := p.Datagram()
	at := 40 + 6
	if isIPv4(datagram) {
		at = 20 + 6
	}
	sum := uint32(binary.BigEndian.Uint16(datagram[at:])) + policy.ProtocolUDPLite - policy.ProtocolUDP
	return p.With(packet.SegmentChecksum, uint16(sum+sum>>16))
}

// simple is the plainest datagram of the ends' protocol.
func (e *ends) simple(from side) packet.Packet {
	source, destination, sourcePort, destinationPort := e.addressed(from)
	switch e.protocol {
	case policy.ProtocolTCP:
		return packet.TCP(source, destination, sourcePort, destinationPort, packet.ACK)
	case policy.ProtocolUDP:
		return packet.UDP(source, destination, sourcePort, destinationPort)
	case policy.ProtocolUDPLite:
		return packet.UDPLite(source, destination, sourcePort, destinationPort)
	case policy.ProtocolSCTP:
		return packet.SCTP(source, destination, sourcePort, destinationPort)
	case policy.ProtocolDCCP:
		return packet.DCCP(source, destination, sourcePort, destinationPort)
	case policy.ProtocolGRE:
		return packet.GRE(source, destination)
	case policy.ProtocolESP:
		return packet.ESP(source, destination, 1)
	case policy.ProtocolICMP, policy.ProtocolICMPv6:
		return packet.ICMPEcho(source, destination, e.memberPort, 1)
	}
	return packet.Protocol(source, destination, e.protocol)
}
