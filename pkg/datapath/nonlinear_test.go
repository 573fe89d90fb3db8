package datapath

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/perimeterd/perimeterd/tests/packet"
	"github.com/perimeterd/perimeterd/tests/world"
)

// ring sends frames by a ring that the kernel shares with the process: of each it
// copies the Ethernet header, all else stays in pages of the ring. So no header
// that a filter reads is where it can read it at once.
type ring struct {
	fd     int
	memory []byte
	next   int
}

const (
	ringFrame  = 1 << 11
	ringFrames = 64
	ringData   = 32 // sizeof(struct tpacket2_hdr), aligned
)

func openRing(t *testing.T, on world.Interface) *ring {
	t.Helper()
	r := &ring{}
	err := on.Host.Run(func() (err error) {
		if r.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		t.Cleanup(func() { unix.Close(r.fd) })
		if err := unix.SetsockoptInt(r.fd, unix.SOL_PACKET, unix.PACKET_VERSION, unix.TPACKET_V2); err != nil {
			return err
		}
		err = unix.SetsockoptTpacketReq(r.fd, unix.SOL_PACKET, unix.PACKET_TX_RING, &unix.TpacketReq{
			Block_size: ringFrame * ringFrames, Block_nr: 1, Frame_size: ringFrame, Frame_nr: ringFrames,
		})
		if err != nil {
			return err
		}
		if r.memory, err = unix.Mmap(r.fd, 0, ringFrame*ringFrames, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
			return err
		}
		t.Cleanup(func() { unix.Munmap(r.memory) })
		return unix.Bind(r.fd, &unix.SockaddrLinklayer{Protocol: unix.ETH_P_IP, Ifindex: on.Index})
	})
	if err != nil {
		t.Fatalf("a ring on %s: %v", on.Name, err)
	}
	return r
}

// send sends one frame and returns when the kernel has taken it.
func (r *ring) send(t *testing.T, frame []byte) {
	t.Helper()
	slot := r.memory[r.next*ringFrame : (r.next+1)*ringFrame]
	header := (*unix.Tpacket2Hdr)(unsafe.Pointer(&slot[0]))
	if header.Status != unix.TP_STATUS_AVAILABLE {
		t.Fatalf("the slot of the ring is in state %#x", header.Status)
	}
	header.Len = uint32(copy(slot[ringData:], frame))
	header.Status = unix.TP_STATUS_SEND_REQUEST
	switch err := unix.Sendto(r.fd, nil, 0, nil); {
	case errors.Is(err, unix.ENOBUFS):
		// It was dropped on its way out, and would be sent again next.
		header.Status = unix.TP_STATUS_AVAILABLE
	case err != nil:
		t.Fatalf("send from the ring: %v", err)
	default:
		r.next = (r.next + 1) % ringFrames
	}
}

// countFrames counts what an interface sends and a condition holds for. The
// condition has the skb in R6 and jumps to "exit" where it does not hold.
func countFrames(t *testing.T, on world.Interface, condition ...asm.Instruction) func() uint64 {
	t.Helper()
	counter, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { counter.Close() })
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: slices.Concat(
		asm.Instructions{asm.Mov.Reg(asm.R6, asm.R1)}, condition, asm.Instructions{
			asm.StoreImm(asm.RFP, -4, 0, asm.Word),
			asm.LoadMapPtr(asm.R1, counter.FD()),
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.Add.Imm(asm.R2, -4),
			asm.FnMapLookupElem.Call(),
			asm.JEq.Imm(asm.R0, 0, "exit"),
			asm.Mov.Imm(asm.R1, 1),
			asm.StoreXAdd(asm.R0, asm.R1, asm.DWord),
			asm.Mov.Imm(asm.R0, -1).WithSymbol("exit"),
			asm.Return(),
		})})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	handle := on.Host.Netlink()
	err = handle.QdiscAdd(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: on.Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}})
	if err == nil || errors.Is(err, unix.EEXIST) {
		err = handle.FilterAdd(&netlink.BpfFilter{
			FilterAttrs: netlink.FilterAttrs{LinkIndex: on.Index, Parent: netlink.HANDLE_MIN_EGRESS, Protocol: unix.ETH_P_ALL, Priority: 99},
			Fd:          program.FD(), Name: "counter", DirectAction: true,
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	return func() uint64 {
		var n uint64
		if err := counter.Lookup(uint32(0), &n); err != nil {
			t.Fatal(err)
		}
		return n
	}
}

// Fields of struct __sk_buff.
const (
	skbLength  = 0
	skbData    = 76
	skbDataEnd = 80
	skbGSOSize = 176
)

// countSplit counts frames of which no more than the Ethernet header can be read
// at once.
func countSplit(t *testing.T, on world.Interface) func() uint64 {
	t.Helper()
	return countFrames(t, on,
		asm.LoadMem(asm.R2, asm.R6, skbData, asm.Word),
		asm.LoadMem(asm.R3, asm.R6, skbDataEnd, asm.Word),
		asm.Add.Imm(asm.R2, 15),
		asm.JGE.Reg(asm.R3, asm.R2, "exit"),
	)
}

// shape is a way to wrap a datagram in which Linux delivers it.
type shape struct {
	name string
	over families
	wrap func(packet.Packet) []packet.Packet
}

// shapes are some, with headers up to the length that is walked.
func shapes() []shape {
	v4, v6 := families{v4: true}, families{v6: true}
	one := func(wrap func(packet.Packet) packet.Packet) func(packet.Packet) []packet.Packet {
		return func(p packet.Packet) []packet.Packet { return []packet.Packet{wrap(p)} }
	}
	const nop = 1
	return []shape{
		{"plain", bothFamilies, one(func(p packet.Packet) packet.Packet { return p })},
		{"with a tag of no VLAN", bothFamilies, one(func(p packet.Packet) packet.Packet { return p.Tagged(0) })},
		{"with one option", v4, one(func(p packet.Packet) packet.Packet { return p.Options(nop) })},
		{"with all options", v4, one(func(p packet.Packet) packet.Packet { return p.Options(slices.Repeat([]byte{nop}, 40)...) })},
		{"behind options", v6, one(func(p packet.Packet) packet.Packet { return p.Extensions(packet.DestinationOptions) })},
		{"behind a chain", v6, one(func(p packet.Packet) packet.Packet {
			return p.Extensions(packet.HopByHop, packet.DestinationOptions, packet.DestinationOptions)
		})},
		{"behind long options", v6, one(func(p packet.Packet) packet.Packet {
			return p.LongExtension(packet.HopByHop, 248).LongExtension(packet.DestinationOptions, 192)
		})},
		{"in fragments", bothFamilies, func(p packet.Packet) []packet.Packet { return p.Split(7, 64) }},
		{"in fragments, behind options", v6, func(p packet.Packet) []packet.Packet {
			return p.Extensions(packet.HopByHop, packet.DestinationOptions).Split(8, 64)
		}},
	}
}

// datagrams are a datagram in every shape and family between two ports; its text
// is what it is.
func datagrams(from, to world.Interface, sources, destinations []string, port uint16) (frames [][]byte, texts []string) {
	for _, s := range shapes() {
		for i := range sources {
			if v6 := netip.MustParseAddr(sources[i]).Is6(); v6 && !s.over.v6 || !v6 && !s.over.v4 {
				continue
			}
			text := fmt.Sprintf("%-80s", fmt.Sprintf("%s to %s port %d", s.name, destinations[i], port))
			texts = append(texts, text)
			for _, p := range s.wrap(packet.UDP(sources[i], destinations[i], 4000, port).Payload(text).Ethernet(from.MAC, to.MAC)) {
				frames = append(frames, p.Frame())
			}
		}
	}
	slices.Sort(texts)
	return frames, texts
}

// TestHeadersOutOfReach: headers that a filter cannot read at once are got and
// read, wherever they are: what is allowed is delivered in every shape, nothing
// beside it is, and no packet is taken for a truncated one.
func TestHeadersOutOfReach(t *testing.T) {
	loads := newLoads(t)
	for _, way := range []struct {
		name             string
		towards          bool
		allowed, besides uint16
		xdp              XDPMode
	}{
		{"towards the member", true, 5432, 5433, XDPOff},
		{"towards the member, at XDP, native", true, 5432, 5433, XDPNative},
		{"towards the member, at XDP, generic", true, 5432, 5433, XDPGeneric},
		{"from the member", false, 443, 444, XDPOff},
	} {
		t.Run(way.name, func(t *testing.T) {
			w := newWired(t)
			w.join(t, w.memberVeth, w.partnerVeth)
			from, to := w.memberVeth, w.partnerVeth
			sources, destinations := bothFamilies.addresses()
			if way.towards {
				from, to = to, from
				sources, destinations = destinations, sources
			}
			sender, split := openRing(t, from), countSplit(t, from)
			allowed := openBox(t, to.Host, fmt.Sprint(way.allowed))
			besides := openBox(t, to.Host, fmt.Sprint(way.besides))
			sent := uint64(0)
			send := func(port uint16) []string {
				frames, texts := datagrams(from, to, sources, destinations, port)
				for _, f := range frames {
					sender.send(t, f)
				}
				sent += uint64(len(frames))
				return texts
			}
			expect := func(b *box, want []string) {
				t.Helper()
				if got := b.collect(t, len(want), enough); !slices.Equal(got, want) {
					t.Errorf("got %q,\nwant %q", got, want)
				}
			}
			expect(allowed, send(way.allowed))
			expect(besides, send(way.besides))
			if n := split(); n != sent {
				t.Fatalf("%d of %d frames were split", n, sent)
			}
			w.enforceBy(t, loads.with(t, Options{XDP: way.xdp}), w.memberVeth)
			send(way.besides)
			expect(allowed, send(way.allowed))
			if got := besides.collect(t, 1, shortly); len(got) > 0 {
				t.Errorf("got past: %q", got)
			}
			counted := w.counted(t)
			t.Log(describe(counted))
			expectUnderstood(t, counted)
			if counted["no-access-rule"] == 0 || counted["fragment-denied"] == 0 || counted["fragment-follows"] == 0 {
				t.Error("not all of it was judged")
			}
		})
	}
}

// TestErrorOutOfReach: an ICMP error is read to the ports it quotes, wherever they
// are, so that a socket hears of its own and of no other.
func TestErrorOutOfReach(t *testing.T) {
	for _, mode := range []XDPMode{XDPOff, XDPNative, XDPGeneric} {
		t.Run("XDP "+string(mode), func(t *testing.T) { errorOutOfReach(t, Options{XDP: mode}) })
	}
}

func errorOutOfReach(t *testing.T, options Options) {
	w := newWired(t)
	w.join(t, w.memberVeth, w.partnerVeth)
	w.enforce(t, options, w.memberVeth)
	sender := openRing(t, w.partnerVeth)
	members, partners := bothFamilies.addresses()
	for i := range members {
		conn, err := w.member.Dial(t.Context(), "udp", net.JoinHostPort(partners[i], "443"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.Write([]byte("is anybody there?")); err != nil {
			t.Fatal(err)
		}
		port := uint16(conn.LocalAddr().(*net.UDPAddr).Port)
		reply := func(port uint16, wrap func(packet.Packet) packet.Packet) {
			quoted := wrap(packet.UDP(members[i], partners[i], port, 443).Payload("is anybody there?"))
			e := packet.ICMPError(partners[i], packet.PortUnreachable, quoted).Ethernet(w.partnerVeth.MAC, w.memberVeth.MAC)
			sender.send(t, wrap(e).Frame())
		}
		// The partner itself says so too; that is no other error than the first.
		wrap := func(p packet.Packet) packet.Packet { return p.Options(1, 1, 1, 1, 1, 1, 1, 1) }
		if i == 1 {
			wrap = func(p packet.Packet) packet.Packet { return p.LongExtension(packet.DestinationOptions, 96) }
		}
		hears := func(want error) {
			t.Helper()
			patience := shortly
			if want != os.ErrDeadlineExceeded {
				patience = enough
			}
			if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Read(make([]byte, 64)); !errors.Is(err, want) {
				t.Errorf("%s: %v, want %v", partners[i], err, want)
			}
		}
		hears(unix.ECONNREFUSED)
		before := w.counted(t)
		reply(port+1, wrap)
		hears(os.ErrDeadlineExceeded)
		reply(port, wrap)
		hears(unix.ECONNREFUSED)
		after := w.counted(t)
		if after["related"] != before["related"]+1 || after["no-access-rule"] != before["no-access-rule"]+1 {
			t.Errorf("%s: counted %s, before %s", partners[i], describe(after), describe(before))
		}
	}
	expectUnderstood(t, w.counted(t))
}

// box is a UDP socket of a host that notes what it gets.
type box struct {
	conn net.PacketConn
}

func openBox(t *testing.T, host *world.Host, port string) *box {
	t.Helper()
	conn, err := host.ListenPacket("udp", ":"+port)
	if err != nil {
		t.Fatal(err)
	}
	return &box{conn}
}

// collect returns the datagrams that come, sorted, until there are so many, or
// none comes for a while.
func (b *box) collect(t *testing.T, want int, patience time.Duration) []string {
	t.Helper()
	var got []string
	buffer := make([]byte, 1<<16)
	for len(got) < want {
		if err := b.conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		n, _, err := b.conn.ReadFrom(buffer)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, string(buffer[:n]))
	}
	slices.Sort(got)
	return got
}

// TestLeftToTC: what XDP leaves to TC is judged there, and once: nothing that Linux
// would deliver gets past because only one of them was asked, and nothing counts
// twice because both were.
func TestLeftToTC(t *testing.T) {
	for _, mode := range []XDPMode{XDPNative, XDPGeneric} {
		t.Run(string(mode), func(t *testing.T) {
			w := newWired(t)
			w.join(t, w.memberVeth, w.partnerVeth)
			inbox, wire := openBox(t, w.member, "5432"), openWire(t, w.partnerVeth)
			deep := packet.UDP(partner6, member6, 4000, 5432).Payload("deep").Ethernet(w.partnerVeth.MAC, w.memberVeth.MAC)
			flat := deep.Payload("flat")
			for range 9 {
				deep = deep.Extensions(packet.DestinationOptions)
			}
			if err := wire.Send(deep); err != nil {
				t.Fatal(err)
			}
			if got := inbox.collect(t, 1, enough); len(got) != 1 {
				t.Fatal("Linux itself does not deliver it")
			}
			w.enforce(t, Options{XDP: mode}, w.memberVeth)
			if err := wire.Send(deep, flat, flat); err != nil {
				t.Fatal(err)
			}
			if got := inbox.collect(t, 2, enough); !slices.Equal(got, []string{"flat", "flat"}) {
				t.Errorf("got %q", got)
			}
			counted := w.counted(t)
			delete(counted, "link-failsafe") // of the neighbours' own
			if got := describe(counted); got != "access-rule 1, established 1, too-many-headers 1" {
				t.Errorf("counted %s", got)
			}
		})
	}
}
