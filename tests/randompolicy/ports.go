package randompolicy

import (
	"math/rand/v2"
	"slices"

	"github.com/perimeterd/perimeterd/pkg/policy"
)

// portItems returns what services and rules are limited to, in random order.
// They repeat, nest and touch.
func portItems(r *rand.Rand) []policy.Ports {
	items := []policy.Ports{
		{Protocol: policy.ProtocolTCP, First: 22, Last: 22},
		{Protocol: policy.ProtocolTCP, First: 443, Last: 443},
		{Protocol: policy.ProtocolTCP, First: 5432, Last: 5432},
		{Protocol: policy.ProtocolTCP, First: 5430, Last: 5431},
		{Protocol: policy.ProtocolTCP, First: 5430, Last: 5440},
		{Protocol: policy.ProtocolTCP, First: 1, Last: 65535},
		{Protocol: policy.ProtocolTCP, First: 65535, Last: 65535},
		{Protocol: policy.ProtocolTCP, First: 0, Last: 65535},
		{Protocol: policy.ProtocolUDP, First: 53, Last: 53},
		{Protocol: policy.ProtocolUDP, First: 1000, Last: 2000},
		{Protocol: policy.ProtocolUDP, First: 5432, Last: 5432},
		{Protocol: policy.ProtocolUDP, First: 0, Last: 65535},
		{Protocol: policy.ProtocolSCTP, First: 5430, Last: 5440},
		{Protocol: policy.ProtocolDCCP, First: 0, Last: 65535},
		{Protocol: policy.ProtocolUDPLite, First: 53, Last: 53},
		{Protocol: policy.ProtocolICMP, First: 0, Last: 65535},
		{Protocol: policy.ProtocolGRE, First: 0, Last: 65535},
		{Protocol: policy.ProtocolESP, First: 0, Last: 65535},
	}
	r.Shuffle(len(items), func(i, j int) { items[i], items[j] = items[j], items[i] })
	return items
}

// randomPorts draws no limit at all, or one to three different items.
func randomPorts(r *rand.Rand) []policy.Ports {
	if chance(r, 35) {
		return nil
	}
	return portItems(r)[:1+r.IntN(3)]
}

// randomServices draws one to three items of which none overlaps another.
func randomServices(r *rand.Rand) []policy.Ports {
	var list []policy.Ports
	for _, item := range portItems(r)[:1+r.IntN(3)] {
		if !overlap(list, []policy.Ports{item}) {
			list = append(list, item)
		}
	}
	return list
}

// overlap reports whether two lists of services share a protocol and port.
func overlap(a, b []policy.Ports) bool {
	for _, x := range a {
		for _, y := range b {
			if x.Protocol == y.Protocol && x.First <= y.Last && y.First <= x.Last {
				return true
			}
		}
	}
	return false
}

// drawnPorts is what a packet has behind its addresses.
type drawnPorts struct {
	protocol    uint8
	local, peer uint16
}

// drawPorts draws a protocol and both ports around an item. The port that
// inbound rules and services are about is the local one, the one of outbound
// rules the peer's.
func drawPorts(r *rand.Rand, item policy.Ports, towards bool) drawnPorts {
	drawn := drawnPorts{protocol: item.Protocol, local: portNear(r, item), peer: portNear(r, item)}
	if chance(r, 80) {
		// The other end's port means nothing.
		ephemeral := uint16(32768 + r.IntN(4))
		if towards {
			drawn.peer = ephemeral
		} else {
			drawn.local = ephemeral
		}
	}
	if chance(r, 5) {
		// A protocol the policy has no word for, or another with the same port.
		drawn.protocol = pick(r, []uint8{policy.ProtocolUDP, policy.ProtocolTCP, policy.ProtocolSCTP, 253})
	}
	return drawn
}

// writtenPorts returns every item the policy and the failsafe list limit
// anything to, and one they may not.
func writtenPorts(p *policy.Policy, facts policy.Facts) []policy.Ports {
	list := []policy.Ports{{Protocol: policy.ProtocolTCP, First: 80, Last: 80}}
	for _, resource := range p.Resources {
		list = append(list, resource.Services...)
	}
	for _, rule := range slices.Concat(allRules(p), facts.Failsafe) {
		list = append(list, rule.Ports...)
	}
	return list
}

// portNear draws the ends of the range, their neighbours, and now and then any
// port of it. The ports of DHCP are left to the data path.
func portNear(r *rand.Rand, item policy.Ports) uint16 {
	for {
		var port int
		switch r.IntN(12) {
		case 0:
			port = int(item.First) - 1
		case 1:
			port = int(item.Last) + 1
		case 2, 3, 4, 5:
			port = int(item.First)
		case 6, 7, 8, 9:
			port = int(item.Last)
		default:
			port = int(item.First) + r.IntN(int(item.Last)-int(item.First)+1)
		}
		switch port {
		case -1, 65536, 67, 68, 546, 547:
			continue
		}
		return uint16(port)
	}
}
