package reference_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/pkg/reference"
)

const (
	in  = policy.Inbound
	out = policy.Outbound
)

// now is the moment every test's policy is judged at.
var now = time.Date(2026, 11, 20, 9, 15, 0, 0, time.UTC)

// prefixes reads prefixes and plain addresses, which are full-length prefixes.
func prefixes(words ...string) []netip.Prefix {
	var list []netip.Prefix
	for _, word := range words {
		if addr, err := netip.ParseAddr(word); err == nil {
			list = append(list, netip.PrefixFrom(addr, addr.BitLen()))
			continue
		}
		list = append(list, netip.MustParsePrefix(word))
	}
	return list
}

func tcp(first, last uint16) policy.Ports {
	return policy.Ports{Protocol: policy.ProtocolTCP, First: first, Last: last}
}

func udp(first, last uint16) policy.Ports {
	return policy.Ports{Protocol: policy.ProtocolUDP, First: first, Last: last}
}

func whole(protocol uint8) policy.Ports {
	return policy.Ports{Protocol: protocol, First: 0, Last: 65535}
}

// rule is a rule for address prefixes and every port.
func rule(name string, direction policy.Direction, words ...string) policy.AccessRule {
	return policy.AccessRule{Name: name, Direction: direction, AddressPrefixes: prefixes(words...)}
}

// limited is the rule, limited to ports.
func limited(r policy.AccessRule, ports ...policy.Ports) policy.AccessRule {
	r.Ports = ports
	return r
}

// until is the rule, with an end.
func until(r policy.AccessRule, expires time.Time) policy.AccessRule {
	r.Expires = expires
	return r
}

// host is a resource with all traffic of its addresses.
func host(name string, words ...string) policy.Resource {
	return policy.Resource{Name: name, Addresses: prefixes(words...)}
}

// service is a resource with only the named services of its addresses.
func service(name string, services []policy.Ports, words ...string) policy.Resource {
	return policy.Resource{Name: name, Addresses: prefixes(words...), Services: services}
}

// associate is an association of a resource with a profile.
func associate(resource, profile string, mode policy.AccessMode) policy.Association {
	return policy.Association{Name: resource, Resource: resource, Profile: profile, AccessMode: mode}
}

// single is a perimeter with one profile "p" of these rules and one member.
func single(member string, mode policy.AccessMode, rules ...policy.AccessRule) policy.Perimeter {
	return policy.Perimeter{
		Name:         "perimeter",
		Profiles:     []policy.Profile{{Name: "p", AccessRules: rules}},
		Associations: []policy.Association{associate(member, "p", mode)},
	}
}

// evaluator is one for the policy, now, without other facts.
func evaluator(p *policy.Policy) *reference.Evaluator {
	return reference.New(p, policy.Facts{Now: now})
}

// tcpPacket is the opening packet of a connection: towards local when inbound.
func tcpPacket(direction policy.Direction, local string, localPort uint16, peer string, peerPort uint16) reference.Packet {
	return reference.Packet{
		Towards:   direction == in,
		Interface: "eth0",
		Local:     netip.MustParseAddr(local),
		Peer:      netip.MustParseAddr(peer),
		Protocol:  policy.ProtocolTCP,
		LocalPort: localPort,
		PeerPort:  peerPort,
		TCPFlags:  reference.SYN,
	}
}

func udpPacket(direction policy.Direction, local string, localPort uint16, peer string, peerPort uint16) reference.Packet {
	pkt := tcpPacket(direction, local, localPort, peer, peerPort)
	pkt.Protocol, pkt.TCPFlags = policy.ProtocolUDP, 0
	return pkt
}

// bare is a packet of a protocol without ports.
func bare(direction policy.Direction, protocol uint8, local, peer string) reference.Packet {
	pkt := tcpPacket(direction, local, 0, peer, 0)
	pkt.Protocol, pkt.TCPFlags = protocol, 0
	return pkt
}

// flags is the packet with other TCP flags.
func flags(pkt reference.Packet, flags uint8) reference.Packet {
	pkt.TCPFlags = flags
	return pkt
}

// numbered is the segment with these numbers.
func numbered(pkt reference.Packet, sequence, acknowledgement uint32) reference.Packet {
	pkt.Sequence, pkt.Acknowledgement = sequence, acknowledgement
	return pkt
}

// back is the packet the other way, of the same flow. A connection's answer
// has ACK set.
func back(pkt reference.Packet) reference.Packet {
	pkt.Towards = !pkt.Towards
	pkt.TCPFlags |= reference.ACK
	return pkt
}

// row is one packet and what is expected of it.
type row struct {
	name    string
	pkt     reference.Packet
	verdict policy.Verdict
	reason  policy.Reason
	by      string // resource
	rule    string
}

// judge checks that each row's packet, as the first of a flow, gets what the
// row says.
func judge(t *testing.T, e *reference.Evaluator, rows []row) {
	t.Helper()
	for _, r := range rows {
		d := e.Judge(r.pkt.Direction(), r.pkt)
		if d.Verdict != r.verdict || d.Reason != r.reason || d.Resource != r.by || d.Rule != r.rule {
			t.Errorf("%s: got %v %s of %q by %q, want %v %s of %q by %q", r.name,
				d.Verdict, d.Reason, d.Resource, d.Rule, r.verdict, r.reason, r.by, r.rule)
		}
		checkShape(t, r.name, d)
	}
}

// checkShape checks what holds of every decision of Judge.
func checkShape(t *testing.T, name string, d reference.Decision) {
	t.Helper()
	if d.Governed != (d.Resource != "") || d.Governed == (d.Reason == reference.ReasonUngoverned) {
		t.Errorf("%s: governed %v, resource %q, reason %s", name, d.Governed, d.Resource, d.Reason)
	}
	if d.Governed && d.Category != policy.CategoryOf(d.Reason, d.Direction) {
		t.Errorf("%s: category %q for %s %v", name, d.Category, d.Reason, d.Direction)
	}
	if associated := d.AccessMode != policy.Unassociated; associated != (d.Perimeter != "") || associated != (d.Profile != "") {
		t.Errorf("%s: mode %v in perimeter %q profile %q", name, d.AccessMode, d.Perimeter, d.Profile)
	}
	if d.WouldBe != d.Verdict && d.AccessMode != policy.Audit {
		t.Errorf("%s: would be %v, is %v in %v", name, d.WouldBe, d.Verdict, d.AccessMode)
	}
}
