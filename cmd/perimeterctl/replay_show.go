package main

import (
	"bufio"
	"encoding/json"
	"net/netip"
	"time"

	"github.com/perimeterd/perimeterd/pkg/capture"
	"github.com/perimeterd/perimeterd/pkg/compile"
	"github.com/perimeterd/perimeterd/pkg/datapath"
	"github.com/perimeterd/perimeterd/pkg/decisionlog"
	"github.com/perimeterd/perimeterd/pkg/policy"
)

// replayedFrame is what became of a frame, for machines. The end that is told is
// the one that denied it; else the one that is governed, of both the destination's.
type replayedFrame struct {
	Frame int       `json:"frame"`
	Time  time.Time `json:"time"`
	replayedEnd
	Source      string       `json:"source,omitempty"`
	Destination string       `json:"destination,omitempty"`
	Protocol    string       `json:"protocol,omitempty"`
	Interface   string       `json:"interface,omitempty"`
	Other       *replayedEnd `json:"other,omitempty"` // the source's end, if both are governed
}

// replayedEnd is the answer of one end. Verdict is pass where nothing was judged:
// the frame is of no member, not IP, needed by the link, or could not be judged
// and nobody strict may get it.
type replayedEnd struct {
	Verdict    string          `json:"verdict"`
	WouldBe    string          `json:"wouldBe,omitempty"` // where it differs: in Audit
	Category   policy.Category `json:"category,omitempty"`
	Reason     policy.Reason   `json:"reason"`
	Rule       string          `json:"rule,omitempty"`
	Member     string          `json:"member,omitempty"`
	Direction  string          `json:"direction,omitempty"`
	Perimeter  string          `json:"perimeter,omitempty"`
	Profile    string          `json:"profile,omitempty"`
	AccessMode string          `json:"accessMode,omitempty"`
}

const verdictPass = "pass"

// replayShow prints a replay.
type replayShow struct {
	*session
	legend *compile.Legend
	sum    *replaySum
	out    *bufio.Writer
	json   *json.Encoder
	style  decisionlog.LineStyle
	line   []byte
}

func newReplayShow(s *session, p *policy.Policy, legend *compile.Legend) *replayShow {
	out := bufio.NewWriterSize(s.stdout, 1<<16)
	return &replayShow{
		session: s, legend: legend, sum: newReplaySum(p), out: out, json: json.NewEncoder(out),
		style: decisionlog.LineStyle{Colour: s.colour, Location: s.location},
	}
}

// step shows what became of a frame, and adds it up.
func (r *replayShow) step(frame *capture.Frame, step *datapath.Step) error {
	f := replayedFrame{Frame: frame.Number, Time: frame.Time.UTC(), replayedEnd: r.end(&step.Answer, step.Governed), Interface: frame.Interface}
	if step.Other != nil {
		other := r.end(step.Other, true)
		f.Other = &other
	}
	talk := readTalk(frame.Data)
	isNews := r.sum.add(&f, talk, step.Towards, step.Remembered(), len(frame.Data) < frame.Length)
	if r.options.json() {
		f.Source, f.Destination, f.Protocol = talk.words()
		return r.json.Encode(&f)
	}
	if !isNews {
		return nil
	}
	record := recordOf(&f, talk, step.Towards)
	r.line = append(record.AppendLine(r.line[:0], r.style), '\n')
	_, err := r.stdout.Write(r.line)
	return err
}

// finish shows the sum.
func (r *replayShow) finish() error {
	sum := r.sum.report()
	if !r.options.json() {
		sum.print(r.out, r.session)
		return r.out.Flush()
	}
	err := r.json.Encode(struct {
		Summary *replaySummary `json:"summary"`
	}{sum})
	if err != nil {
		return err
	}
	return r.out.Flush()
}

// end puts names to the numbers of an answer.
func (r *replayShow) end(a *datapath.Answer, governed bool) replayedEnd {
	e := replayedEnd{Verdict: verdictPass, Reason: a.Reason, Category: a.Category}
	if governed {
		e.Verdict = a.Verdict.String()
	}
	if a.WouldBe != a.Verdict {
		e.WouldBe = a.WouldBe.String()
	}
	if governed || a.Member != 0 {
		e.Direction = a.Direction.String()
	}
	if a.Member != 0 {
		m := &r.legend.Members[a.Member]
		e.Member, e.Perimeter, e.Profile, e.AccessMode = m.Resource, m.Perimeter, m.Profile, m.AccessMode.String()
	}
	if a.Outcome != 0 {
		e.Rule = r.legend.Outcomes[a.Outcome].Rule
	}
	return e
}

// recordOf is the frame's decision as `watch` shows one.
func recordOf(f *replayedFrame, t talk, towards bool) *decisionlog.Record {
	local, peer := t.source, t.destination
	if towards {
		local, peer = peer, local
	}
	record := &decisionlog.Record{Time: f.Time, Category: f.Category, Operation: decisionlog.OperationFlowStart, Count: 1}
	p := &record.Properties
	if f.Member != "" {
		p.ServiceResourceID = "/resources/" + f.Member
	}
	p.MatchedRule.AccessRule = f.Rule
	p.Perimeterd = decisionlog.Extension{
		Verdict: f.Verdict, WouldBe: f.WouldBe, Reason: f.Reason, Direction: f.Direction,
		Local: decisionlog.Endpoint{IPAddress: local.Addr(), Port: local.Port()},
	}
	end := &p.Destination
	if f.Direction == policy.Inbound.String() {
		end = &p.Source
	}
	*end = decisionlog.Endpoint{IPAddress: peer.Addr(), Port: peer.Port(), Protocol: ":" + t.protocolName()}
	return record
}

// words are the ends of a talk and its protocol, "" where the frame has none.
func (t talk) words() (source, destination, protocol string) {
	if !t.source.Addr().IsValid() {
		return "", "", ""
	}
	return endWord(t.source), endWord(t.destination), t.protocolName()
}

func endWord(end netip.AddrPort) string {
	if end.Port() == 0 {
		return end.Addr().String()
	}
	return end.String()
}
