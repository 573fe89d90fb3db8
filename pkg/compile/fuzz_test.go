package compile_test

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/perimeterd/perimeterd/pkg/compile"
	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/pkg/reference"
)

// FuzzCompile: whatever can be read as a policy compiles, into tables that say
// what the reference says, or has problems with a place. The seed draws what is
// asked.
func FuzzCompile(f *testing.F) {
	for _, file := range []string{"../../deploy/policy-reference.yaml", "../datapath/testdata/everything.yaml", "../agent/default-policy.yaml"} {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(withoutTags(string(text)), uint64(1))
	}
	for _, text := range []string{
		"",
		"resources: [{name: a, interfaces: ['*']}, {name: b, interfaces: [eth0], services: [tcp/1-2]}]",
		"resources: [{name: a, addresses: [0.0.0.0/0, '::/0']}, {name: b, addresses: [10.0.0.0/8], services: [udp]}]",
		"resources: [{name: a, addresses: [10.0.0.0/8], firewall: [{name: r, direction: Inbound, addressPrefixes: ['::/0', 10.0.0.0/9], ports: [icmp, ip/58, ip/255]}]}]",
		"resources: [{name: a, addresses: [224.0.0.0/3]}, {name: b, addresses: [10.0.0.1], subscription: s, firewall: [{name: r, direction: Outbound, addressPrefixes: [0.0.0.0/0]}]}]",
	} {
		f.Add(text, uint64(2))
	}
	addresses := func(words ...string) (out []netip.Addr) {
		for _, p := range prefixes(words...) {
			out = append(out, p.Addr())
		}
		return out
	}
	facts := &policy.Facts{
		Now: now, Hostname: "host-1",
		Interfaces: []policy.Interface{
			{Name: "eth0", Addresses: addresses("10.0.0.1", "10.20.0.5", "fd20::5"), Broadcasts: addresses("10.255.255.255")},
			{Name: "lo", Addresses: addresses("127.0.0.1", "::1"), Loopback: true},
		},
		Failsafe: []policy.AccessRule{{Name: "ssh", Direction: in, Ports: []policy.Ports{tcp(22, 22)}}},
		Names:    map[string][]netip.Addr{"vault.example.com": addresses("203.0.113.9")},
	}
	f.Fuzz(func(t *testing.T, text string, seed uint64) {
		if strings.Contains(text, "serviceTags") {
			return // in files of this machine
		}
		p, err := policy.Parse("p.yaml", []byte(text))
		if err != nil {
			return
		}
		if _, _, err := compile.Compile(p, facts); err != nil {
			var problems policy.Problems
			if !errors.As(err, &problems) || len(problems) == 0 {
				t.Fatalf("error is %T %v, want policy.Problems", err, err)
			}
			for _, problem := range problems {
				if problem.At.Line == 0 || problem.Wrong == "" {
					t.Errorf("problem %+v says too little", problem)
				}
			}
			return
		}
		tables, evaluator := read(t, p, facts), reference.New(p, *facts)
		ask := newAsker(seed, p, facts)
		for range 40 {
			pkt := ask.packet()
			for _, direction := range []policy.Direction{in, out} {
				got, want := tables.judge(direction, pkt, now), evaluator.Judge(direction, pkt)
				if isForAll(pkt, facts) && sameButForName(got, want, 0) {
					got = want
				}
				if got != want {
					t.Fatalf("%v of %+v:\n tables    %+v\n reference %+v", direction, pkt, got, want)
				}
			}
			tables.compareUnjudged(t, evaluator, pkt)
		}
	})
}

// withoutTags leaves out the lines of a policy that are about service tags.
func withoutTags(text string) string {
	text, _, _ = strings.Cut(text, "\nserviceTags:")
	var kept []string
	for line := range strings.Lines(text) {
		if !strings.Contains(line, "serviceTags") {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "")
}

// asker draws packets at the edges of what a policy says.
type asker struct {
	random    *rand.Rand
	addresses []netip.Addr
	ports     []policy.Ports
}

func newAsker(seed uint64, p *policy.Policy, facts *policy.Facts) *asker {
	a := &asker{random: rand.New(rand.NewPCG(seed, 0)), ports: []policy.Ports{{Protocol: policy.ProtocolTCP, First: 22, Last: 22}, {Protocol: policy.ProtocolICMPv6}}}
	add := func(prefixes []netip.Prefix) {
		for _, p := range prefixes {
			a.addresses = append(a.addresses, p.Addr(), p.Addr().Prev(), p.Addr().Next())
		}
	}
	add(prefixes("10.255.255.255", "224.0.0.1", "255.255.255.255", "ff02::1", "203.0.113.9", "2001:db8::"))
	rules := func(rules []policy.AccessRule) {
		for _, r := range rules {
			add(r.AddressPrefixes)
			a.ports = append(a.ports, r.Ports...)
		}
	}
	for _, r := range p.Resources {
		add(r.AddressesOn(facts))
		a.ports = append(a.ports, r.Services...)
		rules(r.Firewall)
	}
	for _, perimeter := range p.Perimeters {
		for _, profile := range perimeter.Profiles {
			rules(profile.AccessRules)
		}
	}
	for _, e := range p.PrivateEndpoints {
		add(e.AddressPrefixes)
	}
	return a
}

func (a *asker) packet() reference.Packet {
	pkt := reference.Packet{Towards: a.random.IntN(2) == 0, Interface: []string{"eth0", "wg0"}[a.random.IntN(2)]}
	for !pkt.Local.IsValid() || pkt.Local.Is4() != pkt.Peer.Is4() {
		pkt.Local, pkt.Peer = a.address(), a.address()
	}
	if isMulticast(pkt.Local) {
		pkt.Towards = true // a group is only ever a destination
	}
	ports := a.ports[a.random.IntN(len(a.ports))]
	pkt.Protocol = ports.Protocol
	if policy.HasPorts(ports.Protocol) {
		pkt.LocalPort = ports.First + uint16(a.random.IntN(3)) - 1
		pkt.PeerPort = ports.Last + uint16(a.random.IntN(3)) - 1
		if a.random.IntN(2) == 0 {
			pkt.LocalPort, pkt.PeerPort = pkt.PeerPort, pkt.LocalPort
		}
	}
	return pkt
}

// address draws an address, of which the first has none before it and the last
// none after it.
func (a *asker) address() netip.Addr {
	for {
		if addr := a.addresses[a.random.IntN(len(a.addresses))]; addr.IsValid() {
			return addr
		}
	}
}
