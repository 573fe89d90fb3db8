package reference

import (
	"net/netip"

	"github.com/perimeterd/perimeterd/pkg/policy"
)

// Packet is what an evaluator needs to know of one packet at one hook. Local
// is the end whose side of the path is attached here, Peer the other one.
type Packet struct {
	// Towards is true when Local is the destination. An opening packet is then
	// inbound, otherwise outbound.
	Towards   bool
	Interface string // the attached interface the packet crosses

	// Local and Peer are of one family. Both zero in an Unjudgeable packet
	// whose addresses could not be read.
	Local, Peer netip.Addr

	Protocol            uint8  // IANA number, after IPv6 extension headers
	LocalPort, PeerPort uint16 // ignored unless policy.HasPorts(Protocol)
	TCPFlags            uint8  // ignored unless Protocol is TCP
	// Sequence, Acknowledgement and PayloadLength, in bytes, are of the TCP
	// segment. Ignored unless Protocol is TCP.
	Sequence, Acknowledgement, PayloadLength uint32

	// These are ignored unless Protocol is the ICMP of the addresses' family.
	ICMPType, ICMPCode uint8
	EchoID             uint16 // identifier of an echo request or reply

	// Quoted is the packet an ICMP error quotes, seen from the same member:
	// Quoted.Local is the quoted source in a packet towards the member, the
	// quoted destination in a packet from it. Its interface is taken to be the
	// error's. Nil when there is none, or when too little of it is left to read.
	Quoted *Packet

	// Arrives is set if the packet comes in from a wire, and not from this host.
	Arrives bool

	// NeededByLink is set for what no policy may cut off, since the link itself
	// needs it: neighbour discovery, MLD, IGMP, DHCP. Only the frame tells.
	NeededByLink bool

	// Unjudgeable is the parser's reason when the packet could not be
	// understood. Empty for all others. Nothing behind the addresses counts
	// when it is set.
	Unjudgeable policy.Reason
}

// Flags of the TCP header, at their places in the header.
const (
	FIN uint8 = 0x01
	SYN uint8 = 0x02
	RST uint8 = 0x04
	ACK uint8 = 0x10
)

// Direction is the direction the packet's flow has if this packet opens it.
func (p Packet) Direction() policy.Direction {
	if p.Towards {
		return policy.Inbound
	}
	return policy.Outbound
}

// localPort is the local port, 0 where the protocol has none.
func (p Packet) localPort() uint16 {
	if policy.HasPorts(p.Protocol) {
		return p.LocalPort
	}
	return 0
}

// peerPort is the peer's port, 0 where the protocol has none.
func (p Packet) peerPort() uint16 {
	if policy.HasPorts(p.Protocol) {
		return p.PeerPort
	}
	return 0
}

// rulePort is the port a rule's Ports are about.
func (p Packet) rulePort(direction policy.Direction) uint16 {
	if direction == policy.Inbound {
		return p.localPort()
	}
	return p.peerPort()
}

// icmpOf is the ICMP of an address's family. The other family's is a protocol
// like any that is not looked into.
func icmpOf(addr netip.Addr) uint8 {
	if addr.Is4() {
		return policy.ProtocolICMP
	}
	return policy.ProtocolICMPv6
}

// isICMP reports a message that says what it is by its type.
func (p Packet) isICMP() bool { return p.Protocol == icmpOf(p.Local) }

// isEcho reports an echo request or reply, the ICMP messages with an identifier.
func (p Packet) isEcho() bool {
	switch {
	case !p.isICMP():
		return false
	case p.Local.Is4():
		return p.ICMPType == 8 || p.ICMPType == 0
	default:
		return p.ICMPType == 128 || p.ICMPType == 129
	}
}

// isEchoReply reports an answer to an echo request.
func (p Packet) isEchoReply() bool {
	return p.isEcho() && (p.ICMPType == 0 || p.ICMPType == 129)
}

// isICMPError reports the ICMP messages that quote another packet: unreachable,
// source quench or too big, time exceeded, parameter problem.
func (p Packet) isICMPError() bool {
	switch {
	case !p.isICMP():
		return false
	case p.Local.Is4():
		return p.ICMPType == 3 || p.ICMPType == 4 || p.ICMPType == 11 || p.ICMPType == 12
	default:
		return 1 <= p.ICMPType && p.ICMPType <= 4
	}
}

// opensTCP reports the packet that opens a connection.
func (p Packet) opensTCP() bool {
	return p.Protocol == policy.ProtocolTCP && p.TCPFlags&(SYN|ACK) == SYN
}

// isMidStream reports a TCP packet that does not open a connection.
func (p Packet) isMidStream() bool {
	return p.Protocol == policy.ProtocolTCP && !p.opensTCP()
}
