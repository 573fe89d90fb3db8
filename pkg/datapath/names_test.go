package datapath

import (
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/perimeterd/perimeterd/pkg/compile"
	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/tests/packet"
)

const (
	resolver4, resolver6 = "192.0.2.53", "2001:db8:53::53"
	reasonQuestion       = policy.Reason("question-not-allowed")
	reasonUnreadable     = policy.Reason("question-unreadable")
	clientPort           = 40000
)

// namesRule allows names at one port.
func namesRule(name string, port uint16, names ...string) policy.AccessRule {
	return policy.AccessRule{
		Name: name, Direction: policy.Outbound, FullyQualifiedDomainNames: names,
		Ports: []policy.Ports{{Protocol: policy.ProtocolTCP, First: port, Last: port}},
	}
}

// resolverFacts says that the member lives here and what the host's resolvers are.
func resolverFacts() *policy.Facts {
	facts := hereFacts()
	facts.Resolvers = []netip.Addr{netip.MustParseAddr(resolver4), netip.MustParseAddr(resolver6)}
	return facts
}

// namesRig is a rig with a member whose rules have names.
type namesRig struct {
	*rig
	tables *compile.Tables
	legend *compile.Legend
}

func newNamesRig(t testing.TB, options Options, rules ...policy.AccessRule) *namesRig {
	t.Helper()
	r := &namesRig{rig: newRig(t, options)}
	r.put(t, memberPolicy(policy.Enforced, rules...), resolverFacts())
	return r
}

// put puts a policy in force, and leaves alone what was learnt.
func (r *namesRig) put(t testing.TB, p *policy.Policy, facts *policy.Facts) {
	t.Helper()
	var err error
	if r.tables, r.legend, err = compile.Compile(p, facts); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Apply(r.tables, r.legend, nil, nil); err != nil {
		t.Fatal(err)
	}
}

// forgetQuestions forgets whatever was asked, and in which flows.
func (r *namesRig) forgetQuestions(t testing.TB) {
	t.Helper()
	r.forgetFlows(t)
	emptyTable[perimeterQueryKey, perimeterQuery](t, r.objects.Queries)
}

// exchange is a question and its answer.
type exchange struct {
	local, resolver string
	port            uint16
	question        *dns.Msg
}

func ask(name string, recordType uint16) exchange {
	question := new(dns.Msg).SetQuestion(dns.Fqdn(name), recordType)
	question.Id = 0x1234
	return exchange{local: member4, resolver: resolver4, port: clientPort, question: question}
}

func wireOf(t testing.TB, m *dns.Msg) string {
	t.Helper()
	m.Compress = true
	bytes, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return string(bytes)
}

// asked sends the question from the member.
func (e exchange) asked(t testing.TB, r *rig) (policy.Verdict, policy.Reason) {
	t.Helper()
	return r.from(t, packet.UDP(e.local, e.resolver, e.port, 53).Payload(wireOf(t, e.question)))
}

// answered sends a message to the member.
func (e exchange) answered(t testing.TB, r *rig, message string) {
	t.Helper()
	verdict, reason := r.towards(t, packet.UDP(e.resolver, e.local, 53, e.port).Payload(message))
	if verdict != policy.Allow || reason != "established" {
		t.Fatalf("the answer is %s for %s", verdict, reason)
	}
}

// reply is the answer with these records, as a zone file has them.
func (e exchange) reply(t testing.TB, records ...string) *dns.Msg {
	t.Helper()
	m := new(dns.Msg).SetReply(e.question)
	for _, text := range records {
		record, err := dns.NewRR(text)
		if err != nil {
			t.Fatal(err)
		}
		m.Answer = append(m.Answer, record)
	}
	return m
}

// learns plays a question and its answer.
func (r *namesRig) learns(t testing.TB, name string, records ...string) {
	t.Helper()
	e := ask(name, dns.TypeA)
	if verdict, reason := e.asked(t, r.rig); verdict != policy.Allow {
		t.Fatalf("the question is denied for %s", reason)
	}
	e.answered(t, r.rig, wireOf(t, e.reply(t, records...)))
	r.forgetFlows(t)
}

// opens reports whether the member may open a connection.
func (r *namesRig) opens(t testing.TB, peer string, port uint16) bool {
	t.Helper()
	local := member4
	if netip.MustParseAddr(peer).Is6() {
		local = member6
	}
	verdict, _ := r.from(t, packet.TCP(local, peer, clientPort, port, packet.SYN))
	r.forgetFlows(t)
	return verdict == policy.Allow
}

func (r *namesRig) expectOpen(t testing.TB, peer string, port uint16, want bool) {
	t.Helper()
	if got := r.opens(t, peer, port); got != want {
		t.Errorf("to %s port %d: open %v, want %v", peer, port, got, want)
	}
}

// counted is what a function adds to the counters of names.
func (r *namesRig) counted(t testing.TB, f func()) map[string]uint64 {
	t.Helper()
	before, err := r.NameCounts()
	if err != nil {
		t.Fatal(err)
	}
	f()
	after, err := r.NameCounts()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]uint64{}
	for word, n := range after {
		if n != before[word] {
			out[word] = n - before[word]
		}
	}
	return out
}

// needsInline skips on kernels that leave answers to the agent.
func needsInline(t testing.TB, r *rig) {
	t.Helper()
	if r.NamesByAgent() != "" {
		t.Skip("reading answers in the data path needs Linux 5.17")
	}
}

// TestAnswersOpenAddresses: what a member is told opens the way to it, for the
// ports of the rule, and nothing beside it.
func TestAnswersOpenAddresses(t *testing.T) {
	r := newNamesRig(t, Options{}, namesRule("vault", 443, "vault.example.com"), namesRule("blobs", 8443, "*.blob.example.net"))
	needsInline(t, r.rig)
	r.expectOpen(t, "203.0.113.1", 443, false)
	r.learns(t, "vault.example.com", "vault.example.com. 300 IN A 203.0.113.1", "vault.example.com. 300 IN A 203.0.113.2")
	r.expectOpen(t, "203.0.113.1", 443, true)
	r.expectOpen(t, "203.0.113.2", 443, true)
	r.expectOpen(t, "203.0.113.3", 443, false)
	r.expectOpen(t, "203.0.113.1", 8443, false)
	r.learns(t, "a.b.Blob.example.NET", "a.b.blob.example.net. 300 IN A 203.0.113.5")
	r.expectOpen(t, "203.0.113.5", 8443, true)
	r.expectOpen(t, "203.0.113.5", 443, false)
	for _, other := range []string{"blob.example.net", "xblob.example.net", "a.vault.example.com", "xvault.example.com", "example.com", "vault.example.com.org"} {
		r.learns(t, other, dns.Fqdn(other)+" 300 IN A 203.0.113.9")
		r.expectOpen(t, "203.0.113.9", 443, false)
		r.expectOpen(t, "203.0.113.9", 8443, false)
	}

	six := ask("vault.example.com", dns.TypeAAAA)
	six.local, six.resolver = member6, resolver6
	six.asked(t, r.rig)
	six.answered(t, r.rig, wireOf(t, six.reply(t, "vault.example.com. 300 IN AAAA 2001:db8:9::1")))
	r.expectOpen(t, "2001:db8:9::1", 443, true)
	r.expectOpen(t, "2001:db8:9::2", 443, false)

	all, err := r.Learnt()
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 4 {
		t.Errorf("%d addresses are learnt: %+v", len(all), all)
	}
	for _, l := range all {
		if l.By != LearntInline || l.Address.String() == "203.0.113.5" != (l.Name == "a.b.blob.example.net") {
			t.Errorf("learnt %+v", l)
		}
		if left := time.Until(l.Expires); left < 290*time.Second || left > 310*time.Second {
			t.Errorf("%s is open for %v", l.Address, left)
		}
		if used := l.Address.String() != "203.0.113.1"; l.Used.IsZero() && !used {
			t.Errorf("%s was never used", l.Address)
		}
	}
}
