package traffic_test

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/perimeterd/perimeterd/tests/privileged"
	"github.com/perimeterd/perimeterd/tests/traffic"
	"github.com/perimeterd/perimeterd/tests/world"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// scene is a client and a server on two sides of a router.
type scene struct{ client, server, router *world.Host }

const (
	server4 = "10.20.0.5"
	server6 = "fd20::5"

	brief = 300 * time.Millisecond // for what does not answer
	ample = 10 * time.Second       // for what does; never used up
)

func newScene(t *testing.T) *scene {
	t.Helper()
	privileged.Require(t)
	w := world.New(t)
	s := &scene{router: w.Router("router"), client: w.Host("client"), server: w.Host("server")}
	w.Uplink(s.client, s.router, "10.30.0.9/24", "fd30::9/64")
	w.Uplink(s.server, s.router, server4+"/24", server6+"/64")
	return s
}

// serve starts a server on the scene's server for the time of the test.
func (s *scene) serve(t *testing.T, start func(traffic.Network, string) (*traffic.Server, error), address string) *traffic.Server {
	t.Helper()
	server, err := start(s.server, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	return server
}

// cut makes the router drop what is for the server, without a word.
func (s *scene) cut(t *testing.T) {
	t.Helper()
	_, all, err := net.ParseCIDR(server4 + "/32")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.router.Netlink().RouteAdd(&netlink.Route{Dst: all, Type: unix.RTN_BLACKHOLE}); err != nil {
		t.Fatal(err)
	}
}

func TestTry(t *testing.T) {
	s := newScene(t)
	for _, host := range []string{server4, server6} {
		database := s.serve(t, traffic.Database, net.JoinHostPort(host, "5432"))
		broker := s.serve(t, traffic.Broker, net.JoinHostPort(host, "5672"))
		nobody := map[string]string{server4: "10.20.0.99", server6: "fd20::99"}[host]
		nowhere := map[string]string{server4: "10.99.0.1", server6: "fd99::1"}[host]
		for _, test := range []struct {
			network, address string
			from             *world.Host
			patience         time.Duration
			want             traffic.Outcome
		}{
			{"tcp", database.Address, s.client, ample, traffic.Connected},
			{"udp", broker.Address, s.client, ample, traffic.Connected},
			{"tcp", net.JoinHostPort(host, "5433"), s.client, ample, traffic.Refused},
			{"udp", net.JoinHostPort(host, "5673"), s.client, ample, traffic.Refused},
			{"tcp", net.JoinHostPort(nobody, "5432"), s.client, brief, traffic.TimedOut},
			{"udp", net.JoinHostPort(nobody, "5672"), s.client, brief, traffic.TimedOut},
			{"tcp", net.JoinHostPort(nowhere, "5432"), s.router, ample, traffic.Unreachable},
			{"tcp", "no address", s.client, ample, traffic.Failed},
		} {
			got := traffic.Try(t.Context(), test.from, test.network, test.address, test.patience)
			if got.Outcome != test.want {
				t.Errorf("%s to %s: %v (%v), want %v", test.network, test.address, got.Outcome, got.Err, test.want)
			}
			if (got.Err == nil) != (got.Outcome == traffic.Connected) {
				t.Errorf("%s to %s: %v with error %v", test.network, test.address, got.Outcome, got.Err)
			}
		}
		if database.Reached() != 1 || broker.Reached() != 1 {
			t.Errorf("%s: database reached %d times, broker %d, want once each", host, database.Reached(), broker.Reached())
		}
	}
}

func TestVault(t *testing.T) {
	s := newScene(t)
	for _, host := range []string{server4, server6} {
		vault := s.serve(t, traffic.Vault, net.JoinHostPort(host, "8200"))
		got, err := traffic.Fetch(t.Context(), s.client, vault.Address, "orders")
		if want := traffic.SecretOf("orders"); err != nil || got != want {
			t.Errorf("fetched %q, %v, want %q", got, err, want)
		}
		if _, err := traffic.Fetch(t.Context(), s.client, vault.Address, "no/such"); err == nil {
			t.Error("a path that is no name was answered")
		}
		if got := vault.Reached(); got != 1 {
			t.Errorf("reached %d times, want once", got)
		}
		_, err = traffic.Fetch(t.Context(), s.client, net.JoinHostPort(host, "8201"), "orders")
		if got := traffic.OutcomeOf(err); got != traffic.Refused {
			t.Errorf("without a vault: %v (%v), want %v", got, err, traffic.Refused)
		}
	}
}

func TestUpload(t *testing.T) {
	s := newScene(t)
	for _, host := range []string{server4, server6} {
		store := s.serve(t, traffic.Store, net.JoinHostPort(host, "9000"))
		for _, size := range []int64{0, 1, 8 << 20} {
			if err := traffic.Upload(t.Context(), s.client, store.Address, size); err != nil {
				t.Errorf("%d bytes to %s: %v", size, store.Address, err)
			}
		}
	}
}

func TestUploadNoticesChangedBytes(t *testing.T) {
	s := newScene(t)
	listener, err := s.server.Listen("tcp", server4+":9000")
	if err != nil {
		t.Fatal(err)
	}
	go func() { // a store that hashes nothing
		conn, err := listener.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		if _, err := io.CopyN(io.Discard, conn, int64(len("1000\n")+1000)); err != nil {
			t.Error(err)
		}
		if _, err := io.WriteString(conn, "0123\n"); err != nil {
			t.Error(err)
		}
	}()
	if err := traffic.Upload(t.Context(), s.client, server4+":9000", 1000); err == nil {
		t.Error("a wrong checksum was taken")
	}
}

func TestUploadEndsWithItsContext(t *testing.T) {
	s := newScene(t)
	store := s.serve(t, traffic.Store, server4+":9000")
	ctx, cancel := context.WithTimeout(t.Context(), brief)
	defer cancel()
	const endless = 1 << 50
	if err := traffic.Upload(ctx, s.client, store.Address, endless); traffic.OutcomeOf(err) != traffic.TimedOut {
		t.Errorf("the upload ended with %v", err)
	}
}

func TestConversationGoesOnUntilStopped(t *testing.T) {
	s := newScene(t)
	for _, network := range []string{"tcp", "udp"} {
		start := map[string]func(traffic.Network, string) (*traffic.Server, error){"tcp": traffic.Database, "udp": traffic.Broker}[network]
		server := s.serve(t, start, net.JoinHostPort(server6, "5432"))
		talk, err := traffic.Converse(t.Context(), s.client, network, server.Address, traffic.Pace{Every: time.Millisecond, Patience: ample})
		if err != nil {
			t.Fatal(err)
		}
		if err := talk.Await(t.Context(), 20); err != nil {
			t.Error(err)
		}
		report := talk.Stop()
		if report.Err != nil || report.Lost != 0 || report.Answers < 21 || report.LongestGap <= 0 || report.LongestGap > ample {
			t.Errorf("%s: %+v", network, report)
		}
		if err := talk.Await(t.Context(), 1); err == nil {
			t.Error("Await of a stopped conversation succeeded")
		}
		if later := talk.Report(); later != report {
			t.Errorf("the report changed after the end: %+v, then %+v", report, later)
		}
	}
}

func TestConversationEndsWithItsContext(t *testing.T) {
	s := newScene(t)
	server := s.serve(t, traffic.Database, server4+":5432")
	ctx, cancel := context.WithCancel(t.Context())
	talk, err := traffic.Converse(ctx, s.client, "tcp", server.Address, traffic.Pace{Patience: ample})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	<-talk.Ended()
	if report := talk.Report(); report.Err != nil {
		t.Errorf("%+v", report)
	}
}

func TestConversationOverTCPBreaks(t *testing.T) {
	t.Run("cut", func(t *testing.T) {
		s := newScene(t)
		server := s.serve(t, traffic.Database, server4+":5432")
		talk, err := traffic.Converse(t.Context(), s.client, "tcp", server.Address, traffic.Pace{Patience: brief})
		if err != nil {
			t.Fatal(err)
		}
		s.cut(t)
		<-talk.Ended()
		report := talk.Report()
		if got := traffic.OutcomeOf(report.Err); got != traffic.TimedOut || report.LongestGap < brief {
			t.Errorf("%v: %+v, want %v after %s", got, report, traffic.TimedOut, brief)
		}
	})
	t.Run("server gone", func(t *testing.T) {
		s := newScene(t)
		server := s.serve(t, traffic.Database, server4+":5432")
		talk, err := traffic.Converse(t.Context(), s.client, "tcp", server.Address, traffic.Pace{Patience: ample})
		if err != nil {
			t.Fatal(err)
		}
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		<-talk.Ended()
		if report := talk.Report(); report.Err == nil {
			t.Errorf("%+v", report)
		}
	})
	t.Run("never begun", func(t *testing.T) {
		s := newScene(t)
		_, err := traffic.Converse(t.Context(), s.client, "tcp", server4+":5432", traffic.Pace{Patience: ample})
		if got := traffic.OutcomeOf(err); got != traffic.Refused {
			t.Errorf("%v (%v), want %v", got, err, traffic.Refused)
		}
	})
}

// TestConversationOverUDPSurvivesLoss has a broker that is silent for a while.
func TestConversationOverUDPSurvivesLoss(t *testing.T) {
	s := newScene(t)
	socket, err := s.server.ListenPacket("udp", server4+":5672")
	if err != nil {
		t.Fatal(err)
	}
	const silent = 3
	served := make(chan error, 1)
	go func() {
		buffer := make([]byte, 64)
		for received := 1; ; received++ {
			n, from, err := socket.ReadFrom(buffer)
			if err != nil {
				served <- err
				return
			}
			if received > 1 && received <= 1+silent {
				continue
			}
			if _, err := socket.WriteTo(append([]byte("ok "), buffer[:n]...), from); err != nil {
				served <- err
				return
			}
		}
	}()
	const patience = 50 * time.Millisecond
	talk, err := traffic.Converse(t.Context(), s.client, "udp", server4+":5672", traffic.Pace{Every: time.Millisecond, Patience: patience})
	if err != nil {
		t.Fatal(err)
	}
	if err := talk.Await(t.Context(), 10); err != nil {
		t.Error(err)
	}
	report := talk.Stop()
	if report.Err != nil || report.Lost < silent || report.LongestGap < silent*patience {
		t.Errorf("%+v, want %d lost and a gap of %s at least", report, silent, silent*patience)
	}
	if err := socket.Close(); err != nil {
		t.Error(err)
	}
	if err := <-served; !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}
