package links

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// broadcast is an address for all hosts of the network of an interface.
type broadcast struct {
	index   int
	address netip.Addr
}

// broadcasts returns the directed broadcast addresses of the host. They are read
// from the routes and not computed: Linux before 5.14 takes the first address of
// a network for one too, an address may be given any other, and a network may
// have none. What it returns with netlink.ErrDumpInterrupted is of two moments.
func broadcasts() ([]broadcast, error) {
	socket, err := nl.Subscribe(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	defer socket.Close()
	// With this the kernel itself passes over all other routes, of which there may be a million.
	if err := unix.SetsockoptInt(socket.GetFd(), unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1); err != nil {
		return nil, fmt.Errorf("have the kernel choose among its routes: %w", err)
	}
	request := nl.NewNetlinkRequest(unix.RTM_GETROUTE, unix.NLM_F_DUMP)
	request.AddData(&nl.RtMsg{RtMsg: unix.RtMsg{Family: unix.AF_INET, Type: unix.RTN_BROADCAST}})
	request.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: socket}}
	messages, interrupted := request.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWROUTE)
	if interrupted != nil && !errors.Is(interrupted, netlink.ErrDumpInterrupted) {
		return nil, interrupted
	}
	var out []broadcast
	for _, m := range messages {
		b, err := readBroadcast(m)
		if err != nil {
			return nil, fmt.Errorf("read a route: %w", err)
		}
		if b.address.IsValid() {
			out = append(out, b)
		}
	}
	return out, interrupted
}

// readBroadcast reads a route; no address, if it is of another type or for more
// than one.
func readBroadcast(message []byte) (broadcast, error) {
	var b broadcast
	header := nl.DeserializeRtMsg(message)
	if header.Type != unix.RTN_BROADCAST || header.Dst_len != 32 {
		return b, nil
	}
	attributes, err := nl.ParseRouteAttr(message[header.Len():])
	if err != nil {
		return b, err
	}
	for _, a := range attributes {
		switch a.Attr.Type {
		case unix.RTA_DST:
			b.address, _ = netip.AddrFromSlice(a.Value)
		case unix.RTA_OIF:
			b.index = int(nl.NativeEndian().Uint32(a.Value))
		}
	}
	return b, nil
}
