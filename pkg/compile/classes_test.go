package compile_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/perimeterd/perimeterd/pkg/compile"
	"github.com/perimeterd/perimeterd/pkg/policy"
)

// written is the prefixes of a family with their classes.
func written(list []compile.PrefixClass) string {
	var words []string
	for _, p := range list {
		words = append(words, fmt.Sprintf("%s=%d", p.Prefix, p.Class))
	}
	return strings.Join(words, " ")
}

// TestClasses: which prefixes come out with which classes, and which rule is
// named for addresses in them and beside them. Classes are numbered as the
// prefixes come, IPv4 first.
func TestClasses(t *testing.T) {
	both := []string{"0.0.0.0/0", "::/0"}
	for _, test := range []struct {
		name   string
		rules  []policy.AccessRule
		want4  string
		want6  string
		expect map[string]string // the rule for a peer, "" = none
	}{
		{
			name: "alone", rules: []policy.AccessRule{rule("a", "10.0.0.0/8")},
			want4:  "10.0.0.0/8=1",
			expect: map[string]string{"9.255.255.255": "", "10.0.0.0": "a", "10.255.255.255": "a", "11.0.0.0": "", "a00::": ""},
		},
		{
			name: "nested", rules: []policy.AccessRule{rule("a", "10.0.0.0/8"), rule("b", "10.1.0.0/16"), rule("c", "10.1.2.0/24", "10.1.2.3")},
			want4: "10.0.0.0/8=1 10.1.0.0/16=2 10.1.2.0/24=3",
			expect: map[string]string{"10.0.255.255": "a", "10.1.0.0": "b", "10.1.1.255": "b", "10.1.2.0": "c", "10.1.2.3": "c",
				"10.1.2.255": "c", "10.1.3.0": "b", "10.1.255.255": "b", "10.2.0.0": "a"},
		},
		{
			name: "nested the other way round by name", rules: []policy.AccessRule{rule("c", "10.0.0.0/8"), rule("b", "10.1.0.0/16"), rule("a", "10.1.2.0/24")},
			want4:  "10.0.0.0/8=1 10.1.0.0/16=2 10.1.2.0/24=3",
			expect: map[string]string{"10.0.0.1": "c", "10.1.0.1": "b", "10.1.2.1": "a", "10.1.3.1": "b"},
		},
		{
			name: "inside itself", rules: []policy.AccessRule{rule("a", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24")},
			want4:  "10.0.0.0/8=1",
			expect: map[string]string{"10.1.2.3": "a", "11.0.0.0": ""},
		},
		{
			name: "inside itself, with another between", rules: []policy.AccessRule{rule("a", "10.0.0.0/8", "10.1.2.0/24"), rule("b", "10.1.0.0/16")},
			want4:  "10.0.0.0/8=1 10.1.0.0/16=2 10.1.2.0/24=3",
			expect: map[string]string{"10.0.0.1": "a", "10.1.0.1": "b", "10.1.2.1": "a", "10.1.3.1": "b", "10.2.0.1": "a"},
		},
		{
			name: "the same class again, elsewhere and after the end of an inner one",
			rules: []policy.AccessRule{
				rule("a", "10.0.0.0/8", "172.16.0.0/12"), rule("b", "10.1.0.0/16", "172.16.0.0/16"),
			},
			want4:  "10.0.0.0/8=1 10.1.0.0/16=2 172.16.0.0/12=1 172.16.0.0/16=2",
			expect: map[string]string{"10.1.0.1": "b", "172.16.0.1": "b", "172.17.0.0": "a", "172.32.0.0": ""},
		},
		{
			name: "the same class, with the inner list around it or not",
			rules: []policy.AccessRule{
				rule("a", "10.0.0.0/8", "10.1.2.0/24", "172.16.1.0/24"), rule("b", "10.1.0.0/16", "172.16.0.0/12"),
			},
			want4:  "10.0.0.0/8=1 10.1.0.0/16=2 10.1.2.0/24=3 172.16.0.0/12=4 172.16.1.0/24=3",
			expect: map[string]string{"10.1.2.1": "a", "172.16.1.1": "a", "10.1.3.1": "b", "172.16.2.1": "b"},
		},
		{
			name: "said twice", rules: []policy.AccessRule{rule("a", "10.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12"), rule("b", "172.16.1.0/24", "172.16.1.0/24")},
			want4:  "10.0.0.0/8=1 172.16.0.0/12=1 172.16.1.0/24=2",
			expect: map[string]string{"10.0.0.1": "a", "172.16.0.1": "a", "172.16.1.1": "b"},
		},
		{
			name: "adjacent", rules: []policy.AccessRule{rule("a", "10.0.0.0/24"), rule("b", "10.0.1.0/24")},
			want4:  "10.0.0.0/24=1 10.0.1.0/24=2",
			expect: map[string]string{"9.255.255.255": "", "10.0.0.255": "a", "10.0.1.0": "b", "10.0.1.255": "b", "10.0.2.0": ""},
		},
		{
			name: "adjacent hosts and the halves of all", rules: []policy.AccessRule{rule("a", "0.0.0.0/1"), rule("b", "128.0.0.0/1"), rule("c", "127.255.255.255"), rule("d", "255.255.255.255")},
			want4:  "0.0.0.0/1=1 127.255.255.255/32=2 128.0.0.0/1=3 255.255.255.255/32=4",
			expect: map[string]string{"0.0.0.0": "a", "127.255.255.254": "a", "127.255.255.255": "c", "128.0.0.0": "b", "255.255.255.254": "b", "255.255.255.255": "d"},
		},
		{
			name: "the same prefix in two rules: the first by name",
			rules: []policy.AccessRule{
				rule("b", "10.0.0.0/8"), rule("a", "10.0.0.0/8", "172.16.0.0/12"),
			},
			want4:  "10.0.0.0/8=1 172.16.0.0/12=2",
			expect: map[string]string{"10.0.0.1": "a", "172.16.0.1": "a"},
		},
		{
			name: "rules of one list",
			rules: []policy.AccessRule{
				limited(rule("a", "10.0.0.0/8", "172.16.0.0/12"), tcp(1, 1)), limited(rule("b", "172.16.0.0/12", "10.0.0.0/8"), tcp(443, 443)),
			},
			want4:  "10.0.0.0/8=1 172.16.0.0/12=1",
			expect: map[string]string{"10.0.0.1": "b", "172.16.0.1": "b", "11.0.0.1": ""},
		},
		{
			name: "everybody", rules: []policy.AccessRule{rule("a", both...)},
			expect: map[string]string{"0.0.0.0": "a", "255.255.255.255": "a", "::": "a", "ffff::": "a"},
		},
		{
			name: "everybody of one family", rules: []policy.AccessRule{rule("a", "0.0.0.0/0"), rule("b", "2001:db8::/32")},
			want6:  "2001:db8::/32=1",
			expect: map[string]string{"1.2.3.4": "a", "32.1.13.184": "a", "2001:db8::1": "b", "2001:db9::": ""},
		},
		{
			name: "everybody of the other", rules: []policy.AccessRule{rule("a", "::/0"), rule("b", "10.0.0.0/8")},
			want4:  "10.0.0.0/8=1",
			expect: map[string]string{"1.2.3.4": "", "10.0.0.1": "b", "a00::1": "a", "::": "a"},
		},
		{
			name: "somebody among everybody", rules: []policy.AccessRule{rule("b", both...), rule("a", "10.0.0.0/8", "fd00::/8")},
			want4: "10.0.0.0/8=1", want6: "fd00::/8=1",
			expect: map[string]string{"10.0.0.1": "a", "11.0.0.1": "b", "fd00::1": "a", "fc00::1": "b"},
		},
		{
			name: "in the list of everybody too", rules: []policy.AccessRule{rule("a", append(both, "10.0.0.0/8")...), rule("b", both...)},
			want4:  "10.0.0.0/8=1",
			expect: map[string]string{"10.0.0.1": "a", "11.0.0.1": "a", "::1": "a"},
		},
		{
			name:  "families never mix: both begin with the same 32 bits",
			rules: []policy.AccessRule{rule("a", "32.1.13.184"), rule("b", "2001:db8::/32")},
			want4: "32.1.13.184/32=1", want6: "2001:db8::/32=2",
			expect: map[string]string{"32.1.13.184": "a", "2001:db8::": "b", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff": "b", "32.1.13.185": "", "2001:db9::": ""},
		},
		{
			name: "one list in both families is one class", rules: []policy.AccessRule{rule("a", "32.1.13.184", "2001:db8::/32")},
			want4: "32.1.13.184/32=1", want6: "2001:db8::/32=1",
			expect: map[string]string{"32.1.13.184": "a", "2001:db8::": "a"},
		},
		{
			name: "around 64 bits", rules: []policy.AccessRule{rule("a", "2001:db8::/63"), rule("b", "2001:db8::/64"), rule("c", "2001:db8::/65"), rule("d", "2001:db8::1")},
			want6: "2001:db8::/63=1 2001:db8::/64=2 2001:db8::/65=3 2001:db8::1/128=4",
			expect: map[string]string{"2001:db8::": "c", "2001:db8::1": "d", "2001:db8::2": "c", "2001:db8::7fff:ffff:ffff:ffff": "c",
				"2001:db8::8000:0:0:0": "b", "2001:db8:0:1::": "a", "2001:db8:0:2::": ""},
		},
	} {
		p := guarded(test.rules...)
		r := read(t, p, elsewhere())
		if got := written(renumbered(r.tables.Prefixes4.Base, r.tables.Prefixes6.Base)); got != strings.TrimSpace(test.want4+" "+test.want6) {
			t.Errorf("%s: prefixes: got %s, want %s %s", test.name, got, test.want4, test.want6)
		}
		for peer, want := range test.expect {
			if got := r.ruleFor(peer, 443); got != want {
				t.Errorf("%s: %s: got rule %q, want %q", test.name, peer, got, want)
			}
		}
	}
}

// renumbered numbers the classes of both families in the order they come, without
// the member, which is a peer of its own perimeter.
func renumbered(lists ...[]compile.PrefixClass) []compile.PrefixClass {
	numbers := map[uint32]uint32{}
	members := prefixes(memberAddr, memberAddr6)
	all := slices.DeleteFunc(slices.Concat(lists...), func(p compile.PrefixClass) bool { return slices.Contains(members, p.Prefix) })
	for i, p := range all {
		if p.Class != 0 && numbers[p.Class] == 0 {
			numbers[p.Class] = uint32(len(numbers) + 1)
		}
		all[i].Class = numbers[p.Class]
	}
	return all
}

// TestHidden: a resource that takes all traffic of its addresses hides wider ones
// there, as a peer too; one with services does not.
func TestHidden(t *testing.T) {
	service := host("service", "10.1.1.0/24")
	service.Services = []policy.Ports{tcp(443, 443)}
	wide, narrow, again := host("wide", "10.0.0.0/8", "10.1.3.3"), host("narrow", "10.1.0.0/16"), host("again", "10.1.2.0/24")
	wide.Subscription, narrow.Subscription, service.Subscription, again.Subscription = "wide", "narrow", "service", "wide"
	subscription := func(name string) policy.AccessRule {
		return policy.AccessRule{Name: name, Direction: in, Subscriptions: []string{name}}
	}
	admits := func(names ...string) *reader {
		p := guarded()
		for _, name := range names {
			profile := &p.Perimeters[0].Profiles[0]
			profile.AccessRules = append(profile.AccessRules, subscription(name))
		}
		p.Resources = append(p.Resources, wide, narrow, service, again)
		return read(t, p, elsewhere())
	}
	all, only := admits("wide", "narrow", "service"), admits("wide")
	for _, test := range []struct{ peer, all, only string }{
		{"10.0.0.1", "wide", "wide"},
		{"10.1.0.1", "narrow", ""},
		{"10.1.1.1", "service", ""}, // laid over narrow, which hides wide
		{"10.1.2.1", "wide", "wide"},
		{"10.1.3.3", "wide", "wide"}, // by its own prefix
		{"10.1.3.4", "narrow", ""},
		{"10.2.0.0", "wide", "wide"},
		{"11.0.0.0", "", ""},
	} {
		if got := all.ruleFor(test.peer, 443); got != test.all {
			t.Errorf("%s: got rule %q, want %q", test.peer, got, test.all)
		}
		if got := only.ruleFor(test.peer, 443); got != test.only {
			t.Errorf("%s, only wide admitted: got rule %q, want %q", test.peer, got, test.only)
		}
	}
	if got := admits("narrow", "service").ruleFor("10.1.1.1", 443); got != "service" {
		t.Errorf("beneath a service: got rule %q", got)
	}
	if got := admits("narrow").ruleFor("10.1.1.1", 443); got != "narrow" {
		t.Errorf("beneath a service that is not admitted: got rule %q", got)
	}
}

// TestHiddenAllAround: the same where the resource that is hidden has every
// address, so that its list is behind class 0.
func TestHiddenAllAround(t *testing.T) {
	everywhere, narrow := host("everywhere", "0.0.0.0/0", "::/0"), host("narrow", "10.0.0.0/8", "fd00::/8")
	everywhere.Subscription, narrow.Subscription = "prod", "test"
	service := host("service", "10.1.0.0/16")
	service.Services = []policy.Ports{tcp(1, 1)}
	p := guarded(policy.AccessRule{Name: "prod", Direction: in, Subscriptions: []string{"prod"}}, limited(rule("other", "10.2.0.0/16", "11.2.0.0/16"), tcp(1, 1)))
	p.Resources = append(p.Resources, everywhere, narrow, service)
	r := read(t, p, elsewhere())
	for peer, want := range map[string]string{
		"10.2.0.1": "", "11.2.0.1": "prod",
		"9.0.0.1": "prod", "10.0.0.1": "", "10.1.0.1": "", "11.0.0.1": "prod", "fc00::1": "prod", "fd00::1": "", "fe00::1": "prod",
	} {
		if got := r.ruleFor(peer, 443); got != want {
			t.Errorf("%s: got rule %q, want %q", peer, got, want)
		}
	}
	if got := written(renumbered(r.tables.Prefixes6.Base)); got != "fd00::/8=1" {
		t.Errorf("IPv6 prefixes: got %s", got)
	}
	// Narrow leaves: nothing is hidden any more, and nothing is left to tell.
	p.Resources = slices.Delete(p.Resources, 2, 3)
	if got := written(renumbered(read(t, p, elsewhere()).tables.Prefixes6.Base)); got != "" {
		t.Errorf("IPv6 prefixes without narrow: got %s", got)
	}
}

// TestOneListIsStoredOnce: members whose rules, in whatever profile, tag or own
// firewall, have the same prefixes share one class, and so do peers who differ
// in a name that nobody asks about.
func TestOneListIsStoredOnce(t *testing.T) {
	list := []string{"198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32"}
	p := &policy.Policy{ServiceTags: map[string]*policy.PrefixSet{"tag": policy.NewPrefixSet(prefixes(list[2], list[0], list[1]))}}
	perimeter := policy.Perimeter{Name: "perimeter"}
	for i := range 20 {
		name := fmt.Sprintf("member-%d", i)
		member := host(name, fmt.Sprintf("192.168.0.%d", i))
		member.Subscription = fmt.Sprintf("group-%d", i)
		profile := policy.Profile{Name: name}
		switch i % 3 {
		case 0:
			profile.AccessRules = []policy.AccessRule{rule("rule", list...)}
		case 1:
			profile.AccessRules = []policy.AccessRule{rule("tag")}
			profile.AccessRules[0].ServiceTags = []string{"tag"}
		case 2:
			member.Firewall = []policy.AccessRule{rule("own", list[1], list[2], list[0])}
		}
		p.Resources = append(p.Resources, member)
		if i%3 < 2 {
			perimeter.Profiles = append(perimeter.Profiles, profile)
			perimeter.Associations = append(perimeter.Associations, associate(name, name))
		}
	}
	p.Perimeters = []policy.Perimeter{perimeter}
	r := read(t, p, elsewhere())
	class := r.class(netip.MustParseAddr("198.51.100.1"))
	for _, word := range []string{"198.51.100.255", "203.0.113.7", "2001:db8::7"} {
		if got := r.class(netip.MustParseAddr(word)); got != class || class == 0 {
			t.Errorf("%s is of class %d, want %d", word, got, class)
		}
	}
	members := map[uint32]bool{}
	for i := range 20 {
		members[r.class(netip.MustParseAddr(fmt.Sprintf("192.168.0.%d", i)))] = true
	}
	if len(members) != 2 { // in the perimeter, and not
		t.Errorf("the members are of %d classes as peers, want 2", len(members))
	}
	if got := r.tables.Prefixes4.Len() + r.tables.Prefixes6.Len(); got != 3+14 {
		t.Errorf("%d prefixes, want those of one list and the members of the perimeter", got)
	}
}

// TestMembersWithEqualRulesShareMeanings: spans are stored once, whoever they
// belong to.
func TestMembersWithEqualRulesShareMeanings(t *testing.T) {
	build := func(profiles int) *compile.Tables {
		p := &policy.Policy{Perimeters: []policy.Perimeter{{Name: "perimeter"}}}
		perimeter := &p.Perimeters[0]
		for i := range profiles {
			name := fmt.Sprintf("member-%d", i)
			p.Resources = append(p.Resources, host(name, fmt.Sprintf("192.168.0.%d", i)))
			perimeter.Profiles = append(perimeter.Profiles, policy.Profile{Name: name, AccessRules: []policy.AccessRule{
				limited(rule("web", "198.51.100.0/24"), tcp(80, 80), tcp(443, 443)),
			}})
			perimeter.Associations = append(perimeter.Associations, associate(name, name))
		}
		tables, _ := compiled(t, p, elsewhere())
		return tables
	}
	one, many := build(1), build(20)
	if len(one.Spans) == 0 || !slices.Equal(one.Spans, many.Spans) {
		t.Errorf("spans of one: %v, of many: %v", one.Spans, many.Spans)
	}
	if len(one.Outcomes) != len(many.Outcomes) {
		t.Errorf("outcomes of one: %d, of many: %d", len(one.Outcomes), len(many.Outcomes))
	}
}
