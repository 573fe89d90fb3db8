package agent

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/perimeterd/perimeterd/pkg/api"
	"github.com/perimeterd/perimeterd/pkg/policy"
)

// Rules lists the rules of the policy in force with their hits.
func (a *Agent) Rules(context.Context) (*api.Rules, error) {
	v := a.reconciler.look()
	out := &api.Rules{Rules: []api.Rule{}}
	if v.legend != nil {
		out.Generation = v.legend.Generation
	}
	if v.policy == nil {
		return out, nil
	}
	used, associated := profilesInUse(v.policy)
	now := time.Now()
	eachRule(v.policy, func(o owner, rule *policy.AccessRule) {
		r := describeRule(rule)
		key := ruleKey{direction: rule.Direction, rule: rule.Name}
		if o.resource != nil {
			r.Resource = o.resource.Name
			key.resource, key.reason = r.Resource, policy.ReasonFirewallRule
		} else {
			r.Perimeter, r.Profile = o.perimeter.Name, o.profile.Name
			key.perimeter, key.profile, key.reason = r.Perimeter, r.Profile, policy.ReasonAccessRule
		}
		switch mode := associated[r.Resource]; {
		case v.enforcement == nil:
			r.Why = "enforcement is disabled"
		case !rule.Expires.IsZero() && !rule.Expires.After(now):
			r.Why = "it has ended"
		case o.profile != nil && !used[o.profile]:
			r.Why = "no resource is associated with the profile"
		case o.resource != nil && (mode == policy.Enforced || mode == policy.Audit):
			r.Why = fmt.Sprintf("own rules do not count in %s", mode)
		case o.resource != nil && o.resource.PublicNetworkAccess == policy.SecuredByPerimeter:
			r.Why = "own rules do not count with SecuredByPerimeter"
		case o.resource != nil && o.resource.PublicNetworkAccess == policy.Disabled && rule.Direction == policy.Inbound:
			r.Why = "publicNetworkAccess is Disabled"
		default:
			r.InForce = true
		}
		h := a.hits.get(key)
		r.Hits, r.LastHit = h.count, h.last
		out.Rules = append(out.Rules, r)
	})
	for i := range v.policy.Perimeters {
		out.Rules = append(out.Rules, a.linkRules(&v, &v.policy.Perimeters[i])...)
	}
	return out, nil
}

// linkRules describes the links of a perimeter, which allow traffic as rules do.
func (a *Agent) linkRules(v *view, p *policy.Perimeter) []api.Rule {
	var out []api.Rule
	add := func(name, remote, why string, at policy.Position) {
		r := api.Rule{Perimeter: p.Name, Name: name, Direction: "Both", Selector: "perimeter " + remote, InForce: why == "", Why: why, At: at.String()}
		if v.enforcement == nil {
			r.InForce, r.Why = false, "enforcement is disabled"
		}
		for _, direction := range []policy.Direction{policy.Inbound, policy.Outbound} {
			h := a.hits.get(ruleKey{perimeter: p.Name, direction: direction, reason: policy.ReasonLinkedPerimeter, rule: name})
			r.Hits += h.count
			if h.last.After(r.LastHit) {
				r.LastHit = h.last
			}
		}
		out = append(out, r)
	}
	for _, link := range p.Links {
		why := fmt.Sprintf("perimeter %s has no Approved linkReference to %s", link.RemotePerimeter, p.Name)
		for _, answer := range perimeterOf(v.policy, link.RemotePerimeter).LinkReferences {
			if answer.RemotePerimeter == p.Name && answer.Status == policy.Approved {
				why = ""
			}
		}
		add(link.Name, link.RemotePerimeter, why, link.At)
	}
	for _, answer := range p.LinkReferences {
		why := fmt.Sprintf("perimeter %s has no link to %s", answer.RemotePerimeter, p.Name)
		for _, link := range perimeterOf(v.policy, answer.RemotePerimeter).Links {
			if link.RemotePerimeter == p.Name {
				why = ""
			}
		}
		if answer.Status != policy.Approved {
			why = fmt.Sprintf("its status is %s", answer.Status)
		}
		add(answer.Name, answer.RemotePerimeter, why, answer.At)
	}
	return out
}

// perimeterOf returns a perimeter by name, an empty one if there is none.
func perimeterOf(p *policy.Policy, name string) *policy.Perimeter {
	for i := range p.Perimeters {
		if p.Perimeters[i].Name == name {
			return &p.Perimeters[i]
		}
	}
	return new(policy.Perimeter)
}

// profilesInUse returns the profiles some resource has, and each associated
// resource's mode.
func profilesInUse(p *policy.Policy) (map[*policy.Profile]bool, map[string]policy.AccessMode) {
	used, associated := map[*policy.Profile]bool{}, map[string]policy.AccessMode{}
	for i := range p.Perimeters {
		perimeter := &p.Perimeters[i]
		for _, a := range perimeter.Associations {
			associated[a.Resource] = a.AccessMode
			for j := range perimeter.Profiles {
				if perimeter.Profiles[j].Name == a.Profile {
					used[&perimeter.Profiles[j]] = true
				}
			}
		}
	}
	return used, associated
}

func describeRule(rule *policy.AccessRule) api.Rule {
	r := api.Rule{
		Name: rule.Name, Direction: rule.Direction.String(), Selector: selector(rule), Expires: rule.Expires,
		Ports: portsText(rule.Ports),
	}
	if rule.At.File != "" {
		r.At = rule.At.String()
	}
	return r
}

func portsText(ports []policy.Ports) []string {
	var out []string
	for _, p := range ports {
		out = append(out, p.String())
	}
	return out
}

// selectorShown is how many elements of a selector are written out.
const selectorShown = 3

// selector says in short whom a rule admits.
func selector(rule *policy.AccessRule) string {
	var kind string
	var items []string
	total := 0
	add := func(what string, n int, text func(int) string) {
		if n == 0 {
			return
		}
		kind, total = what, n
		for i := range min(n, selectorShown) {
			items = append(items, text(i))
		}
	}
	add("", len(rule.AddressPrefixes), func(i int) string { return rule.AddressPrefixes[i].String() })
	add("subscription ", len(rule.Subscriptions), func(i int) string { return rule.Subscriptions[i] })
	add("", len(rule.FullyQualifiedDomainNames), func(i int) string { return rule.FullyQualifiedDomainNames[i] })
	add("tag ", len(rule.ServiceTags), func(i int) string { return rule.ServiceTags[i] })
	text := kind + strings.Join(items, ", ")
	if total > selectorShown {
		text += fmt.Sprintf(", … %d in all", total)
	}
	return text
}
