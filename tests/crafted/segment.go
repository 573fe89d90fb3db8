package crafted

import "github.com/perimeterd/perimeterd/tests/packet"

// alterSegment draws over what follows the IP headers.
func (d *draft) alterSegment() {
	size := 8 + len(d.payload) // of a UDP datagram; more of others
	alterations := []func(){
		func() { d.cutSegment(d.between(0, size)) },
		func() {
			d.sourcePort, d.port = d.port, d.sourcePort
			d.altering(PortsSwapped, false)
		},
	}
	set := func(class Class, honest bool, field packet.Field, value int) func() {
		return func() {
			d.steps = append(d.steps, func(p packet.Packet) packet.Packet { return p.With(field, uint16(value)) })
			d.altering(class, honest)
		}
	}
	switch d.kind.protocol {
	case protocolUDP, protocolUDPLite:
		alterations = append(alterations,
			// The host delivers what the length says, which is less.
			set(SegmentShort, true, packet.SegmentLength, d.between(8, size)),
			set(SegmentShort, false, packet.SegmentLength, d.between(0, 8)),
			set(SegmentLong, false, packet.SegmentLength, d.between(size+1, size+2000)),
			set(SegmentChecksum, true, packet.SegmentChecksum, 0),
			set(SegmentChecksum, true, packet.SegmentChecksum, d.IntN(1<<16)),
		)
	case protocolTCP:
		sequence, acknowledgement := d.Uint32(), d.Uint32()
		alterations = append(alterations,
			set(SegmentOffset, false, packet.SegmentHeaderLength, d.between(0, 4)),
			set(SegmentOffset, true, packet.SegmentHeaderLength, d.between(6, 15)),
			set(SegmentChecksum, true, packet.SegmentChecksum, d.IntN(1<<16)),
			func() {
				d.steps = append(d.steps, func(p packet.Packet) packet.Packet { return p.Sequence(sequence, acknowledgement) })
				d.altering(SegmentNumbers, true)
			},
		)
	}
	pick(d, alterations...)()
}

// cutSegment ends the packet after so many bytes of its segment, as its lengths
// say too.
func (d *draft) cutSegment(size int) {
	d.steps = append(d.steps, func(p packet.Packet) packet.Packet {
		protocol, segment := segmentOf(p, d.v6)
		return packet.Protocol(d.source, d.destination, protocol).Payload(string(segment[:min(size, len(segment))]))
	})
	d.altering(SegmentCut, false)
}

// segmentOf is the protocol of a packet without options or extension headers,
// and its segment.
func segmentOf(p packet.Packet, v6 bool) (uint8, []byte) {
	b := p.Datagram()
	if v6 {
		return b[6], b[40:]
	}
	return b[9], b[20:]
}
