package randompolicy

import (
	"slices"
	"time"

	"github.com/perimeterd/perimeterd/pkg/policy"
)

// drawSelectors draws what rules may name besides prefixes.
func (d *draw) drawSelectors() {
	for _, resource := range d.policy.Resources {
		if s := resource.Subscription; s != "" && !slices.Contains(d.subscriptions, s) {
			d.subscriptions = append(d.subscriptions, s)
		}
	}
	d.policy.ServiceTags = make(map[string]*policy.PrefixSet)
	d.tagNames = []string{"Storage", "Storage.WestUS"}
	d.tags = make(map[string]*policy.PrefixSet)
	for _, tag := range d.tagNames {
		d.tags[tag] = policy.NewPrefixSet(randomPrefixes(d.r, 70))
	}
	d.names = []string{"vault.example.com", "*.blob.example.net", "*.example.net", "a.blob.example.net", "unresolved.example.com"}
	for range d.r.IntN(3) {
		d.facts.Resolvers = append(d.facts.Resolvers, edgeOf(d.r, randomPrefix(d.r, 50)))
	}
	d.facts.StrictNames = chance(d.r, 20)
	for _, name := range []string{"vault.example.com", "a.blob.example.net", "x.y.blob.example.net", "blob.example.net", "a.xblob.example.net", "b.vault.example.com"} {
		for range 1 + d.r.IntN(4) {
			addr := edgeOf(d.r, randomPrefix(d.r, 50))
			if !isMulticast(addr) && !slices.Contains(d.facts.Names[name], addr) {
				d.facts.Names[name] = append(d.facts.Names[name], addr)
			}
		}
	}
}

// drawRule draws an access rule or own rule.
func (d *draw) drawRule(direction policy.Direction) policy.AccessRule {
	rule := policy.AccessRule{Name: d.name(), Direction: direction, Ports: randomPorts(d.r), Expires: d.drawExpiry()}
	switch kind := d.r.IntN(10); {
	case kind < 2:
		tag := pick(d.r, d.tagNames)
		rule.ServiceTags = []string{tag}
		d.policy.ServiceTags[tag] = d.tags[tag]
	case kind < 5 && direction == policy.Outbound:
		rule.FullyQualifiedDomainNames = []string{pick(d.r, d.names)}
		if other := pick(d.r, d.names); other != rule.FullyQualifiedDomainNames[0] {
			rule.FullyQualifiedDomainNames = append(rule.FullyQualifiedDomainNames, other)
		}
	case kind < 6 && direction == policy.Inbound && len(d.subscriptions) > 0:
		rule.Subscriptions = []string{pick(d.r, d.subscriptions)}
	default:
		rule.AddressPrefixes = randomPrefixes(d.r, pick(d.r, []int{0, 25, 50, 75}))
	}
	return rule
}

// drawExpiry is mostly never, and close to now on both sides.
func (d *draw) drawExpiry() time.Time {
	switch d.r.IntN(10) {
	case 0:
		return d.facts.Now.Add(-time.Second)
	case 1:
		return d.facts.Now
	case 2:
		return d.facts.Now.Add(time.Second)
	}
	return time.Time{}
}

func (d *draw) drawAccessRules() {
	for i := range d.policy.Perimeters {
		for j := range d.policy.Perimeters[i].Profiles {
			profile := &d.policy.Perimeters[i].Profiles[j]
			for range d.r.IntN(d.size.Rules + 1) {
				profile.AccessRules = append(profile.AccessRules, d.drawRule(policy.Direction(d.r.IntN(2))))
			}
		}
	}
}

// drawOwnRules gives resources own rules: inbound as they come, outbound the
// same to all that share an address.
func (d *draw) drawOwnRules() {
	several := func(direction policy.Direction) []policy.AccessRule {
		var list []policy.AccessRule
		if chance(d.r, 60) {
			for range d.r.IntN(d.size.Rules/2 + 1) {
				list = append(list, d.drawRule(direction))
			}
		}
		return list
	}
	for _, together := range sharing(d.policy, d.facts) {
		outbound := several(policy.Outbound)
		for _, resource := range together {
			resource.Firewall = append(several(policy.Inbound), outbound...)
		}
	}
}
