package reference_test

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/pkg/reference"
	"github.com/perimeterd/perimeterd/tests/randompolicy"
)

// onDraws runs a check on many drawn policies, each with its own seed.
func onDraws(check func(seed uint64, r *rand.Rand, p *policy.Policy, facts policy.Facts)) {
	for seed := range uint64(150) {
		r := rand.New(rand.NewPCG(seed, 1))
		p, facts := randompolicy.Policy(r, randompolicy.Typical())
		check(seed, r, p, facts)
	}
}

// again draws the policy of a seed once more, to be changed.
func again(seed uint64) *policy.Policy {
	p, _ := randompolicy.Policy(rand.New(rand.NewPCG(seed, 1)), randompolicy.Typical())
	return p
}

// TestOrderNeverMatters: a policy says the same in any order.
func TestOrderNeverMatters(t *testing.T) {
	onDraws(func(seed uint64, r *rand.Rand, p *policy.Policy, facts policy.Facts) {
		shuffled := again(seed)
		shuffle(r, shuffled.Resources)
		for i := range shuffled.Resources {
			shuffle(r, shuffled.Resources[i].Addresses)
			shuffle(r, shuffled.Resources[i].Services)
			shuffle(r, shuffled.Resources[i].Firewall)
		}
		shuffle(r, shuffled.Perimeters)
		for i := range shuffled.Perimeters {
			perimeter := &shuffled.Perimeters[i]
			shuffle(r, perimeter.Profiles)
			shuffle(r, perimeter.Associations)
			shuffle(r, perimeter.Links)
			shuffle(r, perimeter.LinkReferences)
			for j := range perimeter.Profiles {
				shuffle(r, perimeter.Profiles[j].AccessRules)
			}
		}
		shuffle(r, shuffled.PrivateEndpoints)
		a, b := reference.New(p, facts), reference.New(shuffled, facts)
		for range 50 {
			pkt := randompolicy.Packet(r, p, facts)
			for _, direction := range []policy.Direction{in, out} {
				if x, y := a.Judge(direction, pkt), b.Judge(direction, pkt); x != y {
					t.Fatalf("seed %d: %v %+v: %+v in one order, %+v in another", seed, direction, pkt, x, y)
				}
			}
		}
	})
}

func shuffle[T any](r *rand.Rand, list []T) {
	r.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
}

// TestAccessRulesOnlyAllow: with one rule more nothing that passed is denied.
func TestAccessRulesOnlyAllow(t *testing.T) {
	onDraws(func(seed uint64, r *rand.Rand, p *policy.Policy, facts policy.Facts) {
		if len(p.Perimeters) == 0 {
			return
		}
		more := again(seed)
		profiles := more.Perimeters[r.IntN(len(more.Perimeters))].Profiles
		profile := &profiles[r.IntN(len(profiles))]
		for _, direction := range []policy.Direction{in, out} {
			profile.AccessRules = append(profile.AccessRules, rule("one-more-"+direction.String(), direction, "10.0.0.0/8", "2001:db8::/32"))
		}
		a, b := reference.New(p, facts), reference.New(more, facts)
		for range 50 {
			pkt := randompolicy.Packet(r, p, facts)
			before, after := a.Judge(pkt.Direction(), pkt), b.Judge(pkt.Direction(), pkt)
			if before.Verdict == allowed && after.Verdict == denied || before.WouldBe == allowed && after.WouldBe == denied {
				t.Fatalf("seed %d: %+v: %+v before, %+v with one rule more", seed, pkt, before, after)
			}
		}
	})
}

// TestHalvesMakeTheWhole: a rule for both halves of a prefix is a rule for the
// prefix.
func TestHalvesMakeTheWhole(t *testing.T) {
	onDraws(func(seed uint64, r *rand.Rand, p *policy.Policy, facts policy.Facts) {
		split := again(seed)
		for i := range split.Perimeters {
			for j := range split.Perimeters[i].Profiles {
				rules := split.Perimeters[i].Profiles[j].AccessRules
				for k := range rules {
					rules[k].AddressPrefixes = halves(rules[k].AddressPrefixes)
				}
			}
		}
		a, b := reference.New(p, facts), reference.New(split, facts)
		for range 50 {
			pkt := randompolicy.Packet(r, p, facts)
			whole, halved := a.Judge(pkt.Direction(), pkt), b.Judge(pkt.Direction(), pkt)
			whole.Rule, halved.Rule = "", "" // another rule's prefix may now be the longest
			if whole != halved {
				t.Fatalf("seed %d: %+v: %+v, in halves %+v", seed, pkt, whole, halved)
			}
		}
	})
}

// halves splits each prefix that has more than one address into two.
func halves(list []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range list {
		if p.IsSingleIP() {
			out = append(out, p)
			continue
		}
		upper := p.Addr().AsSlice()
		upper[p.Bits()/8] |= 0x80 >> (p.Bits() % 8)
		addr, _ := netip.AddrFromSlice(upper)
		out = append(out, netip.PrefixFrom(p.Addr(), p.Bits()+1), netip.PrefixFrom(addr, p.Bits()+1))
	}
	return out
}

// TestTrackerProperties: whatever the policy, what passed passes again and so
// does its answer, nothing denied takes a place, and Audit denies nothing.
func TestTrackerProperties(t *testing.T) {
	onDraws(func(seed uint64, r *rand.Rand, p *policy.Policy, facts policy.Facts) {
		e := reference.New(p, facts)
		tracker := reference.NewTracker(e)
		for range 50 {
			pkt := randompolicy.Packet(r, p, facts)
			before := tracker.Flows()
			d := tracker.Decide(pkt)
			if d.Verdict == denied && tracker.Flows() != before {
				t.Fatalf("seed %d: %+v was denied and made a flow", seed, pkt)
			}
			if d.Verdict == denied && d.AccessMode == policy.Audit {
				t.Fatalf("seed %d: %+v was denied in Audit", seed, pkt)
			}
			reset := pkt.Protocol == policy.ProtocolTCP && pkt.TCPFlags&reference.RST != 0
			if d.Verdict == denied || reset || !makesFlow(e, d, pkt) {
				continue
			}
			want := established
			if d.Reason == related {
				want = related // it belongs to the flow it is about
			}
			if again := tracker.Decide(pkt); again.Reason != want || again.Verdict != allowed {
				t.Fatalf("seed %d: %+v passed, and again got %+v", seed, pkt, again)
			}
			answered, ok := answerTo(pkt)
			if !ok {
				continue
			}
			if answer := tracker.Decide(answered); answer.Reason != established || answer.Verdict != allowed {
				t.Fatalf("seed %d: %+v passed, its answer got %+v", seed, pkt, answer)
			}
		}
	})
}

// makesFlow reports whether a packet that passed so is remembered. Of those of
// nobody only one to a port that the resources of its address do not list is.
func makesFlow(e *reference.Evaluator, d reference.Decision, pkt reference.Packet) bool {
	if d.Governed || d.Reason == established {
		return true
	}
	midStream := pkt.Protocol == policy.ProtocolTCP && pkt.TCPFlags&(reference.SYN|reference.ACK) != reference.SYN
	group := pkt.Local.IsMulticast() || pkt.Local == netip.MustParseAddr("255.255.255.255")
	return d.Direction == in && !midStream && !group && len(e.Carried(pkt.Local)) > 0
}

// answerTo is what the other end would send back. An ICMP message that is no echo
// request has no answer that can be told from any other.
func answerTo(pkt reference.Packet) (reference.Packet, bool) {
	reply := map[uint8]uint8{8: 0, 128: 129}
	if pkt.Protocol == policy.ProtocolICMP || pkt.Protocol == policy.ProtocolICMPv6 {
		answer := back(pkt)
		var asks bool
		answer.ICMPType, asks = reply[pkt.ICMPType]
		return answer, asks
	}
	return back(pkt), true
}
