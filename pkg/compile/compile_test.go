package compile_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/perimeterd/perimeterd/pkg/compile"
	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/pkg/reference"
	"github.com/perimeterd/perimeterd/tests/randompolicy"
)

func TestEmptyPolicy(t *testing.T) {
	tables, legend := compiled(t, &policy.Policy{}, elsewhere())
	if len(tables.Locals)+tables.Prefixes4.Len()+tables.Prefixes6.Len()+len(tables.ScopeClasses)+len(tables.Spans) > 0 || tables.StrictHere {
		t.Errorf("an empty policy makes %+v", tables)
	}
	if len(tables.Members) != 1 || len(tables.Outcomes) != 1 || len(legend.Members) != 1 || len(legend.Outcomes) != 1 {
		t.Errorf("the places for nobody and nothing: %+v, %+v", tables, legend)
	}
}

// TestInterfacesThatClash: whose a packet is may depend on the addresses that
// the host's interfaces have, and so is known only here.
func TestInterfacesThatClash(t *testing.T) {
	p := onePerimeter([]policy.Resource{
		{Name: "uplink", Interfaces: []string{"eth*"}, At: policy.Position{File: "a.yaml", Line: 3, Column: 5}},
		{Name: "front", Interfaces: []string{"eth0"}, Host: "web-*", At: policy.Position{File: "b.yaml", Line: 7, Column: 5}},
	})
	facts := hereFacts("10.0.0.1")
	facts.Interfaces = append(facts.Interfaces, policy.Interface{Name: "eth1", Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.2")}})
	facts.Hostname = "web-1"
	_, _, err := compile.Compile(p, facts)
	var problems policy.Problems
	if !errors.As(err, &problems) {
		t.Fatalf("two resources on one interface: got %v, want problems", err)
	}
	for _, word := range []string{"uplink", "front", "10.0.0.1", "a.yaml:3:5", "b.yaml:7:5"} {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("the error does not name %s: %v", word, err)
		}
	}
	if strings.Contains(err.Error(), "10.0.0.2") {
		t.Errorf("the error names an address that only one has: %v", err)
	}

	facts.Hostname = "db-1" // not one of front's
	r := read(t, p, facts)
	if d := r.judge(in, packet(in, "10.0.0.1", "192.0.2.9", 443), now); d.Resource != "uplink" {
		t.Errorf("on another host: got %+v", d)
	}
	facts.Hostname = "web-1"
	p.Resources[1].Services = []policy.Ports{tcp(443, 443)} // laid over the other
	r = read(t, p, facts)
	for port, want := range map[uint16]string{443: "front", 444: "uplink"} {
		if d := r.judge(in, packet(in, "10.0.0.1", "192.0.2.9", port), now); d.Resource != want {
			t.Errorf("port %d: got %+v, want %s", port, d, want)
		}
	}
}

// TestNextExpiry: the first end of a rule that is still to come, be it an access
// rule or an own one that counts.
func TestNextExpiry(t *testing.T) {
	own := func(mode policy.AccessMode) *policy.Policy {
		p := guarded(until(rule("access", "10.0.0.0/8"), time.Hour))
		p.Resources[0].Firewall = []policy.AccessRule{until(rule("own", "10.0.0.0/8"), time.Minute)}
		p.Perimeters[0].Associations[0].AccessMode = mode
		return p
	}
	nobodys := guarded()
	nobodys.Perimeters[0].Profiles = append(nobodys.Perimeters[0].Profiles, policy.Profile{Name: "unused", AccessRules: []policy.AccessRule{until(rule("a", "10.0.0.0/8"), time.Hour)}})
	for _, test := range []struct {
		name string
		p    *policy.Policy
		want time.Duration // 0 = never
	}{
		{"no rule", guarded(), 0},
		{"none ends", guarded(rule("a", "10.0.0.0/8")), 0},
		{"one ends", guarded(rule("a", "10.0.0.0/8"), until(rule("b", "10.0.0.0/8"), time.Hour)), time.Hour},
		{"the first of several", guarded(until(rule("a", "10.0.0.0/8"), 3*time.Hour), until(rule("b", "10.0.0.0/8"), time.Hour), until(rule("c", "10.0.0.0/8"), 2*time.Hour)), time.Hour},
		{"one has ended", guarded(until(rule("a", "10.0.0.0/8"), -time.Hour), until(rule("b", "10.0.0.0/8"), time.Hour)), time.Hour},
		{"one ends now", guarded(until(rule("a", "10.0.0.0/8"), 0)), 0},
		{"outbound", guarded(outwards(until(rule("a", "10.0.0.0/8"), time.Hour))), time.Hour},
		{"an own rule, in Learning", own(policy.Learning), time.Minute},
		{"an own rule that does not count", own(policy.Enforced), time.Hour},
		{"a profile of nobody", nobodys, 0},
	} {
		tables, _ := compiled(t, test.p, elsewhere())
		want := time.Time{}
		if test.want > 0 {
			want = now.Add(test.want)
		}
		if !tables.NextExpiry.Equal(want) {
			t.Errorf("%s: got %v, want %v", test.name, tables.NextExpiry, want)
		}
	}
}

// TestFailsafe: a failsafe rule that names no peer is for everybody, like one
// that says so; the narrower is told.
func TestFailsafe(t *testing.T) {
	everybody := []string{"0.0.0.0/0", "::/0"}
	for _, failsafe := range [][]policy.AccessRule{
		{{Name: "ssh", Direction: in, Ports: []policy.Ports{tcp(22, 22)}}, rule("any", everybody...)},
		{limited(rule("ssh", everybody...), tcp(22, 22)), {Name: "any", Direction: in}},
		{{Name: "ssh", Direction: in, Ports: []policy.Ports{tcp(22, 22)}}, {Name: "any", Direction: in}},
	} {
		facts := elsewhere()
		facts.Failsafe = failsafe
		r, e := read(t, guarded(), facts), reference.New(guarded(), *facts)
		for port, want := range map[uint16]string{22: "ssh", 23: "any"} {
			for _, ends := range [][2]string{{memberAddr, "192.0.2.9"}, {memberAddr6, "2001:db8::9"}} {
				pkt := packet(in, ends[0], ends[1], port)
				if d := r.judge(in, pkt, now); d.Rule != want || d.Reason != policy.ReasonFailsafe || d != e.Judge(in, pkt) {
					t.Errorf("%+v: port %d: got %+v, want %+v", failsafe, port, d, e.Judge(in, pkt))
				}
				if d := r.judge(out, packet(out, ends[0], ends[1], port), now); d.Verdict != policy.Deny {
					t.Errorf("outbound: got %+v", d)
				}
			}
		}
	}
}

// versioned is the legend of a policy with members "a", of a profile with these
// rules, "b", of another, and "alone".
func versioned(t *testing.T, generation uint32, previous *compile.Legend, rules ...policy.AccessRule) *compile.Legend {
	t.Helper()
	p := onePerimeter([]policy.Resource{host("a", "10.0.0.1")}, rules...)
	p.Resources = append(p.Resources, host("b", "10.0.0.2"), host("alone", "10.0.0.3"))
	p.Perimeters[0].Profiles = append(p.Perimeters[0].Profiles, policy.Profile{Name: "other", AccessRules: []policy.AccessRule{rule("r", "10.0.0.0/8")}})
	p.Perimeters[0].Associations = append(p.Perimeters[0].Associations, associate("b", "other"))
	_, legend := compiled(t, p, elsewhere())
	legend.PutInForce(generation, previous)
	return legend
}

// checkVersions checks the versions that members' rules have.
func checkVersions(t *testing.T, name string, legend *compile.Legend, a, b string) {
	t.Helper()
	for _, m := range legend.Members[1:] {
		if want := map[string]string{"a": a, "b": b}[m.Resource]; m.AccessRulesVersion != want {
			t.Errorf("%s: %s has version %q, want %q", name, m.Resource, m.AccessRulesVersion, want)
		}
	}
}

// TestPutInForce: a profile's version is the generation in which its rules last
// changed.
func TestPutInForce(t *testing.T) {
	r := rule("r", "198.51.100.0/24", "203.0.113.0/24")
	change := func(f func(r *policy.AccessRule)) []policy.AccessRule {
		changed := r
		f(&changed)
		return []policy.AccessRule{changed}
	}
	for _, test := range []struct {
		name    string
		rules   []policy.AccessRule
		version string // after r alone was in force as 7
	}{
		{"the same", []policy.AccessRule{r}, "7"},
		{"its prefixes in another order", []policy.AccessRule{rule("r", "203.0.113.0/24", "198.51.100.0/24")}, "7"},
		{"read from another line", change(func(r *policy.AccessRule) { r.At.Line = 9 }), "7"},
		{"another prefix", []policy.AccessRule{rule("r", "198.51.100.0/24", "203.0.113.0/25")}, "8"},
		{"a prefix less", []policy.AccessRule{rule("r", "198.51.100.0/24")}, "8"},
		{"a port", []policy.AccessRule{limited(r, tcp(443, 443))}, "8"},
		{"an end", []policy.AccessRule{until(r, time.Hour)}, "8"},
		{"another direction", []policy.AccessRule{outwards(r)}, "8"},
		{"a name", change(func(r *policy.AccessRule) { r.Name = "q" }), "8"},
		{"a description", change(func(r *policy.AccessRule) { r.Description = "who they are" }), "8"},
		{"another kind of selector", change(func(r *policy.AccessRule) { r.AddressPrefixes, r.Subscriptions = nil, []string{"prod"} }), "8"},
		{"one more", []policy.AccessRule{r, rule("s", "192.0.2.0/24")}, "8"},
		{"none", nil, "8"},
	} {
		before := versioned(t, 7, nil, r)
		checkVersions(t, "before "+test.name, before, "7", "7")
		after := versioned(t, 8, before, test.rules...)
		checkVersions(t, test.name, after, test.version, "7")
		if after.Generation != 8 || before.Generation != 7 {
			t.Errorf("%s: generations %d and %d", test.name, before.Generation, after.Generation)
		}
		// Nothing changes after that, and the version stays.
		checkVersions(t, "again "+test.name, versioned(t, 9, after, test.rules...), test.version, "7")
	}
}

// TestDeterminism: the same input gives the same tables, down to every number.
func TestDeterminism(t *testing.T) {
	first := compile.Seed(t)
	for i := range 60 {
		draw := func() (*compile.Tables, *compile.Legend) {
			p, facts := randompolicy.Policy(rand.New(rand.NewPCG(first, uint64(i))), randompolicy.Typical())
			return compiled(t, p, &facts)
		}
		tables, legend := draw()
		for range 3 {
			again, legendAgain := draw()
			if !reflect.DeepEqual(tables, again) || !reflect.DeepEqual(legend, legendAgain) {
				t.Fatalf("policy %d: the same policy gives other tables", i)
			}
		}
	}
}

// TestPrefixesStayAsTheyAre: a change of the policy that changes no prefix gives
// the same prefixes with the same classes, so that a table of a million need not
// be loaded again.
func TestPrefixesStayAsTheyAre(t *testing.T) {
	build := func(change func(p *policy.Policy)) *compile.Tables {
		p := guarded(rule("a", "10.0.0.0/8"), rule("b", "10.1.0.0/16", "2001:db8::/32"))
		p.Resources = append(p.Resources, host("other", "192.168.0.2"))
		p.Perimeters[0].Associations = append(p.Perimeters[0].Associations, associate("other", "profile"))
		change(p)
		tables, _ := compiled(t, p, elsewhere())
		return tables
	}
	before := build(func(*policy.Policy) {})
	for name, change := range map[string]func(p *policy.Policy){
		"a name":        func(p *policy.Policy) { p.Perimeters[0].Profiles[0].AccessRules[0].Name = "z" },
		"ports":         func(p *policy.Policy) { p.Perimeters[0].Profiles[0].AccessRules[0].Ports = []policy.Ports{tcp(1, 2)} },
		"a mode":        func(p *policy.Policy) { p.Perimeters[0].Associations[0].AccessMode = policy.Audit },
		"another order": func(p *policy.Policy) { slices.Reverse(p.Perimeters[0].Profiles[0].AccessRules) },
		"another order of resources": func(p *policy.Policy) {
			slices.Reverse(p.Resources)
		},
		"a rule for a list there is": func(p *policy.Policy) {
			rules := &p.Perimeters[0].Profiles[0].AccessRules
			*rules = slices.Insert(*rules, 0, limited(rule("c", "2001:db8::/32", "10.1.0.0/16"), tcp(1, 1)))
		},
		"a rule for everybody": func(p *policy.Policy) {
			rules := &p.Perimeters[0].Profiles[0].AccessRules
			*rules = append(*rules, rule("all", "0.0.0.0/0", "::/0"))
		},
		"a profile": func(p *policy.Policy) {
			perimeter := &p.Perimeters[0]
			perimeter.Profiles = append(perimeter.Profiles, perimeter.Profiles[0])
			perimeter.Profiles[1].Name = "second"
			perimeter.Associations[1].Profile = "second"
		},
		"a subscription nobody asks about": func(p *policy.Policy) { p.Resources[0].Subscription = "prod" },
	} {
		after := build(change)
		if !before.Prefixes4.Same(after.Prefixes4) || !before.Prefixes6.Same(after.Prefixes6) {
			t.Errorf("%s: prefixes %s %s before, %s %s after", name, written(before.Prefixes4.Base), written(before.Prefixes6.Base), written(after.Prefixes4.Base), written(after.Prefixes6.Base))
		}
	}
}

// profilesInOneWide is a policy of so many profiles that all trust 10.0.0.0/8, and
// each a host of its own in it.
func profilesInOneWide(profiles int) *policy.Policy {
	p := &policy.Policy{Resources: members(profiles), Perimeters: []policy.Perimeter{{Name: "perimeter"}}}
	perimeter := &p.Perimeters[0]
	for i := range profiles {
		name := fmt.Sprint("profile-", i)
		perimeter.Profiles = append(perimeter.Profiles, policy.Profile{Name: name, AccessRules: []policy.AccessRule{
			rule("all", "10.0.0.0/8"), {Name: "own", Direction: in, AddressPrefixes: []netip.Prefix{memberAddress(1_000_000 + i)}},
		}})
		perimeter.Associations = append(perimeter.Associations, associate(p.Resources[i].Name, name))
	}
	return p
}

// TestOwnHostsInOneWidePrefix: what a wide prefix means to everybody is not written
// down again for each host in it that means something to one of them.
func TestOwnHostsInOneWidePrefix(t *testing.T) {
	const profiles = 10_000
	tables, _ := compiled(t, profilesInOneWide(profiles), elsewhere())
	if n := len(tables.ScopeClasses); n > 4*profiles {
		t.Errorf("%d meanings for %d profiles", n, profiles)
	}
}

// TestTooManyMeanings: a policy in which everybody asks about everything is refused
// before it fills the memory.
func TestTooManyMeanings(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles eight million combinations")
	}
	const profiles = 3000 // each trusts 3000 tags, of one host each
	p := profilesInOneWide(profiles)
	p.ServiceTags = map[string]*policy.PrefixSet{}
	var tags []string
	for i := range profiles {
		tags = append(tags, fmt.Sprint("tag-", i))
		p.ServiceTags[tags[i]] = policy.NewPrefixSet([]netip.Prefix{memberAddress(2_000_000 + i)})
	}
	for i := range p.Perimeters[0].Profiles {
		p.Perimeters[0].Profiles[i].AccessRules[0] = policy.AccessRule{Name: "tags", Direction: in, ServiceTags: tags}
	}
	_, _, err := compile.Compile(p, elsewhere())
	if err == nil || !strings.Contains(err.Error(), fmt.Sprint(compile.MeaningsMax)) {
		t.Errorf("got %v, want an error that names the bound", err)
	}
}
