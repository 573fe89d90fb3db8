package compile_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/pkg/reference"
)

const group, group6 = "224.0.0.251", "ff02::fb"

// hereFacts is a host that has these addresses.
func hereFacts(words ...string) *policy.Facts {
	facts := elsewhere()
	facts.Interfaces = []policy.Interface{{Name: "eth0"}}
	for _, word := range words {
		facts.Interfaces[0].Addresses = append(facts.Interfaces[0].Addresses, netip.MustParseAddr(word))
	}
	return facts
}

func udpTo(addr, peer string, port uint16) reference.Packet {
	pkt := packet(in, addr, peer, port)
	pkt.Protocol, pkt.TCPFlags = policy.ProtocolUDP, 0
	return pkt
}

func udp(first, last uint16) policy.Ports {
	return policy.Ports{Protocol: policy.ProtocolUDP, First: first, Last: last}
}

// TestMulticast: what is sent to all that live here passes if it may reach each:
// the first by name that denies is named, or else the first.
func TestMulticast(t *testing.T) {
	const friend, nobody = "198.51.100.7", "192.0.2.9"
	// Only c denies nobody; b serves one port only, and denies all there.
	open, dns, closed := host("a", "10.0.0.1"), host("b", "10.0.0.2"), host("c", "10.0.0.3")
	dns.Services = []policy.Ports{udp(53, 53)}
	dns.PublicNetworkAccess = policy.Disabled
	closed.Firewall = []policy.AccessRule{rule("friends", "198.51.100.0/24", "2001:db8::/32")}
	p := &policy.Policy{Resources: []policy.Resource{closed, dns, open}}

	for _, test := range []struct {
		name, here string
		peer       string
		port       uint16
		verdict    policy.Verdict
		by         string
	}{
		{"all allow", "a c", friend, 5353, policy.Allow, "a"},
		{"the last denies", "a c", nobody, 5353, policy.Deny, "c"},
		{"it does not live here", "a", nobody, 5353, policy.Allow, "a"},
		{"alone", "c", nobody, 5353, policy.Deny, "c"},
		{"alone, admitted", "c", friend, 5353, policy.Allow, "c"},
		{"not its service", "a b", friend, 5353, policy.Allow, "a"},
		{"its service", "a b", friend, 53, policy.Deny, "b"},
		{"two deny", "a b c", nobody, 53, policy.Deny, "b"},
		{"beside it", "a b c", nobody, 54, policy.Deny, "c"},
		{"all, admitted", "a b c", friend, 54, policy.Allow, "a"},
		{"alone, its service", "b", friend, 53, policy.Deny, "b"},
		{"alone, not its service", "b", friend, 54, policy.Allow, ""},
		{"none lives here", "", nobody, 53, policy.Allow, ""},
	} {
		var words []string
		for _, name := range test.here {
			if name != ' ' {
				words = append(words, map[rune]string{'a': "10.0.0.1", 'b': "10.0.0.2", 'c': "10.0.0.3"}[name])
			}
		}
		r := read(t, p, hereFacts(words...))
		for _, addr := range []string{group, "224.0.0.0", "239.255.255.255", "255.255.255.255"} {
			d := r.judge(in, udpTo(addr, test.peer, test.port), now)
			if d.Verdict != test.verdict || d.Resource != test.by {
				t.Errorf("%s, to %s: got %v of %q by %s, want %v of %q", test.name, addr, d.Verdict, d.Resource, d.Reason, test.verdict, test.by)
			}
		}
		if d := r.judge(in, udpTo("223.255.255.255", test.peer, test.port), now); d.Governed {
			t.Errorf("%s: an address beside multicast is governed: %+v", test.name, d)
		}
	}

	// IPv6 is its own family: the friends there are others.
	r := read(t, p, hereFacts("10.0.0.1", "10.0.0.3"))
	for peer, want := range map[string]policy.Verdict{"2001:db8::7": policy.Allow, "2001:db9::7": policy.Deny} {
		if d := r.judge(in, udpTo(group6, peer, 5353), now); d.Verdict != want {
			t.Errorf("IPv6 from %s: got %v of %q", peer, d.Verdict, d.Resource)
		}
	}
}

// TestDirectedBroadcast: what is sent to all hosts of a network of this host is
// judged for those of them that live here, whoever else has the address or a
// prefix around it, and its neighbours are not.
func TestDirectedBroadcast(t *testing.T) {
	const friend, nobody, last = "198.51.100.7", "192.0.2.9", "10.20.0.255"
	closed := host("closed", "10.20.0.5")
	closed.PublicNetworkAccess = policy.Disabled
	around, exactly := host("around", "10.20.0.128/25"), host("exactly", last)
	facts := func(broadcasts ...string) *policy.Facts {
		f := hereFacts("10.20.0.5")
		for _, word := range broadcasts {
			f.Interfaces[0].Broadcasts = append(f.Interfaces[0].Broadcasts, netip.MustParseAddr(word))
		}
		return f
	}
	for _, test := range []struct {
		name      string
		resources []policy.Resource
		facts     *policy.Facts
		addr      string
		verdict   policy.Verdict
		by        string
	}{
		{"to all that live here", []policy.Resource{closed}, facts(last), last, policy.Deny, "closed"},
		{"the address before it", []policy.Resource{closed}, facts(last), "10.20.0.254", policy.Allow, ""},
		{"a network without one", []policy.Resource{closed}, facts(), last, policy.Allow, ""},
		{"one that was given", []policy.Resource{closed}, facts("10.20.0.0", last), "10.20.0.0", policy.Deny, "closed"},
		{"a prefix around it, of a network elsewhere", []policy.Resource{closed, around}, facts(last), last, policy.Deny, "closed"},
		{"inside that prefix", []policy.Resource{closed, around}, facts(last), "10.20.0.254", policy.Allow, "around"},
		{"the address of a host elsewhere", []policy.Resource{closed, exactly}, facts(last), last, policy.Deny, "closed"},
		{"nobody lives here", []policy.Resource{around}, facts(last), last, policy.Allow, "around"},
		{"told twice, and among others that are none", []policy.Resource{closed}, facts(last, "224.0.0.0", "0.0.0.0", last), last, policy.Deny, "closed"},
	} {
		p := &policy.Policy{Resources: test.resources}
		r, e := read(t, p, test.facts), reference.New(p, *test.facts)
		for _, peer := range []string{friend, nobody} {
			pkt := udpTo(test.addr, peer, 137)
			d := r.judge(in, pkt, now)
			if d.Verdict != test.verdict || d.Resource != test.by {
				t.Errorf("%s: got %v of %q, want %v of %q", test.name, d.Verdict, d.Resource, test.verdict, test.by)
			}
			if want := e.Judge(in, pkt); d != want {
				t.Errorf("%s: got %+v, the reference says %+v", test.name, d, want)
			}
			r.compareUnjudged(t, e, pkt)
		}
	}
}

// TestMulticastAsRulesEnd: with many members whose rules end one after the other,
// the verdict is right at every instant without compiling again.
func TestMulticastAsRulesEnd(t *testing.T) {
	const peer = "198.51.100.7"
	for _, test := range []struct {
		name string
		ends func(i int) time.Duration // of the i-th member's rule; 0 = it has none
	}{
		{"the first member's first", func(i int) time.Duration { return time.Duration(i+1) * time.Second }},
		{"the last member's first", func(i int) time.Duration { return time.Duration(40-i) * time.Second }},
		{"all at once", func(int) time.Duration { return 7 * time.Second }},
		{"only one ends", func(i int) time.Duration { return time.Duration(i/39) * 7 * time.Second }},
	} {
		p := &policy.Policy{}
		var addresses []string
		for i := range 40 {
			address := fmt.Sprintf("10.0.0.%d", i+1)
			addresses = append(addresses, address)
			r := host(fmt.Sprintf("member-%02d", i), address)
			r.Firewall = []policy.AccessRule{rule("for good", "198.51.100.0/24")}
			if end := test.ends(i); end > 0 {
				r.Firewall = []policy.AccessRule{until(rule("for now", "198.51.100.0/24"), end)}
				if i%2 == 0 { // more ends than one outcome can have after it
					for j := range 10 {
						r.Firewall = append(r.Firewall, until(rule(fmt.Sprint("shorter-", j), "198.51.100.0/24"), end/20*time.Duration(j+1)))
					}
				}
			}
			p.Resources = append(p.Resources, r)
		}
		facts := hereFacts(addresses...)
		tables := read(t, p, facts)
		for after := time.Duration(0); after < 45*time.Second; after += 250 * time.Millisecond {
			then := *facts
			then.Now = now.Add(after)
			want := reference.New(p, then).Judge(in, udpTo(group, peer, 5353))
			if got := tables.judge(in, udpTo(group, peer, 5353), then.Now); got.Verdict != want.Verdict {
				t.Errorf("%s, after %v: got %v of %q by %s, want %v", test.name, after, got.Verdict, got.Resource, got.Reason, want.Verdict)
			}
		}
	}
}

// TestMulticastFollowsClasses: with many members that each admit somebody else,
// a group is open only to whom all of them admit.
func TestMulticastFollowsClasses(t *testing.T) {
	p := &policy.Policy{}
	for i := range 37 {
		r := host(fmt.Sprintf("member-%02d", i), fmt.Sprintf("10.0.0.%d", i+1))
		r.Firewall = []policy.AccessRule{rule("own", fmt.Sprintf("198.51.%d.0/24", i), "203.0.113.0/24")}
		p.Resources = append(p.Resources, r)
	}
	facts := hereFacts("192.0.2.1")
	facts.Interfaces[0].Workload = true // any of them may live here
	r, e := read(t, p, facts), reference.New(p, *facts)
	for _, peer := range []string{"203.0.113.7", "198.51.0.7", "198.51.1.7", "198.51.36.7", "198.51.37.7", "192.0.2.9", "10.0.0.1"} {
		pkt := udpTo(group, peer, 5353)
		if got, want := r.judge(in, pkt, now), e.Judge(in, pkt); got != want {
			t.Errorf("%s: got %+v, want %+v", peer, got, want)
		}
	}
	if d := r.judge(in, udpTo(group, "203.0.113.7", 5353), now); d.Verdict != policy.Allow {
		t.Errorf("whom all admit: got %+v", d)
	}
}
