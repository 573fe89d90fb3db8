package compile

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/perimeterd/perimeterd/pkg/policy"
)

var epoch = time.Date(2026, 11, 20, 9, 15, 0, 0, time.UTC)

// at is the outcome of a chain at an instant.
func at(chain []*Outcome, now time.Time) *Outcome {
	for _, o := range chain {
		if o.Expires.IsZero() || now.Before(o.Expires) {
			return o
		}
	}
	return nil
}

// slowly is what flatten settles, at one point and instant: of the claims that
// cover the point and still count, the first.
func slowly(claims []claim, point uint32, now time.Time) *Outcome {
	var best *claim
	for i := range claims {
		c := &claims[i]
		if c.from <= point && point < c.to && at([]*Outcome{c.outcome}, now) != nil && (best == nil || c.precedes(best) < 0) {
			best = c
		}
	}
	return best.outcome
}

// everyInstant is the instants at which the answer may change, and before all.
func everyInstant(claims []claim) []time.Time {
	list := []time.Time{epoch}
	for _, c := range claims {
		if end := c.outcome.Expires; !end.IsZero() {
			list = append(list, end.Add(-time.Nanosecond), end)
		}
	}
	return list
}

// randomClaims draws rules over a few points, some with an end, and what decides
// where none matches.
func randomClaims(r *rand.Rand, rules int) []claim {
	claims := []claim{{to: allPoints, layer: layerDefault, outcome: &Outcome{Rule: "default", Verdict: policy.Deny, WouldBe: policy.Deny}}}
	edges := []uint32{0, 1, 2, 5, 6, 1 << 16, 6<<16 | 22, 6<<16 | 23, 6<<16 | 443, 7 << 16, allPoints - 1, allPoints}
	for i := range rules {
		o := &Outcome{Rule: fmt.Sprintf("rule-%d", i)}
		if r.IntN(3) > 0 {
			o.Expires = epoch.Add(time.Duration(1+r.IntN(2*rules)) * time.Second)
		}
		for range 1 + r.IntN(3) { // a rule may name several ports
			from, to := edges[r.IntN(len(edges))], edges[r.IntN(len(edges))]
			if from > to {
				from, to = to, from
			}
			if from == to {
				continue
			}
			claims = append(claims, claim{from: from, to: to, layer: layer(1 + r.IntN(int(layerDefault)-1)), rank: r.IntN(3), width: uint32(1 + r.IntN(2)), outcome: o})
		}
	}
	r.Shuffle(len(claims), func(i, j int) { claims[i], claims[j] = claims[j], claims[i] })
	return claims
}

// TestFlatten holds flatten against the slow and obvious answer at every point
// and instant where it may change.
func TestFlatten(t *testing.T) {
	first := Seed(t)
	var f flattener
	for i := range 2000 {
		r := rand.New(rand.NewPCG(first, uint64(i)))
		claims := randomClaims(r, r.IntN(8))
		original := slices.Clone(claims)
		segments := f.flatten(claims)
		if segments[0].from != 0 {
			t.Fatalf("draw %d: begins at %d", i, segments[0].from)
		}
		check := func(point uint32) {
			t.Helper()
			where, found := slices.BinarySearchFunc(segments, point, func(s segment, p uint32) int { return int(s.from) - int(p) })
			if !found {
				where--
			}
			for _, now := range everyInstant(original) {
				got, want := at(segments[where].chain, now), slowly(original, point, now)
				if got != want {
					t.Fatalf("draw %d: at %d, %v: got %+v, want %+v", i, point, now.Sub(epoch), got, want)
				}
			}
		}
		for _, c := range original {
			for _, point := range []uint32{c.from, c.to - 1, c.to % allPoints} {
				check(point)
			}
		}
		for j, s := range segments {
			check(s.from)
			if j > 0 && slices.Equal(segments[j-1].chain, s.chain) {
				t.Fatalf("draw %d: segments %d and %d are the same", i, j-1, j)
			}
			ends := slices.IndexFunc(s.chain, func(o *Outcome) bool { return o.Expires.IsZero() })
			if ends != len(s.chain)-1 {
				t.Fatalf("draw %d: chain %v goes on after what never ends", i, s.chain)
			}
		}
	}
}

// TestLongChains: where more rules end one after the other than the kernel steps
// over, the verdict is right at every instant all the same, and so is the name
// for as long as there is room.
func TestLongChains(t *testing.T) {
	for _, test := range []struct {
		rules int
		order func(i int) int // when the i-th rule by precedence ends
		named int             // of the first so many seconds the name is right
	}{
		{expiredMax, func(i int) int { return i + 1 }, expiredMax},
		{expiredMax + 1, func(i int) int { return i + 1 }, expiredMax - 1},
		{100, func(i int) int { return i + 1 }, expiredMax - 1},
		{100, func(i int) int { return 100 - i }, 100}, // the first outlives all others
		{100, func(i int) int { return 1 + i*37%100 }, 50},
	} {
		var claims []claim
		for i := range test.rules {
			o := &Outcome{Rule: fmt.Sprintf("rule-%03d", i), Expires: epoch.Add(time.Duration(test.order(i)) * time.Second)}
			claims = append(claims, claim{to: allPoints, layer: layerAccessRules, outcome: o})
		}
		last := &Outcome{Rule: "default", Verdict: policy.Deny}
		claims = append(claims, claim{to: allPoints, layer: layerDefault, outcome: last})
		original := slices.Clone(claims)

		var f flattener
		segments := f.flatten(claims)
		if len(segments) != 1 || len(segments[0].chain) > expiredMax+1 {
			t.Fatalf("%d rules: %d segments, a chain of %d", test.rules, len(segments), len(segments[0].chain))
		}
		for _, now := range everyInstant(original) {
			got, want := at(segments[0].chain, now), slowly(original, 0, now)
			if got.Verdict != want.Verdict {
				t.Errorf("%d rules, %v: got %v, want %v", test.rules, now.Sub(epoch), got.Verdict, want.Verdict)
			}
			if now.Sub(epoch) < time.Duration(test.named)*time.Second && got != want {
				t.Errorf("%d rules, %v: got %s, want %s", test.rules, now.Sub(epoch), got.Rule, want.Rule)
			}
		}
	}
}

// TestPrecedence: one claim beats another by the first of these that differ.
func TestPrecedence(t *testing.T) {
	better := []claim{
		{layer: layerFailsafe, rank: 9, width: 9, outcome: &Outcome{Rule: "z"}},
		{layer: layerAccessRules, rank: 0, width: 9, outcome: &Outcome{Rule: "z"}},
		{layer: layerAccessRules, rank: 1, width: 1, outcome: &Outcome{Rule: "z"}},
		{layer: layerAccessRules, rank: 1, width: 2, outcome: &Outcome{Rule: "Z"}},
		{layer: layerAccessRules, rank: 1, width: 2, outcome: &Outcome{Rule: "a"}},
	}
	for i := range better {
		for j := range better {
			if got, want := better[i].precedes(&better[j]) < 0, i < j; got != want {
				t.Errorf("claim %d before %d: got %v", i, j, got)
			}
		}
	}
}

func TestPointRanges(t *testing.T) {
	for _, test := range []struct {
		ports policy.Ports
		want  []pointRange
	}{
		{policy.Ports{Protocol: policy.ProtocolTCP, First: 22, Last: 22}, []pointRange{{6<<16 | 22, 6<<16 | 23}}},
		{policy.Ports{Protocol: policy.ProtocolTCP, First: 0, Last: 65535}, []pointRange{{6 << 16, 7 << 16}}},
		{policy.Ports{Protocol: policy.ProtocolUDP, First: 65535, Last: 65535}, []pointRange{{17<<16 | 65535, 18 << 16}}},
		{policy.Ports{Protocol: policy.ProtocolGRE, First: 0, Last: 65535}, []pointRange{{47 << 16, 48 << 16}}},
		{policy.Ports{Protocol: 255, First: 0, Last: 65535}, []pointRange{{255 << 16, allPoints}}},
		{policy.Ports{Protocol: policy.ProtocolICMP, First: 0, Last: 65535}, []pointRange{{1 << 16, 2 << 16}, {58 << 16, 59 << 16}}},
		{policy.Ports{Protocol: policy.ProtocolICMPv6, First: 0, Last: 65535}, []pointRange{{1 << 16, 2 << 16}, {58 << 16, 59 << 16}}},
	} {
		if got := pointRanges(test.ports); !slices.Equal(got, test.want) {
			t.Errorf("%+v: got %v, want %v", test.ports, got, test.want)
		}
	}
}

// TestSpansAreStoredOnce: equal lists are one, spans that say the same are
// joined, and a list with one value is no list.
func TestSpansAreStoredOnce(t *testing.T) {
	table := newSpanTable()
	add := func(spans ...Span) SpanList { return table.add(spans) }
	one := add(Span{0, 7})
	if one != (SpanList{First: 7}) {
		t.Errorf("one value: got %+v", one)
	}
	if joined := add(Span{0, 7}, Span{5, 7}, Span{9, 7}); joined != one {
		t.Errorf("the same value three times: got %+v", joined)
	}
	two := add(Span{0, 1}, Span{5, 2})
	if again := add(Span{0, 1}, Span{3, 1}, Span{5, 2}, Span{6, 2}); again != two || two.Count != 2 {
		t.Errorf("the same list: got %+v, then %+v", two, again)
	}
	if other := add(Span{0, 1}, Span{6, 2}); other == two {
		t.Error("another list has the same place")
	}
	if got, want := table.spans, []Span{{0, 1}, {5, 2}, {0, 1}, {6, 2}}; !slices.Equal(got, want) {
		t.Errorf("spans: got %v, want %v", got, want)
	}
}

// TestOutcomesAreStoredOnce: equal outcomes, and equal chains of them, have one
// number, whichever clock reading or zone their end came with.
func TestOutcomesAreStoredOnce(t *testing.T) {
	table := newOutcomeTable()
	ends := time.Now().Add(time.Hour)
	rule := func(end time.Time) *Outcome { return &Outcome{Rule: "rule", Expires: end} }
	last := &Outcome{Rule: "default", Verdict: policy.Deny}
	a := table.chain([]*Outcome{rule(ends), last})
	b := table.chain([]*Outcome{rule(ends.Round(0).In(time.FixedZone("east", 3600))), last})
	if a != b || len(table.outcomes) != 3 {
		t.Errorf("numbers %d and %d of %d outcomes", a, b, len(table.outcomes))
	}
	if after := table.outcomes[a].After; table.outcomes[after] != *last {
		t.Errorf("after it: %+v", table.outcomes[after])
	}
	if other := table.chain([]*Outcome{rule(ends.Add(time.Second)), last}); other == a {
		t.Error("another end has the same number")
	}
	if alone := table.chain([]*Outcome{last}); alone != table.outcomes[a].After {
		t.Errorf("the end of the chain has number %d of its own", alone)
	}
}
