package compile_test

import (
	"maps"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/perimeterd/perimeterd/pkg/compile"
	"github.com/perimeterd/perimeterd/pkg/policy"
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
	"services": func(_ *rand.Rand, p *policy.Policy, _ *policy.Facts) {
		p.Resources[0].Services = []policy.Ports{{Protocol: policy.ProtocolUDP, First: 53, Last: 53}}
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
				if before != nil && len(got.Prefixes4) > 0 && len(before.Prefixes4) > 0 && &got.Prefixes4[0] == &before.Prefixes4[0] {
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
