package crafted

import (
	"encoding/binary"
	"net"
	"slices"

	"github.com/perimeterd/perimeterd/tests/packet"
)

// Ethertypes of tags. Linux takes the last one for no tag.
const vlanType, serviceType, oldServiceType = 0x8100, 0x88a8, 0x9100

// otherMAC is of neither end.
var otherMAC = net.HardwareAddr{2, 0, 0, 0, 0, 0x99}

// frame puts the link header in front of a piece.
func (d *draft) frame(p piece) []byte {
	to := d.wire.HostMAC
	frame := p.packet.Frame()
	if frame[0]&1 != 0 { // the group address that belongs to the IP destination
		to = net.HardwareAddr(frame[:6])
	}
	if p.elsewhere {
		to = otherMAC
	}
	copy(frame, to)
	copy(frame[6:], d.wire.SenderMAC)
	return frame
}

// alterLink draws over the link header of all pieces, or of some.
func (d *draft) alterLink() {
	if d.chance(50) {
		d.alterFrames()
		return
	}
	few, many := make([]uint16, d.between(1, 4)), make([]uint16, d.between(5, 9))
	priority, vlan := uint16(d.between(1, 15))<<12, uint16(d.between(1, 4095))
	trailer := d.between(1, 60)
	tags := func(etherType uint16, controls ...uint16) step {
		return func(p packet.Packet) packet.Packet { return p.TaggedAs(etherType, controls...) }
	}
	type alteration struct {
		class  Class
		honest bool
		step   step
	}
	a := pick(d,
		alteration{Tags, true, tags(vlanType, few...)},
		alteration{Tags, true, tags(vlanType, few...)},
		alteration{TagStack, false, tags(vlanType, many...)},
		alteration{TagPriority, true, tags(vlanType, priority)},
		alteration{TagService, true, tags(serviceType, 0)},
		alteration{TagService, true, func(p packet.Packet) packet.Packet { return p.ServiceTagged(0).Tagged(0, 0) }},
		alteration{TagOther, false, tags(vlanType, vlan)},
		alteration{TagOther, false, tags(vlanType, 0, vlan)},
		alteration{TagOther, false, tags(oldServiceType, 0)},
		alteration{TagOther, false, func(p packet.Packet) packet.Packet { return p.Tagged(0).TaggedAs(oldServiceType, 0) }},
		alteration{Trailer, true, func(p packet.Packet) packet.Packet { return p.Trailer(trailer) }},
	)
	d.altering(a.class, a.honest)
	some := d.chance(30)
	for i := range d.pieces {
		if !some || d.chance(50) {
			d.pieces[i].packet = a.step(d.pieces[i].packet)
		}
	}
}

// alterFrames replaces pieces by frames that are no packets of this family.
func (d *draft) alterFrames() {
	shared := net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	if d.chance(50) {
		shared = slices.Clone(d.wire.HostMAC)
		shared[0] |= 1
	}
	odd := uint16(d.Uint32())
	cut := d.between(0, 60)
	each := func(class Class, change func(packet.Packet) packet.Packet) func() {
		return func() {
			d.altering(class, false)
			for i := range d.pieces {
				d.pieces[i].packet = change(d.pieces[i].packet)
			}
		}
	}
	pick(d,
		each(MACShared, func(p packet.Packet) packet.Packet { return p.Ethernet(d.wire.SenderMAC, shared) }),
		each(MACShared, func(p packet.Packet) packet.Packet { return p.Ethernet(d.wire.SenderMAC, shared) }),
		func() {
			d.altering(MACOther, false)
			for i := range d.pieces {
				d.pieces[i].elsewhere = true
			}
		},
		each(LLC, func(p packet.Packet) packet.Packet {
			b := p.Datagram()
			llc := []byte{0xaa, 0xaa, 3, 0, 0, 0, 8, 0} // SNAP
			if d.v6 {
				binary.BigEndian.PutUint16(llc[6:], 0x86dd)
			}
			return packet.EtherType(uint16(min(len(b)+len(llc), 1500))).Payload(string(llc) + string(b))
		}),
		each(EtherType, func(p packet.Packet) packet.Packet {
			wrong := uint16(0x86dd)
			if d.v6 {
				wrong = 0x0800
			}
			if odd%2 == 0 {
				wrong = odd
			}
			return packet.EtherType(wrong).Payload(string(p.Datagram()))
		}),
		each(FrameCut, func(p packet.Packet) packet.Packet { return p.Cut(cut) }),
	)()
}
