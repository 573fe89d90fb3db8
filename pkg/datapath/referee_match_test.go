package datapath

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/tests/crafted"
	"github.com/perimeterd/perimeterd/tests/packet"
)

// match plays all cases of a seed once.
type match struct {
	*referee
	seed   uint64
	filter *rig // nil: none
	bench  bench
	post   post

	frames, before, through int // of cases: delivered without a filter, and with it
	moved                   map[policy.Reason]uint64

	wrong      map[string]int // how often
	complaints uint64         // of the host to itself
	findings   []finding
}

// delivery is what the kernel did with a case.
type delivery struct {
	sockets int  // that got something of it
	open    bool // by TCP or UDP at the open port
}

func deliveryOf(o *outcome) delivery {
	var d delivery
	for i := range o.receipts {
		r := &o.receipts[i]
		d.sockets++
		d.open = d.open || r.port == refereePort && (r.door.protocol == unix.IPPROTO_TCP || r.door.protocol == unix.IPPROTO_UDP)
	}
	return d
}

// batchSize bounds what waits in the kernel's queues.
const batchSize = 32

// play sends all cases, and tells what came of each. What does not say whose it
// is comes with a case of nil, and the cases it may be of.
func (m *match) play(t *testing.T, each func(c *crafted.Case, o *outcome, among []crafted.Case)) {
	t.Helper()
	for first := 0; first < *craftedFlag; first += batchSize {
		var batch []crafted.Case
		var frames [][]byte
		for n := first; n < min(first+batchSize, *craftedFlag); n++ {
			batch = append(batch, m.ends.Draw(m.seed, uint32(n)))
			frames = append(frames, m.fitting(&batch[n-first])...)
		}
		m.frames += len(frames)
		all, err := m.send(frames...)
		must(t, err)
		byCase := make([]outcome, len(batch)+1) // the last has the rest
		of := func(bytes []byte) *outcome {
			n, found := crafted.Number(bytes)
			if !found || int(n) < first || int(n) >= first+len(batch) {
				return &byCase[len(batch)]
			}
			return &byCase[int(n)-first]
		}
		for _, r := range all.receipts {
			o := of(r.body)
			o.receipts = append(o.receipts, r)
		}
		for _, a := range all.answers {
			o := of(a)
			o.answers = append(o.answers, a)
		}
		for i := range batch {
			each(&batch[i], &byCase[i], batch)
		}
		each(nil, &byCase[len(batch)], batch)
	}
}

// fitting returns a case's frames, none if they do not fit the wire.
func (m *match) fitting(c *crafted.Case) [][]byte {
	if c.Large && m.mtu < refereeMTU {
		return nil
	}
	return c.Frames
}

// checkGenerator proves that the cases prove something: that without a filter
// the kernel delivers a good part of them, and some of each class.
func (m *match) checkGenerator(t *testing.T) []delivery {
	deliveries := make([]delivery, *craftedFlag)
	drawn, delivered := map[crafted.Class]int{}, map[crafted.Class]int{}
	var all, open, lost int
	answers := map[string]int{}
	m.play(t, func(c *crafted.Case, o *outcome, _ []crafted.Case) {
		for _, frame := range o.answers {
			if a, ok := readAnswer(frame); ok && !a.isLink() {
				answers[fmt.Sprintf("protocol %d", a.protocol)]++
			}
		}
		if c == nil {
			lost += len(o.receipts)
			return
		}
		d := deliveryOf(o)
		deliveries[c.Number] = d
		for _, class := range c.Classes {
			drawn[class]++
			if d.sockets > 0 {
				delivered[class]++
			}
		}
		if d.sockets > 0 {
			all++
		}
		if d.open {
			open++
		}
	})
	t.Logf("%d cases, %d frames: %d cases delivered, %d of them to the open port; %d packets do not say whose they are", *craftedFlag, m.frames, all, open, lost)
	t.Logf("answers: %v", answers)
	var lines []string
	for _, class := range crafted.Classes() {
		lines = append(lines, fmt.Sprintf("%5d of %5d  %s", delivered[class], drawn[class], class))
	}
	t.Logf("delivered, of each class:\n%s", strings.Join(lines, "\n"))
	if all < *craftedFlag/3 {
		t.Errorf("%d of %d cases are delivered: too few to prove anything", all, *craftedFlag)
	}
	for _, class := range crafted.Delivered() {
		if delivered[class] == 0 && drawn[class] >= 20 {
			t.Errorf("of the %d cases of %q none is delivered: they prove nothing", drawn[class], class)
		}
	}
	for _, protocol := range []string{"protocol 1", "protocol 6", "protocol 58"} {
		if answers[protocol] == 0 {
			t.Errorf("no answers of %s are heard: their absence would prove nothing", protocol)
		}
	}
	return deliveries
}

// judge plays the cases against the filter.
func (m *match) judge(t *testing.T, unfiltered []delivery) {
	facts := m.factsAt(m.post)
	m.filter.apply(t, m.bench.policy(facts), facts)
	m.filter.forgetFlows(t)
	reasons := m.reasons(t)
	kernel := m.kernelCounters(t)
	m.wrong = map[string]int{}
	sent := 0
	dropped := map[crafted.Class]int{}
	m.play(t, func(c *crafted.Case, o *outcome, among []crafted.Case) {
		m.look(t, c, o, among)
		if c == nil {
			return
		}
		d, free := deliveryOf(o), unfiltered[c.Number]
		sent++
		if free.sockets > 0 {
			m.before++
		}
		if d.sockets > 0 {
			m.through++
		}
		if !m.bench.open || !free.open || d.open || len(m.fitting(c)) == 0 {
			return
		}
		for _, class := range c.Classes {
			dropped[class]++
		}
		if c.Honest {
			m.wrong["what an honest sender may send was dropped"]++
			m.findings = append(m.findings, finding{c, []string{"it did not reach the open port"}})
		}
	})
	m.checkKernel(t, kernel)
	m.moved = m.reasons(t)
	for reason, count := range reasons {
		m.moved[reason] -= count
	}
	maps.DeleteFunc(m.moved, func(_ policy.Reason, count uint64) bool { return count == 0 })
	t.Logf("%d cases, %d frames: without a filter %d are delivered, through it %d", sent, m.frames, m.before, m.through)
	t.Logf("reasons: %v", m.moved)
	if len(dropped) > 0 {
		t.Logf("to the open port without a filter, and not through it: %v", dropped)
	}
	m.report(t)
}

func (m *match) reasons(t *testing.T) map[policy.Reason]uint64 {
	t.Helper()
	counters, err := m.filter.Counters()
	must(t, err)
	out := map[policy.Reason]uint64{}
	for reason, count := range counters.Packets {
		out[reason] = count.Packets
	}
	return out
}

// finding is something that should not have happened, or should have.
type finding struct {
	c       *crafted.Case // nil: it is not known whose it is
	details []string
}

// look notes what may not be in an outcome.
func (m *match) look(t *testing.T, c *crafted.Case, o *outcome, among []crafted.Case) {
	var details []string
	for i := range o.receipts {
		r := &o.receipts[i]
		if m.bench.complainsToItself(r) {
			m.complaints++
		}
		if !m.bench.permits(r) {
			m.wrong["a "+r.door.name+" got a packet"]++
			details = append(details, r.String())
		}
	}
	for _, frame := range o.answers {
		if m.heard() && !m.bench.permitsAnswer(frame) {
			m.wrong["the host answered"]++
			details = append(details, "the host's answer: "+packet.Describe(frame))
		}
	}
	if details != nil {
		m.findings = append(m.findings, finding{m.culprit(t, c, among), details})
	}
}

// heard reports whether the filter judges what the host sends.
func (m *match) heard() bool { return m.bench.towards && !m.post.atSender }

// culprit finds the case that something unpermitted came of, by sending each
// again alone. It may be nil, if it took several.
func (m *match) culprit(t *testing.T, c *crafted.Case, among []crafted.Case) *crafted.Case {
	if c != nil {
		return c
	}
	for i := range among {
		again, err := m.send(m.fitting(&among[i])...)
		must(t, err)
		if slices.ContainsFunc(again.receipts, func(r receipt) bool { return !m.bench.permits(&r) }) ||
			m.heard() && slices.ContainsFunc(again.answers, func(a []byte) bool { return !m.bench.permitsAnswer(a) }) {
			return &among[i]
		}
	}
	return nil
}

// describe has all that is needed to understand a finding.
func (m *match) describe(f finding) string {
	var b strings.Builder
	if f.c == nil {
		return "of several cases, or of none: " + strings.Join(f.details, "\n  ")
	}
	fmt.Fprintf(&b, "seed %d, case %d %q", m.seed, f.c.Number, f.c.Classes)
	for _, detail := range f.details {
		fmt.Fprintf(&b, "\n  %s", detail)
	}
	for i, frame := range f.c.Frames {
		fmt.Fprintf(&b, "\n  frame %d: %s\n    %x", i, packet.Describe(frame), frame)
	}
	fmt.Fprintf(&b, "\n  sent again alone, counted as %q", m.countedAs(f.c))
	return b.String()
}

// countedAs sends a case again and tells which reasons its packets have.
func (m *match) countedAs(c *crafted.Case) []string {
	var out []string
	for _, frame := range c.Frames {
		before, err := m.filter.Counters()
		if err == nil {
			_, err = m.send(frame)
		}
		after, errAfter := m.filter.Counters()
		if err := errors.Join(err, errAfter); err != nil {
			return append(out, err.Error())
		}
		var moved []string
		for reason, count := range after.Packets {
			// The fence is no IP packet, and comes and goes.
			if n := count.Packets - before.Packets[reason].Packets; n > 0 && reason != "not-ip" {
				moved = append(moved, string(reason))
			}
		}
		slices.Sort(moved)
		out = append(out, strings.Join(moved, "+"))
	}
	return out
}

// checkKernel compares what the kernel counted with what it handed over: nothing
// may get to a protocol without a raw socket either.
func (m *match) checkKernel(t *testing.T, before map[string]uint64) {
	if m.bench.open || !m.bench.towards || m.bench.forgeable {
		return
	}
	// They are of the kind that tells of a parameter, or the check below fails.
	before["Icmp6InParmProblems"] += m.complaints
	for name, value := range m.kernelCounters(t) {
		if slices.Contains(reached, name) && value != before[name] {
			m.wrong["the kernel counted "+name] += int(value - before[name])
		}
	}
}

// reached are the counters of packets that got as far as a protocol. Those that
// the failsafe moves are not among them.
var reached = []string{
	"IpInUnknownProtos", "TcpInSegs", "TcpInErrs", "TcpInCsumErrors", "TcpPassiveOpens", "TcpOutRsts", "UdpLiteInDatagrams",
	"UdpLiteNoPorts", "UdpLiteInErrors", "IcmpInMsgs", "IcmpInErrors", "Ip6InUnknownProtos",
	"UdpLite6InDatagrams", "UdpLite6NoPorts", "UdpLite6InErrors", "Icmp6InDestUnreachs", "Icmp6InPktTooBigs",
	"Icmp6InTimeExcds", "Icmp6InParmProblems", "Icmp6InEchos", "Icmp6InEchoReplies", "Icmp6OutEchoReplies",
}

// examples is how many findings are told in full.
const examples = 8

// report fails the test if there are findings, and shows the simplest of them.
func (m *match) report(t *testing.T) {
	for _, what := range slices.Sorted(maps.Keys(m.wrong)) {
		t.Errorf("%s, %d times", what, m.wrong[what])
	}
	effort := func(f finding) int {
		if f.c == nil {
			return 1 << 20
		}
		return 100*len(f.c.Classes) + 10*len(f.c.Frames) + len(f.c.Frames[0])/100
	}
	slices.SortStableFunc(m.findings, func(a, b finding) int { return effort(a) - effort(b) })
	for _, f := range m.findings[:min(len(m.findings), examples)] {
		t.Log(m.describe(f))
	}
}
