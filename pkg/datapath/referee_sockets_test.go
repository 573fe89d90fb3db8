package datapath

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// door is a socket that packets may get to.
type door struct {
	name     string
	socket   int
	number   int // in referee.doors
	v6       bool
	raw      bool
	protocol uint8
	port     uint16 // unless raw
}

// receipt is a packet that the kernel handed to a socket. What it tells of the
// packet is what the kernel thinks of it.
type receipt struct {
	door                *door
	v6                  bool
	source, destination netip.Addr
	sourcePort, port    uint16 // of protocols with ports
	hops                int
	body                []byte // of raw sockets from the L4 header on
}

func (r *receipt) String() string {
	return fmt.Sprintf("%s: %s port %d > %s port %d, hops %d, %.60q", r.door.name, r.source, r.sourcePort, r.destination, r.port, r.hops, r.body)
}

// refereePort is what policies may open; refereeClosed are other ports with
// sockets, those of DHCP clients apart.
const refereePort = 5432

var refereeClosed = []uint16{53, 67, 123, 443, 5431, 5433, 8080}

// Protocols that raw sockets listen to. Extension headers that every host steps
// over are not among them: a raw socket gets a copy of what carries one, whatever
// else becomes of the packet.
var refereeProtocols = []uint8{1, 2, 4, 6, 17, 33, 41, 47, 50, 51, 58, 59, 94, 103, 112, 115, 132, 135, 136, 139, 140, 253}

func (r *referee) openDoors() error {
	for _, v6 := range []bool{false, true} {
		for _, protocol := range refereeProtocols {
			family := unix.AF_INET
			if v6 {
				family = unix.AF_INET6
			}
			d := &door{v6: v6, raw: true, protocol: protocol, name: fmt.Sprintf("raw socket of protocol %d", protocol)}
			if err := r.open(d, family, unix.SOCK_RAW, int(protocol)); err != nil {
				return err
			}
		}
	}
	for _, port := range append([]uint16{refereePort, 68, 546}, refereeClosed...) {
		d := &door{v6: true, protocol: unix.IPPROTO_UDP, port: port, name: fmt.Sprintf("UDP socket %d", port)}
		if err := r.open(d, unix.AF_INET6, unix.SOCK_DGRAM, unix.IPPROTO_UDP); err != nil {
			return err
		}
		d = &door{v6: true, protocol: unix.IPPROTO_UDPLITE, port: port, name: fmt.Sprintf("UDP-Lite socket %d", port)}
		if err := r.open(d, unix.AF_INET6, unix.SOCK_DGRAM, unix.IPPROTO_UDPLITE); err != nil && !unsupported(err) {
			return err
		}
		// Nobody accepts: a kernel that answers has been reached.
		for protocol, kind := range map[int]int{unix.IPPROTO_TCP: unix.SOCK_STREAM, unix.IPPROTO_SCTP: unix.SOCK_STREAM, unix.IPPROTO_DCCP: unix.SOCK_DCCP} {
			if err := r.listen(kind, protocol, port); err != nil && !unsupported(err) {
				return err
			}
		}
	}
	return r.join()
}

// unsupported reports a protocol that this kernel has no sockets for. Raw ones
// stand in for them.
func unsupported(err error) bool {
	return errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.ESOCKTNOSUPPORT)
}

// open opens a door and binds it to all addresses.
func (r *referee) open(d *door, family, kind, protocol int) error {
	socket, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return fmt.Errorf("open a %s: %w", d.name, err)
	}
	d.socket, d.number = socket, len(r.doors)
	r.doors = append(r.doors, d)
	err = unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20)
	if family == unix.AF_INET6 {
		err = errors.Join(err,
			unix.SetsockoptInt(socket, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1),
			unix.SetsockoptInt(socket, unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT, 1))
	}
	if !d.raw {
		err = errors.Join(err, unix.Bind(socket, &unix.SockaddrInet6{Port: int(d.port)}))
	}
	if err != nil {
		return fmt.Errorf("set up a %s: %w", d.name, err)
	}
	return nil
}

func (r *referee) listen(kind, protocol int, port uint16) error {
	socket, err := unix.Socket(unix.AF_INET6, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return fmt.Errorf("open a listener of protocol %d: %w", protocol, err)
	}
	r.listeners = append(r.listeners, socket)
	if err := unix.Bind(socket, &unix.SockaddrInet6{Port: int(port)}); err != nil {
		return fmt.Errorf("bind a listener of protocol %d: %w", protocol, err)
	}
	return unix.Listen(socket, 65535)
}

// join joins the groups on a socket of its own. Others hear them too.
func (r *referee) join() error {
	socket, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	r.listeners = append(r.listeners, socket)
	four := &unix.IPMreqn{Multiaddr: netip.MustParseAddr(joined4).As4(), Ifindex: int32(r.near.Index)}
	six := &unix.IPv6Mreq{Multiaddr: netip.MustParseAddr(joined6).As16(), Interface: uint32(r.near.Index)}
	return errors.Join(
		unix.SetsockoptIPMreqn(socket, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, four),
		unix.SetsockoptIPv6Mreq(socket, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, six))
}

func (r *referee) closeDoors() {
	for _, d := range r.doors {
		_ = unix.Close(d.socket) // only read from
	}
	for _, socket := range r.listeners {
		_ = unix.Close(socket)
	}
}

// collect reads all that the sockets have.
func (r *referee) collect(o *outcome) error {
	ready := make([]unix.PollFd, len(r.doors))
	for i, d := range r.doors {
		ready[i] = unix.PollFd{Fd: int32(d.socket), Events: unix.POLLIN}
	}
	if _, err := unix.Poll(ready, 0); err != nil && err != unix.EINTR {
		return fmt.Errorf("ask the sockets: %w", err)
	}
	for i, d := range r.doors {
		for ready[i].Revents != 0 {
			got, err := r.receive(d)
			if errors.Is(err, unix.EAGAIN) {
				break
			}
			if err != nil {
				if errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.EPROTO) || errors.Is(err, unix.EMSGSIZE) {
					continue // an ICMP error that found the socket; the raw ones have it
				}
				return fmt.Errorf("read from a %s: %w", d.name, err)
			}
			o.receipts = append(o.receipts, got)
		}
	}
	return nil
}

func (r *referee) receive(d *door) (receipt, error) {
	n, controlSize, _, from, err := unix.Recvmsg(d.socket, r.room, r.control, unix.MSG_DONTWAIT)
	if err != nil {
		return receipt{}, err
	}
	got := receipt{door: d, v6: d.v6, port: d.port, body: bytes.Clone(r.room[:n])}
	switch from := from.(type) {
	case *unix.SockaddrInet4:
		got.source = netip.AddrFrom4(from.Addr)
	case *unix.SockaddrInet6:
		got.source, got.sourcePort = netip.AddrFrom16(from.Addr), uint16(from.Port)
	case *unix.SockaddrL2TPIP: // what unix makes of protocol 115
		got.source = netip.AddrFrom4(from.Addr)
	case *unix.SockaddrL2TPIP6:
		got.source = netip.AddrFrom16(from.Addr)
	default:
		return got, fmt.Errorf("the source is a %T", from)
	}
	if d.v6 {
		got.readControl(r.control[:controlSize])
		// A mapped source alone is one of IPv6 that pretends.
		if !d.raw && got.source.Is4In6() && got.destination.Is4In6() {
			got.source, got.destination, got.v6 = got.source.Unmap(), got.destination.Unmap(), false
		}
	} else { // a raw socket of IPv4 hands over the IP header
		got.destination = netip.AddrFrom4([4]byte(got.body[16:]))
		got.hops = int(got.body[8])
		got.body = got.body[int(got.body[0]&0xf)*4:]
	}
	if d.raw {
		got.readPorts()
	}
	return got, nil
}

func (r *receipt) readPorts() {
	if hasPorts(r.door.protocol) && len(r.body) >= 4 {
		r.sourcePort, r.port = binary.BigEndian.Uint16(r.body), binary.BigEndian.Uint16(r.body[2:])
	}
}

func (r *receipt) readControl(control []byte) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return // what is missing is then no address of anybody
	}
	for _, m := range messages {
		if m.Header.Level != unix.IPPROTO_IPV6 {
			continue
		}
		switch m.Header.Type {
		case unix.IPV6_PKTINFO:
			r.destination = netip.AddrFrom16([16]byte(m.Data))
		case unix.IPV6_HOPLIMIT:
			r.hops = int(binary.NativeEndian.Uint32(m.Data))
		}
	}
}

func hasPorts(protocol uint8) bool {
	return slices.Contains([]uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_UDPLITE, unix.IPPROTO_SCTP, unix.IPPROTO_DCCP}, protocol)
}
