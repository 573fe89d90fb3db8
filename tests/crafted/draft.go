package crafted

import (
	"math/rand/v2"
	"net/netip"
	"strings"

	"github.com/perimeterd/perimeterd/tests/packet"
)

// draft is a case in the making: what it aims at, and what is done to it.
type draft struct {
	*rand.Rand
	wire   *Wire
	number uint32

	v6                  bool
	source, destination netip.Addr
	sourcePort, port    uint16
	kind                *kind
	payload             string

	steps                []step  // done to each packet of the draft, in order
	pieces               []piece // in the order in which they are sent
	headers, headerBytes int     // of IPv6 extensions

	classes []Class
	altered []Class
	honest  bool
}

// How many extension headers an honest packet has at most, and how long they are.
const maxHeaders, maxHeaderBytes = 7, 320

// step changes a packet, always in the same way.
type step func(packet.Packet) packet.Packet

// piece is one frame to be sent, before the link's own headers.
type piece struct {
	packet    packet.Packet
	elsewhere bool // to another host's MAC address
}

// altering notes what was done, and whether an honest sender might do it.
func (d *draft) altering(class Class, honest bool) {
	d.altered = append(d.altered, class)
	d.honest = d.honest && honest
}

func (d *draft) chance(percent int) bool { return d.IntN(100) < percent }

// between draws from first to last, both included.
func (d *draft) between(first, last int) int { return first + d.IntN(last-first+1) }

func (d *draft) bytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(d.Uint32())
	}
	return b
}

func pick[T any](d *draft, from ...T) T { return from[d.IntN(len(from))] }

// aim draws who sends what to whom.
func (d *draft) aim() {
	d.v6 = d.chance(50)
	d.source = d.wire.Partner.of(d.v6)
	d.destination = d.main()
	// Each case has a port of its own, so that no two are of one flow.
	d.sourcePort = uint16(1024 + d.number%60000)
	d.port = d.wire.Open
	if d.chance(35) {
		d.port = pick(d, d.wire.Closed...)
	}
	d.kind = d.drawKind()
	d.classes = append(d.classes, d.kind.class)
	size := d.between(72, 300)
	if d.wire.MTU >= 5000 && d.chance(3) {
		size = d.between(4096, d.wire.MTU-2500) // headers come in front
		d.altering(Large, true)
	}
	d.payload = strings.Repeat(token(d.number), size/len(token(0))+1)[:size]
	if d.port != d.wire.Open || d.kind.class != UDP && d.kind.class != TCP {
		d.honest = false
	}
	if d.chance(6) {
		d.strangeSource()
	}
	if d.chance(10) {
		d.strangeDestination()
	}
	if d.chance(2) {
		d.sourcePort = pick(d, d.wire.Open, 53, 67, 443)
	}
}

// main is the host's main address in the draft's family.
func (d *draft) main() netip.Addr { return d.ofFamily(d.wire.Host)[0] }

// ofFamily returns those addresses that are of the draft's family.
func (d *draft) ofFamily(addresses []netip.Addr) []netip.Addr { return ofFamily(addresses, d.v6) }

func ofFamily(addresses []netip.Addr, v6 bool) []netip.Addr {
	var out []netip.Addr
	for _, a := range addresses {
		if a.Is6() == v6 {
			out = append(out, a)
		}
	}
	return out
}

func (d *draft) strangeSource() {
	switch d.IntN(3) {
	case 0:
		d.source = d.wire.Stranger.of(d.v6)
		d.altering(SourceStranger, false)
	case 1:
		d.source = pick(d, d.ofFamily(d.wire.Host)...)
		d.altering(SourceOwn, false)
	default:
		special := []string{"0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "169.254.1.1", "240.0.0.1"}
		if d.v6 {
			special = []string{"::", "::1", "ff02::1", "::ffff:" + d.wire.Partner.V4.String(), "fe80::7", "::" + d.wire.Partner.V4.String()}
		}
		d.source = netip.MustParseAddr(pick(d, special...))
		d.altering(SourceSpecial, false)
	}
}

func (d *draft) strangeDestination() {
	if shared := d.ofFamily(d.wire.Shared); d.chance(60) && len(shared) > 0 {
		d.destination = pick(d, shared...)
		d.altering(DestinationShared, true) // members too are to be reached by them
		return
	}
	if own := d.ofFamily(d.wire.Host); d.chance(50) && len(own) > 1 {
		d.destination = pick(d, own[1:]...)
		return
	}
	nobody := []string{"127.0.0.1", "0.0.0.0", "0.0.0.5", "239.9.9.9", "203.0.113.200", "240.0.0.1"}
	if d.v6 {
		nobody = []string{"::1", "::", "::ffff:" + ofFamily(d.wire.Host, false)[0].String(), "ff02::9:9", "2001:db8:dead::1"}
	}
	d.destination = netip.MustParseAddr(pick(d, nobody...))
	d.altering(DestinationOther, false)
}

// build makes the packet to this port with all steps done to it.
func (d *draft) build(port uint16) packet.Packet {
	p := d.kind.build(d, port)
	for _, s := range d.steps {
		p = s(p)
	}
	return p
}

// single is one datagram, perhaps in fragments.
func (d *draft) single() {
	if d.chance(12) {
		d.alterSegment()
	}
	if d.chance(45) {
		for range d.between(1, 2) {
			d.alterNetwork()
		}
	}
	// A filter may have a limit, and a fragment's own header comes on top.
	if d.headers > maxHeaders || d.headerBytes > maxHeaderBytes {
		d.honest = false
	}
	if d.chance(30) {
		d.fragment()
	} else {
		d.add(d.build(d.port))
	}
	if d.chance(35) {
		d.alterLink()
	}
}

func (d *draft) add(packets ...packet.Packet) {
	for _, p := range packets {
		d.pieces = append(d.pieces, piece{packet: p})
	}
}
