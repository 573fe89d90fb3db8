package policy

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var seed = flag.Uint64("seed", 0, "seed of the random tests; 0 = a new one each time")

func newRandom(t *testing.T) *rand.Rand {
	s := *seed
	if s == 0 {
		s = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d (repeat with -seed=%d)", s, s)
	return rand.New(rand.NewPCG(s, s))
}

func TestAttribution(t *testing.T) {
	cases := []struct {
		name      string
		resources string
		want      []string
	}{
		{"apart", `
  - {name: a, addresses: [10.0.0.1]}
  - {name: b, addresses: [10.0.0.2]}`, nil},
		{"a resource in its own prefix", `
  - {name: a, addresses: [10.0.0.1, 10.0.0.0/24]}`, nil},
		{"the more specific hides the wider", `
  - {name: a, addresses: [10.0.0.0/24], publicNetworkAccess: Disabled}
  - {name: b, addresses: [10.0.0.1]}`, nil},
		{"with services it lies over the wider", `
  - {name: a, addresses: [10.0.0.0/24], publicNetworkAccess: Disabled}
  - {name: b, addresses: [10.0.0.1], services: [tcp/80]}`, []string{
			"outbound traffic of 10.0.0.1", "publicNetworkAccess (Disabled, Enabled)"}},
		{"the wider is hidden in between", `
  - {name: a, addresses: [10.0.0.0/16], publicNetworkAccess: Disabled}
  - {name: b, addresses: [10.0.0.0/24]}
  - {name: c, addresses: [10.0.0.1], services: [tcp/80]}`, nil},
		{"services apart", `
  - {name: a, addresses: [10.0.0.1], services: [tcp/80-90]}
  - {name: b, addresses: [10.0.0.1], services: [tcp/91, udp/80]}`, nil},
		{"services of one protocol", `
  - {name: a, addresses: ["fd00::1"], services: [icmp]}
  - {name: b, addresses: ["fd00::1"], services: [tcp/91, icmp]}`, []string{
			"inbound traffic to fd00::1", "the service icmp"}},
		{"one with and one without services", `
  - {name: a, addresses: [10.0.0.1], services: [tcp/80-90]}
  - {name: b, addresses: [10.0.0.1]}`, nil},
		{"different prefixes, equal services", `
  - {name: a, addresses: [10.0.0.1], services: [tcp/80]}
  - {name: b, addresses: [10.0.0.0/31], services: [tcp/80]}`, nil},
		{"everything is hidden by halves", `
  - {name: a, addresses: [10.0.0.0/24]}
  - {name: b, addresses: [10.0.0.0/24]}
  - {name: c, addresses: [10.0.0.0/25, 10.0.0.128/25]}`, nil},
		{"all but one address is hidden", `
  - {name: a, addresses: [10.0.0.0/30]}
  - {name: b, addresses: [10.0.0.0/30]}
  - {name: c, addresses: [10.0.0.0/31, 10.0.0.3]}`, []string{
			"inbound traffic to 10.0.0.2", "10.0.0.0/30"}},
		{"the last address of all", `
  - {name: a, addresses: ["f000::/4", "fc00::/6"]}
  - {name: b, addresses: ["fd00::/8"]}
  - {name: c, addresses: [255.255.255.254/31]}`, nil},
		{"interfaces are for later", `
  - {name: a, interfaces: [eth0]}
  - {name: b, interfaces: [eth0]}`, nil},
		{"equal rules in another order", `
  - {name: a, addresses: [10.0.0.1], services: [tcp/80], firewall: [{name: r, direction: Outbound, addressPrefixes: [10.0.0.0/8, 11.0.0.0/8]}, {name: s, direction: Outbound, addressPrefixes: [12.0.0.0/8], ports: [tcp, udp]}]}
  - {name: b, addresses: [10.0.0.1], services: [tcp/81], firewall: [{name: s, direction: Outbound, addressPrefixes: [12.0.0.0/8], ports: [udp, tcp]}, {name: r, direction: Outbound, addressPrefixes: [11.0.0.0/8, 10.0.0.0/8]}]}`, nil},
		{"different inbound rules", `
  - {name: a, addresses: [10.0.0.1], services: [tcp/80], firewall: [{name: r, direction: Inbound, addressPrefixes: [10.0.0.0/8]}]}
  - {name: b, addresses: [10.0.0.1], services: [tcp/81]}`, nil},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse("p.yaml", []byte("resources:"+c.resources+"\n"))
			switch {
			case c.want == nil && err != nil:
				t.Errorf("want no problem, got\n%v", err)
			case c.want != nil && err == nil:
				t.Errorf("want a problem")
			}
			for _, text := range c.want {
				if err != nil && !strings.Contains(err.Error(), text) {
					t.Errorf("problem does not say %q:\n%v", text, err)
				}
			}
		})
	}
}

// The addresses of interfaces are known only at run time.
func TestCheckAttributionOfInterfaces(t *testing.T) {
	p, err := Parse("p.yaml", []byte(`
resources:
  - {name: host, interfaces: ["*"]}
  - {name: web, interfaces: [eth0], services: [tcp/80]}
  - {name: other, interfaces: [eth1]}
`))
	if err != nil {
		t.Fatal(err)
	}
	facts := &Facts{Interfaces: []Interface{
		{Name: "eth0", Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("fe80::1%eth0")}},
	}}
	check := func() Problems {
		prefixes := make([][]netip.Prefix, len(p.Resources))
		for i := range p.Resources {
			prefixes[i] = p.Resources[i].AddressesOn(facts)
		}
		return p.CheckAttribution(prefixes)
	}
	if got := check(); len(got) != 0 {
		t.Errorf("with eth0:\n%v", got)
	}
	facts.Interfaces = append(facts.Interfaces, Interface{Name: "eth1", Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.2")}})
	want := `p.yaml:5:5: inbound traffic to 192.0.2.2 cannot be attributed: resources "host" (p.yaml:3:5) and "other" both have it in 192.0.2.2/32 and no services: give at least one of them services, or different addresses`
	if got := check(); got.Error() != want {
		t.Errorf("with eth0 and eth1:\n%v\nwant\n%s", got, want)
	}
}

// findClashes against the definition, address by address.
func TestFindClashesAgainstDefinition(t *testing.T) {
	random := newRandom(t)
	clashing := 0
	const rounds = 20000
	for range rounds {
		p, prefixes := randomResources(random)
		outbound := p.outboundPolicies()
		got := findClashes(p.Resources, outbound, prefixes)
		if len(got) > 0 {
			clashing++
		}

		gotInbound, gotOutbound := map[int]bool{}, map[[2]int]bool{}
		for _, c := range got {
			carried := carriedBy(p.Resources, prefixes, c.address)
			if c.kind == differentOutbound {
				gotOutbound[[2]int{min(c.a, c.b), max(c.a, c.b)}] = true
				continue
			}
			gotInbound[c.a], gotInbound[c.b] = true, true
			if !slices.ContainsFunc(carried, func(group []int) bool {
				return slices.Contains(group, c.a) && slices.Contains(group, c.b)
			}) || !rivals(&p.Resources[c.a], &p.Resources[c.b]) {
				t.Fatalf("%+v is no clash:\n%s", c, describeResources(p, prefixes))
			}
		}

		wantInbound, wantOutbound := map[int]bool{}, map[[2]int]bool{}
		for _, address := range universe() {
			var all []int
			for _, group := range carriedBy(p.Resources, prefixes, address) {
				for i, a := range group {
					for _, b := range group[:i] {
						if rivals(&p.Resources[a], &p.Resources[b]) {
							wantInbound[a], wantInbound[b] = true, true
						}
					}
				}
				all = append(all, group...)
			}
			for _, b := range all {
				if outbound[b] != outbound[all[0]] {
					wantOutbound[[2]int{min(all[0], b), max(all[0], b)}] = true
					break
				}
			}
		}
		if !maps.Equal(gotInbound, wantInbound) || !maps.Equal(gotOutbound, wantOutbound) {
			t.Fatalf("inbound %v, want %v; outbound %v, want %v:\n%s", gotInbound, wantInbound, gotOutbound, wantOutbound, describeResources(p, prefixes))
		}
	}
	if clashing < rounds/10 || clashing > rounds*9/10 {
		t.Errorf("%d of %d policies have clashes: the random policies are not worth much", clashing, rounds)
	}
}

// carriedBy is the definition: the groups of resources an address carries, each
// in the order of names.
func carriedBy(resources []Resource, prefixes [][]netip.Prefix, address netip.Addr) (groups [][]int) {
	byLength := map[int][]int{}
	for i := range resources {
		longest := -1
		for _, p := range prefixes[i] {
			if p.Contains(address) {
				longest = max(longest, p.Bits())
			}
		}
		if longest >= 0 {
			byLength[longest] = append(byLength[longest], i)
		}
	}
	for _, length := range slices.Backward(slices.Sorted(maps.Keys(byLength))) {
		group := byLength[length]
		slices.SortFunc(group, func(a, b int) int { return strings.Compare(resources[a].Name, resources[b].Name) })
		groups = append(groups, group)
		if slices.ContainsFunc(group, func(i int) bool { return len(resources[i].Services) == 0 }) {
			break
		}
	}
	return groups
}

// rivals reports whether two resources cannot be in one group.
func rivals(a, b *Resource) bool {
	if len(a.Services) == 0 || len(b.Services) == 0 {
		return len(a.Services) == len(b.Services)
	}
	for _, x := range a.Services {
		for _, y := range b.Services {
			if x.Contains(y.Protocol, y.First) || y.Contains(x.Protocol, x.First) {
				return true
			}
		}
	}
	return false
}

// universe is every address that randomResources uses.
func universe() (addresses []netip.Addr) {
	for _, a := range []string{"255.255.255.240", "fd00::"} {
		for address := netip.MustParseAddr(a); len(addresses)%16 != 0 || address == netip.MustParseAddr(a); address = address.Next() {
			addresses = append(addresses, address)
		}
	}
	return addresses
}

func randomResources(random *rand.Rand) (*Policy, [][]netip.Prefix) {
	addresses := universe()
	p := &Policy{}
	var prefixes [][]netip.Prefix
	services := []Ports{{6, 0, 65535}, {6, 1, 9}, {6, 5, 5}, {6, 9, 20}, {6, 30, 40}, {17, 5, 5}, {1, 0, 65535}, {58, 0, 65535}}
	names := random.Perm(8)
	for i := range 1 + random.IntN(7) {
		r := Resource{Name: fmt.Sprintf("r%d", names[i])}
		for range random.IntN(4) {
			r.Services = append(r.Services, services[random.IntN(len(services))])
		}
		if random.IntN(4) == 0 {
			r.PublicNetworkAccess = Disabled
		}
		p.Resources = append(p.Resources, r)
		var own []netip.Prefix
		for range random.IntN(5) {
			a := addresses[random.IntN(len(addresses))]
			own = append(own, netip.PrefixFrom(a, a.BitLen()-random.IntN(5)).Masked())
		}
		prefixes = append(prefixes, own)
	}
	return p, prefixes
}

func describeResources(p *Policy, prefixes [][]netip.Prefix) string {
	var b strings.Builder
	for i, r := range p.Resources {
		fmt.Fprintf(&b, "%d %s %v services %v %v\n", i, r.Name, prefixes[i], r.Services, r.PublicNetworkAccess)
	}
	return b.String()
}

// The check must be near to linear: shapes that are hard on a careless one.
func TestAttributionOfLargePolicies(t *testing.T) {
	host := func(i int) netip.Prefix {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32)
	}
	wide := netip.MustParsePrefix("10.0.0.0/8")
	// The shapes come with how many clashes they have.
	cases := []struct {
		name  string
		build func(add func(services []Ports, prefixes ...netip.Prefix))
		want  int
	}{
		{"ten thousand services on one address", func(add func([]Ports, ...netip.Prefix)) {
			for i := range 10000 {
				add([]Ports{{ProtocolTCP, uint16(i), uint16(i)}}, host(1))
			}
		}, 0},
		{"ten thousand resources on one address", func(add func([]Ports, ...netip.Prefix)) {
			for range 10000 {
				add(nil, host(1))
			}
		}, 9999},
		{"services of many under the services of many", func(add func([]Ports, ...netip.Prefix)) {
			for i := range 10000 {
				add([]Ports{{ProtocolTCP, uint16(i), uint16(i)}}, wide)
				add([]Ports{{ProtocolUDP, 53, 53}}, host(2*i), host(2*i+1))
			}
		}, 0},
		{"rivals over many hosts", func(add func([]Ports, ...netip.Prefix)) {
			for i := range 10000 {
				add([]Ports{{ProtocolTCP, 80, 80}}, wide)
				add([]Ports{{ProtocolUDP, 53, 53}}, host(i))
			}
		}, 9999},
		{"a rival hidden on every host", func(add func([]Ports, ...netip.Prefix)) {
			wide := netip.MustParsePrefix("10.0.0.0/18")
			own := []netip.Prefix{wide}
			for i := range 1 << 14 {
				own = append(own, host(i))
			}
			add([]Ports{{ProtocolTCP, 0, 65535}}, own...)
			for i := range 10000 {
				add([]Ports{{ProtocolTCP, uint16(i), uint16(i)}}, wide)
			}
		}, 0},
		{"a nest as deep as it can be", func(add func([]Ports, ...netip.Prefix)) {
			for i := range 10000 {
				add([]Ports{{ProtocolTCP, uint16(i), uint16(i)}}, netip.PrefixFrom(host(i).Addr(), 8+i%25).Masked())
			}
		}, 0},
		{"a million prefixes", func(add func([]Ports, ...netip.Prefix)) {
			for i := range 10 {
				var own []netip.Prefix
				for j := range 100000 {
					own = append(own, host(10*j+i))
				}
				add(nil, own...)
			}
		}, 0},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			p := &Policy{}
			var prefixes [][]netip.Prefix
			c.build(func(services []Ports, own ...netip.Prefix) {
				p.Resources = append(p.Resources, Resource{Name: fmt.Sprintf("r%06d", len(p.Resources)), Services: services})
				prefixes = append(prefixes, own)
			})
			start := time.Now()
			got := findClashes(p.Resources, p.outboundPolicies(), prefixes)
			t.Logf("%v", time.Since(start))
			if diff := cmp.Diff(c.want, len(got)); diff != "" {
				t.Errorf("clashes (-want +got):\n%s", diff)
			}
		})
	}
}
