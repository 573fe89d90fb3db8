package agent

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/perimeterd/perimeterd/pkg/api"
	"github.com/perimeterd/perimeterd/pkg/compile"
	"github.com/perimeterd/perimeterd/pkg/datapath"
	"github.com/perimeterd/perimeterd/pkg/policy"
)

// Explain asks the live programs about the first packet of a flow, at both of
// its ends: each end that is governed decides for itself.
func (a *Agent) Explain(_ context.Context, q api.Question) (*api.Explanation, error) {
	v := a.reconciler.look()
	var out *api.Explanation
	err := v.use(func(dp *datapath.Datapath) (err error) {
		out, err = a.explain(dp, &v, q)
		return err
	})
	return out, err
}

func (a *Agent) explain(dp *datapath.Datapath, v *view, q api.Question) (*api.Explanation, error) {
	ports, err := policy.ParsePorts(q.Port)
	if err != nil {
		return nil, api.BadRequest("port: %v", err)
	}
	if policy.HasPorts(ports.Protocol) && ports.First != ports.Last {
		return nil, api.BadRequest("port: %q is more than one port: write one such as tcp/5432", q.Port)
	}
	var ifindex uint32
	if q.Interface != "" {
		if ifindex, err = a.interfaceIndex(q.Interface); err != nil {
			return nil, err
		}
	}
	from, to, err := v.ends(a.names.Addresses(), q)
	if err != nil {
		return nil, err
	}
	out := &api.Explanation{From: from, To: to}
	frame := openingFrame(from, to, ports.Protocol, ports.First)
	var ungoverned []api.Answer
	for _, end := range []struct {
		towards bool
		local   netip.Addr
	}{{false, from}, {true, to}} {
		answer, err := dp.Explain(frame, end.towards, ifindex)
		if err != nil {
			return nil, fmt.Errorf("ask the live programs: %w", err)
		}
		described := v.describe(answer, a.legends.of(answer.Generation))
		if answer.Member == 0 && answer.Outcome == 0 {
			ungoverned = append(ungoverned, described)
			continue
		}
		described.Elsewhere = !v.facts.LivesHere([]netip.Prefix{netip.PrefixFrom(end.local, end.local.BitLen())})
		out.Answers = append(out.Answers, described)
	}
	if len(out.Answers) == 0 {
		out.Answers = ungoverned[len(ungoverned)-1:]
	}
	return out, nil
}

func (a *Agent) interfaceIndex(name string) (uint32, error) {
	var known []string
	for _, l := range a.links.Snapshot() {
		if l.Name == name {
			return uint32(l.Index), nil
		}
		known = append(known, l.Name)
	}
	return 0, api.BadRequest("no interface is named %q: write one of %s", name, strings.Join(known, ", "))
}

// ends chooses an address for each end, both of one family.
func (v *view) ends(resolved map[string][]netip.Addr, q api.Question) (from, to netip.Addr, err error) {
	sources, err := v.addresses(resolved, q.From)
	if err != nil {
		return from, to, api.BadRequest("from: %v", err)
	}
	destinations, err := v.addresses(resolved, q.To)
	if err != nil {
		return from, to, api.BadRequest("to: %v", err)
	}
	for _, from := range sources {
		for _, to := range destinations {
			if from.Is4() == to.Is4() {
				return from, to, nil
			}
		}
	}
	return from, to, api.BadRequest("%s and %s have no address of the same family", q.From, q.To)
}

// addresses returns the addresses that a word of a question may mean.
func (v *view) addresses(resolved map[string][]netip.Addr, word string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(word); err == nil {
		if a.Zone() != "" || a.Is4In6() {
			return nil, fmt.Errorf("%q: write the address as a packet carries it, such as %s", word, a.Unmap().WithZone(""))
		}
		return []netip.Addr{a}, nil
	}
	if v.policy != nil {
		for i := range v.policy.Resources {
			if r := &v.policy.Resources[i]; strings.EqualFold(r.Name, word) {
				return v.hosts(r)
			}
		}
	}
	name := strings.ToLower(strings.TrimSuffix(word, "."))
	if addresses := resolved[name]; len(addresses) > 0 {
		return addresses, nil
	}
	if slices.Contains(namesOf(v.policy), name) {
		return nil, fmt.Errorf("the name %q has not been resolved, see perimeterctl status", word)
	}
	return nil, fmt.Errorf("%q is no address, no resource, and no name of an outbound rule", word)
}

// hosts returns one address of each prefix of a resource, those of this host
// first.
func (v *view) hosts(r *policy.Resource) ([]netip.Addr, error) {
	var here, there []netip.Addr
	for _, prefix := range r.AddressesOn(v.facts) {
		lives := false
		for _, itf := range v.facts.Interfaces {
			for _, a := range itf.Addresses {
				if prefix.Contains(a) {
					here, lives = append(here, a), true
				}
			}
		}
		if !lives {
			address := prefix.Addr()
			if next := address.Next(); !prefix.IsSingleIP() && prefix.Contains(next) {
				address = next // the first one of a network is nobody's
			}
			there = append(there, address)
		}
	}
	all := append(here, there...)
	if len(all) == 0 {
		return nil, fmt.Errorf("resource %s has no address on this host", r.Name)
	}
	return all, nil
}

// describe puts names to an answer's numbers.
func (v *view) describe(answer datapath.Answer, l *compile.Legend) api.Answer {
	out := api.Answer{
		Verdict: answer.Verdict.String(), WouldBe: answer.WouldBe.String(),
		Reason: answer.Reason, Category: answer.Category, Direction: answer.Direction.String(),
		Generation: answer.Generation,
	}
	if l != nil && answer.Member != 0 && int(answer.Member) < len(l.Members) {
		m := &l.Members[answer.Member]
		out.Resource, out.Perimeter, out.Profile, out.AccessMode = m.Resource, m.Perimeter, m.Profile, m.AccessMode.String()
	}
	if l != nil && answer.Outcome != 0 && int(answer.Outcome) < len(l.Outcomes) {
		out.Rule = l.Outcomes[answer.Outcome].Rule
	}
	if out.Rule != "" {
		out.RuleAt = v.ruleAt(&out)
	}
	out.Words = inWords(&out)
	return out
}

// ruleAt finds where the rule that decided was written.
func (v *view) ruleAt(answer *api.Answer) string {
	at := ""
	found := func(p policy.Position) {
		if at == "" && p.File != "" {
			at = p.String()
		}
	}
	if v.policy == nil {
		return ""
	}
	switch answer.Reason {
	case policy.ReasonAccessRule, policy.ReasonFirewallRule:
		eachRule(v.policy, func(o owner, rule *policy.AccessRule) {
			mine := o.profile != nil && o.perimeter.Name == answer.Perimeter && o.profile.Name == answer.Profile
			if answer.Reason == policy.ReasonFirewallRule {
				mine = o.resource != nil && o.resource.Name == answer.Resource
			}
			if mine && rule.Name == answer.Rule {
				found(rule.At)
			}
		})
	case policy.ReasonLinkedPerimeter:
		for _, p := range v.policy.Perimeters {
			for _, link := range p.Links {
				if p.Name == answer.Perimeter && link.Name == answer.Rule {
					found(link.At)
				}
			}
			for _, link := range p.LinkReferences {
				if p.Name == answer.Perimeter && link.Name == answer.Rule {
					found(link.At)
				}
			}
		}
	case policy.ReasonPrivatePath:
		for _, e := range v.policy.PrivateEndpoints {
			if e.Name == answer.Rule {
				found(e.At)
			}
		}
	}
	return at
}
