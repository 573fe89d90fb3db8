package datapath

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/tests/traffic"
	"github.com/perimeterd/perimeterd/tests/world"
)

// countLonger counts frames of more bytes than that.
func countLonger(t *testing.T, on world.Interface, bytes int32) func() uint64 {
	t.Helper()
	return countFrames(t, on,
		asm.LoadMem(asm.R2, asm.R6, skbLength, asm.Word),
		asm.JLE.Imm(asm.R2, bytes, "exit"),
	)
}

// setMTU sets both ends of the veth pair.
func (w *wired) setMTU(mtu int) error {
	return w.eachVeth(func(handle *netlink.Handle, link netlink.Link) error { return handle.LinkSetMTU(link, mtu) })
}

func (w *wired) eachVeth(change func(*netlink.Handle, netlink.Link) error) error {
	for _, i := range []world.Interface{w.memberVeth, w.partnerVeth} {
		link, err := i.Host.Netlink().LinkByIndex(i.Index)
		if err != nil {
			return err
		}
		if err := change(i.Host.Netlink(), link); err != nil {
			return fmt.Errorf("change %s: %w", i.Name, err)
		}
	}
	return nil
}

// TestLongPackets: packets may be as long as they like, before and after the
// kernel cuts them or puts them together.
func TestLongPackets(t *testing.T) {
	always := [2]uint32{}
	bigTCP := func(set func(*netlink.Handle, netlink.Link, int) error) func(w *wired) error {
		return func(w *wired) error {
			err := w.eachVeth(func(h *netlink.Handle, l netlink.Link) error { return set(h, l, 200_000) })
			if err != nil {
				return err
			}
			// However long a packet takes from one end to the other.
			for _, host := range []*world.Host{w.member, w.partner} {
				err = errors.Join(err, host.Run(func() error { return os.WriteFile("/proc/sys/net/ipv4/tcp_tso_rtt_log", []byte("31"), 0) }))
			}
			return err
		}
	}
	loads := newLoads(t)
	for _, test := range []struct {
		name   string
		longer int32 // frames of more bytes than this cross the line; 0 = that is not looked at
		xdp    XDPMode
		change func(w *wired) error
		since  [2]uint32 // the Linux that can do it
	}{
		{"as segmentation offload leaves them", 40000, XDPOff, func(*wired) error { return nil }, always},
		{"as they come to XDP, generic", 40000, XDPGeneric, func(*wired) error { return nil }, always},
		{"as they come to XDP, native", 1000, XDPNative, func(*wired) error { return nil }, always},
		{"jumbo frames", 40000, XDPOff, func(w *wired) error { return w.setMTU(9000) }, always},
		{"jumbo frames to XDP, generic", 40000, XDPGeneric, func(w *wired) error { return w.setMTU(9000) }, always},
		{"jumbo frames without offload", 8000, XDPOff, func(w *wired) error {
			_, member := ethtool(w.memberVeth, ethtoolTSO, ethtoolSwitchOff)
			_, partner := ethtool(w.partnerVeth, ethtoolTSO, ethtoolSwitchOff)
			return errors.Join(w.setMTU(9000), member, partner)
		}, always},
		{"as long as IPv4 can be", 60000, XDPOff, func(w *wired) error { return w.setMTU(65535) }, always},
		{"BIG TCP over IPv6", 70000, XDPOff, bigTCP((*netlink.Handle).LinkSetGSOMaxSize), [2]uint32{5, 19}},
		{"BIG TCP over IPv4", 70000, XDPOff, bigTCP((*netlink.Handle).LinkSetGSOIPv4MaxSize), [2]uint32{6, 3}},
		{"put together on arrival", 0, XDPOff, func(w *wired) error {
			_, cut := ethtool(w.partnerVeth, ethtoolTSO, ethtoolSwitchOff)
			_, join := ethtool(w.memberVeth, ethtoolGRO, 1)
			return errors.Join(cut, join)
		}, [2]uint32{5, 13}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if !linuxIs(t, test.since) {
				t.Logf("not tried, this kernel cannot do that: needs Linux %d.%d", test.since[0], test.since[1])
				return
			}
			w := newWired(t)
			w.join(t, w.memberVeth, w.partnerVeth)
			if err := test.change(w); err != nil {
				t.Fatal(err)
			}
			w.serve(t)
			longer := func() uint64 { return 1 }
			if test.longer > 0 {
				longer = countLonger(t, w.partnerVeth, test.longer)
			}
			w.enforceBy(t, loads.with(t, Options{XDP: test.xdp}), w.memberVeth)
			w.callAll(t, bothFamilies, 2<<20, traffic.TimedOut)
			// A sender begins with less at once; and a busy machine keeps it there.
			for tries := 0; longer() == 0; tries++ {
				if tries == 20 {
					t.Fatalf("no frame is longer than %d bytes", test.longer)
				}
				w.callAll(t, bothFamilies, 8<<20, traffic.TimedOut)
			}
			counted := w.counted(t)
			t.Log(describe(counted))
			expectUnderstood(t, counted)
			for _, f := range w.flowsOf(t, policy.ProtocolTCP) {
				if test.longer == 0 && f.Direction == policy.Inbound && f.BytesTowards/f.PacketsTowards < 1500 {
					t.Errorf("no packets were put together: %d of %d bytes", f.PacketsTowards, f.BytesTowards)
				}
				if f.Direction == policy.Inbound && f.BytesTowards < 2<<20 {
					t.Errorf("a flow of %d bytes", f.BytesTowards)
				}
			}
		})
	}
}

// linuxIs reports a kernel of this version or a later one. It is for what cannot be
// told by trying, since a kernel that cannot do it does not say so.
func linuxIs(t *testing.T, version [2]uint32) bool {
	t.Helper()
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	var major, minor uint32
	if _, err := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &major, &minor); err != nil {
		t.Fatal(err)
	}
	return major > version[0] || major == version[0] && minor >= version[1]
}

// TestWithoutCopies: what a process hands over without a copy, or a file, arrives
// whole; the kernel sends it in pages that are not its own.
func TestWithoutCopies(t *testing.T) {
	w := newWired(t)
	w.join(t, w.memberVeth, w.partnerVeth)
	w.serve(t)
	w.enforce(t, Options{}, w.memberVeth)
	content := bytes.Repeat([]byte("not to be copied"), 1<<16)
	file := filepath.Join(t.TempDir(), "content")
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), enough)
	defer cancel()
	members, partners := bothFamilies.addresses()
	for name, send := range map[string]func(fd int) error{
		"a file": func(fd int) error { return sendFile(fd, file) },
		"pages":  func(fd int) error { return sendPages(fd, content) },
	} {
		for i := range members {
			for _, way := range []struct {
				from *world.Host
				to   string
			}{{w.partner, net.JoinHostPort(members[i], "5432")}, {w.member, net.JoinHostPort(partners[i], "443")}} {
				t.Run(fmt.Sprintf("%s to %s", name, way.to), func(t *testing.T) {
					conn, err := way.from.Dial(ctx, "tcp", way.to)
					if err != nil {
						t.Fatal(err)
					}
					// The kernel's word that pages are free again would end a wait of Go's own.
					file, err := conn.(*net.TCPConn).File()
					if err := errors.Join(err, conn.Close()); err != nil {
						t.Fatal(err)
					}
					defer file.Close()
					fd := int(file.Fd())
					limit := unix.NsecToTimeval(enough.Nanoseconds())
					if err := errors.Join(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit), unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit)); err != nil {
						t.Fatal(err)
					}
					if _, err := unix.Write(fd, fmt.Appendf(nil, "%d\n", len(content))); err != nil {
						t.Fatal(err)
					}
					if err := send(fd); err != nil {
						t.Fatal(err)
					}
					said := make([]byte, 100)
					n, err := unix.Read(fd, said)
					if err != nil {
						t.Fatal(err)
					}
					if want := fmt.Sprintf("%x\n", sha256.Sum256(content)); string(said[:n]) != want {
						t.Errorf("other bytes arrived")
					}
				})
			}
		}
	}
	expectUnderstood(t, w.counted(t))
}

// sendFile sends a file's pages.
func sendFile(fd int, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	for left := int(info.Size()); left > 0; {
		n, err := unix.Sendfile(fd, int(f.Fd()), nil, left)
		if err != nil {
			return err
		}
		left -= n
	}
	return nil
}

// sendPages sends without a copy.
func sendPages(fd int, content []byte) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ZEROCOPY, 1); err != nil {
		return err
	}
	for len(content) > 0 {
		n, err := unix.SendmsgN(fd, content, nil, nil, unix.MSG_ZEROCOPY)
		if err != nil {
			return err
		}
		content = content[n:]
	}
	return nil
}

// TestSegmentedDatagrams: datagrams that a process hands over as one, to be cut by
// the kernel or the device, all arrive, and none beside the allowed port.
func TestSegmentedDatagrams(t *testing.T) {
	w := newWired(t)
	w.join(t, w.memberVeth, w.partnerVeth)
	inbox, closed := openBox(t, w.member, "5432"), openBox(t, w.member, "5433")
	outbox, beyond := openBox(t, w.partner, "443"), openBox(t, w.partner, "444")
	long := countLonger(t, w.partnerVeth, 20000)
	w.enforce(t, Options{}, w.memberVeth)
	const size, number = 1000, 30
	members, partners := bothFamilies.addresses()
	for i := range members {
		for _, way := range []struct {
			from            *world.Host
			to              string
			allowed, beside *box
			ports           [2]string
		}{
			{w.partner, members[i], inbox, closed, [2]string{"5432", "5433"}},
			{w.member, partners[i], outbox, beyond, [2]string{"443", "444"}},
		} {
			var want []string
			for n := range number {
				want = append(want, fmt.Sprintf("%-*d", size, n))
			}
			slices.Sort(want)
			for _, port := range way.ports {
				conn, err := way.from.Dial(t.Context(), "udp", net.JoinHostPort(way.to, port))
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				if err := setOption(conn.(*net.UDPConn), unix.SOL_UDP, unix.UDP_SEGMENT, size); err != nil {
					t.Fatal(err)
				}
				if _, err := conn.Write([]byte(joined(want))); err != nil {
					t.Fatal(err)
				}
			}
			if got := way.allowed.collect(t, number, enough); !slices.Equal(got, want) {
				t.Errorf("to %s: %d datagrams arrived, want %d", way.to, len(got), number)
			}
			if got := way.beside.collect(t, 1, shortly); len(got) > 0 {
				t.Errorf("to %s: %d datagrams got past", way.to, len(got))
			}
		}
	}
	expectUnderstood(t, w.counted(t))
	if long() == 0 {
		t.Error("the datagrams crossed the line one by one")
	}
}

func joined(parts []string) string {
	var all bytes.Buffer
	for _, p := range parts {
		all.WriteString(p)
	}
	return all.String()
}

// setOption sets an option of a socket of package net.
func setOption(socket syscall.Conn, level, option, value int) error {
	raw, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), level, option, value) })
	return errors.Join(err, failed)
}
