package world_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/perimeterd/perimeterd/tests/privileged"
	"github.com/perimeterd/perimeterd/tests/world"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// exchange sends one message from a host to an address, where another host
// listens, and returns an error unless it arrives.
func exchange(from, to *world.Host, network, address string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	const message = "hello"
	heard := make(chan error, 1)
	hear := func(read func([]byte) (int, error)) {
		buf := make([]byte, len(message))
		_, err := read(buf)
		if err == nil && string(buf) != message {
			err = fmt.Errorf("heard %q", buf)
		}
		heard <- err
	}
	if network == "udp" {
		socket, err := to.ListenPacket(network, address)
		if err != nil {
			return err
		}
		defer socket.Close()
		go hear(func(b []byte) (int, error) { n, _, err := socket.ReadFrom(b); return n, err })
	} else {
		listener, err := to.Listen(network, address)
		if err != nil {
			return err
		}
		defer listener.Close()
		go hear(func(b []byte) (int, error) {
			conn, err := listener.Accept()
			if err != nil {
				return 0, err
			}
			defer conn.Close()
			return io.ReadFull(conn, b)
		})
	}
	conn, err := from.Dial(ctx, network, address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, message); err != nil {
		return err
	}
	select {
	case err := <-heard:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func TestLinkCarriesTraffic(t *testing.T) {
	privileged.Require(t)
	w := world.New(t)
	a, b := w.Host("a"), w.Host("b")
	w.Connect(a, b, "10.20.0.1/24", "10.20.0.5/24", "fd20::1/64", "fd20::5/64")
	for _, test := range []struct{ network, address string }{
		{"tcp", "10.20.0.5:5432"},
		{"tcp", "[fd20::5]:5432"},
		{"udp", "10.20.0.5:53"},
		{"udp", "[fd20::5]:53"},
	} {
		if err := exchange(a, b, test.network, test.address); err != nil {
			t.Errorf("%s %s: %v", test.network, test.address, err)
		}
	}
	if err := exchange(a, a, "tcp", "127.0.0.1:1"); err != nil {
		t.Errorf("loopback: %v", err)
	}
}

func TestRouterForwardsAndHostDoesNot(t *testing.T) {
	privileged.Require(t)
	for _, test := range []struct {
		name     string
		middle   func(*world.World, string) *world.Host
		forwards bool
	}{
		{"router", (*world.World).Router, true},
		{"host", (*world.World).Host, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := world.New(t)
			middle := test.middle(w, "middle")
			db, app := w.Host("db"), w.Host("app")
			w.Uplink(db, middle, "10.20.0.5/24", "fd20::5/64")
			w.Uplink(app, middle, "10.30.0.9/24", "fd30::9/64")
			for _, address := range []string{"10.20.0.5:5432", "[fd20::5]:5432"} {
				if !test.forwards {
					if conn, err := dialBriefly(app, address); err == nil {
						conn.Close()
						t.Errorf("%s answered across a host that does not forward", address)
					}
					continue
				}
				if err := exchange(app, db, "tcp", address); err != nil {
					t.Errorf("%s: %v", address, err)
				}
			}
		})
	}
}

// dialBriefly is for addresses that do not answer.
func dialBriefly(from *world.Host, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	return from.Dial(ctx, "tcp", address)
}

func TestBridgeJoinsNeighbours(t *testing.T) {
	privileged.Require(t)
	w := world.New(t)
	server := w.Host("server")
	vm1, vm2 := w.Host("vm1"), w.Host("vm2")
	_, port1 := w.Connect(vm1, server, "10.20.0.5/24", "", "fd20::5/64", "")
	_, port2 := w.Connect(vm2, server, "10.20.0.6/24", "", "fd20::6/64", "")
	lan := server.Bridge("lan", port1, port2)
	lan.Address("10.20.0.1/24", "fd20::1/64")
	for _, address := range []string{"10.20.0.6:80", "[fd20::6]:80"} {
		if err := exchange(vm1, vm2, "tcp", address); err != nil {
			t.Errorf("vm1 to vm2, %s: %v", address, err)
		}
		if err := exchange(server, vm2, "tcp", address); err != nil {
			t.Errorf("server to vm2, %s: %v", address, err)
		}
	}
}

func TestDialFromUsesTheLocalAddress(t *testing.T) {
	privileged.Require(t)
	w := world.New(t)
	a, b := w.Host("a"), w.Host("b")
	onA, _ := w.Connect(a, b, "10.20.0.1/24", "10.20.0.5/24")
	onA.Address("10.20.0.2/24")
	listener, err := b.Listen("tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	const local = "10.20.0.2:4000"
	conn, err := a.DialFrom(t.Context(), "tcp", local, "10.20.0.5:80")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	accepted, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	if got := accepted.RemoteAddr().String(); got != local {
		t.Errorf("the listener sees %s, want %s", got, local)
	}
}

func TestNamesAreNotResolved(t *testing.T) {
	privileged.Require(t)
	host := world.New(t).Host("a")
	for _, address := range []string{"localhost:80", "10.20.0.5:http", "10.20.0.5"} {
		if conn, err := host.Dial(t.Context(), "tcp", address); err == nil {
			conn.Close()
			t.Errorf("dialed %s", address)
		}
		if listener, err := host.Listen("tcp", address); err == nil {
			listener.Close()
			t.Errorf("listens on %s", address)
		}
	}
}

func TestRunStaysOnTheHost(t *testing.T) {
	privileged.Require(t)
	w := world.New(t)
	a, b := w.Host("a"), w.Host("b")
	w.Connect(a, b)
	outside := interfaces(t)
	names := func(h *world.Host) (names string) {
		if err := h.Run(func() error {
			names = interfaces(t)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return names
	}
	if got, want := names(a), "b lo"; got != want {
		t.Errorf("a sees interfaces %q, want %q", got, want)
	}
	if got, want := names(b), "a lo"; got != want {
		t.Errorf("b sees interfaces %q, want %q", got, want)
	}
	nested := ""
	if err := a.Run(func() error {
		nested = names(b)
		if got := interfaces(t); got != "b lo" {
			t.Errorf("after a Run on b, a's thread sees %q", got)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if want := "a lo"; nested != want {
		t.Errorf("Run on b from a sees interfaces %q, want %q", nested, want)
	}
	if got := interfaces(t); got != outside {
		t.Errorf("after all, the test sees interfaces %q, before it saw %q", got, outside)
	}
	want := errors.New("boom")
	if err := a.Run(func() error { return want }); !errors.Is(err, want) {
		t.Errorf("Run returned %v", err)
	}
	if err := <-a.Go(func() error { return want }); !errors.Is(err, want) {
		t.Errorf("Go gave %v", err)
	}
}

// interfaces returns the sorted interface names the calling thread sees.
func interfaces(t *testing.T) string {
	t.Helper()
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	names := make([]string, len(links))
	for i, link := range links {
		names[i] = link.Attrs().Name
	}
	return sorted(names)
}

func TestRunPassesOnPanicAndFailNow(t *testing.T) {
	privileged.Require(t)
	host := world.New(t).Host("a")
	t.Run("panic", func(t *testing.T) {
		defer func() {
			if r := recover(); !strings.Contains(fmt.Sprint(r), "boom") {
				t.Errorf("recovered %v", r)
			}
		}()
		err := host.Run(func() error { panic("boom") })
		t.Errorf("Run returned %v", err)
	})
	t.Run("exit", func(t *testing.T) {
		// What FailNow does, without failing.
		done := make(chan bool)
		go func() {
			reached := false
			defer func() { done <- reached }()
			_ = host.Run(func() error { runtime.Goexit(); return nil })
			reached = true
		}()
		if <-done {
			t.Error("the caller went on after f ended its goroutine")
		}
	})
}

func TestStartRunsAProgramOnTheHost(t *testing.T) {
	privileged.Require(t)
	w := world.New(t)
	a, b := w.Host("a"), w.Host("b")
	w.Connect(a, b)
	var out strings.Builder
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Env = append(os.Environ(), listInterfaces+"=1")
	cmd.Stdout = &out
	if err := a.Start(cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if got, want := out.String(), "b lo"; got != want {
		t.Errorf("the program sees interfaces %q, want %q", got, want)
	}
}

func TestPublishedHostHasAName(t *testing.T) {
	privileged.Require(t)
	w := world.New(t)
	host := w.Host("a")
	name := fmt.Sprintf("world-test-%d", os.Getpid())
	path := "/run/netns/" + name
	host.Publish(name)
	var published, inside unix.Stat_t
	if err := unix.Stat(path, &published); err != nil {
		t.Fatal(err)
	}
	if err := host.Run(func() error { return unix.Stat("/proc/thread-self/ns/net", &inside) }); err != nil {
		t.Fatal(err)
	}
	if published.Ino != inside.Ino {
		t.Errorf("%s is namespace %d, the host is %d", path, published.Ino, inside.Ino)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s after Close: %v, want it gone", path, err)
	}
}

func TestBuild(t *testing.T) {
	privileged.Require(t)
	want := errors.New("boom")
	tests := []struct {
		name string
		f    func(*world.World) error
		ok   func(error) bool
	}{
		{"success", func(w *world.World) error { w.Host("a"); return nil }, func(err error) bool { return err == nil }},
		{"error", func(*world.World) error { return want }, func(err error) bool { return errors.Is(err, want) }},
		{"cannot be built", func(w *world.World) error {
			a := w.Host("a")
			a.Route("nonsense", "10.0.0.1")
			return want // not reached
		}, func(err error) bool { return err != nil && strings.Contains(err.Error(), "nonsense") }},
		{"published name taken", func(w *world.World) error {
			name := fmt.Sprintf("world-test-%d", os.Getpid())
			w.Host("a").Publish(name)
			w.Host("b").Publish(name)
			return want // not reached
		}, func(err error) bool { return err != nil && strings.Contains(err.Error(), "ip netns delete") }},
		{"name too long for a link", func(w *world.World) error {
			w.Host("a-name-of-16-bytes")
			return want // not reached
		}, func(err error) bool { return err != nil && strings.Contains(err.Error(), "15 characters") }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if err := world.Build(test.f); !test.ok(err) {
				t.Errorf("Build returned %v", err)
			}
		})
	}
}
