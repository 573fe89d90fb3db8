package secondopinion_test

import (
	"fmt"
	"math"
	"net/netip"

	"github.com/perimeterd/perimeterd/pkg/policy"
)

// cast is who the peer of a hand-written session is.
type cast int

const (
	client   cast = iota // may open to the member's services
	server               // the member may open to its services
	pinger               // a client that may also send ICMP
	equal                // may open anything, and so may the member
	stranger             // may nothing
)

func (c cast) prefixes() []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix(fmt.Sprintf("172.%d.0.0/16", 16+c)),
		netip.MustParsePrefix(fmt.Sprintf("2001:db8:%d::/64", 16+c)),
	}
}

// services are the ports that the stage's rules name.
func services() []policy.Ports {
	var all []policy.Ports
	for _, p := range []struct {
		protocol uint8
		port     uint16
	}{
		{policy.ProtocolTCP, 443}, {policy.ProtocolUDP, 53}, {policy.ProtocolUDPLite, 53},
		{policy.ProtocolSCTP, 3868}, {policy.ProtocolDCCP, 5004},
	} {
		all = append(all, policy.Ports{Protocol: p.protocol, First: p.port, Last: p.port})
	}
	return append(all, policy.Ports{Protocol: policy.ProtocolESP, Last: math.MaxUint16})
}

// stagePolicy has one member, and a rule for each of the cast.
func stagePolicy() *policy.Policy {
	rule := func(name string, direction policy.Direction, ports []policy.Ports, from cast) policy.AccessRule {
		return policy.AccessRule{Name: name, Direction: direction, Ports: ports, AddressPrefixes: from.prefixes()}
	}
	icmp := policy.Ports{Protocol: policy.ProtocolICMP, Last: math.MaxUint16}
	return enforced(memberPrefixes()[:1], [][]policy.AccessRule{{
		rule("clients", policy.Inbound, services(), client),
		rule("servers", policy.Outbound, services(), server),
		rule("pingers", policy.Inbound, append(services(), icmp), pinger),
		rule("equals-in", policy.Inbound, nil, equal),
		rule("equals-out", policy.Outbound, nil, equal),
	}})
}

// stage gives hand-written sessions their ends: each its own peer.
type stage struct {
	policy *policy.Policy
	family int  // index of a prefix
	noDCCP bool // conntrack tracks it, so that it is not compared
	serial int
}

// session is one with a service of the member, or of the peer if that is a
// server. The other port is high.
func (g *stage) session(protocol uint8, with cast) *session {
	g.serial++
	const high = 40000
	e := ends{protocol: protocol, member: memberPrefixes()[0][g.family].Addr()}
	e.peer = with.prefixes()[g.family].Addr()
	for range g.serial {
		e.peer = e.peer.Next()
	}
	if protocol == policy.ProtocolICMP {
		e.memberPort = 77
		if e.peer.Is6() {
			e.protocol = policy.ProtocolICMPv6
		}
	}
	for _, service := range services() {
		if service.Protocol == protocol && policy.HasPorts(protocol) {
			e.peerPort, e.memberPort = high, service.First
			if with == server {
				e.peerPort, e.memberPort = service.First, high
			}
		}
	}
	s := &session{policy: g.policy, ends: e, next: isn}
	s.allowed = [2]bool{peer: allows(g.policy, &e, peer), member: allows(g.policy, &e, member)}
	return s
}

// tcp is a session of TCP whose connection the opener has opened, if the policy
// lets it.
func (g *stage) tcp(with cast, opener side) *session {
	s := g.session(policy.ProtocolTCP, with)
	s.send(opener, syn, 0)
	s.send(opener.other(), synAck, 0)
	s.send(opener, ack, 0)
	return s
}
