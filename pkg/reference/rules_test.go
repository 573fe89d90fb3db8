package reference_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/pkg/reference"
)

// enforced is one Enforced member, 10.20.0.5 and fd20::5, with these rules.
func enforced(rules ...policy.AccessRule) *policy.Policy {
	return &policy.Policy{
		Resources:  []policy.Resource{host("db", memberAddr, "fd20::5")},
		Perimeters: []policy.Perimeter{single("db", policy.Enforced, rules...)},
	}
}

const (
	byRule  = policy.ReasonAccessRule
	noRule  = policy.ReasonNoAccessRule
	allowed = policy.Allow
	denied  = policy.Deny
)

func TestFamiliesNeverShareAPrefix(t *testing.T) {
	v4 := evaluator(enforced(rule("r", in, "0.0.0.0/0")))
	v6 := evaluator(enforced(rule("r", in, "::/0")))
	// 32.1.13.184 has the first four bytes of 2001:db8::.
	doc := evaluator(enforced(rule("r", in, "2001:db8::/32")))
	bytes := evaluator(enforced(rule("r", in, "32.1.13.184")))
	from4 := func(peer string) reference.Packet { return tcpPacket(in, memberAddr, 5432, peer, 9) }
	from6 := func(peer string) reference.Packet { return tcpPacket(in, "fd20::5", 5432, peer, 9) }
	judge(t, v4, []row{
		{"0/0, v4", from4("203.0.113.1"), allowed, byRule, "db", "r"},
		{"0/0, v6", from6("2001:db8::1"), denied, noRule, "db", ""},
		{"0/0, ::", from6("::"), denied, noRule, "db", ""},
		{"0/0, v4-mapped", from6("::ffff:203.0.113.1"), denied, noRule, "db", ""},
	})
	judge(t, v6, []row{
		{"::/0, v6", from6("2001:db8::1"), allowed, byRule, "db", "r"},
		{"::/0, v4", from4("203.0.113.1"), denied, noRule, "db", ""},
		{"::/0, v4-mapped", from6("::ffff:203.0.113.1"), allowed, byRule, "db", "r"},
	})
	judge(t, doc, []row{
		{"2001:db8::/32, v6", from6("2001:db8:ffff::1"), allowed, byRule, "db", "r"},
		{"2001:db8::/32, same bytes in v4", from4("32.1.13.184"), denied, noRule, "db", ""},
	})
	judge(t, bytes, []row{
		{"32.1.13.184, v4", from4("32.1.13.184"), allowed, byRule, "db", "r"},
		{"32.1.13.184, same bytes in v6", from6("2001:db8::"), denied, noRule, "db", ""},
	})
}

func TestPrefixEdges(t *testing.T) {
	e := evaluator(enforced(
		rule("half", in, "128.0.0.0/1"), rule("pair", in, "10.9.8.6/31"), rule("one", in, "10.9.8.9"),
		rule("v6", in, "2001:db8:0:8::/61"),
	))
	from := func(peer string) reference.Packet {
		if netip.MustParseAddr(peer).Is6() {
			return tcpPacket(in, "fd20::5", 5432, peer, 9)
		}
		return tcpPacket(in, memberAddr, 5432, peer, 9)
	}
	judge(t, e, []row{
		{"below half", from("127.255.255.255"), denied, noRule, "db", ""},
		{"half", from("128.0.0.0"), allowed, byRule, "db", "half"},
		{"last", from("255.255.255.255"), allowed, byRule, "db", "half"},
		{"below pair", from("10.9.8.5"), denied, noRule, "db", ""},
		{"pair", from("10.9.8.6"), allowed, byRule, "db", "pair"},
		{"pair's last", from("10.9.8.7"), allowed, byRule, "db", "pair"},
		{"between", from("10.9.8.8"), denied, noRule, "db", ""},
		{"one", from("10.9.8.9"), allowed, byRule, "db", "one"},
		{"above", from("10.9.8.10"), denied, noRule, "db", ""},
		{"below v6", from("2001:db8:0:7:ffff:ffff:ffff:ffff"), denied, noRule, "db", ""},
		{"v6", from("2001:db8:0:8::"), allowed, byRule, "db", "v6"},
		{"v6's last", from("2001:db8:0:f:ffff:ffff:ffff:ffff"), allowed, byRule, "db", "v6"},
		{"above v6", from("2001:db8:0:10::"), denied, noRule, "db", ""},
	})
}

func TestPorts(t *testing.T) {
	e := evaluator(enforced(
		limited(rule("in", in, "0.0.0.0/0"), tcp(443, 443), udp(1000, 2000), whole(policy.ProtocolSCTP), whole(policy.ProtocolGRE)),
		limited(rule("out", out, "0.0.0.0/0"), tcp(443, 443)),
	))
	judge(t, e, []row{
		{"tcp/443", tcpPacket(in, memberAddr, 443, nobody, 9), allowed, byRule, "db", "in"},
		{"tcp/442", tcpPacket(in, memberAddr, 442, nobody, 9), denied, noRule, "db", ""},
		{"tcp/444", tcpPacket(in, memberAddr, 444, nobody, 9), denied, noRule, "db", ""},
		{"udp/443", udpPacket(in, memberAddr, 443, nobody, 9), denied, noRule, "db", ""},
		{"the peer's tcp/443", tcpPacket(in, memberAddr, 9, nobody, 443), denied, noRule, "db", ""},
		{"udp/999", udpPacket(in, memberAddr, 999, nobody, 9), denied, noRule, "db", ""},
		{"udp/1000", udpPacket(in, memberAddr, 1000, nobody, 9), allowed, byRule, "db", "in"},
		{"udp/2000", udpPacket(in, memberAddr, 2000, nobody, 9), allowed, byRule, "db", "in"},
		{"udp/2001", udpPacket(in, memberAddr, 2001, nobody, 9), denied, noRule, "db", ""},
		{"gre", bare(in, policy.ProtocolGRE, memberAddr, nobody), allowed, byRule, "db", "in"},
		{"esp", bare(in, policy.ProtocolESP, memberAddr, nobody), denied, noRule, "db", ""},
		{"outbound to tcp/443", tcpPacket(out, memberAddr, 9, nobody, 443), allowed, byRule, "db", "out"},
		{"outbound from tcp/443", tcpPacket(out, memberAddr, 443, nobody, 9), denied, noRule, "db", ""},
	})
	sctp := udpPacket(in, memberAddr, 65535, nobody, 9)
	sctp.Protocol = policy.ProtocolSCTP
	judge(t, e, []row{{"all of sctp", sctp, allowed, byRule, "db", "in"}})
}

// TestICMPToken: the word icmp stands for ICMP and for ICMPv6, and for nothing
// with ports.
func TestICMPToken(t *testing.T) {
	e := evaluator(enforced(limited(rule("ping", in, "0.0.0.0/0", "::/0"), whole(policy.ProtocolICMP))))
	judge(t, e, []row{
		{"icmp", bare(in, policy.ProtocolICMP, memberAddr, nobody), allowed, byRule, "db", "ping"},
		{"icmpv6", bare(in, policy.ProtocolICMPv6, "fd20::5", "2001:db8::9"), allowed, byRule, "db", "ping"},
		{"igmp", bare(in, policy.ProtocolIGMP, memberAddr, nobody), denied, noRule, "db", ""},
		{"tcp", tcpPacket(in, memberAddr, 0, nobody, 0), denied, noRule, "db", ""},
		{"outbound", bare(out, policy.ProtocolICMP, memberAddr, nobody), denied, noRule, "db", ""},
	})
}

// TestWhichRuleIsNamed: the longest prefix, then the narrowest ports, then the
// first by name.
func TestWhichRuleIsNamed(t *testing.T) {
	const subscribed, plainPeer = "203.0.113.77", "198.51.100.7"
	p := enforced(
		limited(rule("a-any", in, "0.0.0.0/0"), tcp(80, 80)),
		limited(rule("z-net", in, "198.51.100.0/24", "198.0.0.0/8"), whole(policy.ProtocolTCP)),
		limited(rule("y-net-web", in, "198.51.100.0/24"), tcp(80, 89)),
		limited(rule("x-net-http", in, "198.51.100.0/24"), tcp(79, 80), whole(policy.ProtocolTCP)),
		rule("w-net-all", in, "198.51.100.0/24"),
		rule("B-all", in, "192.0.2.9"), rule("a-all", in, "192.0.2.9"), rule("B2-all", in, "192.0.2.9"),
		rule("net", in, "203.0.113.0/26"),
		policy.AccessRule{Name: "prod", Direction: in, Subscriptions: []string{"prod"}},
		policy.AccessRule{Name: "tagged", Direction: in, ServiceTags: []string{"Storage"}},
		policy.AccessRule{Name: "named", Direction: out, FullyQualifiedDomainNames: []string{"vault.example.com"}},
		limited(policy.AccessRule{Name: "named-narrow", Direction: out, FullyQualifiedDomainNames: []string{"vault.example.com"}}, tcp(443, 443)),
		rule("net-out", out, "203.0.113.0/24"),
	)
	p.ServiceTags = map[string]*policy.PrefixSet{"Storage": policy.NewPrefixSet(prefixes("203.0.113.76/31"))}
	p.Resources = append(p.Resources, host("other", "203.0.113.64/27"))
	p.Resources[1].Subscription = "prod"
	e := reference.New(p, policy.Facts{Now: now, Names: map[string][]netip.Addr{
		"vault.example.com": {netip.MustParseAddr("203.0.113.5"), netip.MustParseAddr("203.0.114.5")},
	}})
	judge(t, e, []row{
		{"narrowest ports", tcpPacket(in, memberAddr, 80, plainPeer, 9), allowed, byRule, "db", "x-net-http"},
		{"next narrowest", tcpPacket(in, memberAddr, 81, plainPeer, 9), allowed, byRule, "db", "y-net-web"},
		{"whole protocol, first name", tcpPacket(in, memberAddr, 90, plainPeer, 9), allowed, byRule, "db", "x-net-http"},
		{"every protocol", udpPacket(in, memberAddr, 80, plainPeer, 9), allowed, byRule, "db", "w-net-all"},
		{"prefix before ports", tcpPacket(in, memberAddr, 80, "198.51.101.7", 9), allowed, byRule, "db", "z-net"},
		{"only the wide one", tcpPacket(in, memberAddr, 80, "197.0.0.1", 9), allowed, byRule, "db", "a-any"},
		{"first by byte", tcpPacket(in, memberAddr, 443, nobody, 9), allowed, byRule, "db", "B-all"},
		{"subscription has its resource's prefix", tcpPacket(in, memberAddr, 443, "203.0.113.65", 9), allowed, byRule, "db", "prod"},
		{"tag is longer", tcpPacket(in, memberAddr, 443, subscribed, 9), allowed, byRule, "db", "tagged"},
		{"a name is asked last", tcpPacket(out, memberAddr, 9, "203.0.113.5", 443), allowed, byRule, "db", "net-out"},
		{"of two rules with names, the narrower", tcpPacket(out, memberAddr, 9, "203.0.114.5", 443), allowed, byRule, "db", "named-narrow"},
		{"the other one", tcpPacket(out, memberAddr, 9, "203.0.114.5", 444), allowed, byRule, "db", "named"},
		{"beside the name", tcpPacket(out, memberAddr, 9, "203.0.113.6", 443), allowed, byRule, "db", "net-out"},
	})
}

func TestWholeRangeIsNotEveryProtocol(t *testing.T) {
	e := evaluator(enforced(
		rule("a-every", in, "0.0.0.0/0"),
		limited(rule("b-whole", in, "0.0.0.0/0"), whole(policy.ProtocolTCP)),
		limited(rule("c-range", in, "0.0.0.0/0"), tcp(1, 65535)),
	))
	judge(t, e, []row{
		{"range", tcpPacket(in, memberAddr, 1, nobody, 9), allowed, byRule, "db", "c-range"},
		{"whole protocol", tcpPacket(in, memberAddr, 0, nobody, 9), allowed, byRule, "db", "b-whole"},
		{"every protocol", udpPacket(in, memberAddr, 1, nobody, 9), allowed, byRule, "db", "a-every"},
	})
}

func TestExpiry(t *testing.T) {
	for _, test := range []struct {
		name    string
		expires time.Time
		counts  bool
	}{
		{"never", time.Time{}, true},
		{"later", now.Add(time.Nanosecond), true},
		{"this instant", now, false},
		{"before", now.Add(-time.Nanosecond), false},
		{"this instant, written elsewhere", now.In(time.FixedZone("", 3600)), false},
	} {
		p := enforced(until(rule("r", in, "0.0.0.0/0"), test.expires))
		want := row{test.name, tcpPacket(in, memberAddr, 1, nobody, 9), denied, noRule, "db", ""}
		if test.counts {
			want = row{test.name, want.pkt, allowed, byRule, "db", "r"}
		}
		judge(t, evaluator(p), []row{want})
	}
}

// TestExpiredOwnRuleStaysWritten: the end of the only own rule must not open
// the resource to everybody.
func TestExpiredOwnRuleStaysWritten(t *testing.T) {
	p := plain(policy.Unassociated, policy.Enabled, false)
	p.Resources[0].Firewall = []policy.AccessRule{until(rule("own", in, "203.0.113.0/24"), now)}
	judge(t, evaluator(p), []row{
		{"was admitted", tcpPacket(in, memberAddr, 1, ownPeer, 9), denied, policy.ReasonNoFirewallRule, "db", ""},
		{"never was", tcpPacket(in, memberAddr, 1, nobody, 9), denied, policy.ReasonNoFirewallRule, "db", ""},
	})
}

func TestNames(t *testing.T) {
	p := enforced(
		policy.AccessRule{Name: "vault", Direction: out, FullyQualifiedDomainNames: []string{"vault.example.com", "gone.example.com"}},
		policy.AccessRule{Name: "blobs", Direction: out, FullyQualifiedDomainNames: []string{"*.blob.example.net"}},
	)
	addrs := func(words ...string) []netip.Addr {
		var list []netip.Addr
		for _, word := range words {
			list = append(list, netip.MustParseAddr(word))
		}
		return list
	}
	e := reference.New(p, policy.Facts{Now: now, Names: map[string][]netip.Addr{
		"vault.example.com":    addrs("203.0.113.1", "2001:db8::1"),
		"a.blob.example.net":   addrs("203.0.113.3"),
		"a.b.blob.example.net": addrs("203.0.113.4"),
		"blob.example.net":     addrs("203.0.113.5"),
		"a.xblob.example.net":  addrs("203.0.113.6"),
		"a.vault.example.com":  addrs("203.0.113.7"),
		"xvault.example.com":   addrs("203.0.113.8"),
		"other.example.com":    addrs("203.0.113.9"),
	}})
	judge(t, e, []row{
		{"v4", tcpPacket(out, memberAddr, 9, "203.0.113.1", 443), allowed, byRule, "db", "vault"},
		{"v6", tcpPacket(out, "fd20::5", 9, "2001:db8::1", 443), allowed, byRule, "db", "vault"},
		{"neighbour", tcpPacket(out, memberAddr, 9, "203.0.113.2", 443), denied, noRule, "db", ""},
		{"wildcard", tcpPacket(out, memberAddr, 9, "203.0.113.3", 443), allowed, byRule, "db", "blobs"},
		{"wildcard, two labels", tcpPacket(out, memberAddr, 9, "203.0.113.4", 443), allowed, byRule, "db", "blobs"},
		{"what a wildcard is below", tcpPacket(out, memberAddr, 9, "203.0.113.5", 443), denied, noRule, "db", ""},
		{"not at a label's edge", tcpPacket(out, memberAddr, 9, "203.0.113.6", 443), denied, noRule, "db", ""},
		{"below an exact name", tcpPacket(out, memberAddr, 9, "203.0.113.7", 443), denied, noRule, "db", ""},
		{"ends in an exact name", tcpPacket(out, memberAddr, 9, "203.0.113.8", 443), denied, noRule, "db", ""},
		{"name of no rule", tcpPacket(out, memberAddr, 9, "203.0.113.9", 443), denied, noRule, "db", ""},
		{"inbound", tcpPacket(in, memberAddr, 9, "203.0.113.1", 443), denied, noRule, "db", ""},
	})
}

// TestResolverAccess: who has names in his rules may ask the host's resolvers.
func TestResolverAccess(t *testing.T) {
	const resolver, another = "203.0.113.53", "203.0.113.54"
	named := policy.AccessRule{Name: "vault", Direction: out, FullyQualifiedDomainNames: []string{"vault.example.com"}}
	facts := policy.Facts{Now: now, Resolvers: []netip.Addr{netip.MustParseAddr(resolver)}}
	byResolver := policy.ReasonResolverAccess
	e := reference.New(enforced(named), facts)
	judge(t, e, []row{
		{"UDP", udpPacket(out, memberAddr, 9, resolver, 53), allowed, byResolver, "db", ""},
		{"TCP", tcpPacket(out, memberAddr, 9, resolver, 53), allowed, byResolver, "db", ""},
		{"another port", udpPacket(out, memberAddr, 9, resolver, 54), denied, noRule, "db", ""},
		{"not one of the host's", udpPacket(out, memberAddr, 9, another, 53), denied, noRule, "db", ""},
		{"inbound", udpPacket(in, memberAddr, 53, resolver, 9), denied, noRule, "db", ""},
	})
	strictly := facts
	strictly.StrictNames = true
	judge(t, reference.New(enforced(named), strictly), []row{
		{"strict, UDP", udpPacket(out, memberAddr, 9, resolver, 53), allowed, byResolver, "db", ""},
		{"strict, TCP", tcpPacket(out, memberAddr, 9, resolver, 53), denied, noRule, "db", ""},
	})
	judge(t, reference.New(enforced(until(named, now)), facts), []row{
		{"the rule has ended", udpPacket(out, memberAddr, 9, resolver, 53), denied, noRule, "db", ""},
	})
	judge(t, reference.New(enforced(rule("net", out, "203.0.113.0/26")), facts), []row{
		{"no names", udpPacket(out, memberAddr, 9, "203.0.113.99", 53), denied, noRule, "db", ""},
	})
}

func TestServiceTags(t *testing.T) {
	p := enforced(policy.AccessRule{Name: "tags", Direction: in, ServiceTags: []string{"Storage", "Empty"}})
	p.ServiceTags = map[string]*policy.PrefixSet{
		"Storage": policy.NewPrefixSet(prefixes("203.0.113.0/28", "2001:db8:5::/48")),
		"Empty":   policy.NewPrefixSet(nil),
		"Other":   policy.NewPrefixSet(prefixes("198.51.100.0/24")),
	}
	judge(t, evaluator(p), []row{
		{"v4", tcpPacket(in, memberAddr, 9, "203.0.113.15", 1), allowed, byRule, "db", "tags"},
		{"v6", tcpPacket(in, "fd20::5", 9, "2001:db8:5::1", 1), allowed, byRule, "db", "tags"},
		{"after", tcpPacket(in, memberAddr, 9, "203.0.113.16", 1), denied, noRule, "db", ""},
		{"other tag", tcpPacket(in, memberAddr, 9, "198.51.100.7", 1), denied, noRule, "db", ""},
	})
}

// TestSubscriptions: a subscription admits all its resources, members or not,
// by what their addresses carry.
func TestSubscriptions(t *testing.T) {
	p := enforced(policy.AccessRule{Name: "prod", Direction: in, Subscriptions: []string{"prod"}})
	own := func(r policy.Resource, subscription string) policy.Resource {
		r.Subscription = subscription
		return r
	}
	p.Resources = append(p.Resources,
		own(host("fleet", "172.16.0.0/16"), "prod"),
		own(host("guest", "172.16.9.0/24"), "test"),                                      // hides fleet
		own(service("web", []policy.Ports{tcp(443, 443)}, "172.16.8.0/24"), "test"),      // laid over fleet
		own(service("broker", []policy.Ports{tcp(5671, 5671)}, "172.16.9.9/32"), "prod"), // laid over guest
		own(host("nobodys", "172.17.0.1"), ""),
	)
	from := func(peer string) reference.Packet { return tcpPacket(in, memberAddr, 5432, peer, 9) }
	judge(t, evaluator(p), []row{
		{"resource of it", from("172.16.0.1"), allowed, byRule, "db", "prod"},
		{"hidden by another's", from("172.16.9.1"), denied, noRule, "db", ""},
		{"beneath another's service", from("172.16.8.1"), allowed, byRule, "db", "prod"},
		{"service of it, whatever the port", from("172.16.9.9"), allowed, byRule, "db", "prod"},
		{"resource of none", from("172.17.0.1"), denied, noRule, "db", ""},
		{"no resource", from("172.15.255.255"), denied, noRule, "db", ""},
	})
}
