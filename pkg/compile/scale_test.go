package compile_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/perimeterd/perimeterd/pkg/compile"
	"github.com/perimeterd/perimeterd/pkg/policy"
)

// large is a policy that is large in one way, and what it may cost at full size.
type large struct {
	name  string
	build func(n int) (*policy.Policy, *policy.Facts)
	n     int // full size
	limit time.Duration
}

func largePolicies() []large {
	return []large{
		{"prefixes in one tag", prefixesInOneTag, 1_000_000, time.Second},
		{"prefixes in 1000 rules", prefixesInRules, 1_000_000, 8 * time.Second},
		{"addresses of one resource", addressesOfOneResource, 1_000_000, 3 * time.Second},
		{"members of one perimeter", membersOfOnePerimeter, 10_000, time.Second},
		{"members with a profile each", membersWithProfiles, 10_000, 2 * time.Second},
		{"members beside a large profile", membersBesideALargeProfile, 10_000, 4 * time.Second},
		{"members with everybody in a list each", membersWithWideLists, 10_000, 2 * time.Second},
		{"resources with firewalls", resourcesWithFirewalls, 10_000, 2 * time.Second},
		{"resources inside what they trust", resourcesInsideWhatTheyTrust, 10_000, 2 * time.Second},
		{"perimeters linked to one", perimetersLinkedToOne, 10_000, 5 * time.Second},
		{"profiles on a workload host", profilesOnAWorkloadHost, 10_000, 4 * time.Second},
	}
}

// mixedPrefix draws a prefix with lengths as routing tables have them: mostly
// /24, few short ones, some hosts.
func mixedPrefix(r *rand.Rand) netip.Prefix {
	bits := 24
	switch n := r.IntN(100); {
	case n < 30:
		bits = 16 + r.IntN(8)
	case n < 40:
		bits = 25 + r.IntN(7)
	case n < 47:
		bits = 32
	}
	if r.IntN(10) == 0 {
		var a [16]byte
		a[0], a[1], a[2], a[3] = 0x20, 1, byte(r.Uint32()), byte(r.Uint32())
		a[4], a[5], a[6], a[7] = byte(r.Uint32()), byte(r.Uint32()), byte(r.Uint32()), byte(r.Uint32())
		return netip.PrefixFrom(netip.AddrFrom16(a), 2*bits).Masked()
	}
	n := r.Uint32()
	a := netip.AddrFrom4([4]byte{1 + byte(n>>24)%223, byte(n >> 16), byte(n >> 8), byte(n)})
	return netip.PrefixFrom(a, bits).Masked()
}

// distinct draws n different prefixes.
func distinct(r *rand.Rand, n int) []netip.Prefix {
	seen := make(map[netip.Prefix]bool, n)
	list := make([]netip.Prefix, 0, n)
	for len(list) < n {
		if p := mixedPrefix(r); !seen[p] {
			seen[p] = true
			list = append(list, p)
		}
	}
	return list
}

func source() *rand.Rand { return rand.New(rand.NewPCG(1, 2)) }

// memberAddress is the i-th of many addresses within 10.0.0.0/8.
func memberAddress(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32)
}

var everywhere = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}

// largeHost is a host that has the address of the first member.
func largeHost(workload bool) *policy.Facts {
	return &policy.Facts{Now: now, Hostname: "host-1", Interfaces: []policy.Interface{
		{Name: "eth0", Addresses: []netip.Addr{memberAddress(0).Addr()}, Workload: workload},
	}, Failsafe: []policy.AccessRule{{Name: "ssh", Direction: policy.Inbound, Ports: []policy.Ports{tcp(22, 22)}}}}
}

// members are n resources with an address each.
func members(n int) []policy.Resource {
	list := make([]policy.Resource, n)
	for i := range list {
		list[i] = policy.Resource{Name: fmt.Sprintf("member-%05d", i), Subscription: fmt.Sprintf("group-%d", i%100), Addresses: []netip.Prefix{memberAddress(i)}}
		if i%2 == 1 {
			list[i].Services = []policy.Ports{tcp(uint16(1000+i%50), uint16(1000+i%50))}
		}
	}
	return list
}

func prefixesInOneTag(n int) (*policy.Policy, *policy.Facts) {
	p := onePerimeter(members(1), policy.AccessRule{Name: "tag", Direction: policy.Inbound, ServiceTags: []string{"tag"}})
	p.ServiceTags = map[string]*policy.PrefixSet{"tag": policy.NewPrefixSet(distinct(source(), n))}
	return p, largeHost(false)
}

func prefixesInRules(n int) (*policy.Policy, *policy.Facts) {
	const rules = 1000
	p := onePerimeter(members(1))
	profile := &p.Perimeters[0].Profiles[0]
	prefixes := distinct(source(), n)
	for i := range rules {
		profile.AccessRules = append(profile.AccessRules, policy.AccessRule{
			Name: fmt.Sprintf("rule-%03d", i), Direction: policy.Inbound, Ports: []policy.Ports{tcp(uint16(1+i%7), uint16(100+i%11))},
			AddressPrefixes: prefixes[i*n/rules : (i+1)*n/rules],
		})
	}
	return p, largeHost(false)
}

func membersOfOnePerimeter(n int) (*policy.Policy, *policy.Facts) {
	return onePerimeter(members(n), policy.AccessRule{Name: "all", Direction: policy.Inbound, AddressPrefixes: everywhere, Ports: []policy.Ports{tcp(443, 443)}},
		policy.AccessRule{Name: "subscription", Direction: policy.Inbound, Subscriptions: []string{"group-3"}}), largeHost(false)
}

// addressesOfOneResource is a service with a million prefixes.
func addressesOfOneResource(n int) (*policy.Policy, *policy.Facts) {
	r := policy.Resource{Name: "member", Services: []policy.Ports{tcp(443, 443)}, Addresses: distinct(source(), n)}
	return onePerimeter([]policy.Resource{r}), largeHost(false)
}

// membersWithProfiles are members of one perimeter, each with a profile of its
// own, of one rule for everybody and one for ten prefixes of its own.
func membersWithProfiles(n int) (*policy.Policy, *policy.Facts) {
	r := source()
	p := &policy.Policy{Resources: members(n), Perimeters: []policy.Perimeter{{Name: "perimeter"}}}
	perimeter := &p.Perimeters[0]
	for i := range n {
		name := fmt.Sprintf("profile-%05d", i)
		perimeter.Profiles = append(perimeter.Profiles, policy.Profile{Name: name, AccessRules: []policy.AccessRule{
			{Name: "all", Direction: policy.Inbound, AddressPrefixes: everywhere, Ports: []policy.Ports{tcp(443, 443)}},
			{Name: "own", Direction: policy.Inbound, AddressPrefixes: distinct(r, 10), Ports: []policy.Ports{tcp(uint16(i), uint16(i))}},
		}})
		perimeter.Associations = append(perimeter.Associations, associate(p.Resources[i].Name, name))
	}
	return p, largeHost(false)
}

// membersBesideALargeProfile is membersWithProfiles, of which one has thirty
// prefixes for each member of the others.
func membersBesideALargeProfile(n int) (*policy.Policy, *policy.Facts) {
	p, facts := membersWithProfiles(n)
	profile := &p.Perimeters[0].Profiles[0]
	for i, prefixes := range slices.Collect(slices.Chunk(distinct(source(), 30*n), n)) {
		profile.AccessRules = append(profile.AccessRules, policy.AccessRule{
			Name: fmt.Sprint("large-", i), Direction: policy.Inbound, AddressPrefixes: prefixes, Ports: []policy.Ports{tcp(1, uint16(100+i))}})
	}
	return p, facts
}

// membersWithWideLists is membersWithProfiles with both in one rule, so that
// every address is in the lists of all.
func membersWithWideLists(n int) (*policy.Policy, *policy.Facts) {
	p, facts := membersWithProfiles(n)
	for i := range p.Perimeters[0].Profiles {
		profile := &p.Perimeters[0].Profiles[i]
		own := profile.AccessRules[1]
		own.AddressPrefixes = append(own.AddressPrefixes, everywhere...)
		profile.AccessRules = []policy.AccessRule{own}
	}
	return p, facts
}

// resourcesWithFirewalls are not associated and have own rules.
func resourcesWithFirewalls(n int) (*policy.Policy, *policy.Facts) {
	r := source()
	p := &policy.Policy{Resources: members(n)}
	for i := range p.Resources {
		p.Resources[i].Firewall = []policy.AccessRule{
			{Name: "in", Direction: policy.Inbound, AddressPrefixes: distinct(r, 10), Ports: []policy.Ports{tcp(uint16(i), uint16(i))}},
			{Name: "out", Direction: policy.Outbound, AddressPrefixes: distinct(r, 10)},
		}
	}
	return p, largeHost(false)
}

// resourcesInsideWhatTheyTrust have own rules that name the network they are
// all in, beside a prefix of their own.
func resourcesInsideWhatTheyTrust(n int) (*policy.Policy, *policy.Facts) {
	r := source()
	p := &policy.Policy{Resources: members(n)}
	for i := range p.Resources {
		p.Resources[i].Firewall = []policy.AccessRule{
			{Name: "in", Direction: policy.Inbound, AddressPrefixes: append(distinct(r, 1), netip.MustParsePrefix("10.0.0.0/8"))},
		}
	}
	return p, largeHost(false)
}

// perimetersLinkedToOne have a member each.
func perimetersLinkedToOne(n int) (*policy.Policy, *policy.Facts) {
	p := &policy.Policy{Resources: members(n)}
	for i := range p.Resources {
		name := fmt.Sprintf("perimeter-%05d", i)
		perimeter := policy.Perimeter{Name: name, Profiles: []policy.Profile{{Name: "profile"}}}
		perimeter.Associations = []policy.Association{associate(p.Resources[i].Name, "profile")}
		if i > 0 {
			perimeter.Links = []policy.Link{{Name: "link", RemotePerimeter: "perimeter-00000", LocalInboundProfiles: []string{"*"}}}
			p.Perimeters[0].LinkReferences = append(p.Perimeters[0].LinkReferences, policy.LinkReference{
				Name: name, RemotePerimeter: name, LocalInboundProfiles: []string{"profile"}, Status: policy.Approved})
		}
		p.Perimeters = append(p.Perimeters, perimeter)
	}
	return p, largeHost(false)
}

// profilesOnAWorkloadHost is membersWithProfiles where any of them may live
// here, so that multicast is judged for all of them.
func profilesOnAWorkloadHost(n int) (*policy.Policy, *policy.Facts) {
	p, _ := membersWithProfiles(n)
	return p, largeHost(true)
}

// TestScale: large policies compile in seconds, and in time that grows with their
// size and not with its square. With -short they are a tenth as large.
func TestScale(t *testing.T) {
	for _, l := range largePolicies() {
		t.Run(l.name, func(t *testing.T) {
			n, limit := l.n, l.limit
			if testing.Short() {
				n, limit = n/10, limit/4
			}
			const step = 8
			before, small := compileTime(t, l, n/step)
			took, tables := compileTime(t, l, n)
			t.Logf("%d: %v, %d prefixes, %d meanings, %d spans; %d: %v", n, took.Round(time.Millisecond),
				tables.Prefixes4.Len()+tables.Prefixes6.Len(), len(tables.ScopeClasses), len(tables.Spans), n/step, before.Round(time.Millisecond))
			// Time is rough even so: what fails is far outside.
			if took > 3*limit {
				t.Errorf("%d %s took %v, want %v", n, l.name, took, limit)
			}
			// More prefixes also nest more in each other, which makes more to tell.
			grown := max(step, entries(tables)/entries(small))
			if took > limit/2 && took > time.Duration(4*grown)*before {
				t.Errorf("%d %s took %v, and %d took %v: the tables are %d times as large", n, l.name, took, n/step, before, grown)
			}
		})
	}
}

func entries(tables *compile.Tables) int {
	return len(tables.Locals) + tables.Prefixes4.Len() + tables.Prefixes6.Len() + len(tables.ScopeClasses) + len(tables.Spans)
}

// compileTime compiles a policy of this size and returns the CPU time it took.
func compileTime(t *testing.T, l large, n int) (time.Duration, *compile.Tables) {
	t.Helper()
	p, facts := l.build(n)
	runtime.GC()
	start := cpuTime(t)
	tables, _, err := compile.Compile(p, facts)
	if err != nil {
		t.Fatal(err)
	}
	return cpuTime(t) - start, tables
}

// cpuTime is what the process has used so far, whatever else the machine does.
func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		t.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// TestScaleIsRight looks some addresses up in a large table with a longest-prefix
// match of other hands, and in the rules one after the other.
func TestScaleIsRight(t *testing.T) {
	const n = 100_000
	p, facts := prefixesInRules(n)
	r, source := read(t, p, facts), source()
	looked, admitted := 0, 0
	for range 300 {
		rule := p.Perimeters[0].Profiles[0].AccessRules[source.IntN(1000)]
		peer := nearEdge(source, rule.AddressPrefixes[source.IntN(len(rule.AddressPrefixes))])
		port := uint16(1 + source.IntN(111))
		if peer.Is6() || port == 22 {
			continue // the member has no such address, and everybody may ssh
		}
		looked++
		got := r.judge(in, packet(in, memberAddress(0).Addr().String(), peer.String(), port), now)
		if want := slowRule(p.Perimeters[0].Profiles[0].AccessRules, peer, port); got.Rule != want {
			t.Errorf("%s port %d: got rule %q, want %q", peer, port, got.Rule, want)
		}
		if got.Rule != "" {
			admitted++
		}
	}
	if admitted < looked/4 || admitted > looked*3/4 {
		t.Errorf("%d of %d were admitted: too one-sided to tell anything", admitted, looked)
	}
}

// slowRule names the rule that matches best.
func slowRule(rules []policy.AccessRule, peer netip.Addr, port uint16) string {
	name, bits, width := "", -1, 0
	for _, rule := range rules {
		ports := rule.Ports[0]
		if !ports.Contains(policy.ProtocolTCP, port) {
			continue
		}
		w := int(ports.Last) - int(ports.First)
		for _, p := range rule.AddressPrefixes {
			if p.Contains(peer) && (p.Bits() > bits || p.Bits() == bits && (w < width || w == width && rule.Name < name)) {
				name, bits, width = rule.Name, p.Bits(), w
			}
		}
	}
	return name
}

// nearEdge draws an address in a prefix or right beside it.
func nearEdge(r *rand.Rand, p netip.Prefix) netip.Addr {
	bytes := p.Addr().AsSlice()
	for bit := p.Bits(); bit < 8*len(bytes); bit++ {
		bytes[bit/8] |= 0x80 >> (bit % 8)
	}
	first := p.Addr()
	last, _ := netip.AddrFromSlice(bytes)
	for bit := p.Bits(); bit < 8*len(bytes); bit++ {
		if r.IntN(2) == 0 {
			bytes[bit/8] &^= 0x80 >> (bit % 8)
		}
	}
	inside, _ := netip.AddrFromSlice(bytes)
	for {
		if a := []netip.Addr{first, last, inside, first.Prev(), last.Next()}[r.IntN(5)]; a.IsValid() {
			return a
		}
	}
}

// BenchmarkCompile reports time and memory, and how large the tables come out.
func BenchmarkCompile(b *testing.B) {
	for _, l := range largePolicies() {
		b.Run(fmt.Sprintf("%d %s", l.n, l.name), func(b *testing.B) {
			p, facts := l.build(l.n)
			runtime.GC()
			b.ReportAllocs()
			var tables *compile.Tables
			for b.Loop() {
				var err error
				if tables, _, err = compile.Compile(p, facts); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(tables.Prefixes4.Len()+tables.Prefixes6.Len()), "prefixes")
			b.ReportMetric(float64(len(tables.ScopeClasses)), "meanings")
			b.ReportMetric(float64(len(tables.Spans)), "spans")
		})
	}
}
