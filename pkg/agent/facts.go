package agent

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/perimeterd/perimeterd/pkg/api"
	"github.com/perimeterd/perimeterd/pkg/datapath"
	"github.com/perimeterd/perimeterd/pkg/links"
	"github.com/perimeterd/perimeterd/pkg/names"
	"github.com/perimeterd/perimeterd/pkg/policy"
)

// factsNow is what the world is, as far as policies ask.
func (a *Agent) factsNow(now time.Time, choices []links.Choice) *policy.Facts {
	f := &policy.Facts{
		Now:      now,
		Hostname: a.options.Hostname,
		Failsafe: a.settings.Failsafe,

		Resolvers:   a.resolvers(),
		StrictNames: a.settings.DNS.Strict,
	}
	for _, c := range choices {
		f.Interfaces = append(f.Interfaces, policy.Interface{
			Name: c.Name, Addresses: c.Addresses, Broadcasts: c.Broadcasts, Workload: c.Role == links.Workload, Loopback: c.Loopback,
		})
	}
	return f
}

// resolvers are the addresses that this host's members may ask for names. That
// there are none, or none can be read, the resolver's own status tells.
func (a *Agent) resolvers() []netip.Addr {
	servers, err := names.ServersOf(a.settings.DNS.Servers, a.settings.DNS.ResolverConfigure)()
	if err != nil {
		return nil
	}
	var out []netip.Addr
	for _, server := range servers {
		if s, err := netip.ParseAddrPort(server); err == nil && s.Port() == 53 {
			out = append(out, s.Addr().Unmap().WithZone(""))
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}

// eachRule calls yield for every rule of a policy, with whose it is.
func eachRule(p *policy.Policy, yield func(owner owner, rule *policy.AccessRule)) {
	for i := range p.Perimeters {
		for j := range p.Perimeters[i].Profiles {
			profile := &p.Perimeters[i].Profiles[j]
			for k := range profile.AccessRules {
				yield(owner{perimeter: &p.Perimeters[i], profile: profile}, &profile.AccessRules[k])
			}
		}
	}
	for i := range p.Resources {
		for j := range p.Resources[i].Firewall {
			yield(owner{resource: &p.Resources[i]}, &p.Resources[i].Firewall[j])
		}
	}
}

// owner is whose a rule is: a profile's, or a resource's own.
type owner struct {
	perimeter *policy.Perimeter
	profile   *policy.Profile
	resource  *policy.Resource
}

func (o owner) String() string {
	if o.resource != nil {
		return "resource " + o.resource.Name
	}
	return "profile " + o.perimeter.Name + "/" + o.profile.Name
}

// namesOf are the exact names that rules of the policies have, sorted: those that
// can be asked for. A nil policy has none.
func namesOf(policies ...*policy.Policy) []string {
	set := map[string]bool{}
	for _, p := range policies {
		if p == nil {
			continue
		}
		eachRule(p, func(_ owner, rule *policy.AccessRule) {
			for _, name := range rule.FullyQualifiedDomainNames {
				if !strings.HasPrefix(name, "*") {
					set[name] = true
				}
			}
		})
	}
	return sortedKeys(set)
}

// peersInUse returns which of the addresses are the peer of an open outbound
// flow. While that cannot be known all count as used.
func (a *Agent) peersInUse(addresses []netip.Addr) map[netip.Addr]bool {
	used := map[netip.Addr]bool{}
	mark := func(f datapath.Flow) bool {
		if f.Direction == policy.Outbound && slices.Contains(addresses, f.Peer) {
			used[f.Peer] = true
		}
		return len(used) < len(addresses)
	}
	v := a.reconciler.look()
	err := v.use(func(dp *datapath.Datapath) error { return dp.Flows(mark) })
	if err != nil && !errors.Is(err, api.ErrDisabled) {
		for _, address := range addresses {
			used[address] = true
		}
	}
	return used
}

// announceExpiries tells which rules of a policy will end by themselves, or
// have.
func (r *reconciler) announceExpiries(p *policy.Policy, now time.Time) {
	eachRule(p, func(o owner, rule *policy.AccessRule) {
		switch {
		case rule.Expires.IsZero():
		case rule.Expires.After(now):
			r.a.logger.Printf("rule %s of %s counts until %s", rule.Name, o, rule.Expires.Format(time.RFC3339))
		default:
			r.a.logger.Printf("rule %s of %s ended at %s and does not count", rule.Name, o, rule.Expires.Format(time.RFC3339))
		}
	})
}

// tellExpiries tells which rules in force ended since it was last asked.
func (r *reconciler) tellExpiries(now time.Time) {
	since := r.lookedAt
	r.lookedAt = now
	p := r.look().policy
	if p == nil {
		return
	}
	eachRule(p, func(o owner, rule *policy.AccessRule) {
		if rule.Expires.After(since) && !rule.Expires.After(now) {
			r.a.logger.Printf("rule %s of %s has ended at %s", rule.Name, o, rule.Expires.Format(time.RFC3339))
		}
	})
}

// count is a number with its noun.
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
