package randompolicy_test

import (
	"net/netip"
	"regexp"
	"testing"

	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/pkg/reference"
	"github.com/perimeterd/perimeterd/tests/randompolicy"
)

// TestValid: Valid finds what makes a packet's resource ambiguous, and accepts
// its neighbour that does not.
func TestValid(t *testing.T) {
	tcp := func(first, last uint16) []policy.Ports {
		return []policy.Ports{{Protocol: policy.ProtocolTCP, First: first, Last: last}}
	}
	resource := func(name, prefix string, services []policy.Ports) policy.Resource {
		return policy.Resource{Name: name, Addresses: []netip.Prefix{netip.MustParsePrefix(prefix)}, Services: services}
	}
	disabled := func(r policy.Resource) policy.Resource {
		r.PublicNetworkAccess = policy.Disabled
		return r
	}
	ruled := func(direction policy.Direction, r policy.Resource) policy.Resource {
		r.Firewall = []policy.AccessRule{{Name: "own", Direction: direction, AddressPrefixes: r.Addresses}}
		return r
	}
	host := resource("host", "10.20.0.0/24", nil)
	web := resource("web", "10.20.0.5/32", tcp(80, 89))
	for _, test := range []struct {
		name  string
		a, b  policy.Resource
		valid bool
	}{
		{"apart", host, resource("b", "10.20.1.0/24", nil), true},
		{"one prefix, no services", host, resource("b", "10.20.0.0/24", nil), false},
		{"one prefix, one with services", host, resource("b", "10.20.0.0/24", tcp(80, 80)), true},
		{"services overlap", web, resource("b", "10.20.0.5/32", tcp(89, 90)), false},
		{"services touch", web, resource("b", "10.20.0.5/32", tcp(90, 91)), true},
		{"laid over", host, web, true},
		{"laid over another outbound policy", host, disabled(web), false},
		{"hiding another outbound policy", disabled(resource("b", "10.20.0.5/32", nil)), host, true},
		{"laid over other outbound rules", host, ruled(policy.Outbound, web), false},
		{"laid over other inbound rules", host, ruled(policy.Inbound, web), true},
	} {
		for _, p := range []*policy.Policy{
			{Resources: []policy.Resource{test.a, test.b}},
			{Resources: []policy.Resource{test.b, test.a}},
		} {
			if got := randompolicy.Valid(p, policy.Facts{}); got != test.valid {
				t.Errorf("%s: valid %v, want %v", test.name, got, test.valid)
			}
		}
	}

	p := &policy.Policy{
		Resources: []policy.Resource{host, web},
		Perimeters: []policy.Perimeter{{
			Name:         "p",
			Profiles:     []policy.Profile{{Name: "a"}, {Name: "b"}},
			Associations: []policy.Association{{Resource: "host", Profile: "a"}, {Resource: "web", Profile: "a"}},
		}},
	}
	if !randompolicy.Valid(p, policy.Facts{}) {
		t.Error("laid over within one profile: not valid")
	}
	p.Perimeters[0].Associations[1].Profile = "b"
	if randompolicy.Valid(p, policy.Facts{}) {
		t.Error("laid over another profile: valid")
	}
}

// TestValidAgreesWithLoading: the slow check and the one that loading makes
// find the same policies ambiguous. The policies are drawn ones in which two
// resources were brought together.
func TestValidAgreesWithLoading(t *testing.T) {
	valid, total := 0, 0
	for seed := range uint64(200) {
		r := source(seed)
		p, facts := randompolicy.Policy(r, randompolicy.Typical())
		for range 20 {
			a := &p.Resources[r.IntN(len(p.Resources))]
			b := &p.Resources[r.IntN(len(p.Resources))]
			was := *a
			a.Addresses, a.Interfaces = b.Addresses, b.Interfaces
			if r.IntN(2) == 0 {
				a.Services = b.Services
			}
			if r.IntN(2) == 0 {
				a.PublicNetworkAccess = b.PublicNetworkAccess
			}
			if r.IntN(2) == 0 {
				a.Firewall = b.Firewall
			}

			var prefixes [][]netip.Prefix
			for i := range p.Resources {
				prefixes = append(prefixes, p.Resources[i].AddressesOn(&facts))
			}
			problems := p.CheckAttribution(prefixes)
			got := randompolicy.Valid(p, facts)
			if got != (len(problems) == 0) {
				t.Fatalf("seed %d: %s and %s: valid %v, loading says: %v", seed, a.Name, b.Name, got, problems)
			}
			total++
			if got {
				valid++
			}
			*a = was
		}
	}
	if valid < total/20 || valid > total*19/20 {
		t.Errorf("%d of %d were valid", valid, total)
	}
}

// TestPolicyIsValid checks of drawn policies what loading checks of written ones.
func TestPolicyIsValid(t *testing.T) {
	pattern := regexp.MustCompile(`^[a-zA-Z0-9]+[a-zA-Z0-9_.-]*[a-zA-Z0-9_]+$`)
	resources, associated := 0, 0
	for seed := range uint64(300) {
		p, facts := randompolicy.Policy(source(seed), randompolicy.Typical())
		if !randompolicy.Valid(p, facts) {
			t.Errorf("seed %d: a packet's resource is ambiguous", seed)
		}
		names := make(map[string]bool)
		check := func(name string) {
			if names[name] || len(name) > 80 || !pattern.MatchString(name) {
				t.Errorf("seed %d: name %q is not one, or is used twice", seed, name)
			}
			names[name] = true
		}
		checkRule := func(rule policy.AccessRule) {
			check(rule.Name)
			for _, problem := range ruleProblems(p, rule) {
				t.Fatalf("seed %d: rule %s: %s", seed, rule.Name, problem)
			}
		}
		exists := make(map[string]bool)
		for _, resource := range p.Resources {
			resources++
			check(resource.Name)
			exists[resource.Name] = true
			if (len(resource.Addresses) > 0) == (len(resource.Interfaces) > 0) {
				t.Errorf("seed %d: resource %s has addresses %v and interfaces %v", seed, resource.Name, resource.Addresses, resource.Interfaces)
			}
			for _, prefix := range resource.Addresses {
				if prefix != prefix.Masked() || prefix.Addr().IsMulticast() {
					t.Errorf("seed %d: resource %s has %v", seed, resource.Name, prefix)
				}
			}
			for _, rule := range resource.Firewall {
				if !(rule.Direction == policy.Outbound && names[rule.Name]) { // shared with another resource
					checkRule(rule)
				}
			}
		}
		for _, perimeter := range p.Perimeters {
			check(perimeter.Name)
			exists[perimeter.Name] = true
		}
		for _, perimeter := range p.Perimeters {
			profiles := map[string]bool{"*": true}
			for _, profile := range perimeter.Profiles {
				check(profile.Name)
				profiles[profile.Name] = true
				for _, rule := range profile.AccessRules {
					checkRule(rule)
				}
			}
			for _, a := range perimeter.Associations {
				associated++
				check(a.Name)
				if !exists[a.Resource] || !profiles[a.Profile] || a.AccessMode == policy.Unassociated {
					t.Errorf("seed %d: association %+v", seed, a)
				}
				delete(exists, a.Resource) // a second one fails
			}
			checkSide := func(name, remote string, inbound []string) {
				check(name)
				if !exists[remote] || remote == perimeter.Name || len(inbound) == 0 {
					t.Errorf("seed %d: link %s to %s for %v", seed, name, remote, inbound)
				}
				for _, profile := range inbound {
					if !profiles[profile] {
						t.Errorf("seed %d: link %s accepts for %s", seed, name, profile)
					}
				}
			}
			for _, link := range perimeter.Links {
				checkSide(link.Name, link.RemotePerimeter, link.LocalInboundProfiles)
			}
			for _, reference := range perimeter.LinkReferences {
				checkSide(reference.Name, reference.RemotePerimeter, reference.LocalInboundProfiles)
			}
		}
	}
	if resources < 300*8 || associated < 300*5 {
		t.Errorf("300 policies with %d resources, %d of them associated", resources, associated)
	}
}

// ruleProblems returns what loading would refuse in a rule.
func ruleProblems(p *policy.Policy, rule policy.AccessRule) []string {
	var problems []string
	kinds := 0
	for _, n := range []int{len(rule.AddressPrefixes), len(rule.Subscriptions), len(rule.FullyQualifiedDomainNames), len(rule.ServiceTags)} {
		if n > 0 {
			kinds++
		}
	}
	if kinds != 1 {
		problems = append(problems, "not one kind of selector")
	}
	if rule.Direction == policy.Inbound && len(rule.FullyQualifiedDomainNames) > 0 {
		problems = append(problems, "a name inbound")
	}
	if rule.Direction == policy.Outbound && len(rule.Subscriptions) > 0 {
		problems = append(problems, "a subscription outbound")
	}
	seen := make(map[netip.Prefix]bool)
	for _, prefix := range rule.AddressPrefixes {
		if prefix != prefix.Masked() || seen[prefix] {
			problems = append(problems, "prefix with host bits, or twice: "+prefix.String())
		}
		seen[prefix] = true
	}
	for _, tag := range rule.ServiceTags {
		if p.ServiceTags[tag].Len() == 0 {
			problems = append(problems, "unknown tag "+tag)
		}
	}
	for _, ports := range rule.Ports {
		if ports.First > ports.Last || !policy.HasPorts(ports.Protocol) && (ports.First != 0 || ports.Last != 65535) {
			problems = append(problems, "ports that cannot be written")
		}
	}
	return problems
}

// TestPacketIsDeliverable checks what is promised of drawn packets.
func TestPacketIsDeliverable(t *testing.T) {
	for seed := range uint64(100) {
		r := source(seed)
		p, facts := randompolicy.Policy(r, randompolicy.Typical())
		for range 200 {
			pkt := randompolicy.Packet(r, p, facts)
			for _, one := range []*reference.Packet{&pkt, pkt.Quoted} {
				if one == nil {
					continue
				}
				for _, problem := range packetProblems(*one) {
					t.Fatalf("seed %d: %+v: %s", seed, *one, problem)
				}
			}
			if pkt.Quoted != nil && (pkt.Quoted.Towards == pkt.Towards || pkt.Quoted.Quoted != nil || pkt.Quoted.Local.Is4() != pkt.Local.Is4()) {
				t.Errorf("seed %d: %+v quotes %+v", seed, pkt, *pkt.Quoted)
			}
		}
	}
}

// packetProblems returns why no network would deliver the packet, or why it is
// the data path's alone.
func packetProblems(pkt reference.Packet) []string {
	var problems []string
	add := func(is bool, problem string) {
		if is {
			problems = append(problems, problem)
		}
	}
	group := func(addr netip.Addr) bool { // as IPv4 or as IPv6, not as one in the other
		return !addr.Is4In6() && (addr.IsMulticast() || addr == netip.MustParseAddr("255.255.255.255"))
	}
	add(!pkt.Local.IsValid() || !pkt.Peer.IsValid(), "an address is missing")
	add(pkt.Local.Is4() != pkt.Peer.Is4(), "two families")
	add(pkt.Protocol == policy.ProtocolICMP && !pkt.Local.Is4(), "ICMP in IPv6")
	add(pkt.Protocol == policy.ProtocolICMPv6 && pkt.Local.Is4(), "ICMPv6 in IPv4")
	add(pkt.Towards && group(pkt.Peer) || !pkt.Towards && group(pkt.Local), "multicast source")
	add(pkt.Towards && group(pkt.Local) && pkt.Protocol == policy.ProtocolTCP, "multicast TCP")
	add(pkt.Protocol == policy.ProtocolIGMP, "IGMP")
	add(pkt.Protocol == policy.ProtocolICMPv6 && pkt.ICMPType >= 130, "ICMPv6 of the link")
	for _, port := range []uint16{pkt.LocalPort, pkt.PeerPort} {
		add(port == 67 || port == 68 || port == 546 || port == 547, "DHCP")
		add(port != 0 && !policy.HasPorts(pkt.Protocol), "port without ports")
	}
	add(pkt.Unjudgeable != "", "unjudgeable")
	return problems
}
