package links

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/vishvananda/netlink"

	"github.com/perimeterd/perimeterd/tests/privileged"
	"github.com/perimeterd/perimeterd/tests/world"
)

func TestListTellsWhatTheKernelHas(t *testing.T) {
	privileged.Require(t)
	w := world.New(t)
	router, a, b := w.Router("router"), w.Host("a"), w.Host("b")
	one, _ := w.Connect(router, a)
	two, _ := w.Connect(router, b)
	bridge := router.Bridge("br0", one, two)
	bridge.Address("10.1.0.1/24", "fd01::1/64")
	var all []Link
	err := router.Run(func() (err error) {
		all, err = List()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	of := map[string]Link{}
	for _, l := range all {
		of[l.Name] = l
	}
	if l := of["lo"]; !l.Loopback || !l.Up {
		t.Errorf("lo: %+v", l)
	}
	if l := of["a"]; l.Type != "veth" || l.Master != bridge.Index || l.Parent != 0 || !l.Up {
		t.Errorf("a port: %+v", l)
	}
	if l := of["br0"]; l.Type != "bridge" || !slices.Contains(l.Addresses, netip.MustParseAddr("10.1.0.1")) || !slices.Contains(l.Addresses, netip.MustParseAddr("fd01::1")) {
		t.Errorf("the bridge: %+v", l)
	}
}

// TestBroadcasts: those that the kernel has a route for, whoever wished for them,
// and no others.
func TestBroadcasts(t *testing.T) {
	privileged.Require(t)
	w := world.New(t)
	host := w.Host("host")
	has := func(i world.Interface, address netip.Addr) bool {
		t.Helper()
		var all []Link
		if err := host.Run(func() (err error) { all, err = List(); return err }); err != nil {
			t.Fatal(err)
		}
		for _, l := range all {
			if l.Index == i.Index {
				return slices.Contains(l.Broadcasts, address)
			}
		}
		t.Fatalf("%s is not listed", i.Name)
		return false
	}
	one, _ := w.Connect(host, w.Host("a"), "10.1.0.1/24", "10.1.0.2/24", "fd01::1/64", "fd01::2/64")
	two, _ := w.Connect(host, w.Host("b"), "10.2.0.0/31", "10.2.0.1/31")
	last := netip.MustParseAddr("10.1.0.255")
	if !has(one, last) || has(two, last) || has(one, netip.MustParseAddr("10.1.0.254")) {
		t.Error("10.1.0.255 is of the first interface, and its neighbour of none")
	}
	if has(two, netip.MustParseAddr("10.2.0.1")) {
		t.Error("a network of two hosts has a broadcast address")
	}
	link, err := host.Netlink().LinkByIndex(two.Index)
	if err != nil {
		t.Fatal(err)
	}
	odd := netip.MustParseAddr("10.3.0.77")
	wanted, err := netlink.ParseAddr("10.3.0.1/24")
	if err != nil {
		t.Fatal(err)
	}
	wanted.Broadcast = odd.AsSlice()
	if err := host.Netlink().AddrAdd(link, wanted); err != nil {
		t.Fatal(err)
	}
	if !has(two, odd) {
		t.Error("an address that was given is not told")
	}
	if err := host.Netlink().LinkSetDown(link); err != nil {
		t.Fatal(err)
	}
	if has(two, odd) {
		t.Error("an interface that is down has a broadcast address")
	}
}

func TestParent(t *testing.T) {
	t.Parallel()
	attrs := netlink.LinkAttrs{Index: 3, Name: "x", ParentIndex: 2, NetNsID: -1}
	elsewhere := attrs
	elsewhere.NetNsID = 7
	for _, test := range []struct {
		name string
		link netlink.Link
		want int
	}{
		{"vlan", &netlink.Vlan{LinkAttrs: attrs}, 2},
		{"macvlan", &netlink.Macvlan{LinkAttrs: attrs}, 2},
		{"ipvlan", &netlink.IPVlan{LinkAttrs: attrs}, 2},
		{"macvlan in a container", &netlink.Macvlan{LinkAttrs: elsewhere}, 0},
		{"veth, whose other end is no base", &netlink.Veth{LinkAttrs: attrs}, 0},
		{"vxlan, whose packets the base does not show", &netlink.Vxlan{LinkAttrs: attrs}, 0},
	} {
		if got := linkOf(test.link, nil, nil).Parent; got != test.want {
			t.Errorf("%s: parent %d, want %d", test.name, got, test.want)
		}
	}
}

func TestSubscribeTellsOfLinksAndAddresses(t *testing.T) {
	privileged.Require(t)
	w := world.New(t)
	router, host := w.Router("router"), w.Host("host")
	done := make(chan struct{})
	var updates <-chan struct{}
	err := host.Run(func() (err error) {
		updates, err = subscribe(done)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	up, _ := w.Connect(host, router)
	<-updates // the link
	up.Address("10.1.0.1/24")
	<-updates // more of it, or the address
	close(done)
	for range updates { // until it has ended
	}
}

// stream is a kernel's stream of changes that a test sends.
type stream struct {
	updates chan struct{}
	lists   [][]Link
}

func (s *stream) watcher() *Watcher {
	w := NewWatcher()
	w.subscribe = func(<-chan struct{}) (<-chan struct{}, error) {
		s.updates = make(chan struct{})
		return s.updates, nil
	}
	w.list = func() ([]Link, error) {
		if len(s.lists) > 1 {
			defer func() { s.lists = s.lists[1:] }()
		}
		return s.lists[0], nil
	}
	return w
}

func TestWatcherGathersChanges(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		eth0, eth1 := Link{Index: 2, Name: "eth0"}, Link{Index: 3, Name: "eth1"}
		s := &stream{lists: [][]Link{{eth0}, {eth0, eth1}}}
		w := s.watcher()
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- w.Run(ctx) }()
		<-w.Ready()
		<-w.Changed()
		if w.Name(2) != "eth0" || w.Name(3) != "" {
			t.Errorf("at first: %+v", w.Snapshot())
		}
		for range 10 { // one change to the kernel is many to a subscriber
			s.updates <- struct{}{}
		}
		<-w.Changed()
		if w.Name(3) != "eth1" || len(s.lists) != 1 {
			t.Errorf("after the change: %+v, %d lists left", w.Snapshot(), len(s.lists))
		}
		s.updates <- struct{}{} // nothing that matters
		synctest.Wait()
		select {
		case <-w.Changed():
			t.Error("a change is told where there is none")
		default:
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestWatcherFollowsAgainAfterTheStreamBroke(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &stream{lists: [][]Link{{}, {{Index: 2, Name: "eth0"}}}}
		w := s.watcher()
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- w.Run(ctx) }()
		<-w.Ready()
		close(s.updates)
		<-w.Changed()
		if w.Name(2) != "eth0" {
			t.Errorf("after the stream broke: %+v", w.Snapshot())
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestWatcherFailsIfTheKernelCannotBeAsked(t *testing.T) {
	t.Parallel()
	w := NewWatcher()
	refused := errors.New("refused")
	w.subscribe = func(<-chan struct{}) (<-chan struct{}, error) { return nil, refused }
	if err := w.Run(t.Context()); !errors.Is(err, refused) {
		t.Errorf("got %v", err)
	}
}
