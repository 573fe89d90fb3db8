package datapath

import (
	"net/netip"
	"slices"

	"github.com/perimeterd/perimeterd/tests/packet"
)

// ends are those of testdata/everything.yaml that conversations are between, of
// one family.
type ends struct {
	member  string // Enforced, with rules
	partner string // that one of them admits to port 5432
	backup  string // that one of them lets it ask
	// stranger is admitted by none, tunnel is a private path, router is of nobody.
	stranger, tunnel, router string
	api, seen, learning      string // members with services, in Audit and in Learning
	group                    string // multicast
}

func bothEnds() []ends {
	return []ends{{
		member4, partner4, "192.0.2.53", stranger4, "172.16.0.1", "192.0.2.254",
		"10.20.0.6", "10.20.0.10", "10.20.0.7", "224.0.0.251",
	}, {
		member6, partner6, "2001:db8:aa::53", stranger6, "fd77::1", "fe80::1",
		"fd20::6", "fd20::a", "fd20::7", "ff02::fb",
	}}
}

func comingIn(packets ...packet.Packet) []crossing { return crossingsOf(true, packets) }
func goingOut(packets ...packet.Packet) []crossing { return crossingsOf(false, packets) }

func crossingsOf(towards bool, packets []packet.Packet) []crossing {
	var out []crossing
	for _, p := range packets {
		out = append(out, crossing{frame: p.Frame(), towards: towards})
	}
	return out
}

// conversations are sequences for the fuzzer to begin with: what hosts say to
// each other, next to what only looks like it.
func conversations() [][]crossing {
	all := strangeFrames()
	for _, e := range bothEnds() {
		all = slices.Concat(all, e.connections(), e.resets(), e.datagrams(), e.fragments(), e.errors(), [][]crossing{e.everyMember()})
	}
	return all
}

const (
	flagSYN, flagACK, flagFIN, flagRST, flagPSH = packet.SYN, packet.ACK, packet.FIN, packet.RST, packet.PSH
)

// asks and answers are TCP segments between partner and member, on one pair of
// ports.
func (e ends) asks(flags packet.Flags, sequence, acknowledgement uint32) packet.Packet {
	return packet.TCP(e.partner, e.member, 4000, 5432, flags).Sequence(sequence, acknowledgement)
}

func (e ends) answers(flags packet.Flags, sequence, acknowledgement uint32) packet.Packet {
	return packet.TCP(e.member, e.partner, 5432, 4000, flags).Sequence(sequence, acknowledgement)
}

// inTurn is a conversation that the peer begins, in which each answers the other.
func inTurn(packets ...packet.Packet) []crossing {
	out := crossingsOf(true, packets)
	for i := range out {
		out[i].towards = i%2 == 0
	}
	return out
}

func (e ends) connections() [][]crossing {
	in, out := comingIn, goingOut
	const SYN, ACK, FIN, RST = flagSYN, flagACK, flagFIN, flagRST
	return [][]crossing{
		inTurn( // from SYN to the last ACK, and another on its ports
			e.asks(SYN, 100, 0), e.answers(SYN|ACK, 500, 101), e.asks(ACK, 101, 501).Payload("select"), e.answers(ACK, 501, 107).Payload("rows"),
			e.asks(FIN|ACK, 107, 505), e.answers(ACK, 505, 108), e.asks(ACK, 108, 505), e.answers(FIN|ACK, 505, 108),
			e.asks(ACK, 108, 506), e.answers(ACK, 506, 108), e.asks(SYN, 9000, 0), e.answers(SYN|ACK, 7000, 9001),
		),
		inTurn(e.asks(SYN, 100, 0), e.answers(SYN, 500, 0), e.asks(SYN|ACK, 100, 501), e.answers(SYN|ACK, 500, 101)), // both open
		inTurn( // the member opens what it may not, on a standing connection
			e.asks(SYN, 100, 0), e.answers(SYN|ACK, 500, 101), e.asks(ACK, 101, 501), e.answers(ACK, 501, 101), e.asks(ACK, 101, 501), e.answers(SYN, 900, 0),
		),
		slices.Concat(out(e.answers(ACK, 501, 101)), in(e.asks(ACK, 101, 501), e.asks(RST, 101, 0))), // in mid-stream
		inTurn(e.asks(FIN|ACK, 1, 1), e.answers(FIN|ACK, 1, 2), e.asks(SYN, 1, 0)),
		slices.Concat(in(packet.TCP(e.stranger, e.member, 5432, 4000, ACK)), out(packet.TCP(e.member, e.stranger, 80, 4000, ACK))),
		slices.Concat(out(packet.TCP(e.member, e.backup, 4000, 443, SYN)), in(packet.TCP(e.backup, e.member, 443, 4000, SYN|ACK), packet.TCP(e.backup, e.member, 443, 4001, SYN|ACK))),
		inTurn(packet.TCP(e.stranger, e.seen, 4000, 80, SYN), packet.TCP(e.seen, e.stranger, 80, 4000, SYN|ACK), packet.TCP(e.stranger, e.seen, 4000, 80, SYN|FIN)),
	}
}

// resets are some that their receiver takes for one, and some at the edges of
// its window that it does not. A SYN on the same ports tells.
func (e ends) resets() [][]crossing {
	const SYN, ACK, RST = flagSYN, flagACK, flagRST
	all := [][]crossing{
		inTurn(e.asks(SYN, 100, 0), e.answers(RST|ACK, 0, 101), e.asks(SYN, 200, 0)),
		inTurn(e.asks(SYN, 100, 0), e.answers(RST|ACK, 0, 102), e.asks(SYN, 200, 0)),
		inTurn(e.asks(RST|ACK, 1, 1), e.answers(RST|ACK, 1, 1), e.asks(SYN, 1, 0)),
	}
	for _, sequence := range []uint32{100, 101, 101 + 1<<16, 102 + 1<<16, 1 << 31} {
		standing := inTurn(e.asks(SYN, 100, 0), e.answers(SYN|ACK, 500, 101), e.asks(ACK, 101, 501), e.answers(ACK, 501, 101))
		all = append(all, slices.Concat(standing, comingIn(e.asks(RST, sequence, 0), e.asks(SYN, 900, 0))))
	}
	return all
}

func (e ends) datagrams() [][]crossing {
	in, out := comingIn, goingOut
	return [][]crossing{
		slices.Concat(out(packet.UDP(e.member, e.backup, 9999, 53)), in(packet.UDP(e.backup, e.member, 53, 9999), packet.UDP(e.backup, e.member, 53, 9998))),
		slices.Concat(out(packet.ICMPEcho(e.member, e.backup, 7, 1)), in(
			packet.ICMPEchoReply(e.backup, e.member, 7, 1), packet.ICMPEchoReply(e.backup, e.member, 8, 1), packet.ICMPEcho(e.backup, e.member, 7, 1))),
		slices.Concat(in(packet.GRE(e.backup, e.member), packet.ESP(e.backup, e.member, 1)), out(packet.GRE(e.member, e.backup), packet.Protocol(e.member, e.backup, 51))),
		slices.Concat(in(packet.UDP(e.partner, e.api, 4000, 9999)), out(packet.UDP(e.api, e.partner, 9999, 4000), packet.TCP(e.api, e.partner, 9999, 80, flagSYN))),
		slices.Concat(in(packet.UDP(e.tunnel, e.member, 1, 2)), out(packet.UDP(e.member, e.tunnel, 2, 1), packet.UDP(e.member, e.tunnel, 2, 3))),
		slices.Concat(in(packet.UDP(e.partner, e.group, 5353, 5353), packet.UDP(e.partner, e.group, 5353, 5432)), out(packet.UDP(e.member, e.group, 5353, 5353), packet.UDP(e.group, e.member, 1, 2))),
		inTurn(packet.SCTP(e.partner, e.member, 1, 5432), packet.SCTP(e.member, e.partner, 5432, 1)),
		in(packet.DCCP(e.partner, e.member, 1, 5432), packet.UDPLite(e.partner, e.member, 1, 5432), packet.UDPLite(e.partner, e.member, 1, 5433)),
		in(packet.UDP(e.router, e.member, 67, 68), packet.UDP(e.router, e.member, 547, 546), packet.UDP(e.router, e.member, 68, 67)),
	}
}

func (e ends) fragments() [][]crossing {
	in, out := comingIn, goingOut
	pieces := packet.UDP(e.partner, e.member, 4000, 5432).Payload("first part, second part and the third and last one").Split(7, 24, 40)
	segments := packet.TCP(e.partner, e.member, 4000, 5432, flagSYN).Payload("behind the header").Split(9, 32)
	denied := packet.UDP(e.partner, e.member, 4000, 5433).Payload("first part, second part").Split(8, 16)
	unlisted := packet.UDP(e.partner, e.api, 4000, 9999).Payload("first part, second part").Split(10, 16)
	refused := packet.UDP(addressBeside(e.backup, 200), e.learning, 4000, 9999).Payload("first part, second part").Split(11, 16)
	later := packet.Protocol(e.partner, e.member, 6).Payload("12345678")
	return [][]crossing{
		in(pieces...),
		in(pieces[1], pieces[0], pieces[2]),
		slices.Concat(in(pieces[0]), out(pieces[1:]...)),
		in(pieces[0].Tagged(5), pieces[2].ServiceTagged(5).Tagged(0)),
		in(denied...), in(unlisted...), in(refused...),
		in(segments[0], later.Fragment(16, true, 9), later.Fragment(24, true, 9), segments[1]),
		in(packet.TCP(e.partner, e.member, 4000, 5432, flagSYN).Payload("behind").Split(9, 8)...),
		in(pieces[0], later.Fragment(24, false, 7), packet.Protocol(e.stranger, e.member, 17).Payload("12345678").Fragment(24, false, 7)),
	}
}

// errors are ICMP messages about packets of a flow, or not quite.
func (e ends) errors() [][]crossing {
	query := packet.UDP(e.member, e.backup, 9999, 53).Payload("query")
	answer := packet.UDP(e.backup, e.member, 53, 9999)
	asked := goingOut(query)
	types, totalLength := []uint8{3, 4, 5, 9, 11, 12, 13}, uint16(28)
	if netip.MustParseAddr(e.member).Is6() {
		types, totalLength = []uint8{1, 2, 3, 4, 5, 130, 132, 133, 137, 138, 143}, 8
	}
	quoting := func(from, to string, about packet.Packet) packet.Packet {
		return packet.ICMP(from, to, types[0], 0).Payload(string(about.Datagram()))
	}
	none := types[len(types)-1] // neither an error nor echo
	inPadding := packet.ICMPError(e.router, packet.PortUnreachable, query).With(packet.TotalLength, totalLength)

	all := [][]crossing{
		slices.Concat(asked, comingIn(
			packet.ICMPError(e.router, packet.PacketTooBig, query),
			packet.ICMPError(e.router, packet.PortUnreachable, packet.UDP(e.member, e.backup, 9998, 53)),
			packet.ICMPError(e.router, packet.TimeExceeded, query.CutSegment(8)),
			packet.ICMPError(e.router, packet.TimeExceeded, query.CutSegment(7)),
			packet.ICMPError(e.router, packet.TimeExceeded, query.Fragment(0, true, 1)),
			packet.ICMPError(e.router, packet.TimeExceeded, query.Fragment(8, true, 1)),
			inPadding,
			quoting(e.router, e.api, query), // not to the sender
		)),
		slices.Concat(asked, goingOut(
			packet.ICMPError(e.member, packet.PortUnreachable, answer),
			quoting(e.api, e.backup, answer), // the member is who does not know the port
			quoting(e.member, e.stranger, answer),
		)),
		inTurn( // by the rule for ICMP, which knows flows by type and code
			packet.ICMP(e.backup, e.member, none, 0), packet.ICMP(e.member, e.backup, none, 0), packet.ICMP(e.backup, e.member, none, 0),
			packet.ICMP(e.member, e.backup, none, 1), packet.ICMP(e.backup, e.member, none, 1), packet.ICMP(e.member, e.backup, none, 0),
		),
	}
	for _, icmpType := range types {
		about := packet.ICMP(e.router, e.member, icmpType, 0).Payload(string(query.Datagram()))
		all = append(all, slices.Concat(asked, comingIn(about, about.With(packet.HopLimit, 255), about.With(packet.HopLimit, 1))))
	}
	return all
}

// everyMember has a stranger and a neighbour at every kind of member.
func (e ends) everyMember() []crossing {
	var all []crossing
	for last := byte(5); last <= 17; last++ {
		member := addressBeside(e.member, last)
		all = slices.Concat(all, comingIn(packet.TCP(e.stranger, member, 4000, 5432, flagSYN)), goingOut(packet.UDP(member, e.api, 4000, 443)))
	}
	return all
}

// strangeFrames are those of one family only.
func strangeFrames() [][]crossing {
	udp6 := packet.UDP(partner6, member6, 4000, 5432)
	sourceRouted := udp6.Extensions(packet.Routing).Frame()
	sourceRouted[14+40+3] = 1 // segments left
	return [][]crossing{
		slices.Concat(comingIn(packet.UDP("0.0.0.0", "255.255.255.255", 68, 67), packet.UDP(partner4, "10.20.0.255", 1, 5432)), goingOut(packet.UDP("10.20.0.255", partner4, 1, 5432))),
		comingIn(packet.Protocol(partner4, member4, 2).With(packet.HopLimit, 1), packet.Protocol(partner4, member4, 2)),
		comingIn(packet.Protocol(partner4, member4, 58).Payload("\x87\x00000000"), packet.Protocol(partner6, member6, 1).Payload("\x08\x00000000")),
		comingIn(packet.UDP(partner4, member4, 4000, 5432).Options(7, 7, 4, 0, 0, 0, 0), packet.UDP(partner4, member4, 4000, 5432).Options(131, 7, 4, 0, 0, 0, 0)),
		{{frame: sourceRouted, towards: true}, {frame: sourceRouted}},
		comingIn(udp6.Extensions(packet.DestinationOptions, packet.HopByHop)),
		comingIn(packet.UDP("10.20.0.6", member4, 1, 2), packet.UDP("fd20::6", member6, 1, 2).Fragment(0, true, 7), packet.UDP("fd20::6", "2001:db8::99", 1, 2)),
		comingIn(udp6.Extensions(packet.HopByHop, packet.DestinationOptions, packet.Routing, packet.Authentication, packet.Mobility)),
		comingIn(udp6.Extensions(packet.HopByHop).With(packet.TotalLength, 0), udp6.With(packet.TotalLength, 0)),
		comingIn(udp6.LongExtension(packet.DestinationOptions, 456), udp6.LongExtension(packet.DestinationOptions, 464)),
		comingIn(udp6.Fragment(0, true, 7).Extensions(packet.DestinationOptions).CutSegment(0).With(packet.TotalLength, 12).Cut(52)),
		comingIn(udp6.Fragment(0, true, 7).Fragment(0, true, 8), udp6.Fragment(8, true, 8), udp6.Fragment(0, true, 7).Fragment(8, true, 8), udp6.Fragment(8, true, 7)),
	}
}

// addressBeside is the address with another last byte.
func addressBeside(text string, last byte) string {
	bytes := netip.MustParseAddr(text).AsSlice()
	bytes[len(bytes)-1] = last
	addr, _ := netip.AddrFromSlice(bytes)
	return addr.String()
}
