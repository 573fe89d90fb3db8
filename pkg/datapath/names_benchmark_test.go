package datapath

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/miekg/dns"

	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/tests/packet"
)

// spread is what a series of measurements says.
type spread []float64

func (s spread) String() string {
	sorted := slices.Sorted(slices.Values(s))
	at := func(part float64) float64 { return sorted[int(part*float64(len(sorted)-1))] }
	return fmt.Sprintf("median %.0f ns (%.0f to %.0f)", at(0.5), at(0.1), at(0.9))
}

func (s spread) median() float64 { return slices.Sorted(slices.Values(s))[len(s)/2] }

// BenchmarkNames measures what names cost a packet: those that are none of DNS, by
// a policy with and without names in turn; first packets that no rule allows; and
// answers, by the number of addresses in them. Run it with -benchtime=1x.
func BenchmarkNames(b *testing.B) {
	const rounds, repeat = 41, 20000
	rule := policy.AccessRule{Name: "net", Direction: policy.Outbound, AddressPrefixes: prefixes("198.51.100.0/24")}
	without := &namesRig{rig: newRig(b, Options{})}
	without.put(b, memberPolicy(policy.Enforced, rule), resolverFacts())
	with := newNamesRig(b, Options{}, rule, namesRule("vault", 443, "vault.example.com"), namesRule("blobs", 443, "*.blob.example.net"))
	for _, row := range []struct {
		name  string
		frame []byte
		first bool
	}{
		{"TCP of a flow", packet.TCP(member4, partner4, 1, 443, packet.ACK).Frame(), false},
		{"UDP of a flow", packet.UDP(member4, partner4, 1, 443).Frame(), false},
		{"a denied SYN", packet.TCP(member4, stranger4, 1, 443, packet.SYN).Frame(), true},
	} {
		var took [2]spread
		for range rounds {
			for i, r := range []*namesRig{without, with} {
				took[i] = append(took[i], measure(b, r.objects.From, row.frame, repeat))
			}
		}
		b.Logf("%s: without names %s, with %s, ratio of medians %.3f", row.name, took[0], took[1], took[1].median()/took[0].median())
	}
	needsInline(b, with.rig)
	for _, count := range []int{1, 8, 64} {
		var records []string
		for i := range count {
			records = append(records, fmt.Sprintf("vault.example.com. 300 IN A 203.0.113.%d", i+1))
		}
		e := ask("vault.example.com", dns.TypeA)
		question := packet.UDP(e.local, e.resolver, e.port, 53).Payload(wireOf(b, e.question)).Frame()
		answer := packet.UDP(e.resolver, e.local, 53, e.port).Payload(wireOf(b, e.reply(b, records...))).Frame()
		other := packet.UDP(partner4, e.local, 54, e.port).Payload(wireOf(b, e.reply(b, records...))).Frame()
		if _, err := with.run(packet.UDP(e.local, partner4, e.port, 54).Frame(), false, 0); err != nil {
			b.Fatal(err)
		}
		var read, passed, asked spread
		for range 1000 {
			asked = append(asked, measure(b, with.objects.From, question, 1))
			read = append(read, measure(b, with.objects.Towards, answer, 1))
			passed = append(passed, measure(b, with.objects.Towards, other, 1))
		}
		b.Logf("%d addresses: the answer %s, the same bytes from another port %s; the question %s", count, read, passed, asked)
	}
}

// measure is how long a run of a program takes, in ns, on average of so many.
func measure(b *testing.B, program *ebpf.Program, frame []byte, repeat int) float64 {
	_, took, err := program.Benchmark(frame, repeat, nil)
	if err != nil {
		b.Fatal(err)
	}
	return float64(took) / float64(time.Nanosecond)
}
