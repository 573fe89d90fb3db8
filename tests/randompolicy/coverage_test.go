package randompolicy_test

import (
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/pkg/reference"
	"github.com/perimeterd/perimeterd/tests/randompolicy"
)

// source is the generator of one seed.
func source(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0)) }

// tally counts what occurs, for a floor on how often it has to.
type tally struct {
	counts map[string]int
	total  int
}

// want fails the test unless each word occurred in at least so many of ten
// thousand draws.
func (c tally) want(t *testing.T, floor int, words ...string) {
	t.Helper()
	for _, word := range words {
		if share := c.counts[word] * 10000 / c.total; share < floor {
			t.Errorf("%s: %d of 10000 draws, want %d", word, share, floor)
		}
	}
}

// TestCoverage: a comparison of two evaluators on drawn policies and packets
// is not vacuous. Everything that can be decided is, often enough that some
// thousand draws meet it with all kinds of company.
func TestCoverage(t *testing.T) {
	seen := tally{counts: make(map[string]int)}
	for seed := range uint64(300) {
		r := source(seed)
		p, facts := randompolicy.Policy(r, randompolicy.Typical())
		e := reference.New(p, facts)
		for range 100 {
			pkt := randompolicy.Packet(r, p, facts)
			d := e.Judge(pkt.Direction(), pkt)
			seen.total++
			for _, word := range wordsOf(e, p, facts, pkt, d) {
				seen.counts[word]++
			}
		}
	}

	seen.want(t, 100,
		string(policy.ReasonFailsafe), string(policy.ReasonPrivatePath), string(policy.ReasonSamePerimeter),
		string(policy.ReasonLinkedPerimeter), string(policy.ReasonAccessRule), string(policy.ReasonNoAccessRule),
		string(policy.ReasonSecuredByPerimeter), string(policy.ReasonPublicAccessDisabled), string(policy.ReasonFirewallRule),
		string(policy.ReasonNoFirewallRule), string(policy.ReasonPublicAccessEnabled), string(reference.ReasonUngoverned),
	)
	seen.want(t, 50,
		string(policy.PublicInboundPerimeterRulesAllowed), string(policy.PublicInboundPerimeterRulesDenied),
		string(policy.PublicOutboundPerimeterRulesAllowed), string(policy.PublicOutboundPerimeterRulesDenied),
		string(policy.PublicInboundResourceRulesAllowed), string(policy.PublicInboundResourceRulesDenied),
		string(policy.PublicOutboundResourceRulesAllowed), string(policy.PublicOutboundResourceRulesDenied),
		string(policy.IntraPerimeterInboundAllowed), string(policy.OutboundAttempt),
		string(policy.CrossPerimeterInboundAllowed), string(policy.CrossPerimeterOutboundAllowed),
		string(policy.PrivateInboundAllowed),
	)
	seen.want(t, 1000, "Unassociated", "Learning", "Enforced", "Audit", "Inbound", "Outbound", "allow", "deny", "IPv4", "IPv6")
	seen.want(t, 300, "layers", "interface resource", "would be denied")
	seen.want(t, 50, "rule by subscription", "rule by name")
	seen.want(t, 100, "rule by prefix", "rule by tag", "peer at an edge", "multicast",
		"TCP opens", "TCP middle", "TCP reset", "UDP", "ICMP echo", "ICMP error", "SCTP", "GRE", "ESP", "DCCP", "UDP-Lite", "unknown protocol")
	if t.Failed() {
		t.Logf("of %d: %v", seen.total, seen.counts)
	}
}

// wordsOf names what a draw is an example of.
func wordsOf(e *reference.Evaluator, p *policy.Policy, facts policy.Facts, pkt reference.Packet, d reference.Decision) []string {
	words := []string{string(d.Reason), d.Direction.String(), d.Verdict.String()}
	add := func(word string, is bool) {
		if is {
			words = append(words, word)
		}
	}
	if d.Governed {
		words = append(words, string(d.Category), d.AccessMode.String())
	}
	add("would be denied", d.WouldBe != d.Verdict)
	add("layers", len(e.Carried(pkt.Local)) > 1)
	add("multicast", pkt.Towards && pkt.Local.IsMulticast())
	add("IPv4", pkt.Local.Is4())
	add("IPv6", pkt.Local.Is6())
	for _, resource := range p.Resources {
		add("interface resource", resource.Name == d.Resource && len(resource.Interfaces) > 0)
	}
	rule, found := ruleNamed(p, d.Rule)
	add("rule by prefix", found && len(rule.AddressPrefixes) > 0)
	add("rule by subscription", found && len(rule.Subscriptions) > 0)
	add("rule by name", found && len(rule.FullyQualifiedDomainNames) > 0)
	add("rule by tag", found && len(rule.ServiceTags) > 0)
	add("peer at an edge", atEdge(pkt.Peer, rule.AddressPrefixes))

	isTCP := pkt.Protocol == policy.ProtocolTCP
	opens := pkt.TCPFlags == reference.SYN
	reset := pkt.TCPFlags&reference.RST != 0
	add("TCP opens", isTCP && opens)
	add("TCP middle", isTCP && !opens && !reset)
	add("TCP reset", isTCP && reset)
	add("UDP", pkt.Protocol == policy.ProtocolUDP)
	isICMP := pkt.Protocol == policy.ProtocolICMP || pkt.Protocol == policy.ProtocolICMPv6
	add("ICMP echo", isICMP && slices.Contains([]uint8{0, 8, 128, 129}, pkt.ICMPType))
	add("ICMP error", isICMP && pkt.Quoted != nil)
	add("SCTP", pkt.Protocol == policy.ProtocolSCTP)
	add("GRE", pkt.Protocol == policy.ProtocolGRE)
	add("ESP", pkt.Protocol == policy.ProtocolESP)
	add("DCCP", pkt.Protocol == policy.ProtocolDCCP)
	add("UDP-Lite", pkt.Protocol == policy.ProtocolUDPLite)
	add("unknown protocol", pkt.Protocol == 253)
	return words
}

// ruleNamed finds an access rule or own rule; names are unique.
func ruleNamed(p *policy.Policy, name string) (policy.AccessRule, bool) {
	var rules []policy.AccessRule
	for _, resource := range p.Resources {
		rules = append(rules, resource.Firewall...)
	}
	for _, perimeter := range p.Perimeters {
		for _, profile := range perimeter.Profiles {
			rules = append(rules, profile.AccessRules...)
		}
	}
	i := slices.IndexFunc(rules, func(rule policy.AccessRule) bool { return rule.Name == name })
	if i < 0 {
		return policy.AccessRule{}, false
	}
	return rules[i], true
}

// atEdge reports whether the address is the first or the last of a prefix that
// has others too.
func atEdge(addr netip.Addr, prefixes []netip.Prefix) bool {
	for _, prefix := range prefixes {
		inside := prefix.Contains(addr) && !prefix.IsSingleIP()
		if inside && !(prefix.Contains(addr.Prev()) && prefix.Contains(addr.Next())) {
			return true
		}
	}
	return false
}

// TestTrackerCoverage: sequences of drawn packets and their answers, over a
// change of policy, meet every outcome that needs memory.
func TestTrackerCoverage(t *testing.T) {
	seen := tally{counts: make(map[string]int)}
	for seed := range uint64(100) {
		r := source(seed)
		p, facts := randompolicy.Policy(r, randompolicy.Typical())
		tracker := reference.NewTracker(reference.New(p, facts))
		var sent []reference.Packet
		for i := range 200 {
			if i == 100 {
				changed, _ := randompolicy.Policy(source(seed), randompolicy.Typical())
				for j := range changed.Perimeters {
					changed.Perimeters[j].LinkReferences = nil
					for k := range changed.Perimeters[j].Profiles {
						changed.Perimeters[j].Profiles[k].AccessRules = nil
					}
				}
				tracker.Replace(reference.New(changed, facts))
			}
			pkt := randompolicy.Packet(r, p, facts)
			if len(sent) > 0 && r.IntN(2) == 0 {
				pkt = sent[r.IntN(len(sent))]
				pkt.Towards = !pkt.Towards
			}
			if pkt.Quoted != nil && len(sent) > 0 {
				quoted := sent[r.IntN(len(sent))]
				pkt.Towards, pkt.Local, pkt.Peer, pkt.Quoted = !quoted.Towards, quoted.Local, quoted.Peer, &quoted
			}
			if !(pkt.Local.IsMulticast() || pkt.Peer.IsMulticast()) {
				sent = append(sent, pkt)
			}
			d := tracker.Decide(pkt)
			seen.total++
			seen.counts[string(d.Reason)]++
			if d.Cut {
				seen.counts["cut"]++
			}
		}
	}
	seen.want(t, 1000, string(reference.ReasonEstablished))
	seen.want(t, 25, string(reference.ReasonRelated), "cut")
	if t.Failed() {
		t.Logf("of %d: %v", seen.total, seen.counts)
	}
}

// TestSameSeedSameDraw: a seed in a failure report is all that is needed.
func TestSameSeedSameDraw(t *testing.T) {
	type drawn struct {
		p       *policy.Policy
		facts   policy.Facts
		packets []reference.Packet
	}
	draw := func(seed uint64) drawn {
		r := source(seed)
		p, facts := randompolicy.Policy(r, randompolicy.Typical())
		d := drawn{p: p, facts: facts}
		for range 50 {
			d.packets = append(d.packets, randompolicy.Packet(r, p, facts))
		}
		return d
	}
	if !reflect.DeepEqual(draw(7), draw(7)) {
		t.Error("one seed gave two draws")
	}
	if reflect.DeepEqual(draw(7), draw(8)) {
		t.Error("two seeds gave one draw")
	}
}

// TestSizes: nothing and much can be drawn as well.
func TestSizes(t *testing.T) {
	for _, size := range []randompolicy.Size{{}, {Resources: 3}, {Perimeters: 2, Rules: 1}, {Resources: 60, Perimeters: 8, Rules: 40}} {
		r := source(1)
		p, facts := randompolicy.Policy(r, size)
		if len(p.Perimeters) != size.Perimeters || len(p.Resources) > size.Resources || size.Resources > 0 && len(p.Resources) == 0 {
			t.Errorf("%+v: %d perimeters, %d resources", size, len(p.Perimeters), len(p.Resources))
		}
		e := reference.New(p, facts)
		for range 20 {
			pkt := randompolicy.Packet(r, p, facts)
			if d := e.Judge(pkt.Direction(), pkt); d.Governed && len(p.Resources) == 0 {
				t.Errorf("%+v: %+v is of %q", size, pkt, d.Resource)
			}
		}
	}
}
