package datapath

import (
	"encoding/binary"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/tests/packet"
	"github.com/perimeterd/perimeterd/tests/privileged"
)

// TestForgedNote: metadata that XDP leaves with a frame stays as long as it is
// when a tunnel takes the outer headers off, and is then looked for in bytes that
// the sender wrote. Who guesses what is easy to guess, such as the number of a
// file, must not be taken for XDP.
func TestForgedNote(t *testing.T) {
	r := newReferee(t, xdpMTU)
	options := Options{XDP: XDPNative, Root: guessableRoot(t)}
	d := r.filter(t, newLoads(t), refereeHook{options: options}, false)
	r.stand(t, d, posts[0])

	// The identifier of the network is the second half of a note for the device.
	tunnel := &netlink.Vxlan{
		LinkAttrs: netlink.LinkAttrs{Name: "overlay", Index: 5},
		VxlanId:   5 << 1 << 16, Port: 4789, SrcAddr: net.ParseIP(member4), GBP: true,
	}
	err := r.host.Netlink().LinkAdd(tunnel)
	if errors.Is(err, unix.EOPNOTSUPP) {
		t.Skip("this kernel has no VXLAN")
	}
	must(t, err)
	must(t, r.host.Netlink().LinkSetUp(tunnel))
	overlay, err := r.host.Netlink().LinkByName("overlay")
	must(t, err)
	must(t, r.host.Run(func() error {
		_, err := d.Attach(uint32(overlay.Attrs().Index), Uplink)
		return err
	}))
	facts := r.factsAt(posts[0])
	b := r.benches(posts[0])[1]
	ends := policy.AccessRule{
		Name: "tunnels", Direction: policy.Inbound, AddressPrefixes: prefixes(stranger4 + "/32"),
		Ports: []policy.Ports{{Protocol: policy.ProtocolUDP, First: 4789, Last: 4789}},
	}
	b.rules = append(b.rules, ends)
	d.apply(t, b.policy(facts), facts)

	inside := func(port uint16) string {
		p := packet.UDP(partner4, member4, 4000, port).Payload("from inside the tunnel")
		return string(p.Ethernet(r.far.MAC, overlay.Attrs().HardwareAddr).Frame())
	}
	outside := func(instance uint32, port uint16) []byte {
		header := binary.LittleEndian.AppendUint32(nil, instance)
		header = binary.LittleEndian.AppendUint32(header, uint32(overlay.Attrs().Index)<<1)
		p := packet.UDP(stranger4, member4, 4000, 4789).Payload(string(header) + inside(port))
		return p.Ethernet(r.far.MAC, r.near.MAC).Frame()
	}
	guess := inodeOf(t, options.Root+"/"+pinLayout)
	for _, row := range []struct {
		name     string
		instance uint32
		port     uint16
		want     bool
	}{
		{"the open port", plainVXLAN, refereePort, true},
		{"a closed port", plainVXLAN, refereePort + 1, false},
		{"a closed port, with a note", guess, refereePort + 1, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			onOneCPU(t, func() {
				o, err := r.send(outside(row.instance, row.port))
				must(t, err)
				got := slices.ContainsFunc(o.receipts, func(r receipt) bool { return !r.door.raw && r.port == row.port })
				if got != row.want {
					t.Errorf("delivered: %v, want %v", got, row.want)
				}
			})
		})
	}
}

// plainVXLAN is the first half of a VXLAN header: a valid identifier and no group.
const plainVXLAN = 0x08

// guessableRoot is a root whose directory of pins has a number that the first
// half of a VXLAN header may be: two flags, which are given, and a group, which
// the sender chooses.
func guessableRoot(t *testing.T) string {
	t.Helper()
	root := privileged.BPFFS(t) + "/perimeterd"
	must(t, os.Mkdir(root, 0o700))
	pins := filepath.Join(root, pinLayout)
	for range 1 << 18 {
		must(t, os.Mkdir(pins, 0o700))
		switch inodeOf(t, pins) & 0xffff {
		case 0x0088, 0x0888, 0x4088, 0x4888:
			return root
		}
		must(t, os.Remove(pins))
	}
	t.Fatal("no directory got a number that fits a VXLAN header")
	return ""
}

func inodeOf(t *testing.T, path string) uint32 {
	t.Helper()
	var stat unix.Stat_t
	must(t, unix.Stat(path, &stat))
	return uint32(stat.Ino)
}
