package secondopinion_test

import (
	"errors"
	"fmt"
	"net"
	"runtime"
	"strconv"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/perimeterd/perimeterd/tests/packet"
	"github.com/perimeterd/perimeterd/tests/world"
)

// side is where a packet comes from.
type side uint8

const (
	peer   side = iota // left of the router
	member             // right of it
)

func (s side) String() string { return [...]string{"peer", "member"}[s] }

func (s side) other() side { return 1 - s }

// gateways are where the router sends what is for either side. Nobody has these
// addresses, so nobody answers: what arrives is only heard.
var gateways = [2][2]string{
	peer:   {"192.0.2.2", "2001:db8:ffff::2"},
	member: {"192.0.2.130", "2001:db8:ffff:1::2"},
}

// nobody is the MAC address of the gateways.
func nobody() net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 0, 0x99} }

// field is a router that filters, with a bare end of wire on either side.
type field struct {
	router     *world.Host
	interfaces [2]world.Interface // the router's, by side
	wires      [2]*packet.Wire    // the far ends
	markers    int
}

// newField builds a router between two hosts that only send and hear frames. It
// is the caller's to close, also after an error.
func newField(w *world.World, name string) (*field, error) {
	f := &field{router: w.Router(name)}
	addresses := [2][2]string{
		peer:   {"192.0.2.1/25", "2001:db8:ffff::1/64"},
		member: {"192.0.2.129/25", "2001:db8:ffff:1::1/64"},
	}
	for _, s := range []side{peer, member} {
		end := w.Host(fmt.Sprintf("%ss-%s", s, name[:4]))
		_, f.interfaces[s] = w.Connect(end, f.router, "", addresses[s][0], "", addresses[s][1])
		for _, gateway := range gateways[s] {
			err := f.router.Netlink().NeighSet(&netlink.Neigh{
				LinkIndex: f.interfaces[s].Index, State: netlink.NUD_PERMANENT,
				IP: net.ParseIP(gateway), HardwareAddr: nobody(),
			})
			if err != nil {
				return f, fmt.Errorf("tell %s its neighbour %s: %w", name, gateway, err)
			}
		}
		err := end.Run(func() (err error) {
			f.wires[s], err = packet.OpenWire(name)
			return err
		})
		if err != nil {
			return f, err
		}
	}
	f.router.Route("0.0.0.0/0", gateways[peer][0])
	f.router.Route("::/0", gateways[peer][1])
	f.router.Route("10.20.0.0/16", gateways[member][0])
	f.router.Route("fd20::/16", gateways[member][1])
	return f, nil
}

func (f *field) close() error {
	if f == nil {
		return nil
	}
	var errs []error
	for _, wire := range f.wires {
		if wire != nil {
			errs = append(errs, wire.Close())
		}
	}
	return errors.Join(errs...)
}

// sending is one datagram, or what is sent of it.
type sending struct {
	from   side
	whole  packet.Packet
	pieces []packet.Packet // its fragments; nil = sent whole
}

func (s *sending) frames() []packet.Packet {
	if s.pieces != nil {
		return s.pieces
	}
	return []packet.Packet{s.whole}
}

// hops is the hop limit a datagram came out with; 0 = it did not come out.
type hops uint8

// batchMax keeps what is heard at once well below the room of a socket.
const batchMax = 100

// try sends datagrams through the router, in order, and returns what came out.
func (f *field) try(all []sending) ([]hops, error) {
	outcomes := make([]hops, 0, len(all))
	for start := 0; start < len(all); {
		frames, end := 0, start
		for end < len(all) && (end == start || frames+len(all[end].frames()) <= batchMax) {
			frames += len(all[end].frames())
			end++
		}
		some, err := f.tryBatch(all[start:end])
		if err != nil {
			return nil, err
		}
		outcomes = append(outcomes, some...)
		start = end
	}
	return outcomes, nil
}

// tryBatch ends with a marker in either direction, which every filter lets pass.
// All is sent by one thread that stays on one CPU, whose queue keeps the order:
// with the marker, all that came before it has come out or never will.
func (f *field) tryBatch(batch []sending) ([]hops, error) {
	expected := map[string]bool{}
	for i := range batch {
		expected[canonical(batch[i].whole.Datagram())] = true
		for _, p := range batch[i].frames() {
			expected[canonical(p.Datagram())] = true
			if err := f.send(batch[i].from, p); err != nil {
				return nil, err
			}
		}
	}
	f.markers++
	var heard [2]*capture // by the side that sent
	for _, from := range []side{peer, member} {
		mark := marker(from, f.markers)
		if err := f.send(from, mark); err != nil {
			return nil, err
		}
		var err error
		if heard[from], err = listen(f.wires[from.other()], canonical(mark.Datagram())); err != nil {
			return nil, fmt.Errorf("%s, from the %s: %w", f.router.Name, from, err)
		}
		if stranger := heard[from].stranger(expected); stranger != nil {
			return nil, fmt.Errorf("%s, from the %s: this came out, and was not sent so: %s", f.router.Name, from, packet.Describe(stranger))
		}
	}
	outcomes := make([]hops, len(batch))
	for i := range batch {
		outcomes[i] = heard[batch[i].from].outcome(&batch[i])
	}
	return outcomes, nil
}

func (f *field) send(from side, p packet.Packet) error {
	return f.wires[from].Send(p.Ethernet(nobody(), f.interfaces[from].MAC))
}

// A marker is of no member, so no filter judges it.
func marker(from side, number int) packet.Packet {
	source, destination := "198.51.100.1", "10.20.255.1"
	if from == member {
		source, destination = destination, source
	}
	return packet.UDP(source, destination, 9, 9).Payload("marker " + strconv.Itoa(number))
}

// onOneCPU runs f on a thread that stays on one CPU.
func onOneCPU(f func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return fmt.Errorf("ask for the CPUs of this thread: %w", err)
	}
	for cpu := 0; one.Count() == 0; cpu++ {
		if before.IsSet(cpu) {
			one.Set(cpu)
		}
	}
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return fmt.Errorf("keep this thread on one CPU: %w", err)
	}
	err := f()
	if back := unix.SchedSetaffinity(0, &before); err == nil {
		err = back
	}
	return err
}

// patience is only met when a frame that must come does not.
const patience = 20 * time.Second
