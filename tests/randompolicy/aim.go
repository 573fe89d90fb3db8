package randompolicy

import (
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/pkg/reference"
)

// aim is what a packet tries to hit or to miss narrowly: some peers, and the
// ports that go with them. No ports are any.
type aim struct {
	prefixes []netip.Prefix
	ports    []policy.Ports
}

// drawAim picks what the packet aims at: mostly a rule of the member's own, in
// the packet's direction.
func drawAim(r *rand.Rand, p *policy.Policy, facts policy.Facts, pkt reference.Packet) aim {
	accessRules, ownRules := rulesOf(p, facts, pkt.Local)
	var members, special []aim
	for _, resource := range p.Resources {
		members = append(members, aim{prefixes: resource.AddressesOn(&facts)})
	}
	for _, endpoint := range p.PrivateEndpoints {
		special = append(special, aim{prefixes: endpoint.AddressPrefixes})
	}
	for _, rule := range facts.Failsafe {
		special = append(special, aim{rule.AddressPrefixes, rule.Ports})
	}
	others := allRules(p)

	towards := func(rules []policy.AccessRule) []aim {
		var list []aim
		for _, rule := range rules {
			if rule.Direction == pkt.Direction() {
				list = append(list, aim{selected(p, facts, rule), rule.Ports})
			}
		}
		return list
	}
	list := pick(r, [][]aim{
		towards(accessRules), towards(accessRules), towards(accessRules),
		towards(ownRules), towards(ownRules),
		members, members, special, towards(others),
	})
	list = slices.DeleteFunc(list, func(at aim) bool {
		return !slices.ContainsFunc(at.prefixes, func(prefix netip.Prefix) bool {
			return prefix.Addr().Is4() == pkt.Local.Is4()
		})
	})
	if len(list) == 0 {
		return aim{}
	}
	return pick(r, list)
}

// rulesOf returns the access rules and own rules of the resources that have
// the address.
func rulesOf(p *policy.Policy, facts policy.Facts, local netip.Addr) (accessRules, ownRules []policy.AccessRule) {
	for _, resource := range p.Resources {
		has := func(prefix netip.Prefix) bool { return prefix.Contains(local) }
		if !slices.ContainsFunc(resource.AddressesOn(&facts), has) {
			continue
		}
		ownRules = append(ownRules, resource.Firewall...)
		of := associationOf(p, resource.Name)
		for _, perimeter := range p.Perimeters {
			for _, profile := range perimeter.Profiles {
				if perimeter.Name == of.perimeter && profile.Name == of.profile {
					accessRules = append(accessRules, profile.AccessRules...)
				}
			}
		}
	}
	return accessRules, ownRules
}

// allRules returns every access rule and own rule of the policy.
func allRules(p *policy.Policy) []policy.AccessRule {
	var list []policy.AccessRule
	for _, resource := range p.Resources {
		list = append(list, resource.Firewall...)
	}
	for _, perimeter := range p.Perimeters {
		for _, profile := range perimeter.Profiles {
			list = append(list, profile.AccessRules...)
		}
	}
	return list
}

// selected returns the prefixes a rule's selector stands for.
func selected(p *policy.Policy, facts policy.Facts, rule policy.AccessRule) []netip.Prefix {
	list := slices.Clone(rule.AddressPrefixes)
	for _, tag := range rule.ServiceTags {
		list = slices.AppendSeq(list, p.ServiceTags[tag].All())
	}
	for _, name := range rule.FullyQualifiedDomainNames {
		for _, asked := range slices.Sorted(maps.Keys(facts.Names)) {
			if !policy.NameCovers(name, asked) {
				continue
			}
			for _, addr := range facts.Names[asked] {
				list = append(list, netip.PrefixFrom(addr, addr.BitLen()))
			}
		}
	}
	for _, resource := range p.Resources {
		if slices.Contains(rule.Subscriptions, resource.Subscription) {
			list = append(list, resource.AddressesOn(&facts)...)
		}
	}
	return list
}
