package links

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Link is a network interface as it is at one moment.
type Link struct {
	Index     int
	Name      string
	Type      string // as the kernel calls it: veth, vlan, bond, …; "" for most hardware
	Up        bool   // administratively
	Loopback  bool
	Addresses []netip.Addr // sorted, without zones
	// Broadcasts are the addresses of all hosts of its networks at once, such as
	// 10.20.0.255; sorted.
	Broadcasts []netip.Addr

	// Master is the device the interface is a port of, 0 if it is none's.
	Master int
	// Parent is the device the interface is stacked on (vlan, macvlan, ipvlan),
	// 0 if there is none or it is in another namespace.
	Parent int
}

// stackedTypes are the kinds of interface whose packets also pass the hooks of
// the device they are stacked on.
var stackedTypes = []string{"vlan", "macvlan", "macvtap", "ipvlan", "ipvtap"}

// List returns the interfaces of the namespace that the calling thread is in, by
// number.
func List() ([]Link, error) {
	devices, err := whole(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list the interfaces: %w", err)
	}
	addresses, err := whole(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list the addresses: %w", err)
	}
	of := map[int][]netip.Addr{}
	for _, a := range addresses {
		if address, ok := netip.AddrFromSlice(a.IP); ok {
			of[a.LinkIndex] = append(of[a.LinkIndex], address.Unmap())
		}
	}
	routes, err := whole(broadcasts)
	if err != nil {
		return nil, fmt.Errorf("list the broadcast addresses: %w", err)
	}
	to := map[int][]netip.Addr{}
	for _, b := range routes {
		to[b.index] = append(to[b.index], b.address)
	}
	out := make([]Link, 0, len(devices))
	for _, device := range devices {
		index := device.Attrs().Index
		out = append(out, linkOf(device, of[index], to[index]))
	}
	slices.SortFunc(out, func(a, b Link) int { return cmp.Compare(a.Index, b.Index) })
	return out, nil
}

func linkOf(device netlink.Link, addresses, broadcasts []netip.Addr) Link {
	attrs := device.Attrs()
	slices.SortFunc(addresses, netip.Addr.Compare)
	slices.SortFunc(broadcasts, netip.Addr.Compare)
	l := Link{
		Index:     attrs.Index,
		Name:      attrs.Name,
		Type:      device.Type(),
		Up:        attrs.RawFlags&unix.IFF_UP != 0,
		Loopback:  attrs.RawFlags&unix.IFF_LOOPBACK != 0,
		Addresses: slices.Compact(addresses),
		// The same network may be routed by several tables.
		Broadcasts: slices.Compact(broadcasts),
		Master:     attrs.MasterIndex,
	}
	// A veth's parent is its other end, which is stacked on nothing.
	if attrs.NetNsID < 0 && slices.Contains(stackedTypes, l.Type) {
		l.Parent = attrs.ParentIndex
	}
	return l
}

// listTries is how often a listing is begun anew because something changed
// while the kernel gave it.
const listTries = 5

func whole[T any](list func() ([]T, error)) (out []T, err error) {
	for range listTries {
		if out, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return out, err
		}
	}
	// What was given is of two moments; the change comes as an update as well.
	return out, nil
}

// Equal reports whether two snapshots say the same.
func Equal(a, b []Link) bool {
	return slices.EqualFunc(a, b, func(x, y Link) bool {
		return x.Index == y.Index && x.Name == y.Name && x.Type == y.Type && x.Up == y.Up &&
			x.Loopback == y.Loopback && x.Master == y.Master && x.Parent == y.Parent &&
			slices.Equal(x.Addresses, y.Addresses) && slices.Equal(x.Broadcasts, y.Broadcasts)
	})
}
