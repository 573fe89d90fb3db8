package datapath

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/tests/packet"
)

const vaultRecord = "vault.example.com. 300 IN A 203.0.113.1"

// ageNames makes what was learnt look as old as if so much time had gone by.
func (r *namesRig) ageNames(t testing.TB, by time.Duration) {
	t.Helper()
	ticks := r.clock.jiffiesIn(by)
	aged := map[perimeterLearntKey]perimeterLearnt{}
	if err := r.eachLearnt(func(key perimeterLearntKey, value *perimeterLearnt) {
		value.Expires -= ticks
		value.Since -= ticks
		if value.Used != 0 {
			value.Used -= ticks
		}
		aged[key] = *value
	}); err != nil {
		t.Fatal(err)
	}
	for key, value := range aged {
		if err := r.objects.LearntAddresses.Put(key, value); err != nil {
			t.Fatal(err)
		}
	}
}

// TestNamesExpire: after its TTL an address opens nothing new, what is open stays
// so over reloads, and a new answer opens it again.
func TestNamesExpire(t *testing.T) {
	r := newNamesRig(t, Options{}, namesRule("vault", 443, "vault.example.com"))
	needsInline(t, r.rig)
	r.learns(t, "vault.example.com", vaultRecord)
	opener := packet.TCP(member4, "203.0.113.1", 50000, 443, packet.SYN)
	if verdict, reason := r.from(t, opener); verdict != policy.Allow || reason != policy.ReasonAccessRule {
		t.Fatalf("the first connection: %s for %s", verdict, reason)
	}
	r.ageNames(t, 304*time.Second)
	if verdict, _ := r.from(t, packet.TCP(member4, "203.0.113.1", 50001, 443, packet.SYN)); verdict != policy.Allow {
		t.Error("denied before the end of the TTL and the slack")
	}
	r.ageNames(t, 2*time.Second)
	if verdict, reason := r.from(t, packet.TCP(member4, "203.0.113.1", 50002, 443, packet.SYN)); verdict != policy.Deny || reason != policy.ReasonNoAccessRule {
		t.Errorf("a new connection after the end: %s for %s", verdict, reason)
	}
	if forgotten, err := r.SweepNames(); err != nil || forgotten != 0 {
		t.Errorf("forgot %d (%v), of which a flow is open", forgotten, err)
	}
	// The live one goes on, judged again by a new generation.
	r.put(t, memberPolicy(policy.Enforced, namesRule("renamed", 443, "vault.example.com")), resolverFacts())
	if verdict, reason := r.from(t, packet.TCP(member4, "203.0.113.1", 50000, 443, packet.ACK)); verdict != policy.Allow || reason != "established" {
		t.Errorf("the live connection after a reload: %s for %s", verdict, reason)
	}
	if verdict, _ := r.from(t, packet.TCP(member4, "203.0.113.1", 50003, 443, packet.SYN)); verdict != policy.Deny {
		t.Error("a reload has opened it again")
	}
	r.forgetFlows(t)
	if forgotten, err := r.SweepNames(); err != nil || forgotten != 1 {
		t.Errorf("forgot %d (%v), want the one that nobody uses", forgotten, err)
	}
	r.learns(t, "vault.example.com", vaultRecord)
	r.expectOpen(t, "203.0.113.1", 443, true)
}

// TestNamesFloorAndCeiling: a TTL is bounded on both sides, and one answer never
// shortens what another gave.
func TestNamesFloorAndCeiling(t *testing.T) {
	r := newNamesRig(t, Options{Names: NameOptions{Floor: time.Minute, Ceiling: time.Hour}}, namesRule("vault", 443, "vault.example.com"))
	needsInline(t, r.rig)
	for _, row := range []struct {
		ttl  string
		want time.Duration
	}{{"0", time.Minute}, {"59", time.Minute}, {"600", 10 * time.Minute}, {"1", 10 * time.Minute}, {"86400", time.Hour}} {
		r.learns(t, "vault.example.com", "vault.example.com. "+row.ttl+" IN A 203.0.113.1")
		all, err := r.Learnt()
		if err != nil || len(all) != 1 {
			t.Fatalf("%+v, %v", all, err)
		}
		if left := time.Until(all[0].Expires) - NameSlack; left < row.want-10*time.Second || left > row.want+10*time.Second {
			t.Errorf("TTL %s: open for %v, want %v", row.ttl, left, row.want)
		}
	}
}

// TestNamesGoWithTheirRule: without the rule the address is closed in that very
// generation, with a live connection to it; another rule's stay.
func TestNamesGoWithTheirRule(t *testing.T) {
	vault, blobs := namesRule("vault", 443, "vault.example.com"), namesRule("blobs", 443, "*.blob.example.net")
	r := newNamesRig(t, Options{}, vault, blobs)
	needsInline(t, r.rig)
	r.learns(t, "vault.example.com", vaultRecord)
	r.learns(t, "a.blob.example.net", "a.blob.example.net. 300 IN A 203.0.113.2")
	r.from(t, packet.TCP(member4, "203.0.113.1", 50000, 443, packet.SYN))
	r.put(t, memberPolicy(policy.Enforced, blobs), resolverFacts())
	if verdict, _ := r.from(t, packet.TCP(member4, "203.0.113.1", 50000, 443, packet.ACK)); verdict != policy.Deny {
		t.Error("a live connection outlives its rule")
	}
	r.expectOpen(t, "203.0.113.1", 443, false)
	r.expectOpen(t, "203.0.113.2", 443, true)
	r.put(t, memberPolicy(policy.Enforced, vault, blobs), resolverFacts())
	r.expectOpen(t, "203.0.113.1", 443, false) // until it is learnt again
	r.expectOpen(t, "203.0.113.2", 443, true)
}

// TestNamesChange: a rule that gets another name keeps the addresses of those that
// stay, also of one that has expired and is in use; a name that goes takes its own
// along.
func TestNamesChange(t *testing.T) {
	const vault, blob = "vault.example.com", "a.blob.example.net"
	r := newNamesRig(t, Options{}, namesRule("out", 443, vault, blob))
	needsInline(t, r.rig)
	r.learns(t, vault, vaultRecord)
	r.learns(t, blob, "a.blob.example.net. 300 IN A 203.0.113.2")
	r.from(t, packet.TCP(member4, "203.0.113.1", 50000, 443, packet.SYN))
	r.put(t, memberPolicy(policy.Enforced, namesRule("out", 443, vault, "new.example.com")), resolverFacts())
	if verdict, _ := r.from(t, packet.TCP(member4, "203.0.113.1", 50000, 443, packet.ACK)); verdict != policy.Allow {
		t.Error("a live connection is cut by another name")
	}
	if verdict, _ := r.from(t, packet.TCP(member4, "203.0.113.1", 50001, 443, packet.SYN)); verdict != policy.Allow {
		t.Error("another name has closed the address")
	}
	if verdict, _ := r.from(t, packet.TCP(member4, "203.0.113.2", 50001, 443, packet.SYN)); verdict != policy.Deny {
		t.Error("the name that went has left its address open")
	}
	r.ageNames(t, time.Hour)
	r.put(t, memberPolicy(policy.Enforced, namesRule("out", 443, "*.example.com")), resolverFacts())
	if verdict, _ := r.from(t, packet.TCP(member4, "203.0.113.1", 50000, 443, packet.ACK)); verdict != policy.Allow {
		t.Error("a live connection whose address has expired is cut by another name")
	}
	if verdict, _ := r.from(t, packet.TCP(member4, "203.0.113.1", 50002, 443, packet.SYN)); verdict != policy.Deny {
		t.Error("what has expired is open again")
	}
}

// TestNamesOfAnotherProfile: what one profile's member learns opens nothing for
// another's with the same names.
func TestNamesOfAnotherProfile(t *testing.T) {
	p := memberPolicy(policy.Enforced, namesRule("vault", 443, "vault.example.com"))
	const other = "10.20.0.77"
	p.Resources = append(p.Resources, policy.Resource{Name: "other", Addresses: prefixes(other)})
	p.Perimeters = append(p.Perimeters, policy.Perimeter{
		Name: "another", Profiles: []policy.Profile{{Name: "data", AccessRules: p.Perimeters[0].Profiles[0].AccessRules}},
		Associations: []policy.Association{{Name: "other", Resource: "other", Profile: "data", AccessMode: policy.Enforced}},
	})
	r := newNamesRig(t, Options{})
	needsInline(t, r.rig)
	r.put(t, p, resolverFacts())
	r.learns(t, "vault.example.com", vaultRecord)
	r.expectOpen(t, "203.0.113.1", 443, true)
	if verdict, _ := r.from(t, packet.TCP(other, "203.0.113.1", 1, 443, packet.SYN)); verdict != policy.Deny {
		t.Error("another profile's member may go there, too")
	}
}

// TestNamesAreBounded: past what a set may have the oldest goes, but not what was
// used lately.
func TestNamesAreBounded(t *testing.T) {
	r := newNamesRig(t, Options{Names: NameOptions{PerName: 8}}, namesRule("blobs", 443, "*.blob.example.net", "blob.example.net"))
	needsInline(t, r.rig)
	teach := func(n int) {
		name := fmt.Sprintf("n%d.blob.example.net", n)
		r.learns(t, name, fmt.Sprintf("%s. 300 IN A 203.0.113.%d", name, n))
	}
	for n := range 16 {
		teach(n)
	}
	r.expectOpen(t, "203.0.113.0", 443, true)
	counted := r.counted(t, func() {
		for n := 16; n < 24; n++ {
			teach(n)
		}
	})
	if counted["address-evicted"] != 8 {
		t.Errorf("counted %v, want 8 evictions", counted)
	}
	r.expectOpen(t, "203.0.113.0", 443, true)
	r.expectOpen(t, "203.0.113.1", 443, false)
	r.expectOpen(t, "203.0.113.23", 443, true)
	if all, err := r.Learnt(); err != nil || len(all) != 16 {
		t.Errorf("%d are learnt, %v", len(all), err)
	}
}

// TestTheTableOfNamesIsBounded: where there is no room at all nothing is opened,
// and that is counted.
func TestTheTableOfNamesIsBounded(t *testing.T) {
	r := newNamesRig(t, Options{Limits: Limits{LearntAddresses: 8}}, namesRule("blobs", 443, "*.blob.example.net"))
	var many []Learnt
	for n := range 12 {
		many = append(many, Learnt{Set: r.tables.Sets[0].ID, Address: netip.AddrFrom4([4]byte{203, 0, 113, byte(n)}), Name: "a.blob.example.net", Expires: time.Now().Add(time.Hour), By: LearntResolved})
	}
	counted := r.counted(t, func() {
		if err := r.Teach(many); err != nil {
			t.Fatal(err)
		}
	})
	if counted["address-opened"] != 8 || counted["address-full"] != 4 {
		t.Errorf("counted %v", counted)
	}
}

// TestNamesOutliveTheProcess: what is learnt is there after a restart, and what is
// learnt while no process is there counts too.
func TestNamesOutliveTheProcess(t *testing.T) {
	r := newNamesRig(t, Options{}, namesRule("vault", 443, "vault.example.com"))
	needsInline(t, r.rig)
	r.learns(t, "vault.example.com", vaultRecord)
	options := r.options
	if err := r.host.Run(func() error {
		if err := r.Close(); err != nil {
			return err
		}
		again, err := openEthernet(options)
		if err == nil {
			r.Datapath = again
			t.Cleanup(func() { _ = again.Close() })
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	r.expectOpen(t, "203.0.113.1", 443, true)
	r.learns(t, "vault.example.com", "vault.example.com. 300 IN A 203.0.113.2")
	r.expectOpen(t, "203.0.113.2", 443, true)
	all, err := r.Learnt()
	if err != nil || len(all) != 2 {
		t.Errorf("%+v, %v", all, err)
	}
}

// TestRulesWithNamesEnd: a rule with an end is over with it, by the clock of the
// kernel.
func TestRulesWithNamesEnd(t *testing.T) {
	rule := namesRule("vault", 443, "vault.example.com")
	rule.Expires = time.Now().Add(time.Hour)
	r := newNamesRig(t, Options{}, rule)
	needsInline(t, r.rig)
	r.learns(t, "vault.example.com", vaultRecord)
	r.expectOpen(t, "203.0.113.1", 443, true)
	var number uint32
	for i, o := range r.tables.Outcomes {
		if o.Rule == "vault" {
			number = uint32(i)
		}
	}
	inner := r.inForce.maps["outcomes"]
	var outcome perimeterOutcome
	if err := inner.Lookup(number, &outcome); err != nil || outcome.Expires == 0 {
		t.Fatalf("outcome %d: %+v, %v", number, outcome, err)
	}
	outcome.Expires = 1
	if err := inner.Put(number, outcome); err != nil {
		t.Fatal(err)
	}
	r.expectOpen(t, "203.0.113.1", 443, false)
}

// TestNamesWithoutTailCalls: where programs cannot go on in each other, packets of
// DNS are judged like all others, and what the agent resolves is open.
func TestNamesWithoutTailCalls(t *testing.T) {
	r := newNamesRig(t, Options{Names: NameOptions{Off: true, Strict: true}}, namesRule("vault", 443, "vault.example.com"))
	if r.NamesMissing() == "" {
		t.Fatal("nothing is missing")
	}
	e := ask("evil.example.org", 1)
	if verdict, reason := e.asked(t, r.rig); verdict != policy.Allow || reason != policy.ReasonResolverAccess {
		t.Errorf("a question: %s for %s", verdict, reason)
	}
	r.learns(t, "vault.example.com", vaultRecord)
	r.expectOpen(t, "203.0.113.1", 443, false)
	if err := r.Teach([]Learnt{{Set: r.tables.Sets[0].ID, Address: netip.MustParseAddr("203.0.113.1"), Name: "vault.example.com", Expires: time.Now().Add(time.Hour), By: LearntResolved}}); err != nil {
		t.Fatal(err)
	}
	r.expectOpen(t, "203.0.113.1", 443, true)
}
