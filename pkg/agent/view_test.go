package agent

import (
	"cmp"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/perimeterd/perimeterd/pkg/api"
	"github.com/perimeterd/perimeterd/pkg/compile"
	"github.com/perimeterd/perimeterd/pkg/datapath"
	"github.com/perimeterd/perimeterd/pkg/policy"
)

// manyRules has a rule for every reason not to be in force.
const manyRules = `resources:
  - name: db
    addresses: [10.20.0.5]
    firewall: [{name: own, direction: Inbound, addressPrefixes: [192.0.2.0/24]}]
  - name: web
    addresses: [10.20.0.6, "fd20::6"]
    firewall: [{name: own, direction: Inbound, addressPrefixes: [192.0.2.0/24]}]
  - name: closed
    addresses: [10.20.0.7]
    publicNetworkAccess: SecuredByPerimeter
    firewall: [{name: own, direction: Outbound, addressPrefixes: [192.0.2.0/24]}]
  - name: net
    addresses: [10.30.0.0/16]
    publicNetworkAccess: Disabled
    firewall:
      - {name: in, direction: Inbound, addressPrefixes: [192.0.2.0/24]}
      - {name: out, direction: Outbound, addressPrefixes: [192.0.2.0/24, 198.51.100.0/24, 203.0.113.0/24, 203.0.113.0/25]}
perimeters:
  - name: p
    profiles:
      - name: data
        accessRules:
          - {name: partners, direction: Inbound, addressPrefixes: [198.51.100.0/24], ports: [tcp/5432]}
          - {name: old, direction: Inbound, addressPrefixes: [198.51.100.0/24], expires: 2001-01-01T00:00:00Z}
          - {name: vault, direction: Outbound, fullyQualifiedDomainNames: [vault.example.com]}
      - name: unused
        accessRules:
          - {name: partners, direction: Inbound, addressPrefixes: [198.51.100.0/24]}
    associations:
      - {name: db, resource: db, profile: data, accessMode: Enforced}
      - {name: web, resource: web, profile: data}
    links:
      - {name: to-q, remotePerimeter: q, localInboundProfiles: ["*"]}
      - {name: to-r, remotePerimeter: r, localInboundProfiles: ["*"]}
  - name: q
    linkReferences: [{name: from-p, remotePerimeter: p, localInboundProfiles: ["*"], status: Approved}]
  - name: r
    linkReferences:
      - {name: from-p, remotePerimeter: p, localInboundProfiles: ["*"]}
      - {name: from-q, remotePerimeter: q, localInboundProfiles: ["*"]}
`

// looking is an agent without a kernel, that has put a policy in force.
func looking(t *testing.T, text string) *Agent {
	t.Helper()
	p, err := policy.Parse("p.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	legend := &compile.Legend{Generation: 3, Members: []compile.MemberLegend{{}, {Resource: "db", Perimeter: "p", Profile: "data", AccessMode: policy.Enforced}, {Resource: "db"}},
		Outcomes: []compile.OutcomeLegend{{}, {Reason: policy.ReasonAccessRule, Rule: "partners"}}}
	a := &Agent{hits: newHits(func(uint32) *compile.Legend { return legend })}
	a.reconciler = newReconciler(a)
	a.reconciler.set(func(v *view) {
		v.policy, v.source, v.legend, v.enforcement = p, api.FromFiles, legend, &enforcement{}
		v.facts = &policy.Facts{Interfaces: []policy.Interface{{Name: "eth0", Addresses: []netip.Addr{netip.MustParseAddr("10.20.0.5"), netip.MustParseAddr("10.30.7.7")}}}}
	})
	return a
}

func TestRules(t *testing.T) {
	t.Parallel()
	a := looking(t, manyRules)
	a.hits.count([]datapath.Event{{Kind: datapath.FlowStart, Generation: 3, Member: 1, Outcome: 1, Count: 1}})
	rules, err := a.Rules(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range rules.Rules {
		word := r.Perimeter + r.Profile + r.Resource + "/" + r.Name
		if r.Hits > 0 {
			word += " hit"
		}
		if !r.InForce {
			word += ": " + r.Why
		}
		got = append(got, word)
	}
	want := []string{
		"pdata/partners hit", "pdata/old: it has ended", "pdata/vault",
		"punused/partners: no resource is associated with the profile",
		"db/own: own rules do not count in Enforced", "web/own",
		"closed/own: own rules do not count with SecuredByPerimeter",
		"net/in: publicNetworkAccess is Disabled", "net/out",
		"p/to-q", "p/to-r: perimeter r has no Approved linkReference to p",
		"q/from-p", "r/from-p: its status is Pending", "r/from-q: its status is Pending",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if last := rules.Rules[8]; last.Selector != "192.0.2.0/24, 198.51.100.0/24, 203.0.113.0/24, … 4 in all" || last.At != "p.yaml:17:9" {
		t.Errorf("the last rule: %+v", last)
	}
	if m := a.Members(); len(m) != 1 || m[0].Perimeter != "p" {
		t.Errorf("members: %+v", m)
	}
}

func TestAddressesOfWords(t *testing.T) {
	t.Parallel()
	v := looking(t, manyRules).reconciler.look()
	resolved := map[string][]netip.Addr{"vault.example.com": {netip.MustParseAddr("192.0.2.7")}}
	for _, test := range []struct{ word, want string }{
		{"198.51.100.7", "198.51.100.7"},
		{"fd20::1", "fd20::1"},
		{"::ffff:192.0.2.1", "write the address as a packet carries it, such as 192.0.2.1"},
		{"fe80::1%eth0", "such as fe80::1"},
		{"db", "10.20.0.5"},
		{"DB", "10.20.0.5"},
		{"web", "10.20.0.6 fd20::6"},
		{"net", "10.30.7.7"}, // one that is here
		{"closed", "10.20.0.7"},
		{"vault.example.com", "192.0.2.7"},
		{"Vault.Example.com.", "192.0.2.7"},
		{"dbb", `"dbb" is no address, no resource, and no name`},
	} {
		addresses, err := v.addresses(resolved, test.word)
		got := ""
		for _, a := range addresses {
			got += a.String() + " "
		}
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, test.want) {
			t.Errorf("%s: %s, want %s", test.word, got, test.want)
		}
	}
	if _, err := v.addresses(nil, "vault.example.com"); err == nil || !strings.Contains(err.Error(), "has not been resolved") {
		t.Errorf("a name without addresses: %v", err)
	}
	from, to, err := v.ends(resolved, api.Question{From: "fd20::1", To: "web"})
	if err != nil || from.String() != "fd20::1" || to.String() != "fd20::6" {
		t.Errorf("ends of one family: %s, %s, %v", from, to, err)
	}
	if _, _, err := v.ends(resolved, api.Question{From: "fd20::1", To: "db"}); !errors.Is(err, api.ErrBadRequest) {
		t.Errorf("ends of two families: %v", err)
	}
}

func TestPolicyStatusNamesTheLastGoodOne(t *testing.T) {
	t.Parallel()
	v := looking(t, manyRules).reconciler.look()
	if got := v.policyStatus("/policy"); got.Source != api.FromFiles || got.Problem != "" {
		t.Errorf("got %+v", got)
	}
	v.problem, v.problemSince = errors.New("bad"), time.Now()
	if got := v.policyStatus("/policy"); got.Source != api.FromLastGood || got.Problem != "bad" || got.ProblemSince.IsZero() {
		t.Errorf("got %+v", got)
	}
}

func TestNothingToAskWhileStartingOrDisabled(t *testing.T) {
	t.Parallel()
	ask := func(*datapath.Datapath) error { t.Error("asked"); return nil }
	if err := (&view{}).use(ask); !errors.Is(err, errStarting) {
		t.Errorf("starting: %v", err)
	}
	if err := (&view{disabled: true}).use(ask); !errors.Is(err, api.ErrDisabled) {
		t.Errorf("disabled: %v", err)
	}
	if err := (&view{enforcement: &enforcement{closed: true}}).use(ask); !errors.Is(err, api.ErrDisabled) {
		t.Errorf("being disabled: %v", err)
	}
}

// What says the same is not put in force again.
func TestSameTables(t *testing.T) {
	t.Parallel()
	p, err := policy.Parse("p.yaml", []byte(manyRules+"privateEndpoints:\n  - {name: wg, interfaces: [wg0]}\n"))
	if err != nil {
		t.Fatal(err)
	}
	facts := func(addresses ...string) *policy.Facts {
		f := &policy.Facts{Now: time.Now(), Interfaces: []policy.Interface{{Name: "eth0"}}, Names: map[string][]netip.Addr{}}
		for _, a := range addresses {
			f.Names["vault.example.com"] = append(f.Names["vault.example.com"], netip.MustParseAddr(a))
		}
		return f
	}
	compiled := func(f *policy.Facts) (*compile.Tables, *compile.Legend) {
		t.Helper()
		tables, legend, err := compile.Compile(p, f)
		if err != nil {
			t.Fatal(err)
		}
		return tables, legend
	}
	tables, legend := compiled(facts("192.0.2.7"))
	legend.PutInForce(3, nil)
	again, named := compiled(facts("192.0.2.7"))
	if !sameTables(tables, again) || !sameNames(legend, named) {
		t.Error("the same policy and facts make different tables")
	}
	if other, _ := compiled(facts("192.0.2.8")); !sameTables(tables, other) {
		t.Error("another address of a name makes other tables: it would be a new generation")
	}
	resolvers := facts()
	resolvers.Resolvers = []netip.Addr{netip.MustParseAddr("192.0.2.53")}
	if other, _ := compiled(resolvers); sameTables(tables, other) {
		t.Error("another resolver makes the same tables")
	}
	vault := &p.Perimeters[0].Profiles[0].AccessRules
	for i := range *vault {
		if names := (*vault)[i].FullyQualifiedDomainNames; len(names) > 0 {
			before := names[0]
			names[0] = "*.example.com"
			if other, _ := compiled(facts()); sameTables(tables, other) {
				t.Error("another name of a rule makes the same tables")
			}
			names[0] = before
		}
	}
	p.Perimeters[0].Profiles[0].AccessRules[0].Description = "new"
	if _, renamed := compiled(facts("192.0.2.7")); sameNames(legend, renamed) {
		t.Error("another text of a rule makes the same names: its version would not rise")
	}
}

// Tables of which only the parents of classes differ let other peers in. A compiler
// that numbers classes anew may give one another parent.
func TestOtherParentsAreOtherTables(t *testing.T) {
	t.Parallel()
	prefixes := func(words ...string) (out []netip.Prefix) {
		for _, w := range words {
			out = append(out, netip.MustParsePrefix(w))
		}
		return out
	}
	// The peers of s3 have a prefix inside another's, and the rule named may lets them in.
	drawn := func(s3, may string, more ...policy.AccessRule) *policy.Policy {
		member := policy.Resource{Name: "member", Addresses: prefixes("192.168.0.1/32")}
		for rule, port := range map[string]uint16{"r1": 80, "r2": 443} {
			subscriptions := []string{"s" + rule[1:]}
			if rule == may {
				subscriptions = append(subscriptions, "s3")
			}
			ports := []policy.Ports{{Protocol: policy.ProtocolTCP, First: port, Last: port}}
			member.Firewall = append(member.Firewall, policy.AccessRule{Name: rule, Subscriptions: subscriptions, Ports: ports})
		}
		slices.SortFunc(member.Firewall, func(a, b policy.AccessRule) int { return cmp.Compare(a.Name, b.Name) })
		member.Firewall = append(member.Firewall, more...)
		return &policy.Policy{Resources: []policy.Resource{
			member,
			{Name: "a", Subscription: "s1", Addresses: prefixes("1.0.0.0/8", "3.0.0.0/8")},
			{Name: "b", Subscription: "s2", Addresses: prefixes("2.0.0.0/8")},
			{Name: "c", Subscription: "s3", Addresses: prefixes(s3)},
		}}
	}
	var compiler compile.Compiler
	compiled := func(p *policy.Policy) (*compile.Tables, *compile.Legend) {
		t.Helper()
		tables, legend, err := compiler.Compile(p, &policy.Facts{Now: time.Now()})
		if err != nil {
			t.Fatal(err)
		}
		return tables, legend
	}
	office := policy.AccessRule{Name: "office", AddressPrefixes: prefixes("9.0.0.0/8")}
	long := policy.AccessRule{Name: "long"} // so much that the compiler keeps its classes
	for i := range 20_000 {
		long.AddressPrefixes = append(long.AddressPrefixes, netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 0, byte(i >> 8), byte(i)}), 32))
	}
	compiled(drawn("3.0.0.0/16", "r1", office, long))
	before, legend := compiled(drawn("2.0.0.0/16", "r1", office))
	office.AddressPrefixes = append(office.AddressPrefixes, netip.MustParsePrefix("9.9.0.0/16")) // which it has already
	after, renamed := compiled(drawn("2.0.0.0/16", "r2", office))
	if sameTables(before, after) && sameNames(legend, renamed) {
		t.Errorf("who may use port 80 may use 443 now, and nothing is put in force: classes have the parents %v and had %v", after.Parents, before.Parents)
	}
}

// TestRefusedPolicyInBetween: while the kernel refuses a policy, the one in force is
// compiled after it again and again. It stays what it is.
func TestRefusedPolicyInBetween(t *testing.T) {
	hosts := func(n int, first byte) []netip.Prefix {
		var list []netip.Prefix
		for i := range n {
			list = append(list, netip.PrefixFrom(netip.AddrFrom4([4]byte{first, byte(i >> 16), byte(i >> 8), byte(i)}), 32))
		}
		return list
	}
	admitting := func(sets ...*policy.PrefixSet) *policy.Policy {
		member := policy.Resource{Name: "member", Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/32")}}
		p := &policy.Policy{ServiceTags: map[string]*policy.PrefixSet{}}
		for i, set := range sets {
			tag := string(rune('a' + i))
			p.ServiceTags[tag] = set
			member.Firewall = append(member.Firewall, policy.AccessRule{Name: tag, ServiceTags: []string{tag}})
		}
		p.Resources = []policy.Resource{member}
		return p
	}
	for _, shared := range []int{0, 5} {
		many := policy.NewPrefixSet(hosts(20_000, 20))
		inForce := admitting(many.Edit(hosts(3, 21), nil))
		refused := admitting(many, policy.NewPrefixSet(append(hosts(100_000, 22), hosts(shared, 20)...)))
		var c compile.Compiler
		compiled := func(p *policy.Policy) *compile.Tables {
			tables, _, err := c.Compile(p, &policy.Facts{Now: time.Now()})
			if err != nil {
				t.Fatal(err)
			}
			return tables
		}
		compiled(admitting(many))
		before := compiled(inForce)
		for turn := range 4 {
			compiled(refused)
			next := compiled(inForce)
			if turn > 0 && !sameTables(before, next) { // the first may lose what it shared
				t.Errorf("%d prefixes in common: after turn %d the policy in force makes other tables", shared, turn)
			}
			before = next
		}
	}
}
