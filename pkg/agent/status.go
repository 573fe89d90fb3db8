package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/perimeterd/perimeterd/pkg/api"
	"github.com/perimeterd/perimeterd/pkg/compile"
	"github.com/perimeterd/perimeterd/pkg/datapath"
	"github.com/perimeterd/perimeterd/pkg/decisionlog"
	"github.com/perimeterd/perimeterd/pkg/links"
	"github.com/perimeterd/perimeterd/pkg/policy"
)

// Status tells how the agent is.
func (a *Agent) Status(context.Context) (*api.Status, error) {
	v := a.reconciler.look()
	s := &api.Status{
		Version: a.options.Version, Started: a.started,
		GenerationSince: v.generationSince,
		Policy:          v.policyStatus(a.settings.Policy),
		Resources:       v.resources(),
		Interfaces:      v.interfaces(),
		Failsafe:        failsafe(a.settings.Failsafe),
		Kernel:          api.Kernel{Release: kernelRelease()},
		Settings: api.SettingsLocation{
			File: a.settings.File, StateDirectory: a.settings.StateDirectory, PinDirectory: a.settings.PinDirectory,
		},
	}
	problems := v.problems()
	if v.enforcement != nil {
		s.Generation = v.enforcement.dp.Generation()
		err := v.use(func(dp *datapath.Datapath) error {
			problems = append(problems, a.addCounters(s, dp)...)
			problems = append(problems, a.addLearnt(s, dp)...)
			return nil
		})
		if err != nil && !errors.Is(err, api.ErrDisabled) { // disabled a moment ago
			return nil, err
		}
	}
	for _, i := range s.Interfaces {
		missing := []string{i.Degraded}
		if a.settings.XDP != datapath.XDPAuto { // which leaves it to the driver
			missing = append(missing, i.XDPProblem)
		}
		for _, reason := range missing {
			if reason != "" && !slices.Contains(s.Kernel.Degraded, reason) {
				s.Kernel.Degraded = append(s.Kernel.Degraded, reason)
			}
		}
	}
	problems = append(problems, a.addLog(s)...)
	problems = append(problems, a.addNames(s)...)
	if err := a.legends.trouble(); err != nil {
		problems = append(problems, err.Error())
	}
	s.Problems, s.Notices, s.Expiring = problems, v.notices(), v.expiring()
	s.State = v.state(problems)
	if !a.reconciler.isReady() {
		s.State, s.Problems = api.Starting, nil
	}
	return s, nil
}

// state is the health in one word.
func (a *Agent) state() api.State {
	v := a.reconciler.look()
	return v.state(v.problems())
}

func (v *view) state(problems []string) api.State {
	switch {
	case v.disabled || v.enforcement == nil:
		return api.Disabled
	case len(problems) > 0:
		return api.Degraded
	}
	return api.Healthy
}

// problems are those the reconciler knows of.
func (v *view) problems() []string {
	var out []string
	inForce := v.enforcement != nil && v.enforcement.dp.Generation() != 0
	switch {
	case v.disabled || v.enforcement == nil:
		out = append(out, "enforcement is disabled: no packet is judged until `perimeterctl enable`")
	case !inForce:
		out = append(out, "NOTHING IS ENFORCED: there is no policy to put in force")
	case v.policy == nil:
		out = append(out, fmt.Sprintf("generation %d, which an earlier agent put in force, stays in force, since there is no policy to replace it", v.enforcement.dp.Generation()))
	}
	if v.problem != nil {
		text := fmt.Sprintf("the policy is not in force, since %s: %v", v.problemSince.Format(time.RFC3339), v.problem)
		if inForce && v.policy != nil {
			text = fmt.Sprintf("running the last good policy of %s, since %s the files are bad or missing: %v",
				v.since.Format(time.RFC3339), v.problemSince.Format(time.RFC3339), v.problem)
		}
		out = append(out, text)
	}
	if v.applyError != nil {
		out = append(out, fmt.Sprintf("the policy cannot be put in force as things are on this host: %v", v.applyError))
	}
	for _, c := range v.choices {
		if err := v.attachErrors[c.Index]; err != nil {
			out = append(out, fmt.Sprintf("packets of %s are not judged: %v", c.Name, err))
		}
	}
	if v.stateError != nil {
		out = append(out, v.stateError.Error())
	}
	return out
}

// notices are what an operator should know although nothing is wrong.
func (v *view) notices() []string {
	var out []string
	if v.policy == nil {
		return nil
	}
	if v.source == api.FromDefault {
		out = append(out, "this is the embedded default policy: everything is in Audit and nothing is dropped")
	}
	return append(out, UnassociatedNotices(v.policy)...)
}

// UnassociatedNotices names the resources that are in no perimeter and closed all
// the same: deleting an association is not a rollback.
func UnassociatedNotices(p *policy.Policy) []string {
	var out []string
	_, associated := profilesInUse(p)
	for i := range p.Resources {
		r := &p.Resources[i]
		if _, ok := associated[r.Name]; !ok && r.PublicNetworkAccess == policy.SecuredByPerimeter {
			out = append(out, fmt.Sprintf("resource %s (%s) is SecuredByPerimeter and in no perimeter, so all its traffic is denied both ways: "+
				"removing an association is not a rollback; associate it, or set publicNetworkAccess to Enabled", r.Name, r.At))
		}
	}
	return out
}

func (v *view) expiring() []api.ExpiringRule {
	var out []api.ExpiringRule
	if v.policy == nil {
		return nil
	}
	now := time.Now()
	eachRule(v.policy, func(o owner, rule *policy.AccessRule) {
		if rule.Expires.After(now) {
			out = append(out, api.ExpiringRule{Rule: rule.Name, Owner: o.String(), Expires: rule.Expires})
		}
	})
	slices.SortFunc(out, func(a, b api.ExpiringRule) int { return a.Expires.Compare(b.Expires) })
	return out
}

func (v *view) policyStatus(path string) api.Policy {
	p := api.Policy{Path: path, Source: v.source, Since: v.since}
	if v.policy != nil {
		p.Files = v.policy.Files
	}
	if v.problem != nil {
		p.Problem, p.ProblemSince = v.problem.Error(), v.problemSince
		if p.Source == api.FromFiles {
			p.Source = api.FromLastGood // it is no longer what the files say
		}
	}
	return p
}

func (v *view) resources() api.Resources {
	out := api.Resources{ByMode: map[string]int{}}
	if v.policy == nil || v.facts == nil {
		return out
	}
	_, associated := profilesInUse(v.policy)
	out.Total, out.Perimeters = len(v.policy.Resources), len(v.policy.Perimeters)
	for i := range v.policy.Resources {
		r := &v.policy.Resources[i]
		out.ByMode[associated[r.Name].String()]++
		if v.facts.LivesHere(r.AddressesOn(v.facts)) {
			out.Here++
		}
	}
	return out
}

func (v *view) interfaces() []api.Interface {
	attached := map[int]datapath.AttachState{}
	if v.enforcement != nil {
		for _, s := range v.enforcement.dp.Attachments() {
			attached[int(s.Ifindex)] = s
		}
	}
	out := []api.Interface{}
	for _, c := range v.choices {
		i := api.Interface{Name: c.Name, Index: c.Index, Addresses: c.Addresses, Reason: c.Reason}
		state, ok := attached[c.Index]
		switch err := v.attachErrors[c.Index]; {
		case err != nil:
			i.Reason, i.Failed = err.Error(), true
		case ok:
			i.Attached, i.Role, i.Hook, i.Degraded = true, state.Role.String(), state.Hook, state.Degraded
			i.XDP, i.XDPProblem = state.XDP, state.XDPProblem
		case c.Role != links.NotAttached && v.enforcement == nil:
			i.Reason = "enforcement is disabled"
		case c.Role != links.NotAttached:
			i.Reason = "no policy is in force"
		}
		out = append(out, i)
	}
	return out
}

func failsafe(rules []policy.AccessRule) []api.Failsafe {
	out := []api.Failsafe{}
	for i := range rules {
		r := &rules[i]
		out = append(out, api.Failsafe{
			Name: r.Name, Direction: r.Direction.String(), AddressPrefixes: append([]netip.Prefix(nil), r.AddressPrefixes...), Ports: portsText(r.Ports),
		})
	}
	return out
}

// addCounters adds what the kernel counts, and returns what is wrong.
func (a *Agent) addCounters(s *api.Status, dp *datapath.Datapath) (problems []string) {
	p := dp.Prefixes()
	s.Tables = api.Tables{PrefixesIPv4: p.IPv4, PrefixesIPv6: p.IPv6, Bytes: p.Bytes}
	if n := p.IPv4 + p.IPv6; n > 0 {
		s.Tables.BytesPerPrefix = p.Bytes / int64(n)
	}
	a.swept.mu.Lock()
	s.Flows, s.Fragments = a.swept.flows, a.swept.fragments
	if a.swept.err != nil {
		problems = append(problems, fmt.Sprintf("idle flows cannot be removed: %v", a.swept.err))
	}
	a.swept.mu.Unlock()
	c, err := dp.Counters()
	if err != nil {
		return append(problems, err.Error())
	}
	for reason, n := range c.Packets {
		s.Packets = append(s.Packets, api.PacketCount{Reason: reason, Packets: n.Packets, Bytes: n.Bytes})
	}
	slices.SortFunc(s.Packets, func(a, b api.PacketCount) int { return cmp.Compare(a.Reason, b.Reason) })
	lost, ends := uint64(0), uint64(0)
	for category, n := range c.Decisions {
		lost += n.Lost
		ends += n.EndsLost
		s.Decisions = append(s.Decisions, api.DecisionCount{
			Category: category, Decided: n.Decided, Submitted: n.Submitted, Folded: n.Folded, Crowded: n.Crowded, Lost: n.Lost,
		})
	}
	slices.SortFunc(s.Decisions, func(a, b api.DecisionCount) int { return cmp.Compare(a.Category, b.Category) })
	s.Losses = append(s.Losses, api.Loss{Stage: "kernel ring", Count: lost}, api.Loss{Stage: "kernel ring, flow ends", Count: ends})
	return problems
}

// addLog adds the decision log's books, and returns what is wrong.
func (a *Agent) addLog(s *api.Status) (problems []string) {
	c := a.log.Counters()
	s.Losses = append(s.Losses, api.Loss{Stage: "log queue", Count: c.LostQueue.Total()})
	for _, sink := range c.Sinks {
		out := api.Sink{Name: sink.Name, Records: sink.Records, Pending: sink.Pending.Total()}
		if sink.Err != nil {
			out.Error = sink.Err.Error()
			problems = append(problems, fmt.Sprintf("decisions cannot be written to %s: %v", sink.Name, sink.Err))
		}
		s.Sinks = append(s.Sinks, out)
		s.Losses = append(s.Losses,
			api.Loss{Stage: "log backlog", Sink: sink.Name, Count: sink.LostBacklog.Total()},
			api.Loss{Stage: "log write", Sink: sink.Name, Count: sink.LostWrite.Total()})
	}
	total := uint64(0)
	for _, l := range s.Losses {
		total += l.Count
	}
	if recent := a.losses.note(total, time.Now()); recent {
		problems = append(problems, fmt.Sprintf("decisions were lost in the last %s, see losses", lossesRecent))
	}
	return problems
}

func (a *Agent) addNames(s *api.Status) (problems []string) {
	all, err := a.names.Status()
	if err != nil {
		problems = append(problems, err.Error())
	}
	for _, n := range all {
		s.Names = append(s.Names, api.Name{
			Name: n.Name, Addresses: n.Addresses, Refreshed: n.Refreshed, Next: n.Next, Error: n.Error, Dropped: n.Dropped,
		})
		if n.Error != "" {
			problems = append(problems, fmt.Sprintf("the name %s cannot be resolved (%d times in a row) and keeps %s: %s",
				n.Name, n.Failures, "its addresses ("+strconv.Itoa(len(n.Addresses))+")", strings.ReplaceAll(n.Error, "\n", "; ")))
		}
		if n.Dropped > 0 {
			problems = append(problems, fmt.Sprintf("the name %s has %d more addresses than the settings allow (dns.addressesPerName)", n.Name, n.Dropped))
		}
	}
	return problems
}

// lossesRecent is for how long a loss counts as a problem: the counters
// themselves never fall.
const lossesRecent = 10 * time.Minute

// lossMemory knows when the sum of losses last rose.
type lossMemory struct {
	mu    sync.Mutex
	total uint64
	rose  time.Time
	known bool
}

// note enters a sum and reports whether losses are recent. Losses from before
// the agent started are not.
func (m *lossMemory) note(total uint64, now time.Time) (recent bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.known && total > m.total {
		m.rose = now
	}
	m.total, m.known = total, true
	return !m.rose.IsZero() && now.Sub(m.rose) < lossesRecent
}

func kernelRelease() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Release[:])
}

// LogCounters are the decision log's books, for metrics.
func (a *Agent) LogCounters() decisionlog.Counters { return a.log.Counters() }

// Members are the governed resources of the generation in force, for metrics.
func (a *Agent) Members() []compile.MemberLegend {
	l := a.reconciler.look().legend
	if l == nil {
		return nil
	}
	var out []compile.MemberLegend
	seen := map[string]bool{"": true} // the unused one
	for _, m := range l.Members {
		// The member that stands for all that live here bears the name of one.
		if !seen[m.Resource] {
			seen[m.Resource] = true
			out = append(out, m)
		}
	}
	return out
}
