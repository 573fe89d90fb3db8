package datapath

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/perimeterd/perimeterd/pkg/links"
	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/tests/crafted"
	"github.com/perimeterd/perimeterd/tests/packet"
	"github.com/perimeterd/perimeterd/tests/privileged"
	"github.com/perimeterd/perimeterd/tests/world"
)

// referee is a host whose kernel says what a packet is: by the socket that it
// hands it to. It listens to all that a packet could be taken for. Frames come
// over a wire from a host without addresses, whose own kernel so has no say.
type referee struct {
	host, sender *world.Host
	near, far    world.Interface
	wire         *packet.Wire
	mtu          int
	ends         crafted.Wire
	facts        policy.Facts // of the host
	doors        []*door
	listeners    []int // descriptors that nothing is read from
	fences       uint32
	room         []byte
	control      []byte
}

// newReferee builds both hosts and opens the sockets.
func newReferee(t *testing.T, mtu int) *referee {
	t.Helper()
	privileged.Require(t)
	w := world.New(t)
	r := &referee{sender: w.Host("sender"), host: w.Host("host"), mtu: mtu, room: make([]byte, 1<<16), control: make([]byte, 512)}
	must(t, r.sender.Run(func() error {
		// What it says by itself would be mistaken for something that was sent.
		return os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0)
	}))
	r.far, r.near = w.Connect(r.sender, r.host)
	for _, end := range []world.Interface{r.far, r.near} {
		link := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: end.Index}}
		must(t, end.Host.Netlink().LinkSetMTU(link, mtu))
	}
	r.near.Address(member4+"/24", member6+"/64", "fe80::5/64")
	for _, gateway := range []string{"10.20.0.1", "fd20::1"} {
		must(t, r.host.Netlink().NeighSet(&netlink.Neigh{
			LinkIndex: r.near.Index, IP: net.ParseIP(gateway), HardwareAddr: r.far.MAC, State: netlink.NUD_PERMANENT,
		}))
	}
	r.host.Route("0.0.0.0/0", "10.20.0.1")
	r.host.Route("::/0", "fd20::1")
	must(t, r.host.Run(r.tune))
	must(t, r.host.Run(r.openDoors))
	t.Cleanup(r.closeDoors)
	must(t, r.host.Run(r.readFacts))
	must(t, r.sender.Run(func() (err error) {
		r.wire, err = packet.OpenWire(r.far.Name)
		return err
	}))
	t.Cleanup(func() { must(t, r.wire.Close()) })
	r.ends = crafted.Wire{
		SenderMAC: r.far.MAC, HostMAC: r.near.MAC,
		Partner:  crafted.Ends{V4: netip.MustParseAddr(partner4), V6: netip.MustParseAddr(partner6)},
		Stranger: crafted.Ends{V4: netip.MustParseAddr(stranger4), V6: netip.MustParseAddr(stranger6)},
		// The interface's other addresses differ from run to run.
		Host: []netip.Addr{netip.MustParseAddr(member4), netip.MustParseAddr(member6), netip.MustParseAddr("fe80::5")},
		Shared: []netip.Addr{
			netip.MustParseAddr("255.255.255.255"), netip.MustParseAddr("10.20.0.255"), netip.MustParseAddr("10.20.0.0"),
			netip.MustParseAddr("224.0.0.1"), netip.MustParseAddr(joined4),
			netip.MustParseAddr("ff02::1"), netip.MustParseAddr("ff02::2"), netip.MustParseAddr(joined6), netip.MustParseAddr("ff02::1:ff00:5"),
		},
		// The same on every wire, so that the cases are.
		Open: refereePort, Closed: refereeClosed, MTU: refereeMTU,
	}
	return r
}

// Groups that the host has joined.
const joined4, joined6 = "239.1.2.3", "ff05::1:3"

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// tune keeps the kernel from losing packets for reasons of its own.
func (r *referee) tune() error {
	for path, value := range map[string]string{
		"/proc/sys/net/ipv4/ipfrag_high_thresh":          "67108864", // parts of what never gets whole pile up
		"/proc/sys/net/ipv6/ip6frag_high_thresh":         "67108864",
		"/proc/sys/net/ipv4/tcp_max_syn_backlog":         "65536",
		"/proc/sys/net/core/somaxconn":                   "65535",
		"/proc/sys/net/ipv4/tcp_synack_retries":          "0", // nobody hears a repetition
		"/proc/sys/net/ipv4/icmp_echo_ignore_broadcasts": "0",
	} {
		if err := os.WriteFile(path, []byte(value), 0); err != nil {
			return err
		}
	}
	return nil
}

// readFacts takes what the agent would tell the policy's compiler.
func (r *referee) readFacts() error {
	all, err := links.List()
	if err != nil {
		return err
	}
	r.facts = policy.Facts{Now: time.Now(), Hostname: "host"}
	for _, l := range all {
		r.facts.Interfaces = append(r.facts.Interfaces, policy.Interface{
			Name: l.Name, Addresses: l.Addresses, Broadcasts: l.Broadcasts, Loopback: l.Loopback,
		})
	}
	return nil
}

// outcome is what became of frames: what sockets got, and what came back.
type outcome struct {
	receipts []receipt
	answers  [][]byte
}

// send sends frames and returns what came of them. It must run on one CPU only,
// see onOneCPU.
func (r *referee) send(frames ...[]byte) (outcome, error) {
	var o outcome
	for _, frame := range frames {
		// A filter at egress lets the sender know.
		if err := r.wire.SendFrame(frame); err != nil && !errors.Is(err, unix.ENOBUFS) {
			return o, fmt.Errorf("send %s: %w", packet.Describe(frame), err)
		}
	}
	if err := r.fence(&o); err != nil {
		return o, err
	}
	return o, r.collect(&o)
}

// fence returns when the host has had all frames sent before. Since they queue
// on one CPU, its answer to an ARP request comes after its answers to them.
func (r *referee) fence(o *outcome) error {
	r.fences++
	asker := net.HardwareAddr{2, 0xfe, byte(r.fences >> 24), byte(r.fences >> 16), byte(r.fences >> 8), byte(r.fences)}
	request := packet.ARP("10.20.0.99", member4).Frame()
	copy(request[6:], asker)
	copy(request[22:], asker) // also in the message, which is what is answered
	if err := r.wire.SendFrame(request); err != nil {
		return fmt.Errorf("send an ARP request: %w", err)
	}
	deadline := time.Now().Add(30 * time.Second)
	for {
		frame, err := r.wire.Receive(deadline)
		if err != nil {
			return fmt.Errorf("wait for the answer to an ARP request: %w", err)
		}
		switch arp := binary.BigEndian.Uint16(frame[12:]) == 0x0806; {
		case !arp:
			o.answers = append(o.answers, frame)
		case bytes.Equal(frame[:6], asker):
			return nil
		}
	}
}

// onOneCPU runs f with its thread on one CPU, so that what it sends over a veth
// is handled there, in the order in which it was sent.
func onOneCPU(t *testing.T, f func()) {
	t.Helper()
	runtime.LockOSThread()
	var before, one unix.CPUSet
	must(t, unix.SchedGetaffinity(0, &before))
	for cpu := 0; one.Count() == 0; cpu++ {
		if before.IsSet(cpu) {
			one.Set(cpu)
		}
	}
	must(t, unix.SchedSetaffinity(0, &one))
	defer func() {
		must(t, unix.SchedSetaffinity(0, &before))
		runtime.UnlockOSThread()
	}()
	f()
}

// kernelCounters reads what the host's kernel counted, by protocol and name.
func (r *referee) kernelCounters(t *testing.T) map[string]uint64 {
	t.Helper()
	out := map[string]uint64{}
	must(t, r.host.Run(func() error {
		four, err := os.ReadFile("/proc/thread-self/net/snmp")
		if err != nil {
			return err
		}
		lines := strings.Split(strings.TrimSpace(string(four)), "\n")
		for i := 0; i+1 < len(lines); i += 2 { // names, then values
			names, values := strings.Fields(lines[i]), strings.Fields(lines[i+1])
			for j := 1; j < len(names); j++ {
				var v uint64
				if _, err := fmt.Sscan(values[j], &v); err == nil { // some are -1
					out[strings.TrimSuffix(names[0], ":")+names[j]] = v
				}
			}
		}
		six, err := os.ReadFile("/proc/thread-self/net/snmp6")
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(six)) {
			var name string
			var v uint64
			if _, err := fmt.Sscan(line, &name, &v); err != nil {
				return fmt.Errorf("read snmp6: %w", err)
			}
			out[name] = v
		}
		return nil
	}))
	return out
}
