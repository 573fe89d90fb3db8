package names

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// zone is resolvers that a test writes down.
type zone struct {
	mu      sync.Mutex
	records map[string][]string // "A name" or "AAAA name" to records in zone file form
	fails   map[string]error    // by server, or "udp server"
	cut     bool                // answers over UDP are truncated
	rcode   int
	asked   []string
}

func (z *zone) exchange(_ context.Context, question *dns.Msg, network, server string) (*dns.Msg, error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	q := question.Question[0]
	kind := dns.TypeToString[q.Qtype]
	z.asked = append(z.asked, fmt.Sprintf("%s %s %s %s", network, server, kind, q.Name))
	if err := z.fails[server]; err != nil {
		return nil, err
	}
	response := new(dns.Msg).SetReply(question)
	response.Rcode = z.rcode
	if z.cut && network == "udp" {
		response.Truncated = true
		return response, nil
	}
	for _, text := range z.records[kind+" "+strings.TrimSuffix(q.Name, ".")] {
		record, err := dns.NewRR(text)
		if err != nil {
			panic(err)
		}
		if soa, ok := record.(*dns.SOA); ok {
			response.Ns = append(response.Ns, soa)
			continue
		}
		response.Answer = append(response.Answer, record)
	}
	return response, nil
}

func (z *zone) set(change func(*zone)) {
	z.mu.Lock()
	defer z.mu.Unlock()
	change(z)
}

// take returns what was asked since the last call.
func (z *zone) take() []string {
	z.mu.Lock()
	defer z.mu.Unlock()
	asked := z.asked
	z.asked = nil
	return asked
}

func servers(list ...string) func() ([]string, error) {
	return func() ([]string, error) { return list, nil }
}

// running is a Resolver whose Run goes on in a bubble of fake time.
func running(t *testing.T, z *zone, o Options) (*Resolver, func()) {
	t.Helper()
	o.Exchange = z.exchange
	if o.Servers == nil {
		o.Servers = servers("one:53", "two:53")
	}
	r, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	<-r.Ready()
	return r, func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

func expect(t *testing.T, r *Resolver, name string, want ...string) {
	t.Helper()
	var got []string
	for _, a := range r.Addresses()[name] {
		got = append(got, a.String())
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s: %v, want %v", name, got, want)
	}
}

func status(t *testing.T, r *Resolver) Status {
	t.Helper()
	all, err := r.Status()
	if err != nil {
		t.Fatal(err)
	}
	return all[0]
}

func TestResolvesBothFamiliesAndFollowsAliases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := &zone{records: map[string][]string{
			"A vault.example.com": {
				"vault.example.com. 300 IN CNAME a.cdn.example.net.",
				"A.CDN.example.net. 90 IN CNAME b.cdn.example.net.",
				"b.cdn.example.net. 300 IN A 192.0.2.7",
				"b.cdn.example.net. 300 IN A 192.0.2.6",
				"evil.example.org. 300 IN A 203.0.113.66", // of nobody who was asked for
			},
			"AAAA vault.example.com": {
				"vault.example.com. 300 IN AAAA 2001:db8::7",
				"vault.example.com. 300 IN AAAA ::ffff:192.0.2.99", // no packet carries it
			},
		}}
		r, stop := running(t, z, Options{})
		defer stop()
		wanted := []string{"vault.example.com"}
		if r.Tried(wanted) {
			t.Error("tried before it was asked for")
		}
		r.Want(wanted)
		<-r.Changed()
		expect(t, r, "vault.example.com", "192.0.2.6", "192.0.2.7", "2001:db8::7")
		if !r.Tried(wanted) || r.Tried([]string{"other.example.com"}) {
			t.Error("what was tried")
		}
		// The least TTL of the chain is 90 s, and it is asked for again before.
		if s := status(t, r); time.Until(s.Next) != 72*time.Second || s.Error != "" {
			t.Errorf("status: %+v", s)
		}
	})
}

func TestKeepsAddressesWhenResolversFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := &zone{records: map[string][]string{"A n": {"n. 100 IN A 192.0.2.1"}}}
		r, stop := running(t, z, Options{})
		defer stop()
		r.Want([]string{"n"})
		<-r.Changed()
		z.set(func(z *zone) {
			z.fails = map[string]error{"one:53": errors.New("no route"), "two:53": errors.New("time out")}
		})
		z.take()
		time.Sleep(61 * time.Second) // of fake time; then the next question was due
		synctest.Wait()
		expect(t, r, "n", "192.0.2.1")
		s := status(t, r)
		if s.Failures != 1 || !strings.Contains(s.Error, "A n at one:53: no route") || !strings.Contains(s.Error, "two:53: time out") {
			t.Errorf("status: %+v", s)
		}
		if asked := z.take(); len(asked) != 8 { // two families, two servers, two rounds
			t.Errorf("asked %q", asked)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := len(z.take()); n < 8*10 || n > 8*25 {
			t.Errorf("%d questions in an hour of failures: the pause does not grow, or too far", n)
		}
		z.set(func(z *zone) { z.fails = nil })
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if s := status(t, r); s.Failures != 0 || s.Error != "" {
			t.Errorf("status after the repair: %+v", s)
		}
	})
}

func TestAsksTheNextServerAndOverTCP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := &zone{
			records: map[string][]string{"A n": {"n. 100 IN A 192.0.2.1"}},
			fails:   map[string]error{"one:53": errors.New("no route")},
			cut:     true,
		}
		r, stop := running(t, z, Options{})
		defer stop()
		r.Want([]string{"n"})
		<-r.Changed()
		expect(t, r, "n", "192.0.2.1")
		want := []string{
			"udp one:53 A n.", "udp two:53 A n.", "tcp two:53 A n.",
			"udp one:53 AAAA n.", "udp two:53 AAAA n.", "tcp two:53 AAAA n.",
		}
		if asked := z.take(); !slices.Equal(asked, want) {
			t.Errorf("asked %q, want %q", asked, want)
		}
	})
}

func TestAddressThatDisappeared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := &zone{records: map[string][]string{"A n": {"n. 100 IN A 192.0.2.1", "n. 100 IN A 192.0.2.2", "n. 100 IN A 192.0.2.3"}}}
		var mu sync.Mutex
		used := map[netip.Addr]bool{netip.MustParseAddr("192.0.2.2"): true}
		r, stop := running(t, z, Options{Grace: 5 * time.Minute, InUse: func(asked []netip.Addr) map[netip.Addr]bool {
			mu.Lock()
			defer mu.Unlock()
			out := map[netip.Addr]bool{}
			for _, a := range asked {
				out[a] = used[a]
			}
			return out
		}})
		defer stop()
		r.Want([]string{"n"})
		<-r.Changed()
		z.set(func(z *zone) { z.records["A n"] = []string{"n. 3600 IN A 192.0.2.3"} })
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		expect(t, r, "n", "192.0.2.1", "192.0.2.2", "192.0.2.3") // within the grace
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		expect(t, r, "n", "192.0.2.2", "192.0.2.3") // a connection uses it
		mu.Lock()
		clear(used)
		mu.Unlock()
		time.Sleep(15 * time.Minute)
		synctest.Wait()
		expect(t, r, "n", "192.0.2.3")
	})
}

func TestNoSuchName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := &zone{rcode: dns.RcodeNameError, records: map[string][]string{"A n": {"example. 900 IN SOA a. b. 1 1 1 1 200"}}}
		r, stop := running(t, z, Options{})
		defer stop()
		r.Want([]string{"n"})
		<-r.Changed() // it was tried
		expect(t, r, "n")
		if s := status(t, r); s.Error != "" || time.Until(s.Next) != time.Minute {
			t.Errorf("status: %+v, next in %s", s, time.Until(s.Next))
		}
		z.set(func(z *zone) { z.rcode = dns.RcodeServerFailure })
		time.Sleep(61 * time.Second)
		synctest.Wait()
		if s := status(t, r); !strings.Contains(s.Error, "the server says SERVFAIL") {
			t.Errorf("status: %+v", s)
		}
	})
}

func TestFloorCeilingAndLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := &zone{records: map[string][]string{
			"A short": {"short. 1 IN A 192.0.2.1"}, "AAAA short": {"short. 1 IN AAAA 2001:db8::1"},
			"A long": {"long. 4000000 IN A 192.0.2.1"}, "AAAA long": {"long. 4000000 IN AAAA 2001:db8::1"},
		}}
		for i := range 20 {
			z.records["A many"] = append(z.records["A many"], fmt.Sprintf("many. 100 IN A 192.0.2.%d", i))
		}
		r, stop := running(t, z, Options{Limit: 10})
		defer stop()
		r.Want([]string{"short", "long", "many"})
		synctest.Wait()
		all, _ := r.Status()
		if d := time.Until(all[0].Next); all[0].Name != "long" || d != time.Duration(float64(24*time.Hour)*refreshEarly) {
			t.Errorf("long: next in %s", d)
		}
		if len(all[1].Addresses) != 10 || all[1].Dropped != 10 {
			t.Errorf("many: %+v", all[1])
		}
		if d := time.Until(all[2].Next); d != time.Minute {
			t.Errorf("short: next in %s", d)
		}
		r.Want([]string{"long"})
		if got, _ := r.Status(); len(got) != 1 {
			t.Errorf("names that nobody wants any more: %+v", got)
		}
	})
}

func TestAddressesOutliveTheProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		state := filepath.Join(t.TempDir(), "names.json")
		z := &zone{records: map[string][]string{"A n": {"n. 100 IN A 192.0.2.1"}}}
		r, stop := running(t, z, Options{State: state})
		r.Want([]string{"n"})
		<-r.Changed()
		stop()

		z.set(func(z *zone) { z.fails = map[string]error{"one:53": errors.New("x"), "two:53": errors.New("x")} })
		again, stop := running(t, z, Options{State: state})
		expect(t, again, "n") // nobody wants it yet
		again.Want([]string{"n"})
		expect(t, again, "n", "192.0.2.1")
		if !again.Tried([]string{"n"}) {
			t.Error("a name with addresses from before must not be waited for")
		}
		synctest.Wait()
		expect(t, again, "n", "192.0.2.1")
		stop()

		if err := os.WriteFile(state, []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
		broken, err := New(Options{Servers: servers("one:53"), State: state})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := broken.Status(); err == nil {
			t.Error("a state file that cannot be read is not told")
		}
	})
}

func TestNoResolverIsConfigured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, stop := running(t, &zone{}, Options{Servers: servers()})
		defer stop()
		r.Want([]string{"n"})
		synctest.Wait()
		if s := status(t, r); !strings.Contains(s.Error, "no resolver is configured") {
			t.Errorf("status: %+v", s)
		}
	})
}

func TestAnswerToAnotherQuestion(t *testing.T) {
	t.Parallel()
	r, err := New(Options{Servers: servers("one:53"), Exchange: func(_ context.Context, q *dns.Msg, _, _ string) (*dns.Msg, error) {
		other := new(dns.Msg).SetQuestion("other.", dns.TypeA)
		return new(dns.Msg).SetReply(other), nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	if a := r.ask(t.Context(), []string{"one:53"}, "n", four); a.err == nil || !strings.Contains(a.err.Error(), "another question") {
		t.Errorf("got %+v", a)
	}
}

func TestServersOf(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(path, []byte("search example.com\nnameserver 192.0.2.53\nnameserver 2001:db8::53\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := ServersOf(nil, path)()
	if err != nil || !slices.Equal(got, []string{"192.0.2.53:53", "[2001:db8::53]:53"}) {
		t.Errorf("got %q, %v", got, err)
	}
	if got, _ := ServersOf([]string{"198.51.100.1:53"}, path)(); !slices.Equal(got, []string{"198.51.100.1:53"}) {
		t.Errorf("configured: %q", got)
	}
	if _, err := ServersOf(nil, path+"x")(); err == nil {
		t.Error("a missing resolv.conf is no error")
	}
}

// TestOverTheNetwork asks a server that is one.
func TestOverTheNetwork(t *testing.T) {
	t.Parallel()
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		response := new(dns.Msg).SetReply(q)
		_, udp := w.RemoteAddr().(interface{ AddrPort() netip.AddrPort })
		if response.Truncated = udp && w.LocalAddr().Network() == "udp"; !response.Truncated && q.Question[0].Qtype == dns.TypeA {
			record, _ := dns.NewRR("n. 100 IN A 192.0.2.1")
			response.Answer = append(response.Answer, record)
		}
		_ = w.WriteMsg(response) // the client notices
	})
	address := serve(t, handler)
	r, err := New(Options{Servers: servers(address)})
	if err != nil {
		t.Fatal(err)
	}
	if a := r.ask(t.Context(), []string{address}, "n", four); a.err != nil || len(a.addresses) != 1 {
		t.Errorf("got %+v", a)
	}
}

// serve answers on one port over UDP and TCP.
func serve(t *testing.T, handler dns.Handler) string {
	t.Helper()
	started := make(chan struct{}, 2)
	udp := &dns.Server{Addr: "127.0.0.1:0", Net: "udp", Handler: handler, NotifyStartedFunc: func() { started <- struct{}{} }}
	go func() { _ = udp.ListenAndServe() }() // it is shut down
	<-started
	address := udp.PacketConn.LocalAddr().String()
	tcp := &dns.Server{Addr: address, Net: "tcp", Handler: handler, NotifyStartedFunc: func() { started <- struct{}{} }}
	go func() { _ = tcp.ListenAndServe() }()
	<-started
	t.Cleanup(func() {
		if err := errors.Join(udp.Shutdown(), tcp.Shutdown()); err != nil {
			t.Error(err)
		}
	})
	return address
}
