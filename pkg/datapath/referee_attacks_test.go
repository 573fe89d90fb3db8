package datapath

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/perimeterd/perimeterd/tests/kernels/verified"
	"github.com/perimeterd/perimeterd/tests/packet"
)

// attack is a known way past a filter: packets of the partner or a stranger that
// get to a socket which no rule of the bench admits them to.
type attack struct {
	name    string
	packets []packet.Packet
	// elsewhere: the first packet goes to the MAC address of another host, so
	// that only a filter sees it.
	elsewhere bool
	// large does not fit every wire.
	large bool
	// unless says why nothing gets to a socket of this kernel even without a filter;
	// nil, or "" = it does.
	unless func() string
}

// attacks lists them. Ports 5433 and 443 are closed, 5432 is open to the partner
// and to nobody else, by TCP and UDP only.
func attacks() []attack {
	const closed = refereePort + 1
	udp4 := packet.UDP(partner4, member4, 4000, closed).Payload("let me in, please")
	udp6 := packet.UDP(partner6, member6, 4000, closed).Payload("let me in, please")
	syn4 := packet.TCP(partner4, member4, 4000, closed, packet.SYN)
	syn6 := packet.TCP(partner6, member6, 4000, closed, packet.SYN)
	open4 := packet.UDP(partner4, member4, 4000, refereePort).Payload("let me in, please")
	open6 := packet.UDP(partner6, member6, 4000, refereePort).Payload("let me in, please")
	one := func(name string, p packet.Packet) attack { return attack{name: name, packets: []packet.Packet{p}} }
	tags := func(n int) []uint16 { return make([]uint16, n) }
	many := func(p packet.Packet, n int) packet.Packet {
		for range n {
			p = p.Extensions(packet.DestinationOptions)
		}
		return p
	}
	// What a reader of fixed offsets takes for the header of a datagram to the
	// open port: as options that end at once, and as payload.
	decoy := binary.BigEndian.AppendUint16([]byte{0, 7}, refereePort)
	decoy = append(decoy, 0, 8, 0, 0)
	behind := string(make([]byte, 16)) + "\x0f\xa0\x15\x38\x00\x08\x00\x00"
	asked := func(flags packet.Flags) packet.Packet {
		return packet.TCP(partner4, member4, 443, closed, flags).Sequence(9, 9)
	}

	return []attack{
		one("a VLAN tag", udp4.Tagged(0)),
		one("a tag with a priority", syn6.TaggedAs(0x8100, 0xa000)),
		one("a service tag and two more", udp6.ServiceTagged(0).Tagged(0, 0)),
		one("four tags", syn4.Tagged(tags(4)...)),
		one("five tags", udp6.Tagged(tags(5)...)),
		{name: "nine tags", packets: []packet.Packet{udp4.Tagged(tags(9)...)}, unless: countsHeaders},
		one("an IP option", udp4.Options(1)),
		one("forty bytes of options", syn4.Options(slices.Repeat([]byte{1}, 40)...)),
		one("options that look like the open port", udp4.Options(decoy...)),
		one("a header that looks like options", packet.UDP(partner4, member4, 4000, refereePort).Options(0, 7, closed>>8, closed&0xff, 0, 8, 0, 0).With(packet.HeaderLength, 5)),
		one("the reserved byte of a fragment header", packet.UDP(partner6, member6, 4000, closed).Payload(behind).Fragment(0, false, 1).With(packet.FragmentReserved, 0x1800)),
		{name: "sixteen headers of destination options", packets: []packet.Packet{many(udp6, 16)}, unless: countsHeaders},
		one("nine headers of destination options", many(udp6, 9)),
		one("eight headers of destination options", many(udp6, 8)),
		one("a long header of destination options", udp6.LongExtension(packet.DestinationOptions, 1024)),
		one("hop-by-hop and routing", syn6.Extensions(packet.HopByHop, packet.Routing)),
		{name: "a SYN in fragments of 8 bytes", packets: packet.TCP(partner4, member4, 4000, closed, packet.SYN).Split(21, 8, 16)},
		{name: "a SYN in fragments of 8 bytes, IPv6", packets: packet.TCP(partner6, member6, 4000, closed, packet.SYN).Payload("12345678").Split(22, 24)},
		{name: "fragments in the wrong order", packets: reversed(udp4.Split(23, 8, 16))},
		{name: "fragments of the open port's identity", packets: slices.Concat(open4.Split(24, 8), udp4.Split(24, 8))},
		{name: "a first fragment that only the filter sees", packets: slices.Concat(open6.Split(25, 8)[:1], reversed(udp6.Split(25, 8))), elsewhere: true},
		one("a fragment that is whole", udp6.Fragment(0, false, 26)),
		one("all hosts of the network", packet.UDP(stranger4, "10.20.0.255", 4000, refereePort)),
		one("all hosts", packet.UDP(stranger4, "255.255.255.255", 4000, refereePort)),
		one("all hosts, the oldest way", packet.UDP("0.0.0.0", "0.0.0.0", 4000, refereePort)),
		one("a group", packet.UDP(stranger4, joined4, 4000, refereePort)),
		one("a group, IPv6", packet.UDP(stranger6, joined6, 4000, refereePort)),
		one("all nodes", packet.UDP(partner6, "ff02::1", 4000, closed)),
		one("the host's link-local address", packet.UDP(partner6, "fe80::5", 4000, closed)),
		one("the host's own address as source", packet.UDP(member6, member6, 4000, closed)),
		one("another of the host's addresses as source", packet.UDP("fe80::5", member6, 4000, closed)),
		one("no address as source", packet.UDP("::", member6, 4000, refereePort)),
		one("an IPv4 address as IPv6 source", packet.Protocol("::ffff:"+partner4, member6, 253).Payload("let me in")),
		one("UDP-Lite to the open port", packet.UDPLite(partner4, member4, 4000, refereePort)),
		one("SCTP to the open port", packet.SCTP(partner6, member6, 4000, refereePort)),
		one("DCCP to the open port", packet.DCCP(partner4, member4, 4000, refereePort)),
		{name: "a mobility header before the open port", packets: []packet.Packet{mobilityPacket()}, unless: checksMobility},
		one("a shim6 header before the open port", open6.Extensions(packet.Shim6)),
		one("GRE", packet.GRE(partner4, member4).Payload(string(open4.Datagram()))),
		one("echo", packet.ICMPEcho(partner6, member6, 4000, refereePort)),
		one("a trailer", udp4.Trailer(20)),
		one("a length that is less than the frame", udp4.Payload("12345678").With(packet.TotalLength, 30)),
		one("a UDP length that is less than the packet", udp6.With(packet.SegmentLength, 10)),
		one("a wrong checksum", udp4.With(packet.SegmentChecksum, 1)),
		one("neighbour discovery through a router", packet.ICMP(partner6, member6, 135, 0).With(packet.HopLimit, 254)),
		one("IGMP through a router", packet.Protocol(partner4, member4, 2).Payload("12345678").With(packet.HopLimit, 2)),
		one("DHCP, the wrong way", packet.UDP(partner4, member4, 68, 67).Payload("offer")),
		one("DHCP, another client", packet.UDP(partner6, member6, 547, 68).Payload("offer")),
		{name: "larger than a page", packets: []packet.Packet{udp4.Payload(string(make([]byte, 6000)))}, large: true},
		{name: "larger than a page, behind headers", packets: []packet.Packet{many(udp6, 4).Payload(string(make([]byte, 6000)))}, large: true},
		{name: "an ACK, then a SYN", packets: []packet.Packet{asked(packet.ACK).With(packet.SegmentChecksum, 1), asked(packet.SYN)}},
		{name: "an ACK that only the filter sees, then a SYN", packets: []packet.Packet{asked(packet.ACK), asked(packet.SYN)}, elsewhere: true},
		{name: "no flags at all, then a SYN", packets: []packet.Packet{asked(0), asked(packet.SYN)}},
		{name: "a flow, and another protocol on its ports", packets: []packet.Packet{open4, packet.UDPLite(partner4, member4, 4000, refereePort)}},
		{name: "a flow, and its ports swapped", packets: []packet.Packet{open4, packet.UDP(partner4, member4, refereePort, 443)}},
	}
}

// countsHeaders: some time after 6.18 Linux began to bound tags and options itself.
func countsHeaders() string {
	kernel, err := verified.Running()
	if err == nil && kernel.Compare(verified.Series{Major: 6, Minor: 18}) <= 0 {
		return ""
	}
	return fmt.Sprintf("this kernel (%v, %v) may count such headers itself", kernel, err)
}

// checksMobility: with CONFIG_IPV6_MIP6 nothing may be behind a mobility header.
func checksMobility() string {
	symbols, err := os.ReadFile("/proc/kallsyms")
	if err == nil && !bytes.Contains(symbols, []byte(" mip6_mh_filter")) {
		return ""
	}
	return fmt.Sprintf("this kernel checks mobility headers (%v)", err)
}

func reversed(packets []packet.Packet) []packet.Packet {
	slices.Reverse(packets)
	return packets
}

// mobilityPacket is a mobility header that seems to have a datagram to the open
// port behind it.
func mobilityPacket() packet.Packet {
	inside := packet.UDP(partner6, member6, 4000, refereePort).Payload("let me in")
	segment := inside.Datagram()[40:]
	header := []byte{17, 0, 1, 0, 0, 0, 0, 0}
	sum := packet.Checksum(inside.Source(), inside.Destination(), packet.Mobility, append(header, segment...))
	binary.BigEndian.PutUint16(header[4:], sum)
	return inside.RawExtension(packet.Mobility, header[1:]...)
}

// TestAttacks tries what got past other filters, and what got past this one.
// Each is proven to reach a socket without a filter.
func TestAttacks(t *testing.T) {
	bare := newReferee(t, refereeMTU)
	onOneCPU(t, func() {
		for _, a := range attacks() {
			o, err := bare.send(bare.framesOf(a)...)
			must(t, err)
			b := bare.benches(posts[0])[2]
			switch {
			case slices.ContainsFunc(o.receipts, func(r receipt) bool { return !b.permits(&r) }):
			case a.unless != nil && a.unless() != "":
				t.Logf("%s: proves nothing here: %s", a.name, a.unless())
			default:
				t.Errorf("%s: reaches nothing even without a filter, so it proves nothing: %s", a.name, a.packets)
			}
		}
	})
	loads := newLoads(t)
	for _, hook := range refereeHooks {
		t.Run(hook.name, func(t *testing.T) {
			r := newReferee(t, hook.mtu)
			d := r.filter(t, loads, hook, false)
			r.stand(t, d, posts[0])
			for _, b := range r.benches(posts[0]) {
				t.Run(b.name, func(t *testing.T) {
					facts := r.factsAt(posts[0])
					d.apply(t, b.policy(facts), facts)
					onOneCPU(t, func() { r.try(t, d, b) })
				})
			}
		})
	}
}

// try has all attacks fail.
func (r *referee) try(t *testing.T, d *rig, b bench) {
	m := &match{referee: r, filter: d, bench: b, post: posts[0]}
	for _, a := range attacks() {
		if a.large && r.mtu < refereeMTU {
			continue
		}
		d.forgetFlows(t)
		before := m.reasons(t)
		o, err := r.send(r.framesOf(a)...)
		must(t, err)
		after := m.reasons(t)
		var reasons []string
		for reason, n := range after {
			if n > before[reason] && reason != "not-ip" {
				reasons = append(reasons, string(reason))
			}
		}
		for _, got := range o.receipts {
			if !b.permits(&got) {
				t.Errorf("%s: %s got past as %q: %s", a.name, a.packets, reasons, &got)
			}
		}
		for _, frame := range o.answers {
			if !b.permitsAnswer(frame) {
				t.Errorf("%s: %s was answered, and counted as %q: %s", a.name, a.packets, reasons, packet.Describe(frame))
			}
		}
	}
}

func (r *referee) framesOf(a attack) [][]byte {
	var frames [][]byte
	for i, p := range a.packets {
		frame := p.Frame()
		if frame[0]&1 == 0 { // no group address
			copy(frame, r.near.MAC)
		}
		if i == 0 && a.elsewhere {
			frame[5] ^= 1
		}
		copy(frame[6:], r.far.MAC)
		frames = append(frames, frame)
	}
	return frames
}
