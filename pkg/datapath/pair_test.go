package datapath

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/pkg/reference"
	"github.com/perimeterd/perimeterd/tests/packet"
)

// crossing is a frame that crosses an interface's hooks, on its way towards a
// member or from it. With xdp it comes in, and XDP judges it before TC.
type crossing struct {
	frame        []byte
	towards, xdp bool
}

func (c crossing) String() string {
	way := "from"
	if c.towards {
		way = "towards"
	}
	if c.xdp {
		way += " at XDP"
	}
	return way + ": " + packet.Describe(c.frame)
}

// pair judges the same frames with the kernel and with the reference. Nothing
// but the pair's frames crosses its hooks.
type pair struct {
	*rig
	evaluator *reference.Evaluator
	counters  Counters // after the last frame
}

// hoard is more than a CPU keeps for itself of the free room in a table that
// evicts. Where all the rest is kept so, a table evicts though it is not full.
const hoard = 256

// newPair has room for so many flows in the kernel.
func newPair(tb testing.TB, room uint32) *pair {
	tb.Helper()
	const forever = 20 * 24 * time.Hour // a slow machine ends no flow
	room += hoard * uint32(ebpf.MustPossibleCPU())
	options := Options{
		XDP:    XDPAuto, // loaded, though no interface is attached by it
		Limits: Limits{EstablishedFlows4: room, EstablishedFlows6: room, OpeningFlows4: room, OpeningFlows6: room},
		Timeouts: Timeouts{
			TCPOpening: forever, TCPEstablished: forever, TCPClosing: forever, TCPClosed: forever,
			UDPOpening: forever, UDPEstablished: forever, ICMP: forever, OtherOpening: forever, OtherEstablished: forever,
			Fragment: forever,
		},
	}
	both := &pair{rig: newRig(tb, options)}
	if both.xdp.missing != "" {
		tb.Logf("without XDP: %s", both.xdp.missing)
	}
	return both
}

// put puts a policy in force in both.
func (p *pair) put(tb testing.TB, pol *policy.Policy, facts *policy.Facts) {
	tb.Helper()
	p.apply(tb, pol, facts)
	p.evaluator = reference.New(pol, *facts)
	p.count(tb)
}

func (p *pair) count(tb testing.TB) {
	tb.Helper()
	var err error
	if p.counters, err = p.Counters(); err != nil {
		tb.Fatal(err)
	}
}

// play sends frames through both, one after the other, from empty tables to
// empty tables. They must agree on the verdict and the reason of each frame, on
// what is counted as decided, and on the flows that are left. It returns how
// often each reason was given.
func (p *pair) play(t *testing.T, crossings []crossing) map[policy.Reason]int {
	t.Helper()
	defer p.count(t) // also where they disagreed, for the next to begin with
	defer p.forget(t)
	session := reference.NewSession(p.evaluator)
	before := p.counters
	reasons := map[policy.Reason]int{}
	decided := map[policy.Category]uint64{}
	for i, c := range crossings {
		var want reference.Decision
		if p.atXDP(c) && c.towards {
			want = session.Arrive(c.frame, "")
		} else { // what a test run has at TC comes from this host itself
			want = session.Decide(c.frame, c.towards, "")
		}
		counted := func() bool {
			return p.counted(t, want.Reason) == before.Packets[want.Reason].Packets+uint64(reasons[want.Reason])+1
		}
		verdict, err := p.judge(c, counted)
		if errors.Is(err, unix.EINVAL) && refusedByTestRun(c.frame) {
			continue
		}
		if err != nil {
			t.Fatalf("frame %d, %s: %v", i, c, err)
		}
		if verdict != want.Verdict || !counted() {
			// Which it is instead costs a look at all of them.
			p.count(t)
			t.Fatalf("frame %d:\n%s\n kernel    %v for %s\n reference %v for %s",
				i, told(crossings[:i+1]), verdict, countedSince(before, p.counters, reasons), want.Verdict, want.Reason)
		}
		reasons[want.Reason]++
		if tellsDecision(c, want) {
			decided[want.Category]++
		}
	}
	p.count(t)
	if more := countedSince(before, p.counters, reasons); more != "nothing" {
		t.Fatalf("%s\n counted besides: %s", told(crossings), more)
	}
	for category, now := range p.counters.Decisions {
		if got := now.Decided - before.Decisions[category].Decided; got != decided[category] {
			t.Fatalf("%s\n %s: the kernel decided %d times, the reference %d times", told(crossings), category, got, decided[category])
		}
	}
	inKernel, inReference := p.kernelFlows(t), flowsOf(session)
	if !slices.Equal(inKernel, inReference) {
		t.Fatalf("%s\n flows in the kernel\n  %s\n flows of the reference\n  %s", told(crossings),
			strings.Join(inKernel, "\n  "), strings.Join(inReference, "\n  "))
	}
	return reasons
}

// atXDP reports whether XDP judges the frame before TC.
func (p *pair) atXDP(c crossing) bool { return c.xdp && p.xdp.missing == "" }

// judge has the kernel judge a frame. What passes XDP without being counted for
// the reason it should be was left to TC, or is wrong: TC will tell.
func (p *pair) judge(c crossing, counted func() bool) (policy.Verdict, error) {
	const xdpDrop, xdpPass = 1, 2
	if p.atXDP(c) {
		role := Workload
		if c.towards {
			role = Uplink
		}
		switch returned, err := p.xdp.program(role).Run(&ebpf.RunOptions{Data: c.frame}); {
		case err != nil:
			return 0, err
		case returned == xdpDrop:
			return policy.Deny, nil
		case returned != xdpPass:
			return 0, fmt.Errorf("the program at XDP returned %d, which is neither pass nor drop", returned)
		case counted():
			return policy.Allow, nil
		}
	}
	return p.run(c.frame, c.towards, 0)
}

// told lists the last of some frames, the last one last.
func told(crossings []crossing) string {
	const enough = 40
	var b strings.Builder
	for i, c := range crossings {
		if i < len(crossings)-enough {
			continue
		}
		fmt.Fprintf(&b, "  %d %s\n      %x\n", i, c, c.frame)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// testRunMax is what PROG_TEST_RUN takes of a frame on every kernel: a page,
// without what the kernel puts around the frame.
const testRunMax = 3000

// refusedByTestRun reports the frames that PROG_TEST_RUN need not take: without
// an Ethernet header, or, of IP, without an IPv4 header's worth of bytes. The
// latter cannot be told otherwise than on a wire, unless behind a VLAN tag.
func refusedByTestRun(frame []byte) bool {
	if len(frame) < 14 {
		return true
	}
	etherType := uint16(frame[12])<<8 | uint16(frame[13])
	switch etherType {
	case 0x0800:
		return len(frame) < 14+20
	case 0x86dd:
		return len(frame) < 14+40
	}
	return false
}

// tellsDecision reports whether the decision about a frame is one for the log.
func tellsDecision(c crossing, d reference.Decision) bool {
	if d.Category == "" {
		return false
	}
	// A reset passes where its connection might, but makes no flow to tell of.
	pkt := reference.ReadFrame(c.frame, c.towards).Packet
	reset := pkt.Protocol == policy.ProtocolTCP && pkt.TCPFlags&reference.RST != 0
	return !reset || pkt.Unjudgeable != "" || d.Verdict == policy.Deny
}

// counted reads how many packets were counted for a reason.
func (p *pair) counted(t *testing.T, reason policy.Reason) uint64 {
	t.Helper()
	number, ok := p.words.reasonOf[reason]
	if !ok {
		t.Fatalf("the kernel knows no reason %s", reason)
	}
	var counts []perimeterPacketCount
	if err := p.objects.PacketCounts.Lookup(uint32(number), &counts); err != nil {
		t.Fatal(err)
	}
	var sum uint64
	for _, c := range counts {
		sum += c.Packets
	}
	return sum
}

// countedSince names the reasons counted between two readings, but for those
// that are known.
func countedSince(before, after Counters, known map[policy.Reason]int) string {
	var names []string
	for reason, count := range after.Packets {
		n := int(count.Packets-before.Packets[reason].Packets) - known[reason]
		switch {
		case n == 1:
			names = append(names, string(reason))
		case n != 0:
			names = append(names, fmt.Sprintf("%s (%d times)", reason, n))
		}
	}
	if len(names) == 0 {
		return "nothing"
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// everything is a policy with one of everything, on a host where some of its
// members live.
func everything(tb testing.TB) (*policy.Policy, *policy.Facts) {
	tb.Helper()
	const file = "testdata/everything.yaml"
	text, err := os.ReadFile(file)
	if err != nil {
		tb.Fatal(err)
	}
	p, err := policy.Parse(file, text)
	if err != nil {
		tb.Fatal(err)
	}
	addresses := func(text ...string) []netip.Addr {
		var out []netip.Addr
		for _, s := range text {
			out = append(out, netip.MustParseAddr(s))
		}
		return out
	}
	return p, &policy.Facts{
		Now:      time.Now(),
		Hostname: "host",
		Interfaces: []policy.Interface{{
			Name:       "eth0",
			Addresses:  addresses("10.20.0.5", "10.20.0.6", "10.20.0.10", "fd20::5", "fd20::6", "fd20::a"),
			Broadcasts: addresses("10.20.0.255"),
		}},
		Names: map[string][]netip.Addr{"vault.example.com": addresses("203.0.113.9", "2001:db8:bad::9")},
		Failsafe: []policy.AccessRule{
			{Name: "ssh", Direction: policy.Inbound, Ports: []policy.Ports{{Protocol: policy.ProtocolTCP, First: 22, Last: 22}}},
		},
	}
}
