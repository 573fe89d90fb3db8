package compile_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/perimeterd/perimeterd/pkg/compile"
	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/pkg/reference"
	"github.com/perimeterd/perimeterd/tests/randompolicy"
)

// edits are what an operator does to a policy. Each changes the policy that it is
// given, whose slices of prefixes others still have.
var edits = map[string]func(r *rand.Rand, p *policy.Policy, facts *policy.Facts){
	"nothing": func(*rand.Rand, *policy.Policy, *policy.Facts) {},
	"the ports of a rule": func(r *rand.Rand, p *policy.Policy, _ *policy.Facts) {
		eachRule(p, func(rule *policy.AccessRule) {
			if r.IntN(3) == 0 {
				rule.Ports = []policy.Ports{{Protocol: policy.ProtocolTCP, First: 1 + uint16(r.IntN(1000)), Last: 2000}}
			}
		})
	},
	"a prefix of a rule": func(r *rand.Rand, p *policy.Policy, _ *policy.Facts) {
		eachRule(p, func(rule *policy.AccessRule) {
			if len(rule.AddressPrefixes) > 0 && r.IntN(3) == 0 {
				rule.AddressPrefixes = append(slices.Clone(rule.AddressPrefixes[1:]), netip.MustParsePrefix("192.0.2.128/25"))
			}
		})
	},
	"slices": func(_ *rand.Rand, p *policy.Policy, _ *policy.Facts) {
		eachRule(p, func(rule *policy.AccessRule) { rule.AddressPrefixes = slices.Clone(rule.AddressPrefixes) })
	},
	"a mode": func(r *rand.Rand, p *policy.Policy, _ *policy.Facts) {
		for i := range p.Perimeters {
			for j := range p.Perimeters[i].Associations {
				if r.IntN(2) == 0 {
					p.Perimeters[i].Associations[j].AccessMode = policy.Enforced
				}
			}
		}
	},
	"services": func(r *rand.Rand, p *policy.Policy, _ *policy.Facts) {
		of := &p.Resources[r.IntN(len(p.Resources))].Services
		if *of == nil {
			*of = []policy.Ports{{Protocol: policy.ProtocolUDP, First: 53, Last: 53}}
		} else {
			*of = nil
		}
	},
	"a subscription": func(_ *rand.Rand, p *policy.Policy, _ *policy.Facts) {
		p.Resources[0].Subscription = p.Resources[len(p.Resources)-1].Subscription
	},
	"the host": func(_ *rand.Rand, _ *policy.Policy, facts *policy.Facts) {
		facts.Interfaces = slices.Clone(facts.Interfaces)
		for i := range facts.Interfaces {
			if n := len(facts.Interfaces[i].Addresses); n > 0 {
				facts.Interfaces[i].Addresses = facts.Interfaces[i].Addresses[:n-1]
				return
			}
		}
	},
}

func eachRule(p *policy.Policy, f func(*policy.AccessRule)) {
	for i := range p.Perimeters {
		for j := range p.Perimeters[i].Profiles {
			rules := p.Perimeters[i].Profiles[j].AccessRules
			for k := range rules {
				f(&rules[k])
			}
		}
	}
}

// copied shares the slices of prefixes, as a policy that was read again does.
func copied(p *policy.Policy) *policy.Policy {
	out := *p
	out.Resources = slices.Clone(p.Resources)
	out.Perimeters = slices.Clone(p.Perimeters)
	for i := range out.Perimeters {
		perimeter := &out.Perimeters[i]
		perimeter.Associations = slices.Clone(perimeter.Associations)
		perimeter.Profiles = slices.Clone(perimeter.Profiles)
		for j := range perimeter.Profiles {
			perimeter.Profiles[j].AccessRules = slices.Clone(perimeter.Profiles[j].AccessRules)
		}
	}
	return &out
}

// sharesBase reports whether tables have the IPv4 prefixes of others, in the same
// memory.
func sharesBase(a, b *compile.Tables) bool {
	x, y := a.Prefixes4.Base, b.Prefixes4.Base
	return len(x) > 0 && len(y) > 0 && &x[0] == &y[0]
}

// TestCompilerRemembers: whatever was compiled before, the tables are those of a
// compiler that knows of nothing.
func TestCompilerRemembers(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	shared := map[string]int{}
	for range 100 {
		drawn, drawnFacts := randompolicy.Policy(r, randompolicy.Typical())
		var c compile.Compiler
		for _, what := range slices.Sorted(maps.Keys(edits)) {
			p, facts := drawn, drawnFacts
			var before *compile.Tables
			for _, edited := range []bool{false, true} {
				if edited {
					p = copied(p)
					edits[what](r, p, &facts)
				}
				got, gotLegend, err := c.Compile(p, &facts)
				want, wantLegend, wantErr := compile.Compile(p, &facts)
				if err != nil || wantErr != nil {
					if err == nil || wantErr == nil || err.Error() != wantErr.Error() {
						t.Fatalf("%s: %v, want %v", what, err, wantErr)
					}
					continue
				}
				if !reflect.DeepEqual(got, want) || !reflect.DeepEqual(gotLegend, wantLegend) {
					t.Fatalf("after a change of %s the tables are others than those of a new compiler", what)
				}
				if before != nil && sharesBase(got, before) {
					shared[what]++
				}
				before = got
			}
		}
	}
	for _, what := range []string{"nothing", "the ports of a rule", "slices"} {
		if shared[what] < 10 {
			t.Errorf("after a change of %s the prefixes were the same %d times: too seldom to be remembered", what, shared[what])
		}
	}
	if shared["a prefix of a rule"] > shared["nothing"]/2 {
		t.Errorf("prefixes are the same whatever changes: %v", shared)
	}
}

// TestCompilerFollows: where a compiler keeps what it knows of many prefixes, and looks
// at what was edited, the tables decide as the reference does, and give addresses one
// class where those of a new compiler do.
func TestCompilerFollows(t *testing.T) {
	seed := compile.Seed(t)
	changed, asked := 0, 0
	for round := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, round))
		p, facts := randompolicy.Policy(r, randompolicy.Typical())
		facts.Names = nil
		p.ServiceTags = maps.Clone(p.ServiceTags)
		for tag, set := range p.ServiceTags {
			if r.IntN(2) == 0 {
				p.ServiceTags[tag] = long(r, set)
			}
		}
		var c compile.Compiler
		c.KeepAlways()
		first := p
		for step := range 12 {
			switch {
			case step == 11:
				p = first
			case step > 0:
				p = copied(p)
				editPrefixes(r, p)
				if what := slices.Sorted(maps.Keys(edits)); r.IntN(3) == 0 {
					edits[what[r.IntN(len(what))]](r, p, &facts)
				}
			}
			tables, legend, err := c.Compile(p, &facts)
			if err != nil {
				break // two resources have one address
			}
			if len(tables.Prefixes4.Changes)+len(tables.Prefixes6.Changes) > 0 {
				changed++
			}
			known := readTables(t, tables, legend, &facts)
			anew := read(t, p, &facts)
			e := reference.New(p, facts)
			same, other := map[uint32]uint32{}, map[uint32]uint32{} // classes of either, by the other's
			for range 150 {
				pkt := randompolicy.Packet(r, p, facts)
				got, want := known.class(pkt.Peer), anew.class(pkt.Peer)
				if as, ok := same[want]; ok && as != got {
					t.Fatalf("round %d, step %d: %s is of class %d, another of its kind of %d", round, step, pkt.Peer, got, as)
				}
				if as, ok := other[got]; ok && as != want {
					t.Fatalf("round %d, step %d: %s is of class %d, as another that a new compiler tells from it", round, step, pkt.Peer, got)
				}
				same[want], other[got] = got, want
				for _, direction := range []policy.Direction{in, out} {
					got, want := known.judge(direction, pkt, facts.Now), e.Judge(direction, pkt)
					if isForAll(pkt, &facts) && sameButForName(got, want, 0) {
						got = want
					}
					if got != want {
						t.Fatalf("round %d, step %d, %v of %+v:\n tables    %+v\n reference %+v", round, step, direction, pkt, got, want)
					}
					asked++
				}
			}
			for family, of := range []compile.Prefixes{tables.Prefixes4, tables.Prefixes6} {
				if fresh := []compile.Prefixes{anew.tables.Prefixes4, anew.tables.Prefixes6}[family]; of.Len() != fresh.Len() {
					t.Errorf("round %d, step %d: %d prefixes, a new compiler has %d", round, step, of.Len(), fresh.Len())
				}
			}
		}
	}
	t.Logf("%d decisions, %d tables with changes", asked, changed)
	if changed < 100 {
		t.Error("too few tables had changes to prove anything")
	}
}

// long is a set with some hundred more prefixes, beside those that it has.
func long(r *rand.Rand, set *policy.PrefixSet) *policy.PrefixSet {
	all := slices.Collect(set.All())
	for range 300 {
		b := all[r.IntN(len(all))].Addr().AsSlice()
		b[len(b)-1], b[len(b)-2] = byte(r.IntN(256)), b[len(b)-2]^byte(r.IntN(4))
		a, _ := netip.AddrFromSlice(b)
		all = append(all, netip.PrefixFrom(a, a.BitLen()-r.IntN(12)).Masked())
	}
	return policy.NewPrefixSet(all)
}

// TestCompilerForgets: beside many prefixes that stay, a rule has another list in each
// policy, inside one of them. What is remembered of lists that are gone is bounded.
func TestCompilerForgets(t *testing.T) {
	many := make([]netip.Prefix, 20_000)
	for i := range many {
		many[i] = netip.PrefixFrom(netip.AddrFrom4([4]byte{20, byte(i >> 8), byte(i)}), 24)
	}
	p := guarded(policy.AccessRule{Name: "many", Direction: in, ServiceTags: []string{"many"}}, rule("other"))
	p.ServiceTags = map[string]*policy.PrefixSet{"many": policy.NewPrefixSet(many)}
	var c compile.Compiler
	var before *compile.Tables
	kept, mostLists, mostClasses := 0, 0, 0
	for i := range 3000 {
		p = copied(p)
		other := &p.Perimeters[0].Profiles[0].AccessRules[1]
		other.Name = fmt.Sprint("other-", i) // or it would be the same list, edited
		other.AddressPrefixes = []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{20, byte(i >> 8), byte(i), 1}), 32)}
		tables, _, err := c.Compile(p, elsewhere())
		if err != nil {
			t.Fatal(err)
		}
		if before != nil && sharesBase(tables, before) {
			kept++
		}
		before = tables
		lists, classes := c.Remembers()
		mostLists, mostClasses = max(mostLists, lists), max(mostClasses, classes)
	}
	if kept < 2900 {
		t.Errorf("the base was kept %d times: nothing was remembered that could be forgotten", kept)
	}
	if mostLists > 1500 || mostClasses > 1500 {
		t.Errorf("%d numbers of lists and %d of classes, of 3 lists at a time", mostLists, mostClasses)
	}
}

// editPrefixes adds prefixes to some lists of a policy and takes some away: in tags, as
// a file of which a few lines change, and in rules.
func editPrefixes(r *rand.Rand, p *policy.Policy) {
	drawn := func(from netip.Prefix) netip.Prefix { // beside, around or inside it
		bits := r.IntN(from.Addr().BitLen() + 1)
		return netip.PrefixFrom(from.Addr(), bits).Masked()
	}
	p.ServiceTags = maps.Clone(p.ServiceTags)
	for tag, set := range p.ServiceTags {
		all := slices.Collect(set.All())
		var added, removed []netip.Prefix
		few := max(8, len(all)/2)
		for i, of := range all {
			if r.IntN(few) == 0 {
				removed = append(removed, of)
			}
			if q := drawn(all[r.IntN(i+1)]); r.IntN(few) == 0 && !set.Has(q) && !slices.Contains(added, q) {
				added = append(added, q)
			}
		}
		p.ServiceTags[tag] = set.Edit(added, removed)
	}
	eachRule(p, func(rule *policy.AccessRule) {
		if n := len(rule.AddressPrefixes); n > 1 && r.IntN(4) == 0 {
			rule.AddressPrefixes = slices.Clone(rule.AddressPrefixes)
			rule.AddressPrefixes[r.IntN(n)] = drawn(rule.AddressPrefixes[r.IntN(n)])
		}
	})
	if rules := &p.Perimeters[0].Profiles[0].AccessRules; r.IntN(6) == 0 && len(*rules) > 1 {
		*rules = (*rules)[1:]
	}
}
