package crafted

import (
	"encoding/binary"
	"slices"

	"github.com/perimeterd/perimeterd/tests/packet"
)

// identity is the draft's n-th fragment identity, of up to four.
func (d *draft) identity(n uint32) uint32 {
	id := d.number*4 + n
	if !d.v6 {
		id &= 0xffff
	}
	return id
}

// fragment sends the draft in fragments of some shape.
func (d *draft) fragment() {
	p := d.build(d.port)
	size := p.Fragmentable()
	if size < 80 {
		d.add(p) // its segment was cut: nothing is left to cut
		return
	}
	// The same to another port, of which parts will be smuggled in.
	other := d.port
	for other == d.port {
		other = pick(d, append([]uint16{d.wire.Open}, d.wire.Closed...)...)
	}
	q := d.build(other)
	id := d.identity(0)

	// Cuts far enough behind that all headers are in the first.
	late := (size - d.between(8, 24)) &^ 7
	early := late - 8*d.IntN(2)
	inOrder := func(p packet.Packet) []packet.Packet {
		if early == late {
			return p.Split(id, late)
		}
		return p.Split(id, early, late)
	}
	var eights []int // every cut there is
	for at := 8; at < size; at += 8 {
		eights = append(eights, at)
	}
	shapes := []func(){
		func() { d.altering(Fragments, true); d.add(inOrder(p)...) },
		func() { d.altering(Fragments, true); d.add(inOrder(p)...) },
		func() {
			reserved := uint16(0x8000)
			if d.v6 {
				reserved = uint16(d.IntN(256))<<8 | uint16(d.IntN(4)*2)
			}
			d.altering(FragmentReserved, true)
			for _, f := range inOrder(p) {
				d.add(f.With(packet.FragmentReserved, reserved))
			}
		},
		func() {
			d.altering(FragmentTiny, false)
			if len(eights) > 40 {
				eights = eights[:40]
			}
			d.add(p.Split(id, eights...)...)
		},
		func() {
			d.altering(FragmentTiny, false)
			d.add(p.Split(id, pick(d, 8, 16, 24))...)
		},
		func() {
			d.altering(FragmentOrder, false)
			pieces := p.Split(id, pick(d, 8, 24, 40), late)
			if d.chance(50) {
				slices.Reverse(pieces)
			} else {
				d.Shuffle(len(pieces), func(i, j int) { pieces[i], pieces[j] = pieces[j], pieces[i] })
			}
			d.add(pieces...)
		},
		func() {
			d.altering(FragmentRepeated, true)
			pieces := inOrder(p)
			i := d.IntN(len(pieces) - 1)
			d.add(pieces[:i+1]...)
			d.add(pieces[i:]...)
		},
		func() { d.altering(FragmentOverlap, false); d.overlap(p, q, id, late) },
		func() {
			d.altering(FragmentFirsts, false)
			a, b := p.Split(id, late), q.Split(id, pick(d, 8, 16, 24, late))
			d.add(pick(d,
				[]packet.Packet{a[0], b[0], a[1]},
				[]packet.Packet{b[0], a[0], b[1]},
				[]packet.Packet{a[0], b[0], b[1]},
				[]packet.Packet{b[0], a[0], a[1]},
			)...)
		},
		func() { d.altering(FragmentIdentities, false); d.interleave(p, q, id, late) },
		func() {
			d.altering(FragmentHole, false)
			pieces := p.Split(id, 24, late)
			i := d.IntN(len(pieces))
			d.add(slices.Delete(pieces, i, i+1)...)
		},
		func() {
			d.altering(FragmentDecoy, false)
			a, b := p.Split(id, late), q.Split(id, pick(d, 8, 24, late))
			d.pieces = append(d.pieces, piece{a[0], true})
			d.add(pick(d, a[1:], b[1:], slices.Concat(b[1:], b[:1]), slices.Concat(a[1:], b[:1]), a)...)
		},
		func() {
			d.altering(FragmentHeaders, false)
			if d.v6 {
				headers := d.between(1, 3)
				for range headers {
					p = p.Extensions(packet.DestinationOptions)
				}
				d.add(p.Split(id, 8*headers, 8*headers+24)...)
				return
			}
			d.add(p.Options(1, 1, 1).Split(id, 8, 16)...)
		},
	}
	shapes = append(shapes, func() {
		d.altering(FragmentOdd, false)
		first := d.between(9, 40)
		protocol, segment := segmentOf(d.kind.build(d, d.port), d.v6)
		_, smuggled := segmentOf(d.kind.build(d, other), d.v6)
		if d.chance(50) {
			smuggled = segment
		}
		part := packet.Protocol(d.source, d.destination, protocol)
		d.add(part.Payload(string(segment[:first])).Fragment(0, true, id),
			part.Payload(string(smuggled[first&^7:])).Fragment(first&^7, false, id))
	})
	if d.v6 {
		shapes = append(shapes, func() { d.altering(FragmentNested, false); d.nest(p, q, id, late) })
	}
	pick(d, shapes...)()
}

// overlap has fragments of q reach into those of p.
func (d *draft) overlap(p, q packet.Packet, id uint32, late int) {
	whole := p.Split(id, 24, late)
	start := q.Split(id, pick(d, 8, 16, 24, 32))
	d.add(pick(d,
		[]packet.Packet{whole[0], start[0], whole[1], whole[2]},
		[]packet.Packet{whole[1], whole[0], start[0], whole[2]},
		[]packet.Packet{whole[0], whole[1], start[0], whole[2]},
		[]packet.Packet{whole[2], whole[1], start[0], whole[0]},
		[]packet.Packet{whole[0], start[1]},
		[]packet.Packet{start[1], whole[0]},
		[]packet.Packet{whole[0], q.Split(id, 8, 16)[1], whole[1], whole[2]},
		[]packet.Packet{whole[0], whole[2], q.Split(id, 16, late)[1], whole[1]},
	)...)
}

// interleave sends two datagrams at once: under two identities, or under one but
// of two protocols.
func (d *draft) interleave(p, q packet.Packet, id uint32, late int) {
	a, b := p.Split(id, late), q.Split(d.identity(1), late)
	if d.chance(50) {
		other := packet.UDPLite(d.source, d.destination, d.sourcePort, d.port).Payload(d.payload)
		b = other.Split(id, 24)
	}
	d.add(a[0], b[0])
	if d.chance(50) {
		d.add(b[1], a[1])
	} else {
		d.add(a[1], b[1])
	}
}

// nest puts a fragment header into fragments, so that a receiver has to put
// together twice.
func (d *draft) nest(p, q packet.Packet, id uint32, late int) {
	inner := d.identity(1)
	header := func(offset int, more bool) []byte {
		place := uint16(offset)
		if more {
			place |= 1
		}
		return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16([]byte{0}, place), inner)
	}
	inside := func(offset int, more bool) packet.Packet {
		return d.kind.build(d, d.port).RawExtension(44, header(offset, more)...)
	}
	a, b := p.Split(id, late), q.Split(id, late)
	d.add(pick(d,
		inside(0, false).Split(id, 8),
		inside(0, false).Split(id, 32),
		inside(0, true).Split(id, 32),
		inside(8, false).Split(id, 32),
		// Another first vouches for the rest.
		slices.Concat(a[:1], inside(8, false).Split(id, 32)),
		slices.Concat(inside(8, false).Split(id, 32), a),
		slices.Concat(inside(0, true).Split(id, 16), b),
		slices.Concat(a[:1], p.Split(inner, late)[:1], inside(8, true).Split(id, 8), q.Split(inner, late)),
	)...)
}
