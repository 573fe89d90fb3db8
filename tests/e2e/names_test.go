package e2e_test

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/perimeterd/perimeterd/pkg/api"
	"github.com/perimeterd/perimeterd/pkg/decisionlog"
	"github.com/perimeterd/perimeterd/pkg/policy"
)

// names is what perimeterctl names tells.
func (town *namesTown) names() *api.Names {
	town.t.Helper()
	out := new(api.Names)
	town.must(json.Unmarshal([]byte(town.ctl(0, "names", "-o", "json").Stdout), out))
	return out
}

// learnt finds an address by its name.
func learnt(names *api.Names, name string) (api.LearntAddress, bool) {
	for _, rule := range names.Rules {
		for _, a := range rule.Addresses {
			if a.Name == name {
				return a, true
			}
		}
	}
	return api.LearntAddress{}, false
}

// resolve asks the town's resolver from the database, as a client would.
func (town *namesTown) resolve(network, name string) (string, error) {
	var answer *dns.Msg
	err := town.db.Run(func() (err error) {
		client := &dns.Client{Net: network, Timeout: 2 * time.Second, Dialer: &net.Dialer{Timeout: 2 * time.Second}}
		answer, _, err = client.Exchange(new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.TypeA), dnsResolver+":53")
		return err
	})
	if err != nil {
		return "", err
	}
	for _, record := range answer.Answer {
		if a, ok := record.(*dns.A); ok {
			return a.A.String(), nil
		}
	}
	return "", fmt.Errorf("the answer has no address: %v", answer)
}

func (town *namesTown) connect(address string, port uint16) error {
	conn, err := town.db.Dial(town.soon(), "tcp", fmt.Sprintf("%s:%d", address, port))
	if err != nil {
		return err
	}
	return conn.Close()
}

// TestNamesInLogAndView: records of what names allow, and of denials to where they
// lead, have the name; so has perimeterctl names, and the end of a reload.
func TestNamesInLogAndView(t *testing.T) {
	town := newNamesTown(t, "dns: {servers: ["+dnsResolver+"], strict: true}\n")
	town.write(namesPolicy())
	town.start()
	mark := town.Records.Len()
	name := freshName()
	address, err := town.resolve("udp", name)
	town.must(err)
	town.must(town.connect(address, freshPort))
	r := town.record(mark, "the connection", func(r *decisionlog.Record) bool {
		return r.Operation == decisionlog.OperationFlowStart && r.Properties.Destination.Port == freshPort
	})
	if p := r.Properties; p.Destination.FullyQualifiedDomainName != name || p.MatchedRule.AccessRule != "fresh" || p.Perimeterd.Reason != policy.ReasonAccessRule {
		t.Errorf("the record of the connection: %+v", p)
	}
	town.record(mark, "the question", func(r *decisionlog.Record) bool {
		return r.Operation == decisionlog.OperationFlowStart && r.Properties.Perimeterd.Reason == policy.ReasonResolverAccess
	})
	// Another port of the same address.
	go func() { _ = town.connect(address, 22) }()
	r = town.record(mark, "the denial", func(r *decisionlog.Record) bool {
		return r.Operation == decisionlog.OperationDeny && r.Properties.Destination.Port == 22
	})
	if got := r.Properties.Destination.FullyQualifiedDomainName; got != name {
		t.Errorf("the denial names %q, want %q", got, name)
	}
	// A name of no rule.
	if _, err := town.resolve("udp", "secret.evil.example.org"); err == nil {
		t.Error("a question for a name of no rule is answered")
	}
	town.record(mark, "the denied question", func(r *decisionlog.Record) bool {
		return r.Operation == decisionlog.OperationDeny && r.Properties.Perimeterd.Question == "secret.evil.example.org"
	})
	if _, err := town.resolve("tcp", name); err == nil {
		t.Error("a question over TCP is answered")
	}

	a, found := learnt(town.names(), name)
	if !found || a.Address.String() != address || a.By != "inline" || a.Used.IsZero() || a.Expired {
		t.Errorf("perimeterctl names: %+v", a)
	}
	if text := town.ctl(0, "names").Stdout; !strings.Contains(text, name) || !strings.Contains(text, "fresh of profile payments/data: *."+freshZone) {
		t.Errorf("perimeterctl names says\n%s", text)
	}
	// A reload keeps it, and so does a restart.
	town.apply(namesPolicy("other.example.org"))
	if _, found := learnt(town.names(), name); !found {
		t.Error("a reload has closed the address")
	}
	town.Kill()
	town.start()
	if _, found := learnt(town.names(), name); !found {
		t.Error("a restart has closed the address")
	}
	town.apply(policyOf("Enforced"))
	if names := town.names(); len(names.Rules) != 0 {
		t.Errorf("the rule is gone, its names are not: %+v", names)
	}
}

// TestNamesByAgent: what the data path leaves to the agent is learnt, a moment
// later: all of it where it does not read answers, and answers that were cut.
func TestNamesByAgent(t *testing.T) {
	for _, row := range []struct{ name, settings string }{
		{"all", "inline: false"},
		{"truncated", "inline: true"},
	} {
		t.Run(row.name, func(t *testing.T) {
			town := newNamesTown(t, "dns: {servers: ["+dnsResolver+"], "+row.settings+"}\n")
			town.zone.many.Store(row.name == "truncated")
			town.write(namesPolicy())
			town.start()
			name := freshName()
			var answer *dns.Msg
			town.must(town.db.Run(func() (err error) {
				answer, err = dns.Exchange(new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.TypeA), dnsResolver+":53")
				return err
			}))
			if answer.Truncated != (row.name == "truncated") {
				t.Fatalf("the answer: %v", answer)
			}
			var a api.LearntAddress
			for until := time.Now().Add(patience); ; {
				var found bool
				if a, found = learnt(town.names(), name); found {
					break
				}
				if time.Now().After(until) {
					t.Fatalf("not learnt: %+v", town.names())
				}
			}
			if a.By != "answer" {
				t.Errorf("learnt %+v", a)
			}
			town.must(town.connect(a.Address.String(), freshPort))
			if status := town.status(0); (len(status.Kernel.Degraded) > 0) != (row.name == "all") {
				t.Errorf("status says %v", status.Kernel.Degraded)
			}
		})
	}
}

// TestNamesBehindAStub: a stub on the host's loopback asks for its clients. Its
// own questions are the host's, so what it is told is open before it tells them.
func TestNamesBehindAStub(t *testing.T) {
	town := newNamesTown(t, "dns: {servers: ["+dnsResolver+"]}\n")
	town.write(namesPolicy())
	town.start()
	town.runDnsmasq(town.db, needsTool(t, "dnsmasq", "dnsmasq-base"), "--server="+dnsResolver, "--min-cache-ttl=1", "--listen-address=127.0.0.1")
	town.must(os.WriteFile(town.resolvConf, []byte("nameserver 127.0.0.1\noptions timeout:2 attempts:1\n"), 0o644))
	if failures := glibcClient(town, 100); len(failures) > 0 {
		t.Errorf("%d rounds failed, first: %s", len(failures), failures[0])
	}
	if n := town.synRetransmits(); n > 0 {
		t.Errorf("%d SYNs were sent again", n)
	}
}
