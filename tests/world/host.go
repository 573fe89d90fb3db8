package world

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Host is a network namespace with a network stack of its own.
type Host struct {
	Name string

	world     *World
	namespace *os.File
	netlink   *netlink.Handle
	links     []netlink.Link // what the host adds and removes itself
	published string         // path of the bind mount, "" = none

	mu     sync.Mutex
	opened []io.Closer // listeners, closed with the world
}

// Run runs f with its thread on the host and waits for it. Sockets that f
// opens and programs that f starts belong to the host for good; a goroutine
// that f starts is not on the host.
//
// A panic of f goes on in the caller, and so does a test's FailNow.
func (h *Host) Run(f func() error) error {
	return onOwnGoroutine(func() error { return h.inside(f) })
}

// Go runs f as Run does, but does not wait. The channel gives its error and is
// then closed. As on any other goroutine, f must not call a test's FailNow.
func (h *Host) Go(f func() error) <-chan error {
	done := make(chan error, 1)
	go func() {
		defer close(done)
		done <- h.inside(f)
	}()
	return done
}

// Start starts a program on the host. Do not set Pdeathsig: it goes by the
// life of the thread that starts the program, which may end at once.
func (h *Host) Start(cmd *exec.Cmd) error {
	return h.Run(cmd.Start)
}

// Netlink returns the host's handle for what this package has no word for:
// taking a link down, removing an address. It is closed with the world and
// must not be used after, since a closed handle acts on the machine itself.
func (h *Host) Netlink() *netlink.Handle { return h.netlink }

// Route sends what is for the prefix to the gateway.
func (h *Host) Route(prefix, gateway string) {
	h.world.owner.Helper()
	if err := h.route(prefix, gateway); err != nil {
		h.world.owner.Fatalf("host %s: route %s via %s: %v", h.Name, prefix, gateway, err)
	}
}

func (h *Host) route(prefix, gateway string) error {
	_, to, err := net.ParseCIDR(prefix)
	if err != nil {
		return err
	}
	via := net.ParseIP(gateway)
	if via == nil {
		return errors.New("the gateway is no address")
	}
	return h.netlink.RouteAdd(&netlink.Route{Dst: to, Gw: via})
}

// Publish gives the namespace a name for the tool ip, as in
// "ip netns exec NAME ping 10.20.0.1", until the world is closed.
func (h *Host) Publish(name string) {
	h.world.owner.Helper()
	if err := h.publish(name); err != nil {
		h.world.owner.Fatalf("host %s: publish as %s: %v", h.Name, name, err)
	}
}

func (h *Host) publish(name string) (err error) {
	const directory = "/run/netns" // where the tool ip looks
	if h.published != "" {
		return fmt.Errorf("it is published as %s already", h.published)
	}
	if err := os.MkdirAll(directory, 0o755); err != nil {
		return err
	}
	path := filepath.Join(directory, name)
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL, 0o444)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("%w: if an earlier run was killed, remove it with: ip netns delete %s", err, name)
	}
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(path))
		}
	}()
	if err := file.Close(); err != nil {
		return err
	}
	source := fmt.Sprintf("/proc/self/fd/%d", h.namespace.Fd())
	if err := unix.Mount(source, path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind mount: %w", err)
	}
	h.published = path
	return nil
}

func (h *Host) unpublish() error {
	if h.published == "" {
		return nil
	}
	if err := unix.Unmount(h.published, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount %s: %w", h.published, err)
	}
	return os.Remove(h.published)
}

func (h *Host) inside(f func() error) error {
	if err := inside(h.namespace, f); err != nil {
		return fmt.Errorf("host %s: %w", h.Name, err)
	}
	return nil
}

func newHost(w *World, name string, forwards bool) (*Host, error) {
	// Links are named after the host at their other end.
	if name == "" || len(name) >= unix.IFNAMSIZ {
		return nil, fmt.Errorf("the name must have 1 to %d characters, since links are named after it", unix.IFNAMSIZ-1)
	}
	namespace, err := newNamespace()
	if err != nil {
		return nil, err
	}
	h := &Host{Name: name, world: w, namespace: namespace}
	if err := h.Run(func() error { return h.setUp(forwards) }); err != nil {
		return nil, errors.Join(err, h.close())
	}
	return h, nil
}

// setUp runs inside the new namespace.
func (h *Host) setUp(forwards bool) error {
	for _, s := range settings(forwards) {
		if err := os.WriteFile(s.path, []byte(s.value), 0); err != nil {
			return fmt.Errorf("settings: %w", err)
		}
	}
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	h.netlink = handle
	_, err = h.bringUp("lo")
	return err
}

type setting struct{ path, value string }

// settings make every host alike. IPv4 settings of a new namespace come from
// the machine's own, where a distribution or docker may have changed them.
func settings(forwards bool) []setting {
	forwarding := "0"
	if forwards {
		forwarding = "1"
	}
	return []setting{
		{"/proc/sys/net/ipv4/ip_forward", forwarding},
		{"/proc/sys/net/ipv6/conf/all/forwarding", forwarding},
		{"/proc/sys/net/ipv4/conf/all/rp_filter", "0"},
		{"/proc/sys/net/ipv4/conf/default/rp_filter", "0"},
		// A refused probe must be told so every time, not once a second.
		{"/proc/sys/net/ipv4/icmp_ratelimit", "0"},
		{"/proc/sys/net/ipv6/icmp/ratelimit", "0"},
		// An address is usable at once, and nobody solicits routers.
		{"/proc/sys/net/ipv6/conf/all/accept_dad", "0"},
		{"/proc/sys/net/ipv6/conf/default/accept_dad", "0"},
		{"/proc/sys/net/ipv6/conf/default/accept_ra", "0"},
	}
}

// close removes what the host holds, in the order that leaves least behind
// when one step fails.
func (h *Host) close() error {
	var errs []error
	h.mu.Lock()
	for _, c := range h.opened {
		if err := c.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	h.opened = nil
	h.mu.Unlock()
	if h.netlink != nil {
		errs = append(errs, h.removeLinks())
		h.netlink.Close()
		h.netlink = nil // a closed handle would act on the machine itself
	}
	return errors.Join(append(errs, h.unpublish(), h.namespace.Close())...)
}
