package datapath

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/tests/packet"
)

// TestAnswersThatOpenNothing: what a member was not told by whom it has asked for
// that does not open anything, and is counted by its reason.
func TestAnswersThatOpenNothing(t *testing.T) {
	const resolverOfItsOwn = "198.51.100.99"
	toAny := policy.AccessRule{Name: "any-dns", Direction: policy.Outbound, AddressPrefixes: prefixes("198.51.100.99/32"), Ports: []policy.Ports{{Protocol: policy.ProtocolUDP, First: 53, Last: 53}}}
	inbound := policy.AccessRule{Name: "in", Direction: policy.Inbound, AddressPrefixes: prefixes("0.0.0.0/0"), Ports: []policy.Ports{{Protocol: policy.ProtocolUDP, First: 5353, Last: 5353}}}
	r := newNamesRig(t, Options{Names: NameOptions{Trusted: []netip.Addr{netip.MustParseAddr(resolver4)}}},
		namesRule("vault", 443, "vault.example.com"), toAny, inbound)
	needsInline(t, r.rig)
	vault := func() exchange { return ask("vault.example.com", dns.TypeA) }
	for _, row := range []struct {
		name    string
		counted string
		play    func(t *testing.T)
	}{
		{"of another id", "no-question", func(t *testing.T) {
			e := vault()
			e.asked(t, r.rig)
			m := e.reply(t, vaultRecord)
			m.Id++
			e.answered(t, r.rig, wireOf(t, m))
		}},
		{"to another port, which is denied", "", func(t *testing.T) {
			e := vault()
			e.asked(t, r.rig)
			e.port++
			if verdict, _ := r.towards(t, packet.UDP(e.resolver, e.local, 53, e.port).Payload(wireOf(t, e.reply(t, vaultRecord)))); verdict != policy.Deny {
				t.Error("it came in")
			}
		}},
		{"from another resolver, which is denied", "", func(t *testing.T) {
			e := vault()
			e.asked(t, r.rig)
			e.resolver = "192.0.2.54"
			if verdict, _ := r.towards(t, packet.UDP(e.resolver, e.local, 53, e.port).Payload(wireOf(t, e.reply(t, vaultRecord)))); verdict != policy.Deny {
				t.Error("it came in")
			}
		}},
		{"a second time", "no-question", func(t *testing.T) {
			e := vault()
			e.asked(t, r.rig)
			e.answered(t, r.rig, wireOf(t, e.reply(t)))
			e.answered(t, r.rig, wireOf(t, e.reply(t, vaultRecord)))
		}},
		{"of another question", "other-question", func(t *testing.T) {
			e := vault()
			e.asked(t, r.rig)
			m := e.reply(t, "other.example.com. 300 IN A 203.0.113.1")
			m.Question[0].Name = "other.example.com."
			e.answered(t, r.rig, wireOf(t, m))
		}},
		{"of another type", "other-question", func(t *testing.T) {
			e := vault()
			e.asked(t, r.rig)
			m := e.reply(t, vaultRecord)
			m.Question[0].Qtype = dns.TypeAAAA
			e.answered(t, r.rig, wireOf(t, m))
		}},
		{"of another owner", "address-other-owner", func(t *testing.T) {
			e := vault()
			e.asked(t, r.rig)
			e.answered(t, r.rig, wireOf(t, e.reply(t, "other.example.com. 300 IN A 203.0.113.1")))
		}},
		{"in another section", "opened-nothing", func(t *testing.T) {
			e := vault()
			e.asked(t, r.rig)
			m := e.reply(t, vaultRecord)
			m.Answer, m.Extra = nil, m.Answer
			e.answered(t, r.rig, wireOf(t, m))
		}},
		{"with an error", "opened-nothing", func(t *testing.T) {
			e := vault()
			e.asked(t, r.rig)
			m := e.reply(t, vaultRecord)
			m.Rcode = dns.RcodeServerFailure
			e.answered(t, r.rig, wireOf(t, m))
		}},
		{"of class CHAOS", "opened-nothing", func(t *testing.T) {
			e := vault()
			e.asked(t, r.rig)
			e.answered(t, r.rig, wireOf(t, e.reply(t, "vault.example.com. 300 CH A 203.0.113.1")))
		}},
		{"by a query", "malformed-header", func(t *testing.T) {
			e := vault()
			e.asked(t, r.rig)
			m := e.reply(t, vaultRecord)
			m.Response = false
			e.answered(t, r.rig, wireOf(t, m))
		}},
		{"behind an alias of another name", "address-other-owner", func(t *testing.T) {
			e := vault()
			e.asked(t, r.rig)
			e.answered(t, r.rig, wireOf(t, e.reply(t, "other.example.com. 300 IN CNAME alias.example.com.", "alias.example.com. 300 IN A 203.0.113.1")))
		}},
		{"of a resolver that is not trusted", "unlisted-resolver", func(t *testing.T) {
			e := vault()
			e.resolver = resolverOfItsOwn
			if verdict, reason := e.asked(t, r.rig); verdict != policy.Allow || reason != policy.ReasonAccessRule {
				t.Fatalf("%s for %s", verdict, reason)
			}
			e.answered(t, r.rig, wireOf(t, e.reply(t, vaultRecord)))
		}},
		{"in a flow that the other side has opened", "no-flow", func(t *testing.T) {
			e := vault()
			e.port = 5353
			r.towards(t, packet.UDP(e.resolver, e.local, 53, e.port).Payload("hello"))
			e.asked(t, r.rig)
			e.answered(t, r.rig, wireOf(t, e.reply(t, vaultRecord)))
		}},
		{"without any question", "no-question", func(t *testing.T) {
			e := vault()
			r.from(t, packet.UDP(e.local, e.resolver, e.port, 53).Payload("something else than a question"))
			e.answered(t, r.rig, wireOf(t, e.reply(t, vaultRecord)))
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			r.forgetQuestions(t)
			counted := r.counted(t, func() { row.play(t) })
			if row.counted != "" && counted[row.counted] == 0 {
				t.Errorf("counted %v, want %s", counted, row.counted)
			}
			if counted["address-opened"] != 0 {
				t.Errorf("opened: %v", counted)
			}
			r.forgetFlows(t)
			r.expectOpen(t, "203.0.113.1", 443, false)
		})
	}
	// And what all of them are neighbours of.
	r.learns(t, "vault.example.com", vaultRecord)
	r.expectOpen(t, "203.0.113.1", 443, true)
}

// TestExfiltration: ways out that are none.
func TestExfiltration(t *testing.T) {
	r := newNamesRig(t, Options{}, namesRule("vault", 443, "vault.example.com"))
	needsInline(t, r.rig)
	r.learns(t, "vault.example.com", vaultRecord)
	r.learns(t, "evil.example.org", "evil.example.org. 300 IN A 203.0.113.66")
	r.expectOpen(t, "203.0.113.66", 443, false) // by a name of no rule
	r.expectOpen(t, "203.0.113.67", 443, false) // by its address
	r.expectOpen(t, "203.0.113.1", 22, false)   // by another port
	e := ask("vault.example.com", dns.TypeA)
	e.resolver = "198.51.100.99"
	if verdict, reason := e.asked(t, r.rig); verdict != policy.Deny || reason != policy.ReasonNoAccessRule {
		t.Errorf("a resolver of its own: %s for %s", verdict, reason)
	}
	if verdict, _ := r.towards(t, packet.UDP(e.resolver, e.local, 53, e.port).Payload(wireOf(t, e.reply(t, "vault.example.com. 300 IN A 203.0.113.68")))); verdict != policy.Deny {
		t.Error("an answer that nobody asked for came in")
	}
	r.expectOpen(t, "203.0.113.68", 443, false)
	// Addresses that are no peer's.
	for _, a := range []string{"0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255"} {
		r.learns(t, "vault.example.com", "vault.example.com. 300 IN A "+a)
	}
	if all, err := r.Learnt(); err != nil || len(all) != 1 {
		t.Errorf("learnt %+v, %v", all, err)
	}
}

// TestStrict: a member asks for its names only; all else is denied, with the name
// in the log.
func TestStrict(t *testing.T) {
	p := memberPolicy(policy.Enforced, namesRule("vault", 443, "vault.example.com", "*.blob.example.net"))
	const nameless = "10.20.0.78"
	p.Resources = append(p.Resources, policy.Resource{Name: "nameless", Addresses: prefixes(nameless)})
	p.Perimeters[0].Profiles = append(p.Perimeters[0].Profiles, policy.Profile{Name: "other", AccessRules: []policy.AccessRule{{
		Name: "dns", Direction: policy.Outbound, AddressPrefixes: prefixes(resolver4 + "/32"),
	}}})
	p.Perimeters[0].Associations = append(p.Perimeters[0].Associations, policy.Association{Name: "nameless", Resource: "nameless", Profile: "other", AccessMode: policy.Enforced})
	r := newNamesRig(t, Options{Names: NameOptions{Strict: true}})
	facts := resolverFacts()
	facts.StrictNames = true
	r.put(t, p, facts)
	long := strings.Repeat("a2345678901234567890123456789012345678901234567890123456789012.", 3) + "evil.example.org"
	for _, row := range []struct {
		asked   string
		verdict policy.Verdict
		reason  policy.Reason
	}{
		{"vault.example.com", policy.Allow, policy.ReasonResolverAccess},
		{"VAULT.example.COM", policy.Allow, policy.ReasonResolverAccess},
		{"a.b.blob.example.net", policy.Allow, policy.ReasonResolverAccess},
		{"blob.example.net", policy.Deny, reasonQuestion},
		{"a.vault.example.com", policy.Deny, reasonQuestion},
		{"xvault.example.com", policy.Deny, reasonQuestion},
		{"stolen-data.evil.example.org", policy.Deny, reasonQuestion},
		{long, policy.Deny, reasonQuestion},
	} {
		for _, recordType := range []uint16{dns.TypeA, dns.TypeTXT} {
			r.forgetFlows(t)
			r.events(t)
			e := ask(row.asked, recordType)
			verdict, reason := e.asked(t, r.rig)
			if verdict != row.verdict || reason != row.reason {
				t.Errorf("%s: %s for %s, want %s for %s", row.asked, verdict, reason, row.verdict, row.reason)
			}
			events := r.events(t)
			if len(events) != 1 || row.verdict == policy.Deny && (events[0].Name != row.asked || events[0].Member == 0 || events[0].Kind != Denied) {
				t.Errorf("%s: told %+v", row.asked, events)
			}
		}
	}
	r.forgetFlows(t)
	unreadable := map[string]packet.Packet{
		"no message": packet.UDP(member4, resolver4, 1, 53).Payload("tunnel"),
		"two questions": packet.UDP(member4, resolver4, 1, 53).Payload(func() string {
			m := ask("vault.example.com", dns.TypeA).question
			m.Question = append(m.Question, dns.Question{Name: "evil.example.org.", Qtype: dns.TypeA, Qclass: dns.ClassINET})
			return wireOf(t, m)
		}()),
	}
	for what, p := range unreadable {
		if verdict, reason := r.from(t, p); verdict != policy.Deny || reason != reasonUnreadable {
			t.Errorf("%s: %s for %s", what, verdict, reason)
		}
	}
	if verdict, _ := r.from(t, packet.TCP(member4, resolver4, 1, 53, packet.SYN)); verdict != policy.Deny {
		t.Error("TCP, in which questions cannot be read, is allowed")
	}
	e := ask("evil.example.org", dns.TypeA)
	e.local = nameless
	if verdict, reason := e.asked(t, r.rig); verdict != policy.Allow || reason != policy.ReasonAccessRule {
		t.Errorf("a member without names: %s for %s", verdict, reason)
	}
}

// TestStrictDropsNothingInAudit: what Enforced would deny is told, and passes.
func TestStrictDropsNothingInAudit(t *testing.T) {
	r := newNamesRig(t, Options{Names: NameOptions{Strict: true}})
	r.put(t, memberPolicy(policy.Audit, namesRule("vault", 443, "vault.example.com")), resolverFacts())
	verdict, reason := ask("evil.example.org", dns.TypeA).asked(t, r.rig)
	if verdict != policy.Allow || reason != policy.ReasonResolverAccess {
		t.Errorf("%s for %s", verdict, reason)
	}
	told := 0
	for _, e := range r.events(t) {
		if e.Kind == Denied && e.Name == "evil.example.org" && e.WouldBe == policy.Deny && e.Verdict == policy.Allow {
			told++
		}
	}
	if told != 1 {
		t.Errorf("told %d times, want once", told)
	}
}
