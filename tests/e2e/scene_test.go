package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/perimeterd/perimeterd/pkg/api"
	"github.com/perimeterd/perimeterd/pkg/decisionlog"
	"github.com/perimeterd/perimeterd/tests/deployment"
	"github.com/perimeterd/perimeterd/tests/privileged"
	"github.com/perimeterd/perimeterd/tests/traffic"
	"github.com/perimeterd/perimeterd/tests/world"
)

const (
	patience = 20 * time.Second       // for what happens; met only on a failure
	brief    = 400 * time.Millisecond // for what does not happen
)

// both are the families that almost every check is made over.
var both = []string{"IPv4", "IPv6"}

// place is a host and its address of each family. It is a traffic.Network whose
// connections come from these addresses.
type place struct {
	*world.Host
	addresses [2]netip.Addr
}

func (p *place) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	from := p.addresses[0]
	if to.Addr().Is6() {
		from = p.addresses[1]
	}
	return p.DialFrom(ctx, network, netip.AddrPortFrom(from, 0).String(), address)
}

// at is an address of a service there.
func (p *place) at(family int, port uint16) string {
	return netip.AddrPortFrom(p.addresses[family], port).String()
}

// scene is a database host with an agent, and a partner and a stranger who call
// it through a router.
type scene struct {
	t *testing.T
	*deployment.Deployment
	world                 *world.World
	router                *world.Host
	db, partner, stranger *place
	strangerUplink        world.Interface
}

// newScene builds a scene of the test's own. Nothing runs there yet. Settings
// are as in deployment.Options.
func newScene(t *testing.T, settings, file string) *scene {
	t.Helper()
	privileged.Require(t)
	t.Parallel()
	w := world.New(t)
	s := &scene{t: t, world: w, router: w.Router("router")}
	settle := func(name, address4, address6 string) (*place, world.Interface) {
		host := w.Host(name)
		up, _ := w.Uplink(host, s.router, address4, address6)
		return &place{host, [2]netip.Addr{netip.MustParsePrefix(address4).Addr(), netip.MustParsePrefix(address6).Addr()}}, up
	}
	s.db, _ = settle("db", "10.20.0.5/24", "fd20::5/64")
	s.partner, _ = settle("partner", "198.51.100.7/24", "2001:db8:98::7/64")
	s.stranger, s.strangerUplink = settle("stranger", "203.0.113.9/24", "2001:db8:bad::9/64")
	var err error
	s.Deployment, err = deployment.New(deployment.Options{
		Binaries: binaries, Host: s.db.Host, File: file,
		Settings: "failsafe: []\ndenialWindow: 1s\n" + settings,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("the agent said:\n%s", strings.Join(s.Messages.After(0), "\n"))
		}
	})
	return s
}

// policyOf is a policy with the database in a perimeter, in a mode and with
// rules of its profile, one a line.
func policyOf(mode string, rules ...string) string {
	list := " []"
	if len(rules) > 0 {
		list = "\n          - " + strings.Join(rules, "\n          - ")
	}
	return fmt.Sprintf(`resources:
  - {name: database, addresses: [10.20.0.5, "fd20::5"]}
perimeters:
  - name: payments
    profiles:
      - name: data
        accessRules:%s
    associations:
      - {name: database, resource: database, profile: data, accessMode: %s}
`, list, mode)
}

// admit is a rule that admits the partner or the stranger.
func admit(name, who, ports string) string {
	prefixes := map[string]string{"partner": `198.51.100.0/24, "2001:db8:98::/64"`, "stranger": `203.0.113.0/24, "2001:db8:bad::/64"`}[who]
	return fmt.Sprintf("{name: %s, direction: Inbound, addressPrefixes: [%s], ports: [%s]}", name, prefixes, ports)
}

// allowOut is a rule that lets the database reach the partner.
func allowOut(name, ports string) string {
	return fmt.Sprintf(`{name: %s, direction: Outbound, addressPrefixes: [198.51.100.7, "2001:db8:98::7"], ports: [%s]}`, name, ports)
}

// soon is a context for what has to happen.
func (s *scene) soon() context.Context {
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	s.t.Cleanup(cancel)
	return ctx
}

func (s *scene) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// write writes the policy and does not wait.
func (s *scene) write(text string) {
	s.t.Helper()
	s.must(s.WritePolicy("policy.yaml", text))
}

// apply writes the policy and returns when it is in force.
func (s *scene) apply(text string) {
	s.t.Helper()
	s.must(s.Apply(s.soon(), "policy.yaml", text))
}

// start starts the agent and returns when it has put a policy in force.
func (s *scene) start() {
	s.t.Helper()
	before := s.Messages.Len()
	s.must(s.Start(s.soon()))
	s.must(s.AwaitInForce(s.soon(), before))
}

// serve starts a server on a port of every address of a place, until the test ends.
func (s *scene) serve(at *place, network string, port uint16) *traffic.Server {
	s.t.Helper()
	start := traffic.Database
	if network == "udp" {
		start = traffic.Broker
	}
	server, err := start(at, fmt.Sprintf(":%d", port))
	s.must(err)
	s.t.Cleanup(func() {
		if err := server.Close(); err != nil {
			s.t.Error(err)
		}
	})
	return server
}

// attempt is a try over both families and how it has to end.
type attempt struct {
	from, to *place
	network  string
	port     uint16
	want     traffic.Outcome
}

// expect makes attempts at the same time and checks how they end.
func (s *scene) expect(attempts ...attempt) {
	s.t.Helper()
	got := make([][2]traffic.Attempt, len(attempts))
	var group sync.WaitGroup
	for i, a := range attempts {
		for family := range both {
			group.Go(func() { got[i][family] = a.make(s.t.Context(), family) })
		}
	}
	group.Wait()
	for i, a := range attempts {
		for family, name := range both {
			if g := got[i][family]; g.Outcome != a.want {
				s.t.Errorf("%s to %s %s/%d over %s: %s (%v), want %s", a.from.Name, a.to.Name, a.network, a.port, name, g.Outcome, g.Err, a.want)
			}
		}
	}
	if s.t.Failed() {
		s.t.FailNow()
	}
}

func (a attempt) make(ctx context.Context, family int) traffic.Attempt {
	limit := patience
	if a.want == traffic.TimedOut {
		limit = brief
	}
	return traffic.Try(ctx, a.from, a.network, a.to.at(family, a.port), limit)
}

// converse begins a conversation, which the test's end stops.
func (s *scene) converse(from, to *place, network string, family int, port uint16) *traffic.Conversation {
	s.t.Helper()
	talk, err := traffic.Converse(s.t.Context(), from, network, to.at(family, port), traffic.Pace{Patience: 2 * time.Second})
	s.must(err)
	s.t.Cleanup(func() { talk.Stop() })
	return talk
}

// goesOn checks that conversations are alive and have lost nothing.
func (s *scene) goesOn(talks ...*traffic.Conversation) {
	s.t.Helper()
	for _, talk := range talks {
		s.must(talk.Await(s.soon(), 10))
		if r := talk.Report(); r.Lost > 0 {
			s.t.Errorf("a conversation has lost answers: %+v", r)
		}
	}
}

// flood sends datagrams to a service that nobody may reach, until the test
// ends, and checks then that none arrived.
func (s *scene) flood(from, to *place, port uint16) {
	s.t.Helper()
	server := s.serve(to, "udp", port)
	ctx, stop := context.WithCancel(context.Background())
	var group sync.WaitGroup
	var sent [2]int
	for family := range both {
		socket, err := from.Dial(ctx, "udp", to.at(family, port))
		s.must(err)
		group.Go(func() {
			defer socket.Close() // nothing waits in it
			for pace := time.NewTicker(2 * time.Millisecond); ctx.Err() == nil; <-pace.C {
				if _, err := socket.Write([]byte("hello\n")); err == nil {
					sent[family]++
				}
			}
		})
	}
	s.t.Cleanup(func() {
		stop()
		group.Wait()
		if server.Reached() > 0 || sent[0] == 0 || sent[1] == 0 {
			s.t.Errorf("of %d datagrams that are denied %d arrived", sent, server.Reached())
		}
	})
}

// ctl runs perimeterctl and checks its exit code.
func (s *scene) ctl(code int, args ...string) deployment.Result {
	s.t.Helper()
	result, err := s.Ctl(s.soon(), args...)
	s.must(err)
	if result.Code != code {
		s.t.Fatalf("perimeterctl %s ended with %d, want %d\n%s%s", strings.Join(args, " "), result.Code, code, result.Stdout, result.Stderr)
	}
	return result
}

// status is what perimeterctl status tells, with the exit code that it must
// have.
func (s *scene) status(code int) *api.Status {
	s.t.Helper()
	status := new(api.Status)
	s.must(json.Unmarshal([]byte(s.ctl(code, "status", "-o", "json").Stdout), status))
	return status
}

// record waits for a record, of those after a mark.
func (s *scene) record(mark int, what string, wanted func(*decisionlog.Record) bool) *decisionlog.Record {
	s.t.Helper()
	r, err := s.Records.Await(s.soon(), mark, wanted)
	if err != nil {
		const shown = 50
		var others []byte
		for _, r := range s.Records.After(max(mark, s.Records.Len()-shown)) {
			others = append(r.AppendLine(others, decisionlog.LineStyle{}), '\n')
		}
		s.t.Fatalf("no record of %s: %v; there are:\n%s", what, err, others)
	}
	return r
}

// inbound finds the record of an inbound attempt.
func inbound(operation decisionlog.Operation, from *place, family int, port uint16) func(*decisionlog.Record) bool {
	return func(r *decisionlog.Record) bool {
		p := &r.Properties
		return r.Operation == operation && p.Source.IPAddress == from.addresses[family] && p.Perimeterd.Local.Port == port
	}
}
