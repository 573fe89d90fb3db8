package datapath

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/perimeterd/perimeterd/tests/privileged"
	"github.com/perimeterd/perimeterd/tests/traffic"
	"github.com/perimeterd/perimeterd/tests/world"
)

// device is a kind of line between a member and its partner.
type device struct {
	name string
	over families
	// build makes the line over the veth pair and returns its two ends; an error
	// for which isAbsent holds, if the kernel has no such device.
	build func(t *testing.T, w *wired) (member, partner world.Interface, err error)
	// judged returns where the member's packets are judged, if not at its end of
	// the line.
	judged func(w *wired) world.Interface
}

// atBase has packets judged at the veth that a device is stacked on.
func atBase(w *wired) world.Interface { return w.memberVeth }

// devices are all kinds that are tried.
func devices() []device {
	both := bothFamilies
	return []device{
		{"veth", both, onVeth, nil},
		{"veth without segmentation offload", both, onPlainVeth, nil},
		{"tun", both, tunnels(netlink.TUNTAP_MODE_TUN, false), nil},
		{"tun with segmentation offload", both, tunnels(netlink.TUNTAP_MODE_TUN, true), nil},
		{"tap", both, tunnels(netlink.TUNTAP_MODE_TAP, false), nil},
		{"tap with segmentation offload", both, tunnels(netlink.TUNTAP_MODE_TAP, true), nil},
		{"bridge, judged at the bridge", both, onBridge, nil},
		{"bridge, judged at its port", both, onBridge, atBase},
		{"macvlan", both, stacked(macvlan), nil},
		{"macvlan, judged at its base", both, stacked(macvlan), atBase},
		{"ipvlan", both, stacked(ipvlan), nil},
		{"ipvlan, judged at its base", both, stacked(ipvlan), atBase},
		{"bond", both, onBond, nil},
		{"bond, judged at its port", both, onBond, atBase},
		{"VLAN", both, tagged(0, netlink.VLAN_PROTOCOL_8021Q), nil},
		{"VLAN, judged at its base", both, tagged(0, netlink.VLAN_PROTOCOL_8021Q), atBase},
		{"VLAN without offload", both, tagged(noTagOffload, netlink.VLAN_PROTOCOL_8021Q), nil},
		{"VLAN without offload, judged at its base", both, tagged(noTagOffload, netlink.VLAN_PROTOCOL_8021Q), atBase},
		{"VLAN with its tag in the frame", both, tagged(tagInFrame, netlink.VLAN_PROTOCOL_8021Q), nil},
		{"VLAN with its tag in the frame, judged at its base", both, tagged(tagInFrame|noTagOffload, netlink.VLAN_PROTOCOL_8021Q), atBase},
		{"802.1ad", both, tagged(0, netlink.VLAN_PROTOCOL_8021AD), nil},
		{"802.1ad, judged at its base", both, tagged(0, netlink.VLAN_PROTOCOL_8021AD), atBase},
		{"QinQ", both, tagged(0, netlink.VLAN_PROTOCOL_8021AD, netlink.VLAN_PROTOCOL_8021Q), nil},
		{"QinQ, judged at its base", both, tagged(0, netlink.VLAN_PROTOCOL_8021AD, netlink.VLAN_PROTOCOL_8021Q), atBase},
		{"QinQ without offload, judged at its base", both, tagged(noTagOffload, netlink.VLAN_PROTOCOL_8021AD, netlink.VLAN_PROTOCOL_8021Q), atBase},
		{"QinQ with its tags in the frame, judged at its base", both, ifItCarries(tagged(tagInFrame|noTagOffload, netlink.VLAN_PROTOCOL_8021AD, netlink.VLAN_PROTOCOL_8021Q)), atBase},
		{"VLAN in a VLAN, judged at its base", both, tagged(0, netlink.VLAN_PROTOCOL_8021Q, netlink.VLAN_PROTOCOL_8021Q), atBase},
		{"dummy, judged at the line", families{v4: true}, onDummy, atBase},
		{"wireguard", both, wireguard, nil},
		{"ipip", families{v4: true}, tunnel(func(local, remote end) netlink.Link {
			return &netlink.Iptun{LinkAttrs: local.attrs(), Local: local.v4, Remote: remote.v4, PMtuDisc: 1}
		}), nil},
		{"sit", both, tunnel(func(local, remote end) netlink.Link {
			return &netlink.Sittun{LinkAttrs: local.attrs(), Local: local.v4, Remote: remote.v4, PMtuDisc: 1}
		}), nil},
		{"ip6tnl", both, tunnel(func(local, remote end) netlink.Link {
			return &netlink.Ip6tnl{LinkAttrs: local.attrs(), Local: local.v6, Remote: remote.v6}
		}), nil},
		{"gre", both, tunnel(func(local, remote end) netlink.Link {
			return &netlink.Gretun{LinkAttrs: local.attrs(), Local: local.v4, Remote: remote.v4, PMtuDisc: 1}
		}), nil},
		{"gre with a key", both, tunnel(func(local, remote end) netlink.Link {
			return &netlink.Gretun{LinkAttrs: local.attrs(), Local: local.v4, Remote: remote.v4, PMtuDisc: 1, IKey: 7, OKey: 7}
		}), nil},
		{"ip6gre", both, tunnel(func(local, remote end) netlink.Link {
			return &netlink.Gretun{LinkAttrs: local.attrs(), Local: local.v6, Remote: remote.v6, Ttl: 64}
		}), nil},
		{"gretap", both, tunnel(func(local, remote end) netlink.Link {
			return &netlink.Gretap{LinkAttrs: local.attrs(), Local: local.v4, Remote: remote.v4, PMtuDisc: 1}
		}), nil},
		{"vxlan", both, tunnel(func(local, remote end) netlink.Link {
			return &netlink.Vxlan{LinkAttrs: local.attrs(), VxlanId: 7, SrcAddr: local.v4, Group: remote.v4, Port: 4789, Learning: true}
		}), nil},
		{"geneve", both, tunnel(func(_, remote end) netlink.Link {
			return &netlink.Geneve{LinkAttrs: remote.attrs(), ID: 7, Remote: remote.v4}
		}), nil},
	}
}

// TestDevices has real connections over every kind of device that this kernel
// has: what is allowed gets through in both directions, the port beside it does
// not, and no packet is taken for one that cannot be judged.
func TestDevices(t *testing.T) {
	privileged.Require(t)
	// One for all of them: to load it takes longest where machines are emulated.
	datapath := loaded(t, Options{Root: privileged.BPFFS(t) + "/perimeterd"}, wiredPolicy(), hereFacts())
	for _, d := range devices() {
		t.Run(d.name, func(t *testing.T) {
			w := newWired(t)
			member, partner, err := d.build(t, w)
			if isAbsent(err) {
				if privileged.Demanded(privileged.AllDevices) {
					t.Fatal(err)
				}
				t.Logf("not tried, this kernel has no such device: %v", err)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if member.Host != nil {
				w.join(t, member, partner)
			}
			w.serve(t)
			w.callAll(t, d.over, 1, traffic.Connected)
			judged := member
			if d.judged != nil {
				judged = d.judged(w)
			}
			w.judgeBy(t, datapath, judged)
			w.callAll(t, d.over, 1<<20, traffic.TimedOut)
			counted := w.counted(t)
			t.Log(describe(counted))
			expectUnderstood(t, counted)
			if counted["access-rule"] == 0 || counted["established"] == 0 || counted["no-access-rule"] == 0 {
				t.Error("the packets of the member were not judged where they should be")
			}
		})
	}
}

// TestGREToManyIsRefused: what cannot be read is not attached to, so that status
// says that it is not judged.
func TestGREToManyIsRefused(t *testing.T) {
	privileged.Require(t)
	datapath := loaded(t, Options{Root: privileged.BPFFS(t) + "/perimeterd"}, wiredPolicy(), hereFacts())
	w := newWired(t)
	member, _, err := multipoint(func(local end) netlink.Link {
		return &netlink.Gretun{LinkAttrs: local.attrs(), Local: local.v4, Remote: net.IPv4zero, PMtuDisc: 1}
	})(t, w)
	if isAbsent(err) {
		if privileged.Demanded(privileged.AllDevices) {
			t.Fatal(err)
		}
		t.Logf("not tried, this kernel has no such device: %v", err)
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	err = member.Host.Run(func() error {
		_, err := datapath.Attach(uint32(member.Index), Uplink)
		return err
	})
	if err == nil || !strings.Contains(err.Error(), "GRE tunnel to many") {
		t.Errorf("attached, or refused for another reason: %v", err)
	}
}

func onVeth(_ *testing.T, w *wired) (member, partner world.Interface, err error) {
	return w.memberVeth, w.partnerVeth, nil
}

// onPlainVeth is a veth pair over which every packet is as long as the link
// takes, with its checksum.
func onPlainVeth(_ *testing.T, w *wired) (member, partner world.Interface, err error) {
	for _, i := range []world.Interface{w.memberVeth, w.partnerVeth} {
		for _, command := range []uint32{ethtoolTSO, ethtoolGSO, ethtoolChecksum} {
			if _, err := ethtool(i, command, ethtoolSwitchOff); err != nil {
				return member, partner, err
			}
		}
	}
	return w.memberVeth, w.partnerVeth, nil
}

func onBridge(_ *testing.T, w *wired) (member, partner world.Interface, err error) {
	return w.member.Bridge("br0", w.memberVeth), w.partnerVeth, nil
}

// stacked is an interface of the member on top of its veth.
func stacked(top func(base netlink.LinkAttrs) netlink.Link) func(*testing.T, *wired) (world.Interface, world.Interface, error) {
	return func(_ *testing.T, w *wired) (member, partner world.Interface, err error) {
		// The base would answer, too, who has the address of what is on top of it.
		err = w.member.Run(func() error { return os.WriteFile("/proc/sys/net/ipv4/conf/all/arp_ignore", []byte("1"), 0) })
		if err != nil {
			return member, partner, err
		}
		member, err = add(w.member, top(netlink.LinkAttrs{Name: "top0", ParentIndex: w.memberVeth.Index}))
		return member, w.partnerVeth, err
	}
}

func macvlan(on netlink.LinkAttrs) netlink.Link {
	return &netlink.Macvlan{LinkAttrs: on, Mode: netlink.MACVLAN_MODE_BRIDGE}
}

func ipvlan(on netlink.LinkAttrs) netlink.Link {
	return &netlink.IPVlan{LinkAttrs: on, Mode: netlink.IPVLAN_MODE_L2}
}

func onBond(_ *testing.T, w *wired) (member, partner world.Interface, err error) {
	bond := netlink.NewLinkBond(netlink.LinkAttrs{Name: "bond0"})
	bond.Mode = netlink.BOND_MODE_ACTIVE_BACKUP
	if err := w.member.Netlink().LinkAdd(bond); err != nil {
		return member, partner, fmt.Errorf("add a bond: %w", err)
	}
	port, err := w.member.Netlink().LinkByIndex(w.memberVeth.Index)
	if err != nil {
		return member, partner, err
	}
	if err := w.member.Netlink().LinkSetDown(port); err != nil {
		return member, partner, err
	}
	if err := w.member.Netlink().LinkSetMaster(port, bond); err != nil {
		return member, partner, fmt.Errorf("put a port into the bond: %w", err)
	}
	if _, err := raise(w.member, port.Attrs().Name); err != nil {
		return member, partner, err
	}
	member, err = raise(w.member, "bond0")
	return member, w.partnerVeth, err
}

// tagging is how VLAN tags get into frames.
type tagging uint8

const (
	noTagOffload tagging = 1 << iota // the veth writes the tag of an skb into the frame
	tagInFrame                       // the VLAN device does
)

// tagged is a stack of VLAN devices, the outermost tag first, on both ends.
func tagged(how tagging, protocols ...netlink.VlanProtocol) func(*testing.T, *wired) (world.Interface, world.Interface, error) {
	return func(_ *testing.T, w *wired) (member, partner world.Interface, err error) {
		ends := []*world.Interface{&member, &partner}
		for i, base := range []world.Interface{w.memberVeth, w.partnerVeth} {
			if how&noTagOffload != 0 {
				if err := withoutTagOffload(base); err != nil {
					return member, partner, err
				}
			}
			reorder := how&tagInFrame == 0
			for depth, protocol := range protocols {
				base, err = add(base.Host, &netlink.Vlan{
					LinkAttrs: netlink.LinkAttrs{Name: fmt.Sprintf("vlan%d", depth), ParentIndex: base.Index},
					VlanId:    5 + depth, VlanProtocol: protocol, ReorderHdr: &reorder,
				})
				if err != nil {
					return member, partner, err
				}
			}
			*ends[i] = base
		}
		return member, partner, nil
	}
}

// ifItCarries is for a line over which some kernels carry nothing, filter or not
// (6.12 and 7.3; 5.10 and 6.1 do): it is as good as absent there.
func ifItCarries(build func(*testing.T, *wired) (world.Interface, world.Interface, error)) func(*testing.T, *wired) (world.Interface, world.Interface, error) {
	return func(t *testing.T, w *wired) (member, partner world.Interface, err error) {
		member, partner, err = build(t, w)
		if err != nil {
			return member, partner, err
		}
		w.join(t, member, partner)
		err = try(w.partner, "tcp", net.JoinHostPort(member4, "9"), enough/4)
		if traffic.OutcomeOf(err) != traffic.Refused {
			return member, partner, fmt.Errorf("%w: it carries nothing: %w", unix.EOPNOTSUPP, err)
		}
		return world.Interface{}, world.Interface{}, nil // joined already
	}
}

// onDummy is a member whose address is on a dummy interface, and who is reached
// through the veth pair.
func onDummy(t *testing.T, w *wired) (member, partner world.Interface, err error) {
	holder, err := add(w.member, &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: "dummy0"}})
	if err != nil {
		return member, partner, err
	}
	holder.Address(member4 + "/32")
	w.partnerVeth.Address(partner4 + "/24")
	w.route(t, w.partnerVeth, member4+"/32")
	_, to, err := net.ParseCIDR("198.51.100.0/24")
	if err != nil {
		return member, partner, err
	}
	return member, partner, w.member.Netlink().RouteAdd(&netlink.Route{
		Dst: to, LinkIndex: w.memberVeth.Index, Scope: netlink.SCOPE_LINK, Src: net.ParseIP(member4),
	})
}

// end is one end of a tunnel through the underlay.
type end struct {
	host   *world.Host
	v4, v6 net.IP
}

func (e end) attrs() netlink.LinkAttrs { return netlink.LinkAttrs{Name: "line0"} }

// ends gives the underlay its addresses and returns them.
func (w *wired) ends() [2]end {
	w.underlay()
	return [2]end{
		{w.member, net.ParseIP(memberUnder4), net.ParseIP(memberUnder6)},
		{w.partner, net.ParseIP(partnerUnder4), net.ParseIP(partnerUnder6)},
	}
}

// tunnel is a tunnel between the two hosts.
func tunnel(link func(local, remote end) netlink.Link) func(*testing.T, *wired) (world.Interface, world.Interface, error) {
	return func(_ *testing.T, w *wired) (member, partner world.Interface, err error) {
		ends := w.ends()
		if member, err = add(w.member, link(ends[0], ends[1])); err != nil {
			return member, partner, err
		}
		partner, err = add(w.partner, link(ends[1], ends[0]))
		return member, partner, err
	}
}

// multipoint is a tunnel whose other end is told by the neighbour table. What the
// kernel writes there is the tunnel's own header, in front of the packet. (It can
// be made of IPv6 too, but Linux sends nothing over such a one.)
func multipoint(link func(local end) netlink.Link) func(*testing.T, *wired) (world.Interface, world.Interface, error) {
	return func(_ *testing.T, w *wired) (member, partner world.Interface, err error) {
		ends := w.ends()
		made := []*world.Interface{&member, &partner}
		for i, here := range ends {
			if *made[i], err = add(here.host, link(here)); err != nil {
				return member, partner, err
			}
			there := net.HardwareAddr(ends[1-i].v4.To4())
			peers := []string{partner4, partner6}
			if i == 1 {
				peers = []string{member4, member6}
			}
			for _, peer := range peers {
				err := here.host.Netlink().NeighAdd(&netlink.Neigh{
					LinkIndex: made[i].Index, State: netlink.NUD_PERMANENT, IP: net.ParseIP(peer), HardwareAddr: there,
				})
				if err != nil {
					return member, partner, fmt.Errorf("tell %s where %s is: %w", here.host.Name, peer, err)
				}
			}
		}
		return member, partner, nil
	}
}

// TestLoopback: where the settings name loopback, what members of one host say to
// each other is judged there as anywhere else: at the end of each.
func TestLoopback(t *testing.T) {
	w := newWired(t)
	loopback, err := raise(w.member, "lo")
	if err != nil {
		t.Fatal(err)
	}
	loopback.Address(member4+"/32", member6+"/128", partner4+"/32", partner6+"/128")
	w.partner = w.member // another address of the same host
	w.serve(t)
	w.callAll(t, bothFamilies, 1, traffic.Connected)
	w.enforce(t, Options{}, loopback)
	var calls sync.WaitGroup
	for port, want := range map[string]traffic.Outcome{"5432": traffic.Connected, "5433": traffic.TimedOut} {
		for from, to := range map[string]string{partner4: member4, partner6: member6} {
			calls.Go(func() {
				ctx, cancel := context.WithTimeout(context.Background(), enough)
				if want == traffic.TimedOut {
					ctx, cancel = context.WithTimeout(context.Background(), shortly)
				}
				defer cancel()
				conn, err := w.member.DialFrom(ctx, "tcp", net.JoinHostPort(from, "0"), net.JoinHostPort(to, port))
				if got := traffic.OutcomeOf(err); got != want {
					t.Errorf("from %s to %s, port %s: %v (%v), want %v", from, to, port, got, err, want)
				}
				if err == nil {
					conn.Close()
				}
			})
		}
	}
	calls.Wait()
	counted := w.counted(t)
	t.Log(describe(counted))
	expectUnderstood(t, counted)
	if counted["access-rule"] != 2 || counted["no-access-rule"] == 0 {
		t.Error("the packets of the member were not judged")
	}
}

// TestUnreadableDevice: a device whose frames cannot be read is refused, and the
// refusal says so.
func TestUnreadableDevice(t *testing.T) {
	w := newWired(t)
	w.enforce(t, Options{})
	// Of a kind that no kernel needs a module for: the kernel's own netlink monitor.
	monitor, err := add(w.member, &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Name: "nlmon0"}, LinkType: "nlmon"})
	if isAbsent(err) {
		t.Logf("not tried, this kernel has no such device: %v", err)
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	err = w.member.Run(func() error { _, err := w.Attach(uint32(monitor.Index), Uplink); return err })
	if err == nil || !strings.Contains(err.Error(), "nlmon0") || errors.Is(err, unix.EINVAL) {
		t.Errorf("attach: %v", err)
	}
}
