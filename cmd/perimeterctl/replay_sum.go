package main

import (
	"cmp"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/perimeterd/perimeterd/pkg/policy"
)

// replaySummary is the sum of a replay, for machines.
type replaySummary struct {
	Frames int `json:"frames"`
	Allow  int `json:"allow"`
	Deny   int `json:"deny"`
	Pass   int `json:"pass"`
	// WouldBeDenied counts frames that passed only because of Audit.
	WouldBeDenied int `json:"wouldBeDenied"`
	// Snapped counts frames of which the capture has only the beginning.
	Snapped   int                   `json:"snapped"`
	FirstTime time.Time             `json:"firstTime,omitzero"`
	LastTime  time.Time             `json:"lastTime,omitzero"`
	ByReason  map[policy.Reason]int `json:"byReason"`
	// ByRule are the rules that let flows in, most first.
	ByRule []ruleCount `json:"byRule"`
	// UnusedRules are the access rules and own rules that let nothing in, but for
	// those by name.
	UnusedRules []ruleCount `json:"unusedRules"`
	// Denied are denials, and would-be denials, of the same kind, most first. No
	// more than denialsShown are here; DeniedKinds is how many there are, 0 if
	// more than can be told apart.
	Denied      []denialCount `json:"denied"`
	DeniedKinds int           `json:"deniedKinds"`
}

// ruleCount is a rule, link, private endpoint or failsafe entry and the flows
// that it let in.
type ruleCount struct {
	ruleName
	At    string `json:"at,omitempty"`
	Flows int    `json:"flows"`
}

// ruleName says which rule it is; what does not apply is "".
type ruleName struct {
	Rule      string        `json:"rule"`
	Direction string        `json:"direction"`
	Reason    policy.Reason `json:"reason"` // what kind of rule it is
	Perimeter string        `json:"perimeter,omitempty"`
	Profile   string        `json:"profile,omitempty"`
	Resource  string        `json:"resource,omitempty"`
}

// denialCount is how many frames were denied, or in Audit would be, for the same
// reason between the same two. The port is that of who was spoken to.
type denialCount struct {
	denialName
	Frames int `json:"frames"`
}

type denialName struct {
	Verdict   string        `json:"verdict"` // allow: it would be denied
	Member    string        `json:"member,omitempty"`
	Direction string        `json:"direction"`
	Local     netip.Addr    `json:"local,omitzero"`
	Peer      netip.Addr    `json:"peer,omitzero"`
	Protocol  string        `json:"protocol,omitempty"`
	Port      uint16        `json:"port,omitempty"`
	Reason    policy.Reason `json:"reason"`
}

const (
	// denialsKept bounds how many kinds of denials are told apart: a scan of a
	// network makes any number of them.
	denialsKept = 1 << 16
	// denialsShown and denialsPrinted bound how many of them a summary has.
	denialsShown   = 1000
	denialsPrinted = 10
)

// replaySum adds up a replay, in bounded memory.
type replaySum struct {
	replaySummary
	rules   map[ruleName]int
	denials map[denialName]int
	written []ruleCount // the rules of the policy that can let something in
}

func newReplaySum(p *policy.Policy) *replaySum {
	s := &replaySum{rules: map[ruleName]int{}, denials: map[denialName]int{}}
	s.ByReason = map[policy.Reason]int{}
	write := func(rule *policy.AccessRule, n ruleName) {
		if len(rule.FullyQualifiedDomainNames) > 0 {
			return // a note has told that these let nothing in
		}
		n.Rule, n.Direction = rule.Name, rule.Direction.String()
		s.written = append(s.written, ruleCount{ruleName: n, At: rule.At.String()})
	}
	for i := range p.Perimeters {
		for j := range p.Perimeters[i].Profiles {
			profile := &p.Perimeters[i].Profiles[j]
			for k := range profile.AccessRules {
				write(&profile.AccessRules[k], ruleName{Reason: policy.ReasonAccessRule, Perimeter: p.Perimeters[i].Name, Profile: profile.Name})
			}
		}
	}
	for i := range p.Resources {
		for j := range p.Resources[i].Firewall {
			write(&p.Resources[i].Firewall[j], ruleName{Reason: policy.ReasonFirewallRule, Resource: p.Resources[i].Name})
		}
	}
	return s
}

// add adds a frame. It reports whether its decision is news: the first of a flow,
// or the first denial of its kind.
func (s *replaySum) add(f *replayedFrame, t talk, towards, remembered, snapped bool) bool {
	if s.Frames == 0 {
		s.FirstTime = f.Time
	}
	s.Frames++
	if f.Time.After(s.LastTime) {
		s.LastTime = f.Time
	}
	if snapped {
		s.Snapped++
	}
	s.ByReason[f.Reason]++
	switch f.Verdict {
	case verdictPass:
		s.Pass++
	case policy.Allow.String():
		s.Allow++
	default:
		s.Deny++
	}
	if f.Other != nil {
		s.addRule(f.Other)
	}
	s.addRule(&f.replayedEnd)
	denied := f.Verdict == policy.Deny.String()
	if f.WouldBe == policy.Deny.String() {
		s.WouldBeDenied++
		denied = true
	}
	if denied {
		return s.addDenial(f, t, towards)
	}
	return f.Verdict == policy.Allow.String() && !remembered
}

// addRule counts a flow for the rule that let it in. What belongs to the flow
// has the rule's name, too, but another reason.
func (s *replaySum) addRule(e *replayedEnd) {
	n := ruleName{Rule: e.Rule, Direction: e.Direction, Reason: e.Reason}
	switch e.Reason {
	case policy.ReasonAccessRule:
		n.Perimeter, n.Profile = e.Perimeter, e.Profile
	case policy.ReasonLinkedPerimeter:
		n.Perimeter = e.Perimeter
	case policy.ReasonFirewallRule:
		n.Resource = e.Member
	case policy.ReasonPrivatePath, policy.ReasonFailsafe:
	default:
		return
	}
	s.rules[n]++
}

// addDenial reports whether the denial is the first of its kind.
func (s *replaySum) addDenial(f *replayedFrame, t talk, towards bool) bool {
	local, peer := t.source, t.destination
	if towards {
		local, peer = peer, local
	}
	n := denialName{
		Verdict: policy.Deny.String(), Member: f.Member, Direction: f.Direction, Reason: f.Reason,
		Local: local.Addr(), Peer: peer.Addr(), Protocol: t.protocolName(), Port: peer.Port(),
	}
	if f.WouldBe != "" {
		n.Verdict = policy.Allow.String()
	}
	if f.Direction == policy.Inbound.String() {
		n.Port = local.Port()
	}
	_, known := s.denials[n]
	if !known && len(s.denials) == denialsKept {
		return false
	}
	s.denials[n]++
	return !known
}

// report is the sum so far.
func (s *replaySum) report() *replaySummary {
	out := s.replaySummary
	out.ByRule, out.UnusedRules, out.Denied = []ruleCount{}, []ruleCount{}, []denialCount{}
	at := map[ruleName]string{}
	for _, rule := range s.written {
		at[rule.ruleName] = rule.At
		if s.rules[rule.ruleName] == 0 {
			out.UnusedRules = append(out.UnusedRules, rule)
		}
	}
	for n, flows := range s.rules {
		out.ByRule = append(out.ByRule, ruleCount{n, at[n], flows})
	}
	slices.SortFunc(out.ByRule, func(a, b ruleCount) int {
		return cmp.Or(cmp.Compare(b.Flows, a.Flows), cmp.Compare(fmt.Sprint(a.ruleName), fmt.Sprint(b.ruleName)))
	})
	for n, frames := range s.denials {
		out.Denied = append(out.Denied, denialCount{n, frames})
	}
	slices.SortFunc(out.Denied, func(a, b denialCount) int {
		return cmp.Or(cmp.Compare(b.Frames, a.Frames), a.Peer.Compare(b.Peer), cmp.Compare(a.Port, b.Port), cmp.Compare(fmt.Sprint(a.denialName), fmt.Sprint(b.denialName)))
	})
	if len(s.denials) < denialsKept {
		out.DeniedKinds = len(s.denials)
	}
	out.Denied = out.Denied[:min(len(out.Denied), denialsShown)]
	return &out
}

// print writes the summary for people.
func (r *replaySummary) print(w io.Writer, s *session) {
	fmt.Fprintf(w, "\n%d frames", r.Frames)
	if r.Frames > 0 {
		const layout = "2006-01-02 15:04:05"
		fmt.Fprintf(w, ", from %s to %s", r.FirstTime.In(s.location).Format(layout), r.LastTime.In(s.location).Format(layout))
	}
	fmt.Fprintf(w, "\nallowed %d, denied %d, passed without being judged %d\n", r.Allow, r.Deny, r.Pass)
	if r.WouldBeDenied > 0 {
		fmt.Fprintf(w, "would be denied, but for Audit: %d\n", r.WouldBeDenied)
	}
	if r.Snapped > 0 {
		fmt.Fprintf(w, "captured only in part: %d\n", r.Snapped)
	}
	r.printDenied(w)
	printRules(w, "let in by", r.ByRule)
	printRules(w, "rules that let nothing in", r.UnusedRules)
}

func (r *replaySummary) printDenied(w io.Writer) {
	if len(r.Denied) == 0 {
		return
	}
	fmt.Fprintf(w, "\ndenied most\n")
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, d := range r.Denied[:min(len(r.Denied), denialsPrinted)] {
		local, peer, arrow := cmp.Or(d.Member, addressWord(d.Local)), addressWord(d.Peer), "→"
		port := ""
		if d.Port != 0 {
			port = fmt.Sprintf(" port %d", d.Port)
		}
		if d.Direction == policy.Inbound.String() {
			local, arrow = local+port, "←"
		} else {
			peer += port
		}
		reason := string(d.Reason)
		if d.Verdict == policy.Allow.String() {
			reason += " (would be)"
		}
		fmt.Fprintf(t, "  %d\t%s\t%s %s\t%s\t%s\n", d.Frames, local, arrow, peer, d.Protocol, reason)
	}
	t.Flush()
	switch more := r.DeniedKinds - denialsPrinted; {
	case r.DeniedKinds == 0:
		fmt.Fprintf(w, "  … and more than can be told apart\n")
	case more > 0:
		fmt.Fprintf(w, "  … and %d more\n", more)
	}
}

func printRules(w io.Writer, title string, rules []ruleCount) {
	if len(rules) == 0 {
		return
	}
	fmt.Fprintf(w, "\n%s\n", title)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	defer t.Flush()
	for _, rule := range rules {
		owner := rule.Resource
		if rule.Perimeter != "" {
			owner = strings.TrimSuffix(rule.Perimeter+"/"+rule.Profile, "/")
		}
		flows := ""
		if rule.Flows > 0 {
			flows = fmt.Sprintf("%d flows", rule.Flows)
		}
		fmt.Fprintf(t, "  %s\t%s\t%s\t%s\t%s\t%s\n", rule.Rule, strings.ToLower(rule.Direction), rule.Reason, owner, flows, rule.At)
	}
}

func addressWord(a netip.Addr) string {
	if !a.IsValid() {
		return "?"
	}
	return a.String()
}
