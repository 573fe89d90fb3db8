package crafted

import (
	"slices"

	"github.com/perimeterd/perimeterd/tests/packet"
)

// sequence sends what a filter may take for something it remembers.
func (d *draft) sequence() {
	d.honest = false
	d.classes, d.altered = []Class{Sequence}, nil
	d.source, d.destination = d.wire.Partner.of(d.v6), d.main()
	closed := pick(d, d.wire.Closed...)
	udp := func(port uint16) packet.Packet {
		return packet.UDP(d.source, d.destination, d.sourcePort, port).Payload(d.payload)
	}
	tcp := func(port uint16, flags packet.Flags) packet.Packet {
		return packet.TCP(d.source, d.destination, d.sourcePort, port, flags).Sequence(d.number, d.number).Payload(d.payload)
	}
	open := udp(d.wire.Open)
	if d.chance(50) {
		open = tcp(d.wire.Open, packet.SYN)
	}
	pick(d,
		func() { d.altering(FlowProtocol, false); d.add(open, d.otherProtocol()) },
		func() {
			d.altering(FlowPorts, false)
			swapped := packet.UDP(d.source, d.destination, d.wire.Open, d.sourcePort).Payload(d.payload)
			answer := packet.TCP(d.source, d.destination, d.wire.Open, closed, packet.SYN|packet.ACK).Payload(d.payload)
			d.add(open, pick(d, udp(closed), tcp(closed, packet.SYN), tcp(closed, packet.ACK), swapped, answer))
		},
		func() { d.altering(FlowError, false); d.add(open, d.errorAbout(closed)) },
		func() { d.altering(FlowError, false); d.add(open, d.errorAbout(closed)) },
		func() { d.altering(FlowMidstream, false); d.midstream(closed) },
		func() {
			d.altering(FlowFragments, false)
			id := d.identity(0)
			a, b := udp(d.wire.Open).Split(id, 24), udp(closed).Split(id, 24)
			d.add(a...)
			d.add(pick(d, b, slices.Concat(b[1:], b[:1]), slices.Concat(a[:1], b[1:], b[:1]))...)
		},
	)()
}

// otherProtocol has the ports of the flow to the open port.
func (d *draft) otherProtocol() packet.Packet {
	from, to, port := d.source, d.destination, d.wire.Open
	return pick(d,
		packet.UDPLite(from, to, d.sourcePort, port),
		packet.SCTP(from, to, d.sourcePort, port),
		packet.DCCP(from, to, d.sourcePort, port),
		packet.ICMPEcho(from, to, d.sourcePort, port),
		packet.ICMPEchoReply(from, to, d.sourcePort, port),
		packet.Protocol(from, to, 47),
		packet.Protocol(from, to, 0),
	).Payload(d.payload)
}

// errorAbout tells of what the host seems to have sent: of the flow to the open
// port, or of something that resembles it.
func (d *draft) errorAbout(closed uint16) packet.Packet {
	back := func(port uint16) packet.Packet {
		return packet.UDP(d.destination, d.source, port, d.sourcePort).Payload(d.payload)
	}
	tcp := packet.TCP(d.destination, d.source, d.wire.Open, d.sourcePort, packet.ACK).Payload(d.payload)
	quotes := []packet.Packet{
		back(d.wire.Open), back(d.wire.Open), tcp, back(closed),
		packet.UDP(d.destination, d.source, d.sourcePort, d.wire.Open).Payload(d.payload), // the other way
		back(d.wire.Open).Fragment(8, false, 1),
		back(d.wire.Open).CutSegment(d.between(0, 12)),
		packet.ICMPError(d.destination, packet.PortUnreachable, packet.UDP(d.source, d.destination, d.sourcePort, d.wire.Open)),
	}
	if d.v6 {
		quotes = append(quotes,
			back(d.wire.Open).Extensions(packet.DestinationOptions),
			back(closed).Extensions(packet.Authentication),
			back(d.wire.Open).Extensions(packet.Mobility))
	} else {
		quotes = append(quotes,
			back(d.wire.Open).Options(1, 1, 1, 1),
			back(closed).With(packet.HeaderLength, 6),
			back(d.wire.Open).With(packet.TotalLength, 20))
	}
	from := d.source
	if d.chance(30) {
		from = d.wire.Stranger.of(d.v6) // a router on the way
	}
	kind := pick(d, packet.HostUnreachable, packet.PortUnreachable, packet.Prohibited, packet.PacketTooBig, packet.TimeExceeded, packet.ParameterProblem)
	return packet.ICMPError(from, kind, pick(d, quotes...))
}

// midstream makes a filter believe in a connection to a closed port, and then
// opens one.
func (d *draft) midstream(closed uint16) {
	if d.chance(60) {
		d.sourcePort = pick[uint16](d, 443, 53, d.wire.Open)
	}
	segment := func(flags packet.Flags) packet.Packet {
		return packet.TCP(d.source, d.destination, d.sourcePort, closed, flags).Sequence(d.number, d.number).Payload(d.payload)
	}
	before := segment(pick(d, packet.ACK, packet.SYN|packet.ACK, packet.PSH|packet.ACK, packet.FIN|packet.ACK, packet.RST, 0))
	switch d.IntN(3) {
	case 0: // which the host does not answer
		before = before.With(packet.SegmentChecksum, 1)
	case 1: // nor see
		d.pieces = append(d.pieces, piece{before, true})
		d.add(segment(packet.SYN))
		return
	}
	d.add(before, segment(packet.SYN))
}
