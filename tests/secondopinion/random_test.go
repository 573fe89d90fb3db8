package secondopinion_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"

	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/tests/packet"
)

// draw draws the sessions of one policy. No two of them meet in a flow table.
type draw struct {
	r        *rand.Rand
	policy   *policy.Policy
	noDCCP   bool // conntrack tracks it, so that it is not compared
	taken    map[string]bool
	identity uint32 // of fragments
}

// session draws one.
func (d *draw) session() *session {
	s := &session{policy: d.policy, ends: d.ends()}
	switch s.protocol {
	case policy.ProtocolTCP:
		randomTCP(d.r, s)
		for _, st := range s.steps {
			d.cut(st)
		}
	case policy.ProtocolICMP, policy.ProtocolICMPv6:
		d.echoes(s)
	case policy.ProtocolSCTP:
		randomSCTP(d.r, s)
	default:
		d.datagrams(s)
	}
	d.disturb(s)
	return s
}

// ends draws a tuple that is free: mostly one that a rule admits, or its
// neighbour.
func (d *draw) ends() ends {
	for {
		resource := pick(d.r, d.policy.Resources...)
		rule := pick(d.r, rulesOf(d.policy, resource.Name)...)
		prefix := pick(d.r, rule.AddressPrefixes...)
		e := ends{peer: randomIn(d.r, prefix), protocol: d.protocol(&rule)}
		for _, local := range resource.Addresses {
			if local.Addr().Is4() == e.peer.Is4() {
				e.member = randomIn(d.r, local)
			}
		}
		if !e.peer.Is4() && e.protocol == policy.ProtocolICMP {
			e.protocol = policy.ProtocolICMPv6
		}
		d.drawPorts(&e, &rule)
		if d.noDCCP && e.protocol == policy.ProtocolDCCP {
			continue
		}
		if usable(e.peer) && contains(resource.Addresses, e.member) && d.take(&e) {
			e.allowed = [2]bool{peer: allows(d.policy, &e, peer), member: allows(d.policy, &e, member)}
			return e
		}
	}
}

func (d *draw) protocol(rule *policy.AccessRule) uint8 {
	if len(rule.Ports) > 0 && chance(d.r, 60) {
		return pick(d.r, rule.Ports...).Protocol
	}
	return uint8(pick(d.r, policy.ProtocolTCP, policy.ProtocolTCP, policy.ProtocolTCP, policy.ProtocolTCP, policy.ProtocolTCP,
		policy.ProtocolTCP, policy.ProtocolTCP, policy.ProtocolTCP, policy.ProtocolUDP, policy.ProtocolUDP, policy.ProtocolUDP, policy.ProtocolICMP,
		policy.ProtocolSCTP, policy.ProtocolDCCP, policy.ProtocolUDPLite, policy.ProtocolGRE, policy.ProtocolESP, 89, 253))
}

// drawPorts gives the side that serves a port at the edge of the rule's.
func (d *draw) drawPorts(e *ends, rule *policy.AccessRule) {
	if e.protocol == policy.ProtocolICMP || e.protocol == policy.ProtocolICMPv6 {
		e.memberPort = uint16(d.r.Uint32()) // the identifier
		return
	}
	if !policy.HasPorts(e.protocol) {
		return
	}
	service := pick[uint16](d.r, 53, 443, 5432)
	for _, ports := range rule.Ports {
		if ports.Protocol == e.protocol {
			service = pick(d.r, ports.First, ports.First, ports.Last, ports.Last, ports.First-1, ports.Last+1)
		}
	}
	client := uint16(1024 + d.r.IntN(64000))
	if chance(d.r, 5) {
		client = uint16(d.r.IntN(1024))
	}
	e.peerPort, e.memberPort = client, service
	if rule.Direction == policy.Outbound {
		e.peerPort, e.memberPort = service, client
	}
}

// take reserves the ends; false if another session has them. What conntrack does
// not tell apart by ports must differ in its addresses.
func (d *draw) take(e *ends) bool {
	key := fmt.Sprint(e.protocol, e.peer, e.member)
	if (policy.HasPorts(e.protocol) && e.protocol != policy.ProtocolDCCP) || e.protocol == policy.ProtocolICMP || e.protocol == policy.ProtocolICMPv6 {
		key = fmt.Sprint(key, e.peerPort, e.memberPort)
	}
	if d.taken[key] {
		return false
	}
	d.taken[key] = true
	return true
}

// usable reports an address that a router forwards for, and that is no member's
// nor the router's.
func usable(addr netip.Addr) bool {
	for _, prefix := range []string{
		"198.51.100.0/22", "203.0.113.0/24", "203.0.114.0/24", "172.16.0.0/12", "8.0.0.0/8",
		"2001:db8::/33", "3fff::/20", "2002::/16", "4000::/3",
	} {
		if netip.MustParsePrefix(prefix).Contains(addr) {
			return true
		}
	}
	return false
}

// randomIn draws an address where an off-by-one shows, or any of the prefix.
func randomIn(r *rand.Rand, p netip.Prefix) netip.Addr {
	first, last := p.Masked().Addr(), lastOf(p)
	switch r.IntN(8) {
	case 0:
		return first
	case 1:
		return last
	case 2:
		return first.Prev()
	case 3:
		return last.Next()
	}
	b := first.AsSlice()
	for bit := max(p.Bits(), len(b)*8-16); bit < len(b)*8; bit++ {
		b[bit/8] |= byte(r.IntN(2)) << (7 - bit%8)
	}
	addr, _ := netip.AddrFromSlice(b)
	return addr
}

// datagrams draws questions and answers of a protocol without connections.
func (d *draw) datagrams(s *session) {
	opener := side(d.r.IntN(2))
	for i := range 2 + d.r.IntN(8) {
		from := opener
		if chance(d.r, 45) {
			from = from.other()
		}
		st := s.datagram(from, fmt.Sprintf("%d %s", i, strings.Repeat("x", pick(d.r, 0, 1, 60))))
		if s.protocol == policy.ProtocolUDPLite && chance(d.r, 70) {
			st.whole, st.liked = likedByConntrack(st.whole), true
		}
		d.flaw(st)
		d.cut(st)
		if policy.HasPorts(s.protocol) && chance(d.r, 10) {
			if st := s.fromAnotherPort(from); s.protocol != policy.ProtocolDCCP && !d.take(&st.ends) {
				s.steps = s.steps[:len(s.steps)-1]
			}
		}
	}
}

// echoes draws pings, their answers, and what else ICMP has.
func (d *draw) echoes(s *session) {
	opener := side(d.r.IntN(2))
	for i := range 2 + d.r.IntN(6) {
		switch n := d.r.IntN(20); {
		case n < 9:
			d.flaw(s.echo(opener, echoRequest, uint16(i)))
		case n < 15:
			d.flaw(s.echo(opener.other(), echoReply, uint16(i)))
		case n < 16:
			s.echo(opener, echoReply, uint16(i))
		case n < 17:
			s.echo(opener.other(), echoRequest, uint16(i))
		case n < 18:
			s.icmp(opener, query)
			s.icmp(opener.other(), queryAnswer)
		default:
			s.icmp(side(d.r.IntN(2)), pick(d.r, redirect, query, queryAnswer, anything))
		}
		if last := s.steps[len(s.steps)-1]; last.flaw == sound {
			d.cut(last)
		}
	}
}

// flaw spoils a datagram now and then.
func (d *draw) flaw(st *step) {
	if !chance(d.r, 5) {
		return
	}
	switch st.protocol {
	case policy.ProtocolUDP, policy.ProtocolUDPLite:
		if chance(d.r, 50) {
			st.flaw, st.whole = badLength, st.whole.With(packet.SegmentLength, pick[uint16](d.r, 1, 7, 4000))
			return
		}
	case policy.ProtocolSCTP, policy.ProtocolICMP, policy.ProtocolICMPv6, policy.ProtocolDCCP:
	default:
		return
	}
	st.withChecksum(0x1234)
}

// cut makes fragments of a datagram now and then, or puts headers before it.
func (d *draw) cut(st *step) {
	const enough = 60 // bytes after the IP header
	v4 := st.peer.Is4()
	size := len(st.whole.Datagram()) - 20
	if !v4 {
		size -= 20
	}
	switch {
	case st.lost || st.flaw != sound:
	case chance(d.r, 3) && v4:
		st.whole = st.whole.Options(1, 1, 1, 1) // no operation
	case chance(d.r, 3) && !v4:
		st.whole = st.whole.Extensions(pick[uint8](d.r, packet.HopByHop, packet.DestinationOptions, packet.Routing))
	case size >= enough && chance(d.r, 15):
		d.identity++
		switch as := pick(d.r, inOrder, inOrder, inOrder, reversed, partial, overlap, tiny); {
		case as == tiny && st.protocol == policy.ProtocolTCP:
			st.split(tiny, d.identity, 16)
		case as == tiny:
			st.split(inOrder, d.identity, 48)
		default:
			st.split(as, d.identity, 24, 40)
		}
	}
}

// disturb puts ICMP messages about what was sent in between.
func (d *draw) disturb(s *session) {
	steps := s.steps
	s.steps = nil
	for _, st := range steps {
		s.steps = append(s.steps, st)
		if !chance(d.r, 8) {
			continue
		}
		about := pick(d.r, s.steps...)
		switch {
		case about.message.kind != noMessage && about.message.kind != echoRequest: // nobody answers those
		case chance(d.r, 10):
			s.turn(about)
		default:
			what := packet.Error(d.r.IntN(int(packet.ParameterProblem) + 1))
			s.fail(about, what, pick(d.r, straight, straight, straight, byRouter, byRouter, otherPort, otherAddress, turned, cutShort))
		}
	}
}
