package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// CheckAttribution reports every place where it is not clear which resource a
// packet belongs to. prefixes[i] are the prefixes of p.Resources[i] on a host,
// see Resource.AddressesOn; a resource without any is left out. The result is
// empty if all is clear.
//
// The resources an address carries are those with a prefix that contains it,
// grouped by the longest such prefix of each, longest first, up to and
// including the first group with a resource that has no services. So a more
// specific resource hides wider ones, entirely or for the services it names.
//
// Inbound, the first group decides in which a resource names the protocol and
// port or has no services, so within a group neither may be true of two.
// Outbound, the local port says nothing, so all the resources that an address
// carries must have the same outbound policy.
//
// Load has made this check for resources with addresses. It is for the caller
// to make it where the addresses of interfaces are known.
func (p *Policy) CheckAttribution(prefixes [][]netip.Prefix) Problems {
	var c collector
	p.checkAttribution(prefixes, &c)
	return c.sorted()
}

func (p *Policy) checkAttribution(prefixes [][]netip.Prefix, c *collector) {
	outbound := p.outboundPolicies()
	for _, clash := range findClashes(p.Resources, outbound, prefixes) {
		a, b := clash.a, clash.b
		if comparePositions(p.Resources[a].At, p.Resources[b].At) > 0 {
			a, b = b, a
		}
		first, second := &p.Resources[a], &p.Resources[b]
		names := fmt.Sprintf("resources %s (%s) and %s", quote(first.Name), first.At, quote(second.Name))
		switch clash.kind {
		case bothWithoutServices:
			c.add(second.At, fmt.Sprintf("inbound traffic to %s cannot be attributed: %s both have it in %s and no services", clash.address, names, clash.prefix), "give at least one of them services, or different addresses")
		case sameService:
			c.add(second.At, fmt.Sprintf("inbound traffic to %s cannot be attributed: %s both have it in %s and the service %s", clash.address, names, clash.prefix, clash.service), "give them different services, or different addresses")
		case differentOutbound:
			difference := outbound[a].difference(outbound[b])
			c.add(second.At, fmt.Sprintf("outbound traffic of %s cannot be attributed: %s both have it and differ in %s", clash.address, names, difference), "make it the same for both, or give them different addresses")
		}
	}
}

// outboundPolicy is all that decides about the outbound traffic of a resource.
type outboundPolicy struct {
	perimeter, profile string
	mode               AccessMode
	access             PublicNetworkAccess
	rules              string
}

func (p *Policy) outboundPolicies() []outboundPolicy {
	associated := map[string]outboundPolicy{}
	for _, perimeter := range p.Perimeters {
		for _, a := range perimeter.Associations {
			associated[a.Resource] = outboundPolicy{perimeter: perimeter.Name, profile: a.Profile, mode: a.AccessMode}
		}
	}
	out := make([]outboundPolicy, len(p.Resources))
	for i := range p.Resources {
		r := &p.Resources[i]
		out[i] = associated[r.Name]
		out[i].access = r.PublicNetworkAccess
		out[i].rules = outboundRules(r)
	}
	return out
}

// outboundRules writes down a resource's own outbound rules so that two texts
// are equal if the rules are. Order means nothing in them.
func outboundRules(r *Resource) string {
	var rules []string
	for _, rule := range r.Firewall {
		if rule.Direction == Outbound {
			rules = append(rules, fmt.Sprintf("%s %s %q %q %s %s", rule.Name,
				slices.SortedFunc(slices.Values(rule.AddressPrefixes), netip.Prefix.Compare),
				slices.Sorted(slices.Values(rule.FullyQualifiedDomainNames)),
				slices.Sorted(slices.Values(rule.ServiceTags)),
				slices.SortedFunc(slices.Values(rule.Ports), comparePorts),
				rule.Expires.UTC()))
		}
	}
	slices.Sort(rules)
	return strings.Join(rules, "\n")
}

// difference names the first thing two outbound policies differ in.
func (o outboundPolicy) difference(other outboundPolicy) string {
	switch {
	case (o.perimeter == "") != (other.perimeter == ""):
		return "association (only one is a member of a perimeter)"
	case o.perimeter != other.perimeter:
		return fmt.Sprintf("perimeter (%s, %s)", o.perimeter, other.perimeter)
	case o.profile != other.profile:
		return fmt.Sprintf("profile (%s, %s)", o.profile, other.profile)
	case o.mode != other.mode:
		return fmt.Sprintf("accessMode (%s, %s)", o.mode, other.mode)
	case o.access != other.access:
		return fmt.Sprintf("publicNetworkAccess (%s, %s)", o.access, other.access)
	}
	return "outbound firewall rules"
}
