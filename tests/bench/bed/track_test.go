package bed

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/perimeterd/perimeterd/pkg/datapath"
	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/tests/bench/floor"
	"github.com/perimeterd/perimeterd/tests/packet"
	"github.com/perimeterd/perimeterd/tests/privileged"
)

// TestWhatIsTimedIsChecked: a slice of what did something else than it should is an
// error, of the floors and of the product, at both hooks and in both families.
func TestWhatIsTimedIsChecked(t *testing.T) {
	privileged.Require(t)
	for _, hook := range []floor.Hook{floor.TC, floor.XDP} {
		for _, family := range []int{4, 6} {
			t.Run(string(hook)+map[int]string{4: "/v4", 6: "/v6"}[family], func(t *testing.T) {
				checkTrack(t, hook, family)
			})
		}
	}
}

func checkTrack(t *testing.T, hook floor.Hook, family int) {
	random := rand.New(rand.NewPCG(1, 2))
	list := NewList(Hosts, family, 64, random)
	limits := datapath.Limits{
		EstablishedFlows4: 1024, EstablishedFlows6: 1024, OpeningFlows4: 1024, OpeningFlows6: 1024,
		Denials: 1024, FlowRing: 1 << 16, DenialRing: 1 << 16,
	}
	filter, err := OpenFilter(privileged.BPFFS(t)+"/bench", limits, ListPolicy(list.Prefixes), Facts())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closed(t, filter.Close) })
	track, err := NewTrack(hook, family, floor.Sizes{Tuples: 128, Flows: 256, Opening: 256, Trie: 64, Denials: 256, Ring: 1 << 16}, 0, time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closed(t, track.Close) })
	var tuples []floor.Tuple
	for i := range 64 {
		tuples = append(tuples, To(MemberAddress(family), list.Inside(i, random), 4000))
	}
	listed, err := track.Group(tuples)
	if err != nil {
		t.Fatal(err)
	}
	for i := range tuples {
		tuples[i].Source = list.Outside(random)
	}
	others, err := track.Group(tuples)
	if err != nil {
		t.Fatal(err)
	}
	if err := track.Floors.SetPrefixes(list.Prefixes); err != nil {
		t.Fatal(err)
	}
	syn := track.Frame(packet.SYN, 1, 0)

	must := func(what string, r Run) {
		t.Helper()
		if err := track.Once(r); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	mustNot := func(what string, r Run) {
		t.Helper()
		if err := track.Once(r); err == nil || !strings.Contains(err.Error(), "did what was to be timed") && !strings.Contains(err.Error(), "verdict") {
			t.Errorf("%s: got %v, want an error", what, err)
		}
	}
	mustNot("a lookup in an empty table", track.Floor("hash_lookup", listed, syn, true))
	must("the table is filled", track.Floor("prime", listed, syn, true))
	must("a lookup", track.Floor("hash_lookup", listed, syn, true))
	must("a lookup in an LRU table", track.Floor("lru_lookup", listed, syn, true))
	mustNot("a lookup of others", track.Floor("hash_lookup", others, syn, true))
	must("a prefix", track.Floor("trie_lookup", listed, syn, true))
	must("no prefix", track.Floor("trie_lookup", others, syn, false))
	must("an insert", track.Floor("insert", listed, syn, true))
	mustNot("an insert again", track.Floor("insert", listed, syn, true))
	must("an event", track.Floor("submit_event", listed, syn, true))
	ring, err := OpenRing(track.Floors.Ring())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closed(t, ring.Close) })
	full := track.Floor("submit_event", listed, syn, false)
	full.Before, full.After = ring.LookFull, ring.LookRead
	must("no event in a ring that looks full", full)
	must("an event in the same ring, which looks read", track.Floor("submit_event", listed, syn, true))
	must("parsing", track.Floor("parse", listed, syn, true))

	program := map[floor.Hook]string{floor.TC: "towards", floor.XDP: "xdp_towards"}[hook]
	product := func(packets *Group, reason policy.Reason, verdict policy.Verdict) Run {
		t.Helper()
		r, err := track.Product(filter, program, packets, syn, reason, verdict)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	mustNot("an opening taken for a flow", product(listed, "established", policy.Allow))
	must("flows", product(listed, "established", policy.Allow))
	mustNot("a denial taken for a pass", product(others, "no-access-rule", policy.Allow))
	must("denials", product(others, "no-access-rule", policy.Deny))
}

func closed(t *testing.T, f func() error) {
	if err := f(); err != nil {
		t.Errorf("close: %v", err)
	}
}
