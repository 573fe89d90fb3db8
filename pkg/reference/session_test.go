package reference_test

import (
	"net/netip"
	"testing"

	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/pkg/reference"
	"github.com/perimeterd/perimeterd/tests/packet"
)

// crossing is one frame of a sequence and what becomes of it.
type crossing struct {
	towards bool
	packet  packet.Packet
	verdict policy.Verdict
	reason  policy.Reason
}

func inward(p packet.Packet, verdict policy.Verdict, reason policy.Reason) crossing {
	return crossing{true, p, verdict, reason}
}

func outward(p packet.Packet, verdict policy.Verdict, reason policy.Reason) crossing {
	return crossing{false, p, verdict, reason}
}

func cross(t *testing.T, s *reference.Session, crossings []crossing) {
	t.Helper()
	for i, c := range crossings {
		d := s.Decide(c.packet.Frame(), c.towards, "eth0")
		if d.Verdict != c.verdict || d.Reason != c.reason {
			t.Errorf("frame %d, %s: got %v for %s, want %v for %s", i, c.packet, d.Verdict, d.Reason, c.verdict, c.reason)
		}
	}
}

// bothFamilies runs a test with the peer's address and the member's, which is
// Enforced and admits the peer to port 53.
func bothFamilies(t *testing.T, f func(t *testing.T, s *reference.Session, peer, local string)) {
	p := &policy.Policy{
		Resources:  []policy.Resource{host("db", local4, local6)},
		Perimeters: []policy.Perimeter{single("db", policy.Enforced, limited(rule("dns", in, "198.51.100.0/24", "2001:db8::/32"), udp(53, 53), tcp(53, 53)))},
	}
	t.Run("IPv4", func(t *testing.T) { f(t, reference.NewSession(evaluator(p)), peer4, local4) })
	t.Run("IPv6", func(t *testing.T) { f(t, reference.NewSession(evaluator(p)), peer6, local6) })
}

const (
	follows    = reference.ReasonFragmentFollows
	restDenied = reference.ReasonFragmentDenied
	unknown    = reference.ReasonFragmentUnknown
	overlap    = reference.ReasonFragmentOverlap
)

// TestFragmentsFollowTheirFirst: by source, destination, identification and, in
// IPv4, protocol; per way; and not before the first was seen.
func TestFragmentsFollowTheirFirst(t *testing.T) {
	bothFamilies(t, func(t *testing.T, s *reference.Session, peer, local string) {
		pieces := packet.UDP(peer, local, 4000, 53).Payload("first part, second part and a third").Split(7, 16, 32)
		wrong := packet.UDP(peer, local, 4000, 54).Payload("first part, second part").Split(8, 16)
		later := func(source string, protocol uint8, offset int, id uint32) packet.Packet {
			return packet.Protocol(source, local, protocol).Payload("12345678").Fragment(offset, true, id)
		}
		verdict, reason := denied, unknown
		if local == local6 { // whose receivers do not compare it
			verdict, reason = allowed, follows
		}
		cross(t, s, []crossing{
			inward(pieces[2], denied, unknown),
			inward(pieces[0], allowed, byRule),
			inward(pieces[2], allowed, follows),
			inward(pieces[1], allowed, follows),
			inward(later(peer, 17, 8, 7), allowed, follows),
			inward(later(peer, 6, 16, 7), verdict, reason),
			inward(later(peer, 17, 16, 9), denied, unknown),
			outward(packet.Protocol(local, peer, 17).Payload("12345678").Fragment(16, false, 7), denied, unknown),
			inward(later(nobodyOf(local), 17, 16, 7), denied, unknown),
			inward(wrong[0], denied, noRule),
			inward(wrong[1], denied, restDenied),
			inward(packet.UDP(peer, local, 4000, 54).Payload("12345678").Fragment(0, true, 7), denied, noRule), // in the place of what was allowed
			inward(pieces[1], denied, restDenied),
		})
	})
}

func nobodyOf(local string) string {
	if local == local6 {
		return "2001:db8:bad::7"
	}
	return "203.0.113.99"
}

// TestFragmentsGiveNoHeaderAnew: what the first was judged by is not said again.
func TestFragmentsGiveNoHeaderAnew(t *testing.T) {
	bothFamilies(t, func(t *testing.T, s *reference.Session, peer, local string) {
		syn := packet.TCP(peer, local, 4000, 53, packet.SYN).Payload("12345678")
		later := packet.Protocol(peer, local, 6).Payload("12345678")
		cross(t, s, []crossing{
			inward(syn.Fragment(0, true, 7), allowed, byRule),
			inward(later.Fragment(8, true, 7), denied, overlap),
			inward(later.Fragment(16, true, 7), denied, overlap),
			inward(later.Fragment(24, true, 7), allowed, follows),
		})
	})
}

// TestFragmentsOfNobodyAreForgotten: what is of no member leaves nothing behind.
func TestFragmentsOfNobodyAreForgotten(t *testing.T) {
	bothFamilies(t, func(t *testing.T, s *reference.Session, peer, local string) {
		pieces := packet.UDP(peer, nobodyOf(local), 4000, 53).Payload("first part, second part").Split(7, 16)
		cross(t, s, []crossing{
			inward(pieces[0], allowed, reference.ReasonUngoverned),
			inward(pieces[1], allowed, unknown),
		})
	})
}

// TestRestOfADeniedPacketIsDenied also where a packet that cannot be judged
// would pass, but never in Audit.
func TestRestOfADeniedPacketIsDenied(t *testing.T) {
	own := host("db", local4)
	own.Firewall = []policy.AccessRule{rule("office", in, "203.0.113.0/24")}
	learning := &policy.Policy{Resources: []policy.Resource{own}, Perimeters: []policy.Perimeter{single("db", policy.Learning)}}
	audit := &policy.Policy{Resources: []policy.Resource{own}, Perimeters: []policy.Perimeter{single("db", policy.Audit)}}
	pieces := packet.UDP(peer4, local4, 4000, 53).Payload("first part, second part").Split(7, 16)

	s := reference.NewSession(evaluator(learning))
	cross(t, s, []crossing{
		inward(pieces[0], denied, policy.ReasonNoFirewallRule),
		inward(pieces[1], denied, restDenied),
		inward(pieces[1].Fragment(16, false, 8), allowed, unknown),
	})
	s.Replace(evaluator(audit))
	cross(t, s, []crossing{
		inward(pieces[1], allowed, restDenied),
		inward(pieces[0], allowed, noRule),
		inward(pieces[1], allowed, follows),
	})
}

// TestLinkFailsafe has next to what the link needs what only resembles it.
func TestLinkFailsafe(t *testing.T) {
	const needed = reference.ReasonLinkFailsafe
	const router, group = "fe80::1", "ff02::1"
	bothFamilies(t, func(t *testing.T, s *reference.Session, peer, local string) {
		if local == local4 {
			cross(t, s, []crossing{
				inward(packet.UDP(peer, local, 67, 68), allowed, needed),
				inward(packet.UDP(peer, local, 68, 67), denied, noRule),
				outward(packet.UDP(local, peer, 68, 67), allowed, needed),
				inward(packet.UDP(peer, local, 547, 546), denied, noRule),
				inward(packet.UDP(peer, local, 67, 68).Fragment(0, true, 1), denied, noRule),
				inward(packet.Protocol(peer, local, 2).With(packet.HopLimit, 1), allowed, needed),
				inward(packet.Protocol(peer, local, 2), denied, noRule),
				inward(packet.Protocol(peer, local, 58).Payload("\x87\x00123456").With(packet.HopLimit, 255), denied, noRule),
			})
			return
		}
		var crossings []crossing
		for icmpType, hops := range map[uint8]uint16{133: 255, 134: 255, 135: 255, 136: 255, 137: 255, 130: 1, 131: 1, 132: 1, 143: 1} {
			p := packet.ICMP(router, local, icmpType, 0)
			crossings = append(crossings, inward(p.With(packet.HopLimit, hops), allowed, needed), inward(p.With(packet.HopLimit, hops^2), denied, noRule))
		}
		cross(t, s, append(crossings,
			inward(packet.ICMP(router, local, 138, 0).With(packet.HopLimit, 255), denied, noRule),
			inward(packet.UDP(peer, local, 547, 546), allowed, needed),
			outward(packet.UDP(local, group, 546, 547), allowed, needed),
			inward(packet.UDP(peer, local, 67, 68), denied, noRule),
		))
	})
}

// TestFlowsOfASession: what the tracker remembers can be looked at.
func TestFlowsOfASession(t *testing.T) {
	bothFamilies(t, func(t *testing.T, s *reference.Session, peer, local string) {
		cross(t, s, []crossing{
			inward(packet.UDP(peer, local, 4000, 53), allowed, byRule),
			outward(packet.UDP(local, peer, 53, 4000), allowed, established),
			inward(packet.UDP(peer, local, 4000, 54), denied, noRule),
			inward(packet.ARP(peer4, local4), allowed, reference.ReasonNotIP),
		})
		var flows []reference.Flow
		s.Flows(func(f reference.Flow) bool { flows = append(flows, f); return true })
		if len(flows) != 1 {
			t.Fatalf("%d flows, want 1: %+v", len(flows), flows)
		}
		f := flows[0]
		if f.Local.String() != local || f.Peer.String() != peer || f.LocalPort != 53 || f.PeerPort != 4000 || f.Opened.Rule != "dns" {
			t.Errorf("another flow: %+v", f)
		}
	})
}

// TestForgedSource: an address of this host comes from no wire, but may come from
// this host and in a flow that is known.
func TestForgedSource(t *testing.T) {
	const forged = reference.ReasonForgedSource
	p := &policy.Policy{
		Resources:  []policy.Resource{host("db", local4), host("web", "10.20.0.6")},
		Perimeters: []policy.Perimeter{single("db", policy.Enforced)},
	}
	p.Perimeters[0].Associations = append(p.Perimeters[0].Associations, associate("web", "p", policy.Enforced))
	own := func(words ...string) (out []netip.Addr) {
		for _, word := range words {
			out = append(out, netip.MustParseAddr(word))
		}
		return out
	}
	facts := policy.Facts{Now: now, Interfaces: []policy.Interface{
		{Name: "eth0", Addresses: own(local4, "10.20.0.6")}, {Name: "lo", Addresses: own("10.20.0.7"), Loopback: true},
	}}
	s := reference.NewSession(reference.New(p, facts))
	for i, c := range []struct {
		arrives bool
		packet  packet.Packet
		verdict policy.Verdict
		reason  policy.Reason
	}{
		{true, packet.UDP("10.20.0.6", local4, 1, 2), denied, forged},
		{true, packet.UDP("10.20.0.6", "192.0.2.1", 1, 2), denied, forged}, // whomever it reaches
		{true, packet.UDP("10.20.0.6", local4, 1, 2).Payload("12345678").Fragment(0, true, 7), denied, forged},
		{true, packet.Protocol("10.20.0.6", local4, 17).Payload("12345678").Fragment(16, false, 7), denied, unknown},
		{true, packet.UDP("10.20.0.8", local4, 1, 2), denied, noRule},
		{true, packet.UDP("10.20.0.7", local4, 1, 2), denied, noRule}, // which loopback has
		{true, packet.UDP("10.20.0.6", local4, 67, 68), allowed, reference.ReasonLinkFailsafe},
		{false, packet.UDP("10.20.0.6", local4, 1, 2), allowed, policy.ReasonSamePerimeter},
		{true, packet.UDP("10.20.0.6", local4, 1, 2), allowed, established},
	} {
		decide := s.Arrive
		if !c.arrives {
			decide = func(frame []byte, interfaceName string) reference.Decision {
				return s.Decide(frame, true, interfaceName)
			}
		}
		d := decide(c.packet.Frame(), "eth0")
		if d.Verdict != c.verdict || d.Reason != c.reason {
			t.Errorf("frame %d, %s: got %v for %s, want %v for %s", i, c.packet, d.Verdict, d.Reason, c.verdict, c.reason)
		}
	}
}
