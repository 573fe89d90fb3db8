package datapath

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/perimeterd/perimeterd/tests/packet"
	"github.com/perimeterd/perimeterd/tests/world"
)

// tunnels is a tun or tap device on each host, with a wire between them that is
// this process.
func tunnels(mode netlink.TuntapMode, segments bool) func(*testing.T, *wired) (world.Interface, world.Interface, error) {
	return func(t *testing.T, w *wired) (member, partner world.Interface, err error) {
		var files [2]*os.File
		ends := []*world.Interface{&member, &partner}
		for i, host := range []*world.Host{w.member, w.partner} {
			if files[i], err = openTunnel(host, mode, segments); err != nil {
				return member, partner, err
			}
			t.Cleanup(func() { files[i].Close() })
			if *ends[i], err = raise(host, "line0"); err != nil {
				return member, partner, err
			}
		}
		go pump(files[0], files[1])
		go pump(files[1], files[0])
		return member, partner, nil
	}
}

// openTunnel makes the device line0. With segments it hands over what is too long
// for its MTU whole, with a header that says how to cut it.
func openTunnel(host *world.Host, mode netlink.TuntapMode, segments bool) (*os.File, error) {
	flags := uint16(mode) | unix.IFF_NO_PI
	if segments {
		flags |= unix.IFF_VNET_HDR
	}
	return openTunnelWith(host, flags)
}

func openTunnelWith(host *world.Host, flags uint16) (file *os.File, err error) {
	err = host.Run(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open /dev/net/tun: %w", err)
		}
		request, err := unix.NewIfreq("line0")
		if err == nil {
			request.SetUint16(flags)
			err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
		}
		if err == nil && flags&unix.IFF_VNET_HDR != 0 {
			err = unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, unix.TUN_F_CSUM|unix.TUN_F_TSO4|unix.TUN_F_TSO6)
		}
		if err != nil {
			return errors.Join(fmt.Errorf("make a tunnel: %w", err), unix.Close(fd))
		}
		file = os.NewFile(uintptr(fd), "line0") // only now, since until then it cannot be waited for
		return nil
	})
	return file, err
}

// pump carries frames from one tunnel to the other until one is closed. A full
// queue loses frames, as a wire's would.
func pump(from, to *os.File) {
	frame := make([]byte, 1<<17)
	for {
		n, err := from.Read(frame)
		if err != nil {
			return
		}
		if _, err := to.Write(frame[:n]); errors.Is(err, os.ErrClosed) {
			return
		}
	}
}

// TestTunnelSaysWhatItCarries: who holds a tun device says of each packet what it
// is, tags included, and the kernel believes it. What it delivers is judged.
func TestTunnelSaysWhatItCarries(t *testing.T) {
	w := newWired(t)
	file, err := openTunnelWith(w.member, unix.IFF_TUN)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	line, err := raise(w.member, "line0")
	if err != nil {
		t.Fatal(err)
	}
	w.join(t, line, w.partnerVeth)
	inbox, closed := openBox(t, w.member, "5432"), openBox(t, w.member, "5433")
	const ip4, ip6, tag, serviceTag = 0x0800, 0x86dd, 0x8100, 0x88a8
	send := func(port uint16) {
		t.Helper()
		datagram4 := packet.UDP(partner4, member4, 4000, port).Payload("IPv4").Datagram()
		datagram6 := packet.UDP(partner6, member6, 4000, port).Payload("IPv6").Datagram()
		for _, words := range [][]uint16{
			{ip4}, {tag, 0, ip4}, {serviceTag, 0, ip4}, {serviceTag, 0, tag, 0, ip4}, {tag, 0, tag, 0, tag, 0, ip4},
			{ip6}, {tag, 0, ip6}, {tag, 7, ip6}, {ip4 + 1}, // another VLAN, and no IP
		} {
			frame := []byte{0, 0} // no flags
			for _, word := range words {
				frame = binary.BigEndian.AppendUint16(frame, word)
			}
			datagram := datagram4
			if words[len(words)-1] == ip6 {
				datagram = datagram6
			}
			if _, err := file.Write(append(frame, datagram...)); err != nil {
				t.Fatal(err)
			}
		}
	}
	send(5432)
	delivered := inbox.collect(t, 100, shortly)
	if len(delivered) < 3 {
		t.Fatalf("Linux itself delivers only %q", delivered)
	}
	send(5433)
	if got := closed.collect(t, len(delivered), enough); len(got) != len(delivered) {
		t.Fatalf("Linux itself delivers %q, and then %q", delivered, got)
	}
	w.enforce(t, Options{}, line)
	send(5433)
	send(5432)
	if got := inbox.collect(t, len(delivered), enough); !slices.Equal(got, delivered) {
		t.Errorf("got %q, want %q", got, delivered)
	}
	if got := closed.collect(t, 1, shortly); len(got) > 0 {
		t.Errorf("got past: %q", got)
	}
	t.Log(len(delivered), "are delivered; ", describe(w.counted(t)))
}

// Of the kernel's linux/wireguard.h.
const (
	wgCommandSetDevice = 1
	wgIfindex          = 1
	wgPrivateKey       = 3
	wgListenPort       = 6
	wgPeers            = 8
	wgPeerPublicKey    = 1
	wgPeerEndpoint     = 4
	wgPeerAllowedIPs   = 9
	wgAllowedFamily    = 1
	wgAllowedAddress   = 2
	wgAllowedBits      = 3
	wgPort             = 51820
)

// wireguard is a WireGuard tunnel between the two hosts.
func wireguard(_ *testing.T, w *wired) (member, partner world.Interface, err error) {
	made := []*world.Interface{&member, &partner}
	var keys [2]*ecdh.PrivateKey
	ends := w.ends()
	for i, e := range ends {
		if *made[i], err = add(e.host, &netlink.Wireguard{LinkAttrs: e.attrs()}); err != nil {
			return member, partner, err
		}
		if keys[i], err = ecdh.X25519().GenerateKey(rand.Reader); err != nil {
			return member, partner, err
		}
	}
	endpoints := [2]string{memberUnder4, partnerUnder4}
	for i, e := range ends {
		err := e.host.Run(func() error {
			return configureWireguard(made[i].Index, keys[i], keys[1-i].PublicKey(), netip.MustParseAddr(endpoints[1-i]))
		})
		if err != nil {
			return member, partner, fmt.Errorf("configure WireGuard: %w", err)
		}
	}
	return member, partner, nil
}

// genericHeader is the kernel's struct genlmsghdr: command, version, two reserved
// bytes. Those of nl.Genlmsg (v1.3.1) are whatever is in memory behind it, and
// newer kernels want them to be 0.
type genericHeader [4]byte

func (h genericHeader) Len() int          { return len(h) }
func (h genericHeader) Serialize() []byte { return h[:] }

// configureWireguard gives a device its key and one peer, for everything.
func configureWireguard(ifindex int, own *ecdh.PrivateKey, peer *ecdh.PublicKey, at netip.Addr) error {
	family, err := netlink.GenlFamilyGet("wireguard")
	if err != nil {
		return err
	}
	request := nl.NewNetlinkRequest(int(family.ID), unix.NLM_F_ACK)
	request.AddData(genericHeader{wgCommandSetDevice, 1})
	request.AddData(nl.NewRtAttr(wgIfindex, nl.Uint32Attr(uint32(ifindex))))
	request.AddData(nl.NewRtAttr(wgPrivateKey, own.Bytes()))
	request.AddData(nl.NewRtAttr(wgListenPort, nl.Uint16Attr(wgPort)))

	endpoint := make([]byte, unix.SizeofSockaddrInet4)
	nl.NativeEndian().PutUint16(endpoint, unix.AF_INET)
	binary.BigEndian.PutUint16(endpoint[2:], wgPort)
	copy(endpoint[4:], at.AsSlice())

	peers := nl.NewRtAttr(unix.NLA_F_NESTED|wgPeers, nil)
	entry := peers.AddRtAttr(unix.NLA_F_NESTED, nil)
	entry.AddRtAttr(wgPeerPublicKey, peer.Bytes())
	entry.AddRtAttr(wgPeerEndpoint, endpoint)
	allowed := entry.AddRtAttr(unix.NLA_F_NESTED|wgPeerAllowedIPs, nil)
	for i, all := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		prefix := allowed.AddRtAttr(unix.NLA_F_NESTED|i, nil)
		prefix.AddRtAttr(wgAllowedFamily, nl.Uint16Attr([]uint16{unix.AF_INET, unix.AF_INET6}[i]))
		prefix.AddRtAttr(wgAllowedAddress, all.AsSlice())
		prefix.AddRtAttr(wgAllowedBits, nl.Uint8Attr(0))
	}
	request.AddData(peers)
	_, err = request.Execute(unix.NETLINK_GENERIC, 0)
	return err
}
