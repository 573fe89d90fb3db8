package world

import (
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Interface is a network interface of a host.
type Interface struct {
	Host  *Host
	Name  string
	Index int
	MAC   net.HardwareAddr
}

// Address adds addresses, each with its prefix length, and returns when they
// can be used.
func (i Interface) Address(addresses ...string) {
	i.Host.world.owner.Helper()
	for _, address := range addresses {
		if err := i.address(address); err != nil {
			i.Host.world.owner.Fatalf("host %s: address %s on %s: %v", i.Host.Name, address, i.Name, err)
		}
	}
}

func (i Interface) address(text string) error {
	address, err := netlink.ParseAddr(text)
	if err != nil {
		return err
	}
	address.Flags = unix.IFA_F_NODAD
	link := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: i.Index}}
	if err := i.Host.netlink.AddrAdd(link, address); err != nil {
		return err
	}
	// The kernel has the address at once, even if it is an IPv6 address, but
	// delivers what is sent to it only when this route is there.
	return await(i.Host, subscribeRoutes, func(u netlink.RouteUpdate) bool {
		return u.Type == unix.RTM_NEWROUTE && u.Route.Type == unix.RTN_LOCAL && u.LinkIndex == i.Index &&
			u.Dst != nil && u.Dst.IP.Equal(address.IP)
	})
}

// Bridge adds an Ethernet bridge over interfaces of the host. A host gets more
// than one neighbour on one network with it.
func (h *Host) Bridge(name string, ports ...Interface) Interface {
	h.world.owner.Helper()
	bridge, err := h.bridge(name, ports)
	if err != nil {
		h.world.owner.Fatalf("host %s: bridge %s: %v", h.Name, name, err)
	}
	return bridge
}

func (h *Host) bridge(name string, ports []Interface) (Interface, error) {
	if len(ports) == 0 {
		return Interface{}, errors.New("give it at least one port: without one it never comes up")
	}
	link := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}
	if err := h.addLink(link); err != nil {
		return Interface{}, err
	}
	for _, port := range ports {
		member := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: port.Index}}
		if err := h.netlink.LinkSetMaster(member, link); err != nil {
			return Interface{}, fmt.Errorf("port %s: %w", port.Name, err)
		}
	}
	bridge, err := h.bringUp(name)
	if err != nil {
		return Interface{}, err
	}
	return bridge, bridge.awaitUp()
}

// addLink adds a link that is removed with the world.
func (h *Host) addLink(link netlink.Link) error {
	if err := h.netlink.LinkAdd(link); err != nil {
		return fmt.Errorf("add the link: %w", err)
	}
	h.links = append(h.links, link)
	return nil
}

func (h *Host) bringUp(name string) (Interface, error) {
	link, err := h.netlink.LinkByName(name)
	if err != nil {
		return Interface{}, fmt.Errorf("find %s on %s: %w", name, h.Name, err)
	}
	if err := h.netlink.LinkSetUp(link); err != nil {
		return Interface{}, fmt.Errorf("bring up %s on %s: %w", name, h.Name, err)
	}
	attrs := link.Attrs()
	return Interface{Host: h, Name: name, Index: attrs.Index, MAC: attrs.HardwareAddr}, nil
}

// awaitUp waits until the link carries packets. Between its carrier coming up
// and the kernel noticing, an interface drops what is sent over it.
func (i Interface) awaitUp() error {
	// Kernels before 6.8 may take a second to notice; later ones do when asked.
	if _, err := i.Host.netlink.LinkByIndex(i.Index); err != nil {
		return fmt.Errorf("find %s on %s: %w", i.Name, i.Host.Name, err)
	}
	err := await(i.Host, subscribeLinks, func(u netlink.LinkUpdate) bool {
		return int(u.Index) == i.Index && u.Attrs().OperState == netlink.OperUp
	})
	if err != nil {
		return fmt.Errorf("wait for %s on %s: %w", i.Name, i.Host.Name, err)
	}
	return nil
}

// removeLinks removes the links that Connect and Bridge made, so that nothing
// is sent any more even where a socket keeps the namespace alive.
func (h *Host) removeLinks() error {
	var errs []error
	for _, link := range h.links {
		// The other end may have gone first.
		if err := h.netlink.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
			errs = append(errs, fmt.Errorf("remove link %s: %w", link.Attrs().Name, err))
		}
	}
	h.links = nil
	return errors.Join(errs...)
}

func subscribeLinks(updates chan<- netlink.LinkUpdate, done <-chan struct{}, failed func(error)) error {
	return netlink.LinkSubscribeWithOptions(updates, done, netlink.LinkSubscribeOptions{ListExisting: true, ErrorCallback: failed})
}

func subscribeRoutes(updates chan<- netlink.RouteUpdate, done <-chan struct{}, failed func(error)) error {
	return netlink.RouteSubscribeWithOptions(updates, done, netlink.RouteSubscribeOptions{ListExisting: true, ErrorCallback: failed})
}

// patience bounds every wait for the kernel; it is only met on a failure.
const patience = 10 * time.Second

// await returns when the host reports what is waited for; the present state is
// reported first.
func await[U any](h *Host, subscribe func(chan<- U, <-chan struct{}, func(error)) error, reached func(U) bool) error {
	updates := make(chan U)
	done := make(chan struct{})
	failures := make(chan error, 1)
	failed := func(err error) {
		select {
		case failures <- err:
		default: // the first one tells the most
		}
	}
	because := func(what error) error {
		select {
		case err := <-failures:
			return fmt.Errorf("%w: %w", what, err)
		default:
			return what
		}
	}
	if err := h.Run(func() error { return subscribe(updates, done, failed) }); err != nil {
		return fmt.Errorf("subscribe to changes: %w", err)
	}
	defer func() {
		close(done)
		for range updates { // until the subscription has ended
		}
	}()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for {
		select {
		case u, ok := <-updates:
			if !ok {
				return because(errors.New("the subscription to changes ended"))
			}
			if reached(u) {
				return nil
			}
		case <-deadline.C:
			return because(fmt.Errorf("not ready after %s", patience))
		}
	}
}
