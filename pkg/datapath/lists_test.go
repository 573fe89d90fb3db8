package datapath

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gaissmai/bart"

	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/tests/packet"
)

// serviceTags returns Azure's list of service tags: the whole one if it lies
// beside the checkout, else the cut that the project ships.
func serviceTags(t *testing.T) string {
	t.Helper()
	for _, path := range []string{"../../../shared/data/azure-service-tags.json", "../policy/testdata/azure-service-tags.json"} {
		if _, err := os.Stat(path); err == nil {
			absolute, err := filepath.Abs(path)
			if err != nil {
				t.Fatal(err)
			}
			return absolute
		}
	}
	t.Fatal("neither the list of service tags nor its cut is there")
	return ""
}

// listRule is a rule by one list, with an independent table of its prefixes.
type listRule struct {
	name  string
	table *bart.Lite
}

// best returns the rule that a decision about this peer must name: the longest
// prefix, then the first by name. "" = none matches.
func best(rules []listRule, peer netip.Addr) string {
	name, bits := "", -1
	for _, r := range rules {
		if p, ok := r.table.LookupPrefixLPM(netip.PrefixFrom(peer, peer.BitLen())); ok && p.Bits() > bits {
			name, bits = r.name, p.Bits()
		}
	}
	return name
}

// holdAgainstLists asks the kernel about peers in and around the lists.
func (r *rig) holdAgainstLists(t *testing.T, source *rand.Rand, p *policy.Policy, rules []listRule, prefixes []netip.Prefix, asked int) {
	t.Helper()
	legend := r.apply(t, p, hereFacts())
	allowed := 0
	for range asked {
		peer := around(source, prefixes[source.IntN(len(prefixes))])
		if source.IntN(4) == 0 {
			peer = anywhere(source, peer.Is4())
		}
		if peer.IsMulticast() {
			continue
		}
		member := member6
		if peer.Is4() {
			member = member4
		}
		frame := packet.TCP(peer, netip.MustParseAddr(member), 4000, 443, packet.SYN).Frame()
		got, err := r.Explain(frame, true, 0)
		if err != nil {
			t.Fatal(err)
		}
		want := best(rules, peer)
		if rule := legend.Outcomes[got.Outcome].Rule; rule != want || (got.Verdict == policy.Allow) != (want != "") {
			t.Fatalf("%s: the kernel says %v by rule %q, the lists say %q", peer, got.Verdict, rule, want)
		}
		if got.Verdict == policy.Allow {
			allowed++
		}
	}
	if allowed < asked/10 || allowed > asked*19/20 {
		t.Errorf("too one-sided to tell anything: %d of %d allowed", allowed, asked)
	}
	held := r.Prefixes()
	t.Logf("%d peers, %d allowed; %d IPv4 and %d IPv6 prefixes in the kernel, about %d MiB",
		asked, allowed, held.IPv4, held.IPv6, held.Bytes>>20)
}

// around returns an address in a prefix, at its edges, or right beside it.
func around(source *rand.Rand, p netip.Prefix) netip.Addr {
	a := p.Addr()
	switch source.IntN(4) {
	case 0:
		return a
	case 1:
		if before := a.Prev(); before.IsValid() {
			return before
		}
		return a
	}
	bytes := a.AsSlice()
	for bit := p.Bits(); bit < a.BitLen(); bit++ {
		if source.IntN(2) == 0 {
			bytes[bit/8] |= 0x80 >> (bit % 8)
		}
	}
	inside, _ := netip.AddrFromSlice(bytes)
	return inside
}

func anywhere(source *rand.Rand, v4 bool) netip.Addr {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], source.Uint64())
	binary.BigEndian.PutUint64(b[8:], source.Uint64())
	if v4 {
		return netip.AddrFrom4([4]byte(b[:4]))
	}
	b[0] = 0x20 | b[0]&0x0f // of the part of IPv6 that is in use
	return netip.AddrFrom16(b)
}

func loadText(t *testing.T, text string) *policy.Policy {
	t.Helper()
	path := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := policy.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func seeded(t *testing.T) *rand.Rand {
	t.Helper()
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("seed %d: run again with -seed=%d", seed, seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// TestServiceTags loads Azure's service tags as the rules of a profile and holds
// the kernel against an independent longest-prefix match.
func TestServiceTags(t *testing.T) {
	source := seeded(t)
	tags := tagsOf(t, serviceTags(t))
	var rules strings.Builder
	for i, tag := range tags {
		fmt.Fprintf(&rules, "          - {name: tag-%04d, direction: Inbound, serviceTags: [%q]}\n", i, tag)
	}
	start := time.Now()
	p := loadText(t, fmt.Sprintf(`
serviceTags:
  - {file: %q, format: azure}
resources:
  - {name: orders-db, addresses: [%q, %q]}
perimeters:
  - name: payments
    profiles:
      - name: data
        accessRules:
%s
    associations:
      - {name: orders-db, resource: orders-db, profile: data, accessMode: Enforced}
`, serviceTags(t), member4, member6, rules.String()))
	t.Logf("%d tags loaded in %v", len(tags), time.Since(start).Round(time.Millisecond))

	var lists []listRule
	var all []netip.Prefix
	for i, tag := range tags {
		l := listRule{name: fmt.Sprintf("tag-%04d", i), table: new(bart.Lite)}
		for prefix := range p.ServiceTags[tag].All() {
			l.table.Insert(prefix)
			all = append(all, prefix)
		}
		lists = append(lists, l)
	}
	r := newRig(t, Options{})
	r.holdAgainstLists(t, source, p, lists, all, 20_000)
}

// tagsOf lists the names of a file's tags.
func tagsOf(t *testing.T, path string) []string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Values []struct{ Name string } }
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, v := range file.Values {
		names = append(names, v.Name)
	}
	return names
}

// TestMillionPrefixes is normal work: a million prefixes of both families in one
// list.
func TestMillionPrefixes(t *testing.T) {
	source := seeded(t)
	table := new(bart.Lite)
	var all []netip.Prefix
	var text strings.Builder
	for len(all) < 1_000_000 {
		a := anywhere(source, len(all)%2 == 0)
		bits := 20 + source.IntN(13)
		if a.Is6() {
			bits = 32 + source.IntN(97)
		}
		p := netip.PrefixFrom(a, bits).Masked()
		if p.Addr().IsMulticast() {
			continue
		}
		table.Insert(p)
		all = append(all, p)
		text.WriteString(p.String())
		text.WriteByte('\n')
	}
	list := filepath.Join(t.TempDir(), "million.txt")
	if err := os.WriteFile(list, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	p := loadText(t, fmt.Sprintf(`
serviceTags:
  - {file: %q, format: plain, name: million}
resources:
  - {name: orders-db, addresses: [%q, %q]}
perimeters:
  - name: payments
    profiles:
      - {name: data, accessRules: [{name: million, direction: Inbound, serviceTags: [million]}]}
    associations:
      - {name: orders-db, resource: orders-db, profile: data, accessMode: Enforced}
`, list, member4, member6))
	t.Logf("read and checked in %v", time.Since(start).Round(time.Millisecond))
	r := newRig(t, Options{})
	start = time.Now()
	r.apply(t, p, hereFacts())
	t.Logf("compiled and in force in %v", time.Since(start).Round(time.Millisecond))
	r.holdAgainstLists(t, source, p, []listRule{{"million", table}}, all, 50_000)
}
