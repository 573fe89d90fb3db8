package reference_test

import (
	"fmt"
	"testing"

	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/pkg/reference"
)

// The member of these tests is 10.20.0.5. An access rule may admit
// 198.51.100.0/24, an own rule 203.0.113.0/24; 192.0.2.9 is nobody.
const (
	memberAddr = "10.20.0.5"
	rulePeer   = "198.51.100.7"
	ownPeer    = "203.0.113.7"
	nobody     = "192.0.2.9"
)

// plain is one resource with access rules in both directions if it is
// associated, and with own rules in both directions if asked for.
func plain(mode policy.AccessMode, access policy.PublicNetworkAccess, own bool) *policy.Policy {
	r := host("db", memberAddr)
	r.PublicNetworkAccess = access
	if own {
		r.Firewall = []policy.AccessRule{
			rule("own-in", in, "203.0.113.0/24"),
			rule("own-out", out, "203.0.113.0/24"),
		}
	}
	p := &policy.Policy{Resources: []policy.Resource{r}}
	if mode != policy.Unassociated {
		p.Perimeters = []policy.Perimeter{single("db", mode,
			rule("rule-in", in, "198.51.100.0/24"),
			rule("rule-out", out, "198.51.100.0/24"),
		)}
	}
	return p
}

// TestBaseTable is NSP's base table: mode by publicNetworkAccess by direction,
// for a peer an access rule admits, one an own rule admits, and nobody, with
// and without own rules.
func TestBaseTable(t *testing.T) {
	const (
		U, L, E, A = policy.Unassociated, policy.Learning, policy.Enforced, policy.Audit
		on, off    = policy.Enabled, policy.Disabled
		sec        = policy.SecuredByPerimeter
	)
	const (
		rules    = "allow access-rule"
		own      = "allow firewall-rule"
		open     = "allow public-access-enabled"
		noOwn    = "deny no-firewall-rule"
		noRule   = "deny no-access-rule"
		disabled = "deny public-access-disabled"
		secured  = "deny secured-by-perimeter"
		audited  = "allow no-access-rule"
	)
	tests := []struct {
		mode      policy.AccessMode
		access    policy.PublicNetworkAccess
		direction policy.Direction
		// With own rules: the peer of the access rule, of the own rule, nobody.
		rulePeer, ownPeer, nobody string
		// Without own rules, nobody.
		bare string
	}{
		{U, on, in, noOwn, own, noOwn, open},
		{U, on, out, noOwn, own, noOwn, open},
		{U, off, in, disabled, disabled, disabled, disabled},
		{U, off, out, noOwn, own, noOwn, open},
		{U, sec, in, secured, secured, secured, secured},
		{U, sec, out, secured, secured, secured, secured},

		{L, on, in, rules, own, noOwn, open},
		{L, on, out, rules, own, noOwn, open},
		{L, off, in, rules, disabled, disabled, disabled},
		{L, off, out, rules, own, noOwn, open},
		{L, sec, in, rules, secured, secured, secured},
		{L, sec, out, rules, secured, secured, secured},

		{E, on, in, rules, noRule, noRule, noRule},
		{E, on, out, rules, noRule, noRule, noRule},
		{E, off, in, rules, noRule, noRule, noRule},
		{E, off, out, rules, noRule, noRule, noRule},
		{E, sec, in, rules, noRule, noRule, noRule},
		{E, sec, out, rules, noRule, noRule, noRule},

		{A, on, in, rules, audited, audited, audited},
		{A, on, out, rules, audited, audited, audited},
		{A, off, in, rules, audited, audited, audited},
		{A, off, out, rules, audited, audited, audited},
		{A, sec, in, rules, audited, audited, audited},
		{A, sec, out, rules, audited, audited, audited},
	}
	for _, test := range tests {
		for _, c := range []struct {
			own  bool
			peer string
			want string
		}{
			{true, rulePeer, test.rulePeer},
			{true, ownPeer, test.ownPeer},
			{true, nobody, test.nobody},
			{false, nobody, test.bare},
		} {
			name := fmt.Sprintf("%v %v %v from %s, own rules %v", test.mode, test.access, test.direction, c.peer, c.own)
			e := evaluator(plain(test.mode, test.access, c.own))
			d := e.Judge(test.direction, tcpPacket(test.direction, memberAddr, 5432, c.peer, 443))
			if got := fmt.Sprintf("%v %s", d.Verdict, d.Reason); got != c.want {
				t.Errorf("%s: got %s, want %s", name, got, c.want)
			}
			wouldBe := d.Verdict
			if c.want == audited {
				wouldBe = policy.Deny
			}
			if d.WouldBe != wouldBe {
				t.Errorf("%s: would be %v, want %v", name, d.WouldBe, wouldBe)
			}
			if d.AccessMode != test.mode {
				t.Errorf("%s: mode %v", name, d.AccessMode)
			}
			checkShape(t, name, d)
		}
	}
}

// TestTruthTable is NSP's truth table, row by row, by its row numbers. Each
// row has beside it a packet or a policy that differs in the one thing the row
// is about.
func TestTruthTable(t *testing.T) {
	const (
		U, L, E = policy.Unassociated, policy.Learning, policy.Enforced
		on, off = policy.Enabled, policy.Disabled
		sec     = policy.SecuredByPerimeter
	)
	privately := func(p *policy.Policy) *policy.Policy {
		p.PrivateEndpoints = []policy.PrivateEndpoint{{Name: "wg", Interfaces: []string{"wg0"}}}
		return p
	}
	over := func(itf string, pkt reference.Packet) reference.Packet {
		pkt.Interface = itf
		return pkt
	}
	packet := func(direction policy.Direction, peer string) reference.Packet {
		return tcpPacket(direction, memberAddr, 5432, peer, 443)
	}
	// together is plain with a second member, 10.20.0.6, in another profile.
	together := func(mode policy.AccessMode) *policy.Policy {
		p := plain(mode, sec, false)
		p.Resources = append(p.Resources, host("mate", "10.20.0.6"))
		p.Perimeters[0].Profiles = append(p.Perimeters[0].Profiles, policy.Profile{Name: "other"})
		p.Perimeters[0].Associations = append(p.Perimeters[0].Associations, associate("mate", "other", policy.Audit))
		return p
	}
	// linked is plain with a second perimeter, of 10.20.0.6, linked to it.
	linked := func(mode policy.AccessMode, profile string) *policy.Policy {
		p := plain(mode, sec, false)
		p.Resources = append(p.Resources, host("far", "10.20.0.6"))
		p.Perimeters[0].Links = []policy.Link{{Name: "link", RemotePerimeter: "remote", LocalInboundProfiles: []string{profile}}}
		p.Perimeters = append(p.Perimeters, policy.Perimeter{
			Name:           "remote",
			Profiles:       []policy.Profile{{Name: "p"}},
			Associations:   []policy.Association{associate("far", "p", policy.Enforced)},
			LinkReferences: []policy.LinkReference{{Name: "reference", RemotePerimeter: "perimeter", Status: policy.Approved}},
		})
		return p
	}
	tests := []struct {
		number   string
		p        *policy.Policy
		pkt      reference.Packet
		verdict  policy.Verdict
		category policy.Category
	}{
		{"1", plain(U, on, true), packet(in, ownPeer), policy.Allow, policy.PublicInboundResourceRulesAllowed},
		{"1 own rule misses", plain(U, on, true), packet(in, nobody), policy.Deny, policy.PublicInboundResourceRulesDenied},
		{"2", plain(U, off, true), packet(in, ownPeer), policy.Deny, policy.PublicInboundResourceRulesDenied},
		{"2 outbound", plain(U, off, true), packet(out, ownPeer), policy.Allow, policy.PublicOutboundResourceRulesAllowed},
		{"3 in", plain(U, sec, true), packet(in, ownPeer), policy.Deny, policy.PublicInboundPerimeterRulesDenied},
		{"3 out", plain(U, sec, true), packet(out, ownPeer), policy.Deny, policy.PublicOutboundPerimeterRulesDenied},
		{"4 Enabled", plain(U, on, false), packet(out, nobody), policy.Allow, policy.PublicOutboundResourceRulesAllowed},
		{"4 Disabled", plain(U, off, false), packet(out, nobody), policy.Allow, policy.PublicOutboundResourceRulesAllowed},
		{"4 Disabled in", plain(U, off, false), packet(in, nobody), policy.Deny, policy.PublicInboundResourceRulesDenied},

		{"5 Enabled", plain(L, on, true), packet(in, rulePeer), policy.Allow, policy.PublicInboundPerimeterRulesAllowed},
		{"5 Disabled", plain(L, off, true), packet(in, rulePeer), policy.Allow, policy.PublicInboundPerimeterRulesAllowed},
		{"5 SecuredByPerimeter", plain(L, sec, true), packet(in, rulePeer), policy.Allow, policy.PublicInboundPerimeterRulesAllowed},
		{"5 address before the rule", plain(L, on, true), packet(in, "198.51.99.255"), policy.Deny, policy.PublicInboundResourceRulesDenied},
		{"5 address after the rule", plain(L, on, true), packet(in, "198.51.101.0"), policy.Deny, policy.PublicInboundResourceRulesDenied},
		{"6", plain(L, on, true), packet(in, ownPeer), policy.Allow, policy.PublicInboundResourceRulesAllowed},
		{"6 none written", plain(L, on, false), packet(in, nobody), policy.Allow, policy.PublicInboundResourceRulesAllowed},
		{"7", plain(L, on, true), packet(in, nobody), policy.Deny, policy.PublicInboundResourceRulesDenied},
		{"8", plain(L, off, true), packet(in, ownPeer), policy.Deny, policy.PublicInboundResourceRulesDenied},
		{"9", plain(L, sec, true), packet(in, ownPeer), policy.Deny, policy.PublicInboundPerimeterRulesDenied},
		{"10 Enabled", plain(L, on, true), packet(out, rulePeer), policy.Allow, policy.PublicOutboundPerimeterRulesAllowed},
		{"10 Disabled", plain(L, off, true), packet(out, rulePeer), policy.Allow, policy.PublicOutboundPerimeterRulesAllowed},
		{"10 SecuredByPerimeter", plain(L, sec, true), packet(out, rulePeer), policy.Allow, policy.PublicOutboundPerimeterRulesAllowed},
		{"11 Enabled", plain(L, on, false), packet(out, nobody), policy.Allow, policy.PublicOutboundResourceRulesAllowed},
		{"11 Disabled", plain(L, off, false), packet(out, nobody), policy.Allow, policy.PublicOutboundResourceRulesAllowed},
		{"11 own outbound rules", plain(L, on, true), packet(out, nobody), policy.Deny, policy.PublicOutboundResourceRulesDenied},
		{"12", plain(L, sec, false), packet(out, nobody), policy.Deny, policy.PublicOutboundPerimeterRulesDenied},

		{"13 in", plain(E, off, true), packet(in, rulePeer), policy.Allow, policy.PublicInboundPerimeterRulesAllowed},
		{"13 out", plain(E, sec, true), packet(out, rulePeer), policy.Allow, policy.PublicOutboundPerimeterRulesAllowed},
		{"14 in", plain(E, on, true), packet(in, ownPeer), policy.Deny, policy.PublicInboundPerimeterRulesDenied},
		{"14 out", plain(E, on, true), packet(out, ownPeer), policy.Deny, policy.PublicOutboundPerimeterRulesDenied},
		{"15 not associated", privately(plain(U, sec, true)), over("wg0", packet(in, nobody)), policy.Allow, policy.PrivateInboundAllowed},
		{"15 Enforced", privately(plain(E, sec, true)), over("wg0", packet(in, nobody)), policy.Allow, policy.PrivateInboundAllowed},
		{"15 other interface", privately(plain(E, sec, true)), over("wg1", packet(in, nobody)), policy.Deny, policy.PublicInboundPerimeterRulesDenied},
		{"16 Learning", together(L), packet(in, "10.20.0.6"), policy.Allow, policy.IntraPerimeterInboundAllowed},
		{"16 Enforced", together(E), packet(in, "10.20.0.6"), policy.Allow, policy.IntraPerimeterInboundAllowed},
		{"16 outbound", together(E), packet(out, "10.20.0.6"), policy.Allow, policy.OutboundAttempt},
		{"16 not a member", together(E), packet(in, "10.20.0.7"), policy.Deny, policy.PublicInboundPerimeterRulesDenied},
		{"17 Learning", linked(L, "p"), packet(in, "10.20.0.6"), policy.Allow, policy.CrossPerimeterInboundAllowed},
		{"17 Enforced", linked(E, "p"), packet(in, "10.20.0.6"), policy.Allow, policy.CrossPerimeterInboundAllowed},
		{"17 profile not listed", linked(E, "q"), packet(in, "10.20.0.6"), policy.Deny, policy.PublicInboundPerimeterRulesDenied},

		// 18 and 19: deleting an association is no rollback.
		{"18 in", plain(U, sec, false), packet(in, rulePeer), policy.Deny, policy.PublicInboundPerimeterRulesDenied},
		{"18 out", plain(U, sec, false), packet(out, rulePeer), policy.Deny, policy.PublicOutboundPerimeterRulesDenied},
		{"19 Enabled", plain(U, on, true), packet(in, ownPeer), policy.Allow, policy.PublicInboundResourceRulesAllowed},
		{"19 Disabled", plain(U, off, true), packet(in, ownPeer), policy.Deny, policy.PublicInboundResourceRulesDenied},
	}
	for _, test := range tests {
		d := evaluator(test.p).Judge(test.pkt.Direction(), test.pkt)
		if d.Verdict != test.verdict || d.Category != test.category {
			t.Errorf("row %s: got %v %s, want %v %s", test.number, d.Verdict, d.Category, test.verdict, test.category)
		}
		checkShape(t, test.number, d)
	}
}

// TestOwnRulesAreWrittenPerDirection: own rules of one direction do not close
// the other.
func TestOwnRulesAreWrittenPerDirection(t *testing.T) {
	p := plain(policy.Unassociated, policy.Enabled, false)
	p.Resources[0].Firewall = []policy.AccessRule{rule("own-in", in, "203.0.113.0/24")}
	judge(t, evaluator(p), []row{
		{"in", tcpPacket(in, memberAddr, 1, nobody, 2), policy.Deny, policy.ReasonNoFirewallRule, "db", ""},
		{"out", tcpPacket(out, memberAddr, 1, nobody, 2), policy.Allow, policy.ReasonPublicAccessEnabled, "db", ""},
	})
}
