package datapath

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/perimeterd/perimeterd/pkg/compile"
	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/pkg/reference"
	"github.com/perimeterd/perimeterd/tests/packet"
	"github.com/perimeterd/perimeterd/tests/randompolicy"
)

var (
	seedFlag     = flag.Uint64("seed", 0, "seed of the first random policy; 0 = choose one and print it")
	policiesFlag = flag.Int("policies", 120, "number of random policies")
	packetsFlag  = flag.Int("packets", 400, "random packets for each policy")
)

// frameOf builds the frame that the reference's packet describes.
func frameOf(pkt reference.Packet) packet.Packet {
	source, destination := pkt.Local, pkt.Peer
	sourcePort, destinationPort := pkt.LocalPort, pkt.PeerPort
	if pkt.Towards {
		source, destination = destination, source
		sourcePort, destinationPort = destinationPort, sourcePort
	}
	switch pkt.Protocol {
	case policy.ProtocolTCP:
		return packet.TCP(source, destination, sourcePort, destinationPort, packet.Flags(pkt.TCPFlags)).
			Sequence(pkt.Sequence, pkt.Acknowledgement)
	case policy.ProtocolUDP:
		return packet.UDP(source, destination, sourcePort, destinationPort)
	case policy.ProtocolUDPLite:
		return packet.UDPLite(source, destination, sourcePort, destinationPort)
	case policy.ProtocolSCTP:
		return packet.SCTP(source, destination, sourcePort, destinationPort)
	case policy.ProtocolDCCP:
		return packet.DCCP(source, destination, sourcePort, destinationPort)
	case policy.ProtocolICMP, policy.ProtocolICMPv6:
		if source.Is4() != (pkt.Protocol == policy.ProtocolICMP) {
			break // the other family's ICMP has no meaning
		}
		switch pkt.ICMPType {
		case 8, 128:
			return packet.ICMPEcho(source, destination, pkt.EchoID, 1)
		case 0, 129:
			return packet.ICMPEchoReply(source, destination, pkt.EchoID, 1)
		}
		p := packet.ICMP(source, destination, pkt.ICMPType, 0)
		if pkt.Quoted != nil {
			p = p.Payload(string(frameOf(*pkt.Quoted).Datagram()))
		}
		return p
	}
	return packet.Protocol(source, destination, pkt.Protocol).Payload("not looked into")
}

// named turns the kernel's answer into the reference's words.
func named(a Answer, legend *compile.Legend) reference.Decision {
	d := reference.Decision{
		Governed: a.Member != 0, Verdict: a.Verdict, WouldBe: a.WouldBe, Direction: a.Direction,
		Category: a.Category, Reason: a.Reason,
	}
	if a.Member != 0 {
		m := legend.Members[a.Member]
		d.Resource, d.Perimeter, d.Profile, d.AccessMode = m.Resource, m.Perimeter, m.Profile, m.AccessMode
		d.Rule = legend.Outcomes[a.Outcome].Rule
	}
	return d
}

// TestKernelAgreesWithReference holds the kernel against the slow and obvious
// evaluator: random policies, random packets, every word of every decision, and
// what the memory of earlier packets makes of it, over policy changes too.
func TestKernelAgreesWithReference(t *testing.T) {
	interfaces := []string{"eth0", "eth1", "wg0", "wg01", "lxc1"}
	r := newRig(t, Options{}, interfaces...)
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("seed %d: run again with -seed=%d", seed, seed)

	var cases, denied, tracked, byName, byResolver int
	var tracker *reference.Tracker
	for i := range *policiesFlag {
		source := rand.New(rand.NewPCG(seed, uint64(i)))
		p, facts := randompolicy.Policy(source, randompolicy.Typical())
		legend := r.apply(t, p, &facts)
		withNames := rulesWithNames(p)
		evaluator := reference.New(p, facts)
		if tracker == nil || i%2 == 0 {
			tracker = reference.NewTracker(evaluator)
			r.forgetFlows(t)
		} else {
			tracker.Replace(evaluator) // flows of the policy before live on
		}
		err := r.host.Run(func() error {
			var earlier []reference.Packet
			for j := range *packetsFlag {
				pkt := randompolicy.Packet(source, p, facts)
				if len(earlier) > 0 && source.IntN(5) == 0 {
					pkt = answerTo(source, earlier[source.IntN(len(earlier))])
				}
				earlier = append(earlier, pkt)
				frame := frameOf(pkt).Frame()
				want := tracker.Decide(pkt)
				fresh := want.Reason != reference.ReasonEstablished && want.Reason != reference.ReasonRelated

				if fresh && !want.Cut {
					answer, err := r.Explain(frame, pkt.Towards, r.ifindex[pkt.Interface])
					if err != nil {
						return err
					}
					got := named(answer, legend)
					if isForAll(pkt.Local, facts) && want.Reason == policy.ReasonPrivatePath {
						// Sent to all that live here, and passes to each: whose name is told does not matter.
						got.Resource, got.Perimeter, got.Profile, got.AccessMode = want.Resource, want.Perimeter, want.Profile, want.AccessMode
					}
					if got != want {
						t.Errorf("seed %d policy %d packet %d %+v:\n explained %+v\n reference %+v", seed, i, j, pkt, got, want)
					}
				} else {
					tracked++
				}
				got, err := r.run(frame, pkt.Towards, r.ifindex[pkt.Interface])
				if err != nil {
					return err
				}
				if got != want.Verdict {
					t.Errorf("seed %d policy %d packet %d %+v: %s:\n kernel %v\n reference %+v", seed, i, j, pkt, packet.Describe(frame), got, want)
					for k, e := range earlier {
						if e.Local == pkt.Local && e.Peer == pkt.Peer && e.Protocol == pkt.Protocol {
							t.Logf("before it, packet %d: %+v", k, e)
						}
					}
				}
				cases++
				if fresh && want.Direction == policy.Outbound && withNames[want.Rule] {
					byName++
				}
				if want.Reason == policy.ReasonResolverAccess {
					byResolver++
				}
				if got == policy.Deny {
					denied++
				}
				if t.Failed() {
					return fmt.Errorf("stopped at the first difference")
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d packets against %d policies: %d denied, %d by the memory of earlier ones, %d by names, %d to resolvers", cases, *policiesFlag, denied, tracked, byName, byResolver)
	if denied < cases/20 || denied > cases*19/20 || tracked < cases/50 || byName < cases/1000 {
		t.Errorf("too one-sided to tell anything: %d of %d denied, %d tracked, %d by names", denied, cases, tracked, byName)
	}
}

// rulesWithNames are the names of the rules that name peers by their names.
func rulesWithNames(p *policy.Policy) map[string]bool {
	out := map[string]bool{}
	note := func(rules []policy.AccessRule) {
		for _, rule := range rules {
			if len(rule.FullyQualifiedDomainNames) > 0 {
				out[rule.Name] = true
			}
		}
	}
	for _, perimeter := range p.Perimeters {
		for _, profile := range perimeter.Profiles {
			note(profile.AccessRules)
		}
	}
	for _, resource := range p.Resources {
		note(resource.Firewall)
	}
	return out
}

// answerTo is what the other end would send back.
func answerTo(source *rand.Rand, pkt reference.Packet) reference.Packet {
	answer := pkt
	answer.Towards = !pkt.Towards
	answer.Quoted = nil
	switch {
	case pkt.Protocol == policy.ProtocolTCP:
		answer.TCPFlags = []uint8{reference.SYN | reference.ACK, reference.ACK, reference.RST | reference.ACK, reference.SYN}[source.IntN(4)]
		answer.Sequence, answer.Acknowledgement = pkt.Acknowledgement, pkt.Sequence+uint32(source.IntN(3))
	case pkt.Quoted != nil:
		return *pkt.Quoted
	case pkt.ICMPType == 8:
		answer.ICMPType = 0
	case pkt.ICMPType == 128:
		answer.ICMPType = 129
	}
	return answer
}

// TestVocabularyIsComplete: every word the policy side can say has a number in
// the kernel, and every category of the kernel a name in NSP's list.
func TestVocabularyIsComplete(t *testing.T) {
	spec, err := loadPerimeter()
	if err != nil {
		t.Fatal(err)
	}
	words, err := readVocabulary(spec.Types)
	if err != nil {
		t.Fatal(err)
	}
	said := map[policy.Category]bool{"": true}
	for _, reason := range words.reasons {
		for _, direction := range []policy.Direction{policy.Inbound, policy.Outbound} {
			category := policy.CategoryOf(reason, direction)
			said[category] = true
			if _, ok := words.categoryOf[category]; !ok {
				t.Errorf("the kernel has no category %s, which %s is logged under", category, reason)
			}
		}
	}
	for _, category := range words.categories {
		if !said[category] {
			t.Errorf("the kernel's category %s is none that a decision is logged under", category)
		}
	}
	for _, reason := range []policy.Reason{
		policy.ReasonFailsafe, policy.ReasonPrivatePath, policy.ReasonSamePerimeter, policy.ReasonLinkedPerimeter,
		policy.ReasonAccessRule, policy.ReasonResolverAccess, policy.ReasonNoAccessRule, policy.ReasonSecuredByPerimeter, policy.ReasonPublicAccessDisabled,
		policy.ReasonFirewallRule, policy.ReasonNoFirewallRule, policy.ReasonPublicAccessEnabled,
		reference.ReasonUngoverned, reference.ReasonEstablished, reference.ReasonRelated,
	} {
		if _, ok := words.reasonOf[reason]; !ok {
			t.Errorf("the kernel has no reason %s", reason)
		}
	}
}

// isForAll reports an address of all that live on the host.
func isForAll(a netip.Addr, facts policy.Facts) bool {
	return a.IsMulticast() || a == netip.MustParseAddr("255.255.255.255") || a == netip.IPv4Unspecified() ||
		slices.ContainsFunc(facts.Interfaces, func(i policy.Interface) bool { return slices.Contains(i.Broadcasts, a) })
}
