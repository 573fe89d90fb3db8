package reference

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/perimeterd/perimeterd/pkg/policy"
)

// Reasons of frames that cannot be judged, spelled as the data path spells them.
const (
	ReasonTruncatedLink   policy.Reason = "truncated-link"   // ends inside its link header
	ReasonTooManyTags     policy.Reason = "too-many-tags"    // more VLAN tags than are walked
	ReasonTruncatedIP     policy.Reason = "truncated-ip"     // ends inside its IP header
	ReasonMalformedIP     policy.Reason = "malformed-ip"     // version or lengths contradict what is there
	ReasonTooManyHeaders  policy.Reason = "too-many-headers" // more or longer headers than are walked
	ReasonTruncatedHeader policy.Reason = "truncated-header" // ends inside an IPv6 extension header
	ReasonTruncatedL4     policy.Reason = "truncated-l4"     // ends inside the header of its protocol
	ReasonTinyFragment    policy.Reason = "tiny-fragment"    // a first fragment that ends inside one of these two
	ReasonMalformedL4     policy.Reason = "malformed-l4"     // a header that no socket would accept
	ReasonSourceRouted    policy.Reason = "source-routed"    // where it ends is written behind its IP header
)

// How far headers are walked. What is deeper cannot be judged.
const (
	maxTags        = 4
	maxExtensions  = 8
	maxHeaderBytes = 512 // from the start of the frame to the header to read
)

// Numbers of EtherTypes (IEEE 802) and protocols (IANA).
const (
	etherTypeIPv4       = 0x0800
	etherTypeIPv6       = 0x86dd
	etherTypeVLAN       = 0x8100
	etherTypeServiceTag = 0x88a8

	protocolHopByHop    = 0
	protocolRouting     = 43
	protocolFragment    = 44
	protocolDestination = 60

	optionLooseRoute  = 131
	optionStrictRoute = 137
)

// Frame is what the bytes of a frame say, before any policy is asked.
type Frame struct {
	Packet Packet
	// NotIP is set for frames that carry no IP packet. Nothing else counts then.
	NotIP bool
	// Fragment says which part of a datagram the packet is.
	Fragment Fragment
	// HopLimit is IPv4's time to live or IPv6's hop limit.
	HopLimit uint8
}

// Fragment is a packet's place in the datagram it was cut from.
type Fragment struct {
	Part   Part
	ID     uint32
	Offset int // bytes, in what was cut
	// Headers is how many bytes of what was cut had to be read to judge a first
	// part. None of them may come again in another part.
	Headers int
}

// Part says whether a packet is whole.
type Part uint8

const (
	Whole Part = iota
	First      // the part that begins with the headers
	Later      // any other: it has no header to judge it by
)

// ReadFrame reads an Ethernet frame that crosses a hook on its way towards a
// member, or from one. Packet.Unjudgeable says why a frame could not be
// understood; what was read before that is there all the same.
func ReadFrame(frame []byte, towards bool) Frame {
	r := reading{rest: frame}
	r.frame.Packet.Towards = towards
	switch why := r.ethernet(); why {
	case ReasonNotIP:
		r.frame.NotIP = true
	default:
		r.frame.Packet.Unjudgeable = why
	}
	return r.frame
}

// reading reads a frame from the front. Each method reads one header and goes
// on with what follows it; the result is why that could not be understood, ""
// if all of it was.
type reading struct {
	frame Frame
	rest  []byte // not read yet; inside IP, no more than the packet's own length
	depth int    // bytes read

	cut    int  // depth at which what was cut into fragments begins
	quoted bool // inside an ICMP error: the packet may be cut off anywhere
}

// peek returns the next n bytes, if there are so many.
func (r *reading) peek(n int) ([]byte, bool) {
	if len(r.rest) < n {
		return nil, false
	}
	return r.rest[:n], true
}

// take is peek, and goes on behind them.
func (r *reading) take(n int) ([]byte, bool) {
	b, ok := r.peek(n)
	if ok {
		r.rest = r.rest[n:]
		r.depth += n
	}
	return b, ok
}

// ethernet reads the addresses and then types, of which those of VLAN tags are
// followed by a tag and another type (IEEE 802.1Q).
func (r *reading) ethernet() policy.Reason {
	if _, ok := r.take(12); !ok {
		return ReasonTruncatedLink
	}
	for tags := 0; ; tags++ {
		etherType, ok := r.take(2)
		if !ok {
			return ReasonTruncatedLink
		}
		switch binary.BigEndian.Uint16(etherType) {
		case etherTypeVLAN, etherTypeServiceTag:
			if tags == maxTags {
				return ReasonTooManyTags
			}
			if _, ok := r.take(2); !ok {
				return ReasonTruncatedLink
			}
		case etherTypeIPv4:
			return r.ipv4()
		case etherTypeIPv6:
			return r.ipv6()
		default:
			return ReasonNotIP
		}
	}
}

// ipv4 reads the header of RFC 791.
func (r *reading) ipv4() policy.Reason {
	header, ok := r.peek(20)
	if !ok {
		return ReasonTruncatedIP
	}
	if header[0]>>4 != 4 {
		return ReasonMalformedIP
	}
	r.addresses(header[12:16], header[16:20])
	r.frame.HopLimit = header[8]
	size := int(header[0]&0x0f) * 4
	length := int(binary.BigEndian.Uint16(header[2:]))
	if r.quoted {
		length = min(length, len(r.rest))
	}
	if size < 20 || length < size || length > len(r.rest) {
		return ReasonMalformedIP
	}
	r.rest = r.rest[:length] // what follows is padding of the link
	header, _ = r.take(size)
	// No other option has a say, so the numbers are not told from the same in others.
	if options := header[20:]; !r.quoted && (slices.Contains(options, optionLooseRoute) || slices.Contains(options, optionStrictRoute)) {
		return r.sourceRouted()
	}

	fragment := binary.BigEndian.Uint16(header[6:])
	more, offset := fragment&0x2000 != 0, int(fragment&0x1fff)*8
	r.fragment(uint32(binary.BigEndian.Uint16(header[4:])), offset, more)
	return r.segment(header[9])
}

// ipv6 reads the header of RFC 8200.
func (r *reading) ipv6() policy.Reason {
	header, ok := r.peek(40)
	if !ok {
		return ReasonTruncatedIP
	}
	if header[0]>>4 != 6 {
		return ReasonMalformedIP
	}
	r.addresses(header[8:24], header[24:40])
	r.frame.HopLimit = header[7]
	next := header[6]
	r.take(40)

	length := int(binary.BigEndian.Uint16(header[4:]))
	// A jumbogram has its length in a hop-by-hop option (RFC 2675). Linux takes
	// all there is where that option is missing.
	jumbo := length == 0 && next == protocolHopByHop
	if jumbo || r.quoted && length > len(r.rest) {
		length = len(r.rest)
	}
	if length > len(r.rest) {
		return ReasonMalformedIP
	}
	r.rest = r.rest[:length]
	return r.extensions(next)
}

// sourceRouted is a packet that may end elsewhere than its header says.
func (r *reading) sourceRouted() policy.Reason {
	r.frame.Packet.Local, r.frame.Packet.Peer = netip.Addr{}, netip.Addr{}
	return ReasonSourceRouted
}

// addresses tells source and destination apart by the way the packet goes.
func (r *reading) addresses(source, destination []byte) {
	from, _ := netip.AddrFromSlice(source)
	to, _ := netip.AddrFromSlice(destination)
	pkt := &r.frame.Packet
	pkt.Local, pkt.Peer = from, to
	if pkt.Towards {
		pkt.Local, pkt.Peer = to, from
	}
}

// fragment notes what a header says of the part. What is cut begins here. A
// packet may be cut more than once: what the last header says is what remains
// once all around it is put together.
func (r *reading) fragment(id uint32, offset int, more bool) {
	f := &r.frame.Fragment
	f.ID, f.Offset = id, offset
	switch {
	case offset > 0:
		f.Part = Later
	case more:
		f.Part = First
	}
	r.cut = r.depth
}

// extensions reads the headers of RFC 8200, section 4, up to one that is none
// of them, which is the packet's protocol.
func (r *reading) extensions(next uint8) policy.Reason {
	for walked := 0; isExtension(next); walked++ {
		if r.frame.Fragment.Part == Later {
			break // only payload follows, whatever it looks like
		}
		if next == protocolHopByHop && walked > 0 {
			break // it is one only where it is first (RFC 8200, section 4.1)
		}
		if walked == maxExtensions || r.depth > maxHeaderBytes {
			return ReasonTooManyHeaders
		}
		header, ok := r.peek(8) // no extension header is shorter
		if !ok {
			return r.tooShort(ReasonTruncatedHeader)
		}
		if next == protocolRouting && header[3] != 0 { // segments left
			return r.sourceRouted()
		}
		if next == protocolFragment {
			r.take(8) // its second byte is no length
			place := binary.BigEndian.Uint16(header[2:])
			r.fragment(binary.BigEndian.Uint32(header[4:]), int(place&^7), place&1 != 0)
		} else if _, ok := r.take(extensionSize(next, header[1])); !ok {
			return r.tooShort(ReasonTruncatedHeader)
		}
		next = header[0]
	}
	return r.segment(next)
}

func isExtension(protocol uint8) bool {
	switch protocol {
	case protocolHopByHop, protocolRouting, protocolFragment, protocolDestination, policy.ProtocolAH:
		return true
	}
	return false
}

// extensionSize is the size in bytes of a header whose length field says so
// much. That of the authentication header has a unit of its own (RFC 4302).
func extensionSize(protocol, length uint8) int {
	if protocol == policy.ProtocolAH {
		return (int(length) + 2) * 4
	}
	return (int(length) + 1) * 8
}

// tooShort is the reason of a packet that ends inside a header, which of a
// first fragment is another than of the rest: its header goes on elsewhere.
func (r *reading) tooShort(whole policy.Reason) policy.Reason {
	if r.frame.Fragment.Part == First {
		return ReasonTinyFragment
	}
	return whole
}

// segment reads the header of the protocol, as far as a policy asks for it.
func (r *reading) segment(protocol uint8) policy.Reason {
	pkt := &r.frame.Packet
	pkt.Protocol = protocol
	size := headerSize(protocol)
	if r.quoted {
		size = min(size, 8) // RFC 792 promises no more
	}
	r.frame.Fragment.Headers = r.depth - r.cut + size
	if r.frame.Fragment.Part == Later || size == 0 {
		return ""
	}
	header, ok := r.peek(size)
	if !ok {
		return r.tooShort(ReasonTruncatedL4)
	}
	if r.depth > maxHeaderBytes {
		return ReasonTooManyHeaders
	}
	switch {
	case pkt.isICMP():
		r.icmp()
	case policy.HasPorts(protocol):
		source, destination := binary.BigEndian.Uint16(header), binary.BigEndian.Uint16(header[2:])
		pkt.LocalPort, pkt.PeerPort = source, destination
		if pkt.Towards {
			pkt.LocalPort, pkt.PeerPort = destination, source
		}
		if protocol == policy.ProtocolTCP && !r.quoted {
			return r.tcp()
		}
	}
	return ""
}

// headerSize is how much of a header must be there before any of it is
// believed: all that has no options. 0 for protocols that are not looked into.
func headerSize(protocol uint8) int {
	switch protocol {
	case policy.ProtocolTCP: // RFC 9293
		return 20
	case policy.ProtocolSCTP, policy.ProtocolDCCP: // RFC 9260, RFC 4340
		return 12
	case policy.ProtocolUDP, policy.ProtocolUDPLite, policy.ProtocolICMP, policy.ProtocolICMPv6:
		return 8
	}
	return 0
}

// tcp reads the header of RFC 9293, which is there but for its options.
func (r *reading) tcp() policy.Reason {
	pkt := &r.frame.Packet
	header := r.rest[:20]
	pkt.Sequence, pkt.Acknowledgement = binary.BigEndian.Uint32(header[4:]), binary.BigEndian.Uint32(header[8:])
	pkt.TCPFlags = header[13]
	pkt.PayloadLength = uint32(max(0, len(r.rest)-int(header[12]>>4)*4))
	if pkt.TCPFlags&SYN != 0 && pkt.TCPFlags&(FIN|RST) != 0 {
		return ReasonMalformedL4
	}
	return ""
}

// icmp reads a message of RFC 792 or RFC 4443, of which the first 8 bytes are
// there. An error quotes the packet it is about.
func (r *reading) icmp() {
	pkt := &r.frame.Packet
	header, _ := r.take(8)
	pkt.ICMPType, pkt.ICMPCode = header[0], header[1]
	if pkt.isEcho() {
		pkt.EchoID = binary.BigEndian.Uint16(header[4:])
	}
	if pkt.isICMPError() && !r.quoted {
		pkt.Quoted = r.quote()
	}
}

// quote reads the packet an ICMP error is about: one of the same family, which
// went the other way. Nil if it tells no flow.
func (r *reading) quote() *Packet {
	if r.depth > maxHeaderBytes {
		return nil
	}
	q := reading{rest: r.rest, depth: r.depth, quoted: true}
	q.frame.Packet.Towards = !r.frame.Packet.Towards
	read := q.ipv6
	if r.frame.Packet.Local.Is4() {
		read = q.ipv4
	}
	if why := read(); why != "" || q.frame.Fragment.Part == Later {
		return nil
	}
	return &q.frame.Packet
}
