package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/perimeterd/perimeterd/pkg/decisionlog"
	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/tests/traffic"
)

// attempt is a try to reach a service, over IPv4 and IPv6, and how it has to
// end.
type attempt struct {
	from *place
	to   *service
	want traffic.Outcome
	why  evidence
}

const (
	passes  = traffic.Connected
	dropped = traffic.TimedOut
)

// evidence is the decision that explains an attempt: at the service's end,
// about inbound traffic, or at the other one, about outbound traffic.
type evidence struct {
	direction policy.Direction
	reason    policy.Reason // "" = nobody judges, and there is nothing to find
	rule      string
}

func inbound(reason policy.Reason, rule ...string) evidence {
	return evidence{policy.Inbound, reason, strings.Join(rule, "")}
}

func outbound(reason policy.Reason, rule ...string) evidence {
	return evidence{policy.Outbound, reason, strings.Join(rule, "")}
}

var unjudged = evidence{}

// given is how long an attempt waits that is expected to be dropped.
const given = 400 * time.Millisecond

var families = [2]string{"IPv4", "IPv6"}

// try makes attempts, all at the same time, and checks that each ends as it has
// to, and that the decision log says why.
func (d *demo) try(attempts ...attempt) {
	marks := map[*guarded]int{}
	for _, s := range d.servers() {
		marks[s] = s.Records.Len()
	}
	ended := make([][2]chan traffic.Attempt, len(attempts))
	for i, a := range attempts {
		for family := range families {
			end := make(chan traffic.Attempt, 1)
			ended[i][family] = end
			go func() { end <- a.make(d.ctx, family) }()
		}
	}
	for i, a := range attempts {
		for family, name := range families {
			got := <-ended[i][family]
			what := fmt.Sprintf("%s to %s over %s", a.from.name, a.to, name)
			d.expect(got.Outcome == a.want, "", fmt.Sprintf("%s: %s (%v), want %s", what, got.Outcome, got.Err, a.want))
		}
		paint := map[traffic.Outcome]string{passes: green, dropped: red}[a.want]
		d.good(fmt.Sprintf("%-9s → %-18s %s", a.from.name, a.to, d.paint(paint, a.want.String())))
		if a.why != unjudged {
			d.explain(a, marks)
		}
	}
}

// make tries over one family.
func (a attempt) make(ctx context.Context, family int) traffic.Attempt {
	limit := patience
	if a.want == dropped {
		limit = given
	}
	if a.to.network != "http" {
		return traffic.Try(ctx, a.from, a.to.network, a.to.address(family), limit)
	}
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	_, err := traffic.Fetch(ctx, a.from, a.to.address(family), "orders")
	return traffic.Attempt{Outcome: traffic.OutcomeOf(err), Err: err, Took: time.Since(start)}
}

// explain shows the decision about an attempt and checks it.
func (d *demo) explain(a attempt, marks map[*guarded]int) {
	for family, name := range families {
		guard, mark, about := a.decision(family, marks)
		record, err := guard.Records.Await(d.within(), mark, about)
		if err != nil {
			d.fail(fmt.Errorf("the decision about %s to %s over %s is not in the log: %w", a.from.name, a.to, name, err))
		}
		got := evidence{a.why.direction, record.Properties.Perimeterd.Reason, record.Properties.MatchedRule.AccessRule}
		d.expect(got == a.why, "", fmt.Sprintf("the decision about %s to %s over %s is %s %s, want %s %s:\n%s",
			a.from.name, a.to, name, got.reason, got.rule, a.why.reason, a.why.rule, record.AppendLine(nil, decisionlog.LineStyle{})))
		if family == 0 {
			d.record(record)
		}
	}
}

// record shows a decision as perimeterctl watch does.
func (d *demo) record(r *decisionlog.Record) {
	d.line("     %s", r.AppendLine(nil, decisionlog.LineStyle{Colour: d.colour, Location: time.Local}))
}

// decision returns who decides about an attempt, and how to tell the record.
func (a attempt) decision(family int, marks map[*guarded]int) (*guarded, int, func(*decisionlog.Record) bool) {
	member, peer := a.to.place, a.from
	if a.why.direction == policy.Outbound {
		member, peer = a.from, a.to.place
	}
	return member.guard, marks[member.guard], func(r *decisionlog.Record) bool {
		p := &r.Properties
		other, port := p.Source, p.Perimeterd.Local.Port
		if a.why.direction == policy.Outbound {
			other, port = p.Destination, p.Destination.Port
		}
		return r.Operation != decisionlog.OperationFlowEnd && p.Perimeterd.Direction == a.why.direction.String() &&
			strings.HasSuffix(p.ServiceResourceID, "/resources/"+member.name) &&
			other.IPAddress == peer.addresses[family] && port == a.to.port
	}
}

// converse begins a conversation that goes on until the demo ends it.
func (d *demo) converse(from *place, to *service, family int) *traffic.Conversation {
	talk, err := traffic.Converse(d.ctx, from, to.network, to.address(family), traffic.Pace{})
	d.must(err)
	d.talks = append(d.talks, talk)
	return talk
}

// goesOn checks that a conversation is still alive.
func (d *demo) goesOn(talk *traffic.Conversation, what string) {
	const more = 20
	if err := talk.Await(d.within(), more); err != nil {
		d.fail(fmt.Errorf("%s: %w", what, err))
	}
	r := talk.Report()
	d.expect(r.Lost == 0, fmt.Sprintf("%s goes on: %d questions answered, none lost", what, r.Answers),
		fmt.Sprintf("%s has lost %d answers", what, r.Lost))
}
