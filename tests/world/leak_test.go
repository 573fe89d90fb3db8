package world_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/perimeterd/perimeterd/tests/privileged"
	"github.com/perimeterd/perimeterd/tests/world"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// listInterfaces, when set in the environment, makes the test binary print its
// interfaces and exit: a program to start on a host.
const listInterfaces = "WORLD_TEST_LIST_INTERFACES"

func TestMain(m *testing.M) {
	if os.Getenv(listInterfaces) == "" {
		os.Exit(m.Run())
	}
	links, err := netlink.LinkList()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	var names []string
	for _, link := range links {
		names = append(names, link.Attrs().Name)
	}
	fmt.Print(sorted(names))
}

func sorted(names []string) string {
	slices.Sort(names)
	return strings.Join(names, " ")
}

// holdings are what a world could leave behind: interfaces of the machine,
// namespaces of this process's threads and files, and published names.
func holdings(t *testing.T) string {
	t.Helper()
	namespaces := map[string]bool{}
	for _, pattern := range []string{"/proc/self/task/*/ns/net", "/proc/self/fd/*"} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			target, err := os.Readlink(path)
			if err == nil && strings.HasPrefix(target, "net:") { // threads and files come and go
				namespaces[target] = true
			}
		}
	}
	published, err := filepath.Glob("/run/netns/*")
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("interfaces %s, %d namespaces, published %v", interfaces(t), len(namespaces), published)
}

// TestNothingIsLeft ends a world in every way there is and asks the kernel
// whether its namespaces are gone: a link from a host to an observer, which
// the world does not know of, disappears with the host's namespace.
func TestNothingIsLeft(t *testing.T) {
	privileged.Require(t)
	observer := world.New(t).Host("observer")
	before := holdings(t)
	for name, end := range map[string]func(){
		"return": func() {},
		"exit":   runtime.Goexit,
		"panic":  func() { panic("expected by the test") },
	} {
		t.Run(name, func(t *testing.T) {
			changes := make(chan netlink.LinkUpdate)
			done := make(chan struct{})
			defer func() {
				close(done)
				for range changes { // until the subscription has ended
				}
			}()
			if err := observer.Run(func() error { return netlink.LinkSubscribe(changes, done) }); err != nil {
				t.Fatal(err)
			}
			runOwned(func(o world.Owner) {
				w := world.New(o)
				router, host := w.Router("router"), w.Host("host")
				w.Uplink(host, router, "10.20.0.5/24", "fd20::5/64")
				host.Publish(fmt.Sprintf("leak-test-%d", os.Getpid()))
				if _, err := host.Listen("tcp", "10.20.0.5:80"); err != nil {
					t.Error(err)
				}
				tie(t, observer, host)
				end()
			})
			awaitRemoval(t, changes, "tie")
			if after := holdings(t); after != before {
				t.Errorf("after:  %s\nbefore: %s", after, before)
			}
		})
	}
}

// tie adds a link whose one end, named tie, is on the observer.
func tie(t *testing.T, observer, host *world.Host) {
	t.Helper()
	var namespace *os.File
	if err := observer.Run(func() (err error) {
		namespace, err = os.Open("/proc/thread-self/ns/net")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer namespace.Close()
	veth := netlink.NewVeth(netlink.LinkAttrs{Name: "tied"})
	veth.PeerName = "tie"
	veth.PeerNamespace = netlink.NsFd(namespace.Fd())
	if err := host.Netlink().LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
}

func awaitRemoval(t *testing.T, changes <-chan netlink.LinkUpdate, name string) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		select {
		case change, ok := <-changes:
			if !ok {
				t.Fatal("the subscription to changes ended")
			}
			if change.Header.Type == unix.RTM_DELLINK && change.Attrs().Name == name {
				return
			}
		case <-deadline:
			t.Fatal("the host's namespace is still there")
		}
	}
}

// owner ends as a test does: cleanups run last one first, whatever happens.
type owner struct{ cleanups []func() }

func (o *owner) Helper()               {}
func (o *owner) Cleanup(f func())      { o.cleanups = append(o.cleanups, f) }
func (o *owner) Fatalf(string, ...any) { runtime.Goexit() }

// runOwned runs f to its end and swallows a panic.
func runOwned(f func(world.Owner)) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() { _ = recover() }()
		o := new(owner)
		defer func() {
			for _, cleanup := range slices.Backward(o.cleanups) {
				cleanup()
			}
		}()
		f(o)
	}()
	<-done
}
