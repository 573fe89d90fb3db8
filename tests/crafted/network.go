package crafted

import (
	"encoding/binary"

	"github.com/perimeterd/perimeterd/tests/packet"
)

// alterNetwork draws over the IP header, or adds to it.
func (d *draft) alterNetwork() {
	if d.v6 && d.chance(80) {
		d.extend()
		return
	}
	set := func(class Class, honest bool, field packet.Field, value int) func() {
		return func() {
			d.step(class, honest, func(p packet.Packet) packet.Packet { return p.With(field, uint16(value)) })
		}
	}
	whole := len(d.build(d.port).Datagram())
	if d.v6 {
		whole -= 40
	}
	alterations := []func(){
		set(Version, false, packet.Version, d.IntN(16)),
		set(LengthShort, false, packet.TotalLength, d.between(0, whole)),
		set(LengthLong, false, packet.TotalLength, d.between(whole+1, whole+1000)),
		set(LengthZero, false, packet.TotalLength, 0),
		set(Hops, d.kind.class != Discovery, packet.HopLimit, pick(d, 0, 1, 2, 254, 255)),
	}
	if !d.v6 {
		alterations = append(alterations,
			d.options, d.options, d.options, d.options, d.options,
			set(HeaderLength, false, packet.HeaderLength, d.IntN(16)),
			d.secondHeader, d.secondHeader,
			set(HeaderFlags, true, packet.FragmentReserved, pick(d, 0x8000, 0x4000, 0xc000)),
			set(HeaderChecksum, false, packet.HeaderChecksum, d.IntN(1<<16)),
			func() {
				d.step(Authentication4, false, func(p packet.Packet) packet.Packet { return p.Extensions(packet.Authentication) })
			},
		)
	}
	pick(d, alterations...)()
}

// step adds a step and says what it does.
func (d *draft) step(class Class, honest bool, s step) {
	d.steps = append(d.steps, s)
	d.altering(class, honest)
}

// secondHeader puts what looks like a UDP header, to another port, where options
// are, and says that they are options or that they are not.
func (d *draft) secondHeader() {
	words := uint16(7)
	if d.chance(50) {
		words = 5
	}
	port := pick(d, append([]uint16{d.wire.Open}, d.wire.Closed...)...)
	header := binary.BigEndian.AppendUint16([]byte{0, 7}, port) // an option that ends all others
	header = binary.BigEndian.AppendUint16(header, uint16(d.between(8, 16+len(d.payload))))
	d.step(HeaderLength, false, func(p packet.Packet) packet.Packet {
		return p.Options(append(header, 0, 0)...).With(packet.HeaderLength, words)
	})
}

// options adds IPv4 options, in place of those there.
func (d *draft) options() {
	host := d.main().AsSlice()
	hop := append([]byte{}, host...)
	if d.chance(50) {
		copy(hop, []byte{10, 20, 0, 77})
	}
	pad := make([]byte, d.between(1, 40))
	for i := range pad {
		pad[i] = 1
	}
	route := func(kind byte, pointer byte) []byte { return append([]byte{kind, 7, pointer}, hop...) }
	drawn := []struct {
		class   Class
		honest  bool
		options []byte
	}{
		{OptionPadding, true, pad},
		{OptionAlert, true, []byte{0x94, 4, 0, 0}},
		{OptionRecord, true, append([]byte{7, 11, 4}, make([]byte, 8)...)},
		{OptionRecord, true, append([]byte{68, 12, 5, 0}, make([]byte, 8)...)},
		{OptionRoute, false, route(131, 4)}, // loose, not there yet
		{OptionRoute, false, route(137, 4)}, // strict
		{OptionRoute, false, route(131, 8)}, // at its end
		{OptionGarbage, false, d.bytes(d.between(1, 40))},
		{OptionGarbage, false, []byte{0x94, byte(d.IntN(64)), 0, 0}},
	}
	o := pick(d, drawn...)
	d.step(o.class, o.honest, func(p packet.Packet) packet.Packet { return p.Options(o.options...) })
}

// extend adds extension headers.
func (d *draft) extend() {
	options := func(content ...byte) []byte { return append([]byte{0}, content...) } // of 8 bytes
	routing := func(kind, left byte) []byte {
		return append([]byte{2, kind, left, 0, 0, 0, 0}, d.main().AsSlice()...)
	}
	id := d.identity(3)
	add := func(class Class, honest bool, kind uint8, content []byte) func() {
		return func() {
			d.step(class, honest, func(p packet.Packet) packet.Packet { return p.RawExtension(kind, content...) })
			d.count(1, 1+len(content))
		}
	}
	pick(d,
		func() { d.chainOf(Extensions, d.between(1, 6)) },
		func() { d.chainOf(Extensions, d.between(1, 6)) },
		func() { d.chainOf(Extensions, d.between(1, 6)) },
		func() { d.chainOf(ExtensionStack, d.between(7, 24)) },
		func() { d.chainOf(ExtensionStack, 16) },
		func() {
			size := d.between(1, 128) * 8
			d.step(ExtensionLong, true, func(p packet.Packet) packet.Packet { return p.LongExtension(packet.DestinationOptions, size) })
			d.count(1, size)
		},
		add(ExtensionContent, true, packet.HopByHop, options(5, 2, 0, 0, 1, 0)),           // router alert
		add(ExtensionContent, true, packet.HopByHop, options(0, 0, 0, 0, 0, 0)),           // only padding
		add(ExtensionContent, true, packet.DestinationOptions, options(4, 1, 1, 0, 0, 0)), // tunnel limit
		add(ExtensionContent, false, packet.DestinationOptions, options(pick[byte](d, 0x5e, 0x9e, 0xde), 4, 0, 0, 0, 0)),
		add(ExtensionContent, false, packet.DestinationOptions, append([]byte{2, 1, 2, 0, 0, 0xc9, 16}, d.wire.Partner.V6.AsSlice()...)), // home address
		add(ExtensionContent, false, packet.DestinationOptions, options(d.bytes(6)...)),
		add(ExtensionContent, false, packet.HopByHop, options(d.bytes(6)...)),
		add(ExtensionContent, false, packet.DestinationOptions, d.bytes(d.between(0, 30))), // of any length
		func() {
			d.step(ExtensionLate, false, func(p packet.Packet) packet.Packet {
				return p.Extensions(packet.DestinationOptions, packet.HopByHop)
			})
		},
		func() {
			size := d.between(3, 20) * 4
			d.step(ExtensionSecurity, false, func(p packet.Packet) packet.Packet { return p.LongExtension(packet.Authentication, size) })
		},
		d.mobility, d.mobility,
		func() {
			kind := pick[uint8](d, packet.HIP, packet.Shim6, packet.NoNextHeader)
			d.step(ExtensionUpper, false, func(p packet.Packet) packet.Packet { return p.Extensions(kind) })
		},
		add(Routing, true, packet.Routing, routing(pick[byte](d, 0, 3, 4, 253), 0)),
		add(Routing, false, packet.Routing, routing(pick[byte](d, 0, 2, 3, 4, 253), 0)),
		add(RoutingLeft, false, packet.Routing, routing(pick[byte](d, 0, 2, 3, 4, 253), pick[byte](d, 1, 2, 255))),
		func() {
			length := binary.BigEndian.AppendUint32(nil, uint32(len(d.payload)+16))
			content := options(append([]byte{0xc2, 4}, length...)...)
			zero := d.chance(70)
			d.step(Jumbo, false, func(p packet.Packet) packet.Packet {
				p = p.RawExtension(packet.HopByHop, content...)
				if zero {
					p = p.With(packet.TotalLength, 0)
				}
				return p
			})
		},
		func() {
			reserved := byte(d.IntN(4) * 8)
			content := binary.BigEndian.AppendUint32([]byte{reserved, 0, byte(d.IntN(4) * 2)}, id)
			d.step(FragmentAtomic, true, func(p packet.Packet) packet.Packet { return p.RawExtension(44, content...) })
			d.count(1, 8)
		},
	)()
}

// mobility puts a mobility header in front of the segment. To most hosts it is a
// protocol of its own, of which raw sockets check the sum.
func (d *draft) mobility() {
	protocol, segment := segmentOf(d.kind.build(d, d.port), d.v6)
	header := []byte{protocol, 0, byte(d.IntN(8)), 0, 0, 0, 0, 0}
	binary.BigEndian.PutUint16(header[4:], packet.Checksum(d.source, d.destination, packet.Mobility, append(header, segment...)))
	d.step(ExtensionMobility, false, func(p packet.Packet) packet.Packet { return p.RawExtension(packet.Mobility, header[1:]...) })
}

// chainOf adds so many headers of the kinds that hosts step over.
func (d *draft) chainOf(class Class, count int) {
	var kinds []uint8
	for range count {
		kinds = append(kinds, pick[uint8](d, packet.DestinationOptions, packet.DestinationOptions, packet.DestinationOptions, packet.Routing))
	}
	if d.chance(30) {
		kinds[0] = packet.HopByHop
	}
	d.step(class, true, func(p packet.Packet) packet.Packet { return p.Extensions(kinds...) })
	d.count(count, 8*count)
}

// count notes headers that were added.
func (d *draft) count(headers, bytes int) {
	d.headers += headers
	d.headerBytes += bytes
}
