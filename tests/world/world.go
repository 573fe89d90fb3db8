package world

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
)

// World is a set of hosts that belong together and are removed together.
// It is built by one goroutine; its hosts may be used by many.
type World struct {
	owner Owner
	hosts []*Host
}

// Owner is what a world is built for: a test, or a function run by Build.
// Every testing.TB is one.
type Owner interface {
	Helper()
	// Cleanup registers a function for the owner's end, last one first.
	Cleanup(func())
	// Fatalf ends the owner's goroutine after its cleanups.
	Fatalf(format string, args ...any)
}

// New returns an empty world that is removed when its owner ends, also when
// it ends by a panic.
func New(owner Owner) *World {
	w := &World{owner: owner}
	owner.Cleanup(func() {
		if err := w.Close(); err != nil {
			owner.Fatalf("remove the world: %v", err)
		}
	})
	return w
}

// Host adds a host with only a loopback interface.
func (w *World) Host(name string) *Host {
	w.owner.Helper()
	return w.addHost(name, false)
}

// Router adds a host that forwards between its links.
func (w *World) Router(name string) *Host {
	w.owner.Helper()
	return w.addHost(name, true)
}

func (w *World) addHost(name string, forwards bool) *Host {
	w.owner.Helper()
	h, err := newHost(w, name, forwards)
	if err != nil {
		w.owner.Fatalf("host %s: %v", name, err)
	}
	w.hosts = append(w.hosts, h)
	return h
}

// Connect links two hosts and returns the two ends. Each end is named after
// the host at the other end. Addresses, with their prefix lengths, come in
// pairs, the first for a and the second for b; "" gives that end none.
func (w *World) Connect(a, b *Host, addresses ...string) (Interface, Interface) {
	w.owner.Helper()
	if len(addresses)%2 != 0 {
		w.owner.Fatalf("link %s to %s: %d addresses given, want pairs, one for each end (\"\" for none)", a.Name, b.Name, len(addresses))
	}
	endA, endB, err := connect(a, b)
	if err != nil {
		w.owner.Fatalf("link %s to %s: %v", a.Name, b.Name, err)
	}
	for i, address := range addresses {
		if address == "" {
			continue
		}
		[]Interface{endA, endB}[i%2].Address(address)
	}
	return endA, endB
}

// Uplink links a host to its router and returns the two ends, the host's
// first. The router gets the first address of every prefix and is the host's
// default route. A host has one uplink.
func (w *World) Uplink(host, router *Host, addresses ...string) (Interface, Interface) {
	w.owner.Helper()
	up, down := w.Connect(host, router)
	for _, address := range addresses {
		prefix, err := netip.ParsePrefix(address)
		if err != nil {
			w.owner.Fatalf("uplink of %s: address %q: %v", host.Name, address, err)
		}
		gateway := prefix.Masked().Addr().Next()
		if gateway == prefix.Addr() || !prefix.Contains(gateway) {
			w.owner.Fatalf("uplink of %s: %s leaves no first address for the router: choose another address or a shorter prefix", host.Name, address)
		}
		up.Address(address)
		down.Address(netip.PrefixFrom(gateway, prefix.Bits()).String())
		everything := netip.PrefixFrom(prefix.Addr(), 0).Masked()
		host.Route(everything.String(), gateway.String())
	}
	return up, down
}

// Close removes the links, closes the listeners and lets go of the namespaces,
// which end with the last socket or program in them. It is called at the
// owner's end; more calls do nothing.
func (w *World) Close() error {
	var errs []error
	for _, h := range slices.Backward(w.hosts) {
		if err := h.close(); err != nil {
			errs = append(errs, fmt.Errorf("host %s: %w", h.Name, err))
		}
	}
	w.hosts = nil
	return errors.Join(errs...)
}

// connect makes the veth pair, which belongs to a, and brings it up.
func connect(a, b *Host) (endA, endB Interface, err error) {
	veth := netlink.NewVeth(netlink.LinkAttrs{Name: b.Name})
	veth.PeerName = a.Name
	veth.PeerNamespace = netlink.NsFd(b.namespace.Fd())
	if err := a.addLink(veth); err != nil {
		return endA, endB, err
	}
	if endA, err = a.bringUp(b.Name); err != nil {
		return endA, endB, err
	}
	if endB, err = b.bringUp(a.Name); err != nil {
		return endA, endB, err
	}
	if err := endA.awaitUp(); err != nil {
		return endA, endB, err
	}
	return endA, endB, endB.awaitUp()
}
