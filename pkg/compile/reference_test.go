package compile_test

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/perimeterd/perimeterd/pkg/compile"
	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/pkg/reference"
	"github.com/perimeterd/perimeterd/tests/randompolicy"
)

// TestTablesAgreeWithReference holds the tables, read with a longest-prefix match
// of other hands, against linear scans over the policy: at the moment of
// compiling, and without compiling again at later ones, when rules have ended.
func TestTablesAgreeWithReference(t *testing.T) {
	first := compile.Seed(t)
	policies := 120
	if testing.Short() {
		policies = 30
	}
	var cases, denied, ended int
	for i := range policies {
		source := rand.New(rand.NewPCG(first, uint64(i)))
		p, facts := randompolicy.Policy(source, randompolicy.Typical())
		endAtRandom(source, p, facts.Now)
		tables := read(t, p, &facts)
		for _, later := range []time.Duration{0, time.Second, 3 * time.Second, 6 * time.Second} {
			then := facts
			then.Now = facts.Now.Add(later)
			e := reference.New(p, then)
			for range 150 {
				pkt := randompolicy.Packet(source, p, facts)
				for _, direction := range []policy.Direction{in, out} {
					got, want := tables.judge(direction, pkt, then.Now), e.Judge(direction, pkt)
					if isForAll(pkt, &facts) && sameButForName(got, want, later) {
						got = want
					}
					if got != want {
						t.Fatalf("policy %d, %v later, %v of %+v:\n tables    %+v\n reference %+v", i, later, direction, pkt, got, want)
					}
					cases++
					if got.Verdict == policy.Deny {
						denied++
						if e := reference.New(p, facts); later > 0 && e.Judge(direction, pkt).Verdict == policy.Allow {
							ended++
						}
					}
				}
				tables.compareUnjudged(t, e, pkt)
			}
		}
	}
	t.Logf("%d cases, %d denied, %d of them by the end of a rule", cases, denied, ended)
	if denied < cases/20 || denied > cases*19/20 || ended == 0 {
		t.Error("too one-sided to tell anything")
	}
}

// isForAll reports a packet that is judged for all that live on the host.
func isForAll(pkt reference.Packet, facts *policy.Facts) bool {
	broadcast := func(i policy.Interface) bool { return slices.Contains(i.Broadcasts, pkt.Local) }
	return pkt.Towards && isMulticast(pkt.Local) || slices.ContainsFunc(facts.Interfaces, broadcast)
}

// sameButForName reports decisions for a group that differ in what does not
// matter: which member's name is told of a private path, which leads to each of
// them, and of a denial, until the tables are compiled again, if since then the
// rule of another member that denies as well has ended.
func sameButForName(got, want reference.Decision, later time.Duration) bool {
	if got.Verdict != want.Verdict || got.WouldBe != want.WouldBe {
		return false
	}
	privately := got.Reason == policy.ReasonPrivatePath && want.Reason == policy.ReasonPrivatePath
	return privately || later > 0 && got.Verdict == policy.Deny
}

// endAtRandom gives half of the rules an end within the seconds after now.
func endAtRandom(source *rand.Rand, p *policy.Policy, now time.Time) {
	change := func(rules []policy.AccessRule) {
		for i := range rules {
			if source.IntN(2) == 0 {
				rules[i].Expires = now.Add(time.Duration(1+source.IntN(5)) * time.Second)
			}
		}
	}
	for i := range p.Perimeters {
		for j := range p.Perimeters[i].Profiles {
			change(p.Perimeters[i].Profiles[j].AccessRules)
		}
	}
	// The outbound rules of resources that share an address must stay the same.
	for i := range p.Resources {
		inbound := p.Resources[i].Firewall
		for j := range inbound {
			if inbound[j].Direction == in {
				change(inbound[j : j+1])
			}
		}
	}
}

// compareUnjudged compares what becomes of the packet if nothing behind its
// addresses can be read, and if not even these can.
func (r *reader) compareUnjudged(t *testing.T, e *reference.Evaluator, pkt reference.Packet) {
	t.Helper()
	pkt.Unjudgeable = "truncated"
	want := e.Unjudged(pkt)
	local, _ := r.local(pkt)
	strict := local.Strict[pkt.Direction()]
	if strict != (want.Verdict == policy.Deny) || (strict || local.Audit) != (want.WouldBe == policy.Deny) {
		t.Fatalf("unjudgeable %+v: the tables have strict %v, audit %v; reference %+v", pkt, local.Strict, local.Audit, want)
	}
	want = e.Unjudged(reference.Packet{Towards: pkt.Towards, Unjudgeable: "truncated"})
	if r.tables.StrictHere != (want.Verdict == policy.Deny) {
		t.Fatalf("unreadable: the tables have StrictHere %v; reference %+v", r.tables.StrictHere, want)
	}
}
