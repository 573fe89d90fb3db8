package compile_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gaissmai/bart"

	"github.com/perimeterd/perimeterd/pkg/compile"
	"github.com/perimeterd/perimeterd/pkg/policy"
)

var serviceTagsFlag = flag.String("servicetags", "../policy/testdata/azure-service-tags.json", "Azure's ServiceTags file, or a cut of it")

// tagPolicy is a policy of one member, with a rule for every tag of a file.
func tagPolicy(t *testing.T, file string) *policy.Policy {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var offered struct{ Values []struct{ Name string } }
	if err := json.Unmarshal(text, &offered); err != nil {
		t.Fatal(err)
	}
	absolute, err := filepath.Abs(file)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "serviceTags: [{file: %q, format: azure}]\n", absolute)
	fmt.Fprintf(&b, "resources: [{name: member, addresses: [%q, %q]}]\n", memberAddr, memberAddr6)
	b.WriteString("perimeters:\n- name: perimeter\n  associations: [{name: member, resource: member, profile: profile, accessMode: Enforced}]\n  profiles:\n  - name: profile\n    accessRules:\n")
	for i, tag := range offered.Values {
		fmt.Fprintf(&b, "    - {name: %q, direction: Inbound, serviceTags: [%q]}\n", ruleName(i), tag.Name)
	}
	path := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := policy.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func ruleName(i int) string { return fmt.Sprintf("tag-%04d", i) }

// TestServiceTags: real prefixes, nested in each other and shared between tags.
// For addresses in and around them the tables name the rule with the longest
// prefix, the first by name of several, as a table of another make does.
func TestServiceTags(t *testing.T) {
	p := tagPolicy(t, *serviceTagsFlag)
	r, source := read(t, p, elsewhere()), rand.New(rand.NewPCG(compile.Seed(t), 0))

	var all []netip.Prefix
	var rules bart.Table[string] // by prefix: the first rule by name that has it
	for _, rule := range p.Perimeters[0].Profiles[0].AccessRules {
		for prefix := range p.ServiceTags[rule.ServiceTags[0]].All() {
			if name, known := rules.Get(prefix); !known || rule.Name < name {
				rules.Insert(prefix, rule.Name)
			}
			all = append(all, prefix)
		}
	}
	t.Logf("%d rules, %d prefixes, %d of them different; %d in the tables, %d meanings", len(p.Perimeters[0].Profiles[0].AccessRules),
		len(all), rules.Size(), r.tables.Prefixes4.Len()+r.tables.Prefixes6.Len(), len(r.tables.ScopeClasses))
	allowed, denied := 0, 0
	for range 50_000 {
		peer := nearEdge(source, all[source.IntN(len(all))])
		if source.IntN(4) == 0 {
			peer = nearEdge(source, mixedPrefix(source)) // anywhere
		}
		if peer == netip.MustParseAddr(memberAddr) || peer == netip.MustParseAddr(memberAddr6) {
			continue
		}
		want, covered := rules.Lookup(peer)
		local := memberAddr
		if peer.Is6() {
			local = memberAddr6
		}
		d := r.judge(in, packet(in, local, peer.String(), 443), now)
		if d.Rule != want || covered != (d.Verdict == policy.Allow) {
			t.Fatalf("%s: got %v by %s %q, want rule %q", peer, d.Verdict, d.Reason, d.Rule, want)
		}
		if covered {
			allowed++
		} else {
			denied++
		}
	}
	t.Logf("%d addresses allowed, %d denied", allowed, denied)
	if allowed < 1000 || denied < 1000 {
		t.Errorf("%d allowed, %d denied: too one-sided to tell anything", allowed, denied)
	}
}
