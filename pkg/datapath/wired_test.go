package datapath

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/tests/privileged"
	"github.com/perimeterd/perimeterd/tests/traffic"
	"github.com/perimeterd/perimeterd/tests/world"
)

// wired is a member and a partner with nothing between them but a line of some
// kind, on top of a veth pair.
type wired struct {
	*Datapath
	world           *world.World
	member, partner *world.Host
	// The veth pair.
	memberVeth, partnerVeth world.Interface
	before                  map[policy.Reason]uint64 // counted by the data path when it began to judge
}

// What the veth pair has where it is the underlay.
const (
	memberUnder4, partnerUnder4 = "192.0.2.0", "192.0.2.1"
	memberUnder6, partnerUnder6 = "fd99::", "fd99::1"
)

// newWired makes the two hosts and the veth pair, without addresses.
func newWired(t *testing.T) *wired {
	t.Helper()
	privileged.Require(t)
	w := &wired{world: world.New(t)}
	w.member, w.partner = w.world.Host("member"), w.world.Host("partner")
	w.memberVeth, w.partnerVeth = w.world.Connect(w.member, w.partner)
	return w
}

// underlay gives the veth pair addresses of its own, for what tunnels through it.
func (w *wired) underlay() {
	w.memberVeth.Address(memberUnder4+"/31", memberUnder6+"/127")
	w.partnerVeth.Address(partnerUnder4+"/31", partnerUnder6+"/127")
}

// join gives both ends of a line the addresses of member and partner, and each
// the way to the other.
func (w *wired) join(t *testing.T, member, partner world.Interface) {
	t.Helper()
	member.Address(member4+"/24", member6+"/64")
	partner.Address(partner4+"/24", partner6+"/64")
	w.route(t, member, "198.51.100.0/24", "2001:db8:100::/48")
	w.route(t, partner, "10.20.0.0/24", "fd20::/64")
}

// route sends what is for the prefixes over an interface.
func (w *wired) route(t *testing.T, over world.Interface, prefixes ...string) {
	t.Helper()
	for _, text := range prefixes {
		_, to, err := net.ParseCIDR(text)
		if err != nil {
			t.Fatal(err)
		}
		route := &netlink.Route{Dst: to, LinkIndex: over.Index}
		if to.IP.To4() != nil {
			route.Scope = netlink.SCOPE_LINK
		}
		if err := over.Host.Netlink().RouteAdd(route); err != nil {
			t.Fatalf("route %s over %s: %v", text, over.Name, err)
		}
	}
}

// add makes a link on a host and brings it up. The link goes with the host.
func add(host *world.Host, link netlink.Link) (world.Interface, error) {
	name := link.Attrs().Name
	if err := host.Netlink().LinkAdd(link); err != nil {
		return world.Interface{}, fmt.Errorf("add %s %s: %w", link.Type(), name, err)
	}
	return raise(host, name)
}

// raise brings a link up.
func raise(host *world.Host, name string) (world.Interface, error) {
	link, err := host.Netlink().LinkByName(name)
	if err != nil {
		return world.Interface{}, fmt.Errorf("find %s: %w", name, err)
	}
	if err := host.Netlink().LinkSetUp(link); err != nil {
		return world.Interface{}, fmt.Errorf("bring up %s: %w", name, err)
	}
	return world.Interface{Host: host, Name: name, Index: link.Attrs().Index, MAC: link.Attrs().HardwareAddr}, nil
}

// isAbsent reports whether a kernel refused a kind of device, or of socket, that
// it does not have.
func isAbsent(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) ||
		errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.ESOCKTNOSUPPORT) || errors.Is(err, unix.EAFNOSUPPORT)
}

// enforce has the member's packets judged on these interfaces of it from now on:
// partners may come to port 5432, and the member may go to their port 443.
func (w *wired) enforce(t *testing.T, options Options, interfaces ...world.Interface) {
	t.Helper()
	w.govern(t, options, wiredPolicy(), interfaces...)
}

// govern is enforce with another policy.
func (w *wired) govern(t *testing.T, options Options, p *policy.Policy, interfaces ...world.Interface) {
	t.Helper()
	w.governAs(t, options, p, hereFacts(), interfaces...)
}

// governAs is govern with other facts.
func (w *wired) governAs(t *testing.T, options Options, p *policy.Policy, facts *policy.Facts, interfaces ...world.Interface) {
	t.Helper()
	options.Root = privileged.BPFFS(t) + "/perimeterd"
	w.judgeBy(t, loaded(t, options, p, facts), interfaces...)
}

// loaded is a data path with a policy in force.
func loaded(t *testing.T, options Options, p *policy.Policy, facts *policy.Facts) *Datapath {
	t.Helper()
	d := opened(t, options)
	putInForce(t, d, p, facts)
	return d
}

func putInForce(t *testing.T, d *Datapath, p *policy.Policy, facts *policy.Facts) {
	t.Helper()
	tables, legend := compiled(t, p, facts)
	if _, err := d.Apply(tables, legend, nil, nil); err != nil {
		t.Fatal(err)
	}
}

// opened is a data path that the test closes.
func opened(t *testing.T, options Options) *Datapath {
	t.Helper()
	d, err := Open(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return d
}

// loads are data paths that the parts of one test share, each with options of its
// own: to load one takes longest where machines are emulated. A part detaches them
// from its interfaces.
type loads struct {
	test      *testing.T
	byOptions map[string]*Datapath
}

func newLoads(test *testing.T) *loads { return &loads{test, map[string]*Datapath{}} }

// with returns the data path of these options, without flows and fragments.
func (l *loads) with(t *testing.T, options Options) *Datapath {
	t.Helper()
	key := fmt.Sprintf("%+v", options)
	d := l.byOptions[key]
	if d == nil {
		privileged.Require(l.test)
		if options.Root == "" {
			options.Root = privileged.BPFFS(l.test) + "/perimeterd"
		}
		d = opened(l.test, options)
		l.byOptions[key] = d
	}
	forgetFlows(t, d)
	emptyTable[perimeterFragmentKey, perimeterFragment](t, d.objects.Fragments)
	return d
}

// enforceBy is enforce with a data path that was loaded before.
func (w *wired) enforceBy(t *testing.T, d *Datapath, interfaces ...world.Interface) {
	t.Helper()
	w.governBy(t, d, wiredPolicy(), interfaces...)
}

// governBy is govern with a data path that was loaded before.
func (w *wired) governBy(t *testing.T, d *Datapath, p *policy.Policy, interfaces ...world.Interface) {
	t.Helper()
	putInForce(t, d, p, hereFacts())
	w.judgeBy(t, d, interfaces...)
}

// judgeBy has a data path judge the member's packets on these interfaces of it,
// until the test ends.
func (w *wired) judgeBy(t *testing.T, d *Datapath, interfaces ...world.Interface) {
	t.Helper()
	w.Datapath, w.before = d, countedBy(t, d)
	err := w.member.Run(func() error {
		for _, i := range interfaces {
			if _, err := d.Attach(uint32(i.Index), Uplink); err != nil {
				return err
			}
			t.Cleanup(func() {
				if d.closed {
					return // then it ends with the interface
				}
				if err := w.member.Run(func() error { return d.Detach(uint32(i.Index)) }); err != nil {
					t.Error(err)
				}
			})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// wiredPolicy admits partners to the member's port 5432, and the member to theirs
// of the number 443.
func wiredPolicy() *policy.Policy {
	return memberPolicy(policy.Enforced, partnersOn5432(), toPartnersOn443())
}

// toPartnersOn443 lets the member go out to the partners' port 443.
func toPartnersOn443() policy.AccessRule {
	rule := partnersOn5432()
	rule.Name, rule.Direction = "to-partners", policy.Outbound
	rule.Ports = []policy.Ports{{Protocol: policy.ProtocolTCP, First: 443, Last: 443}, {Protocol: policy.ProtocolUDP, First: 443, Last: 443}}
	return rule
}

// families are which of IPv4 and IPv6 a line carries.
type families struct{ v4, v6 bool }

var bothFamilies = families{true, true}

// addresses are the member's and the partner's, by family.
func (f families) addresses() (member, partner []string) {
	if f.v4 {
		member, partner = append(member, member4), append(partner, partner4)
	}
	if f.v6 {
		member, partner = append(member, member6), append(partner, partner6)
	}
	return member, partner
}

// serve starts the servers that callAll calls: on an allowed port a store for
// TCP, beside it a database, on both a broker for UDP.
func (w *wired) serve(t *testing.T) {
	t.Helper()
	for _, at := range []struct {
		host            *world.Host
		allowed, beside string
	}{{w.member, ":5432", ":5433"}, {w.partner, ":443", ":444"}} {
		for _, start := range []func() (*traffic.Server, error){
			func() (*traffic.Server, error) { return traffic.Store(at.host, at.allowed) },
			func() (*traffic.Server, error) { return traffic.Database(at.host, at.beside) },
			func() (*traffic.Server, error) { return traffic.Broker(at.host, at.allowed) },
			func() (*traffic.Server, error) { return traffic.Broker(at.host, at.beside) },
		} {
			server, err := start()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { server.Close() })
		}
	}
}

// enough is how long is waited for what must come, and shortly for what must not.
const (
	enough  = 20 * time.Second
	shortly = 300 * time.Millisecond
)

// callAll calls the servers of both ends from the other one, at once and by every
// family: with so many bytes over TCP, by UDP, and beside each allowed port, where
// the outcome must be the one given.
func (w *wired) callAll(t *testing.T, over families, size int64, beside traffic.Outcome) {
	t.Helper()
	var calls sync.WaitGroup
	call := func(from *world.Host, network, address, port string, want traffic.Outcome) {
		to := net.JoinHostPort(address, port)
		patience := shortly
		if want == traffic.Connected {
			patience = enough
		}
		calls.Go(func() {
			var err error
			if network == "tcp" && (port == "5432" || port == "443") {
				ctx, cancel := context.WithTimeout(context.Background(), patience)
				defer cancel()
				err = traffic.Upload(ctx, from, to, size)
			} else {
				err = try(from, network, to, patience)
			}
			if got := traffic.OutcomeOf(err); got != want {
				t.Errorf("%s to %s by %s: %v (%v), want %v", from.Name, to, network, got, err, want)
			}
		})
	}
	members, partners := over.addresses()
	for _, network := range []string{"tcp", "udp"} {
		for _, member := range members {
			call(w.partner, network, member, "5432", traffic.Connected)
			call(w.partner, network, member, "5433", beside)
		}
		for _, partner := range partners {
			call(w.member, network, partner, "443", traffic.Connected)
			call(w.member, network, partner, "444", beside)
		}
	}
	calls.Wait()
}

// try is traffic.Try, but asks again over UDP, of which the kernel loses some when
// the machine is busy.
func try(from *world.Host, network, to string, patience time.Duration) error {
	begin := time.Now()
	for {
		err := traffic.Try(context.Background(), from, network, to, min(patience, time.Second)).Err
		if traffic.OutcomeOf(err) != traffic.TimedOut || time.Since(begin) >= patience {
			return err
		}
	}
}

// counted reads how many packets were counted by each reason since judgeBy.
func (w *wired) counted(t *testing.T) map[policy.Reason]uint64 {
	t.Helper()
	counted := countedBy(t, w.Datapath)
	for reason, n := range w.before {
		if counted[reason] -= n; counted[reason] == 0 {
			delete(counted, reason)
		}
	}
	return counted
}

func countedBy(t *testing.T, d *Datapath) map[policy.Reason]uint64 {
	t.Helper()
	c, err := d.Counters()
	if err != nil {
		t.Fatal(err)
	}
	out := map[policy.Reason]uint64{}
	for reason, count := range c.Packets {
		if count.Packets > 0 {
			out[reason] = count.Packets
		}
	}
	return out
}

// judgeable are the reasons of packets that were understood.
var judgeable = []policy.Reason{
	"access-rule", "no-access-rule", "same-perimeter", "established", "related", "not-ip", "ungoverned", "link-failsafe",
	"fragment-follows", "fragment-denied", "no-policy",
}

// expectUnderstood fails the test if any packet was counted as one that cannot be
// judged.
func expectUnderstood(t *testing.T, counted map[policy.Reason]uint64) {
	t.Helper()
	for reason, n := range counted {
		if !slices.Contains(judgeable, reason) {
			t.Errorf("%d packets were counted as %s", n, reason)
		}
	}
}

// flowsOf returns the flows there are, described, of the protocol.
func (w *wired) flowsOf(t *testing.T, protocol uint8) []Flow {
	t.Helper()
	var out []Flow
	if err := w.Flows(func(f Flow) bool {
		if f.Protocol == protocol {
			out = append(out, f)
		}
		return true
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

// describe writes counters down in the order of their names.
func describe(counted map[policy.Reason]uint64) string {
	var out []string
	for reason, n := range counted {
		out = append(out, fmt.Sprintf("%s %d", reason, n))
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// until waits for what is asked to become true, asking again whenever there may be
// news, and fails the test if that takes too long.
func until(t *testing.T, what string, reached func() bool) {
	t.Helper()
	deadline := time.NewTimer(enough)
	defer deadline.Stop()
	news := time.NewTicker(2 * time.Millisecond)
	defer news.Stop()
	for !reached() {
		select {
		case <-news.C:
		case <-deadline.C:
			t.Fatalf("%s: not within %v", what, enough)
		}
	}
}
