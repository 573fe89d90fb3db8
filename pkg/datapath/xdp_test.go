package datapath

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/tests/traffic"
	"github.com/perimeterd/perimeterd/tests/world"
)

var xdpModes = []XDPMode{XDPNative, XDPGeneric}

// TestXDPJudges: with TC's programs gone, what comes in is judged all the same.
func TestXDPJudges(t *testing.T) {
	for _, mode := range xdpModes {
		t.Run(string(mode), func(t *testing.T) {
			c := newTown(t)
			d := c.open(t, Options{XDP: mode})
			if state := c.enforce(t, d); state.XDP != string(mode) {
				t.Fatalf("attached as %+v", state)
			}
			a := d.attachments[c.uplink]
			if a.state.Hook == "clsact" {
				if err := c.member.Run(func() error { return removeFilters(c.uplink) }); err != nil {
					t.Fatal(err)
				}
			}
			for _, l := range a.links {
				if err := l.Detach(); err != nil {
					t.Fatal(err)
				}
			}
			c.expect(t, c.partner, "5432", traffic.Connected)
			c.expect(t, c.partner, "5433", traffic.TimedOut)
			c.expect(t, c.stranger, "5432", traffic.TimedOut)
		})
	}
}

// sendDatagrams sends so many to the member's port, from a socket of their own.
func sendDatagrams(t *testing.T, from *world.Host, count int) {
	t.Helper()
	err := from.Run(func() error {
		conn, err := net.Dial("udp", member4+":5432")
		if err != nil {
			return err
		}
		defer conn.Close()
		for range count {
			if _, err := conn.Write([]byte("datagram")); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestXDPCountsOnce: each packet is counted once, and moves its flow once,
// whichever of the two judges it.
func TestXDPCountsOnce(t *testing.T) {
	const count = 25
	for _, mode := range xdpModes {
		t.Run(string(mode), func(t *testing.T) {
			c := newTown(t)
			d := c.open(t, Options{XDP: mode})
			c.enforce(t, d)
			inbox, err := c.member.ListenPacket("udp", ":5432")
			if err != nil {
				t.Fatal(err)
			}
			defer inbox.Close()
			before, err := d.Counters()
			if err != nil {
				t.Fatal(err)
			}
			sendDatagrams(t, c.stranger, count)
			sendDatagrams(t, c.partner, count)
			if err := inbox.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
				t.Fatal(err)
			}
			for i := range count {
				if _, _, err := inbox.ReadFrom(make([]byte, 64)); err != nil {
					t.Fatalf("datagram %d: %v", i, err)
				}
			}
			after, err := d.Counters()
			if err != nil {
				t.Fatal(err)
			}
			for reason, want := range map[policy.Reason]uint64{"no-access-rule": count, "access-rule": 1, "established": count - 1} {
				if got := after.Packets[reason].Packets - before.Packets[reason].Packets; got != want {
					t.Errorf("%s: %d packets counted, %d were sent", reason, got, want)
				}
			}
			err = d.Flows(func(f Flow) bool {
				if f.PacketsTowards != count {
					t.Errorf("the flow has %d packets, %d were sent", f.PacketsTowards, count)
				}
				return true
			})
			if err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestXDPFallsBack: where XDP cannot judge TC does, and the state says why.
func TestXDPFallsBack(t *testing.T) {
	somebodyElse := func(t *testing.T, c *town) {
		pass, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "GPL", Instructions: asm.Instructions{
			asm.Mov.Imm(asm.R0, 2), asm.Return(),
		}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { pass.Close() })
		err = c.member.Run(func() error {
			l, err := link.AttachXDP(link.XDPOptions{Program: pass, Interface: int(c.uplink), Flags: link.XDPDriverMode})
			if err == nil {
				t.Cleanup(func() { l.Close() })
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, row := range map[string]struct {
		mode  XDPMode
		spoil func(t *testing.T, c *town)
		want  string
	}{
		"another program":             {XDPNative, somebodyElse, "another program"},
		"another program, in the way": {XDPGeneric, somebodyElse, "another program"},
		"another program, on auto":    {XDPAuto, somebodyElse, "another program"},
		"nothing in the way":          {XDPAuto, func(*testing.T, *town) {}, ""},
		"not asked for":               {XDPOff, somebodyElse, ""},
	} {
		t.Run(name, func(t *testing.T) {
			c := newTown(t)
			row.spoil(t, c)
			d := c.open(t, Options{XDP: row.mode})
			state := c.enforce(t, d)
			if (state.XDPProblem == "") != (row.want == "") || !strings.Contains(state.XDPProblem, row.want) {
				t.Errorf("the problem is %q, want one with %q", state.XDPProblem, row.want)
			}
			if attached := state.XDP != ""; attached != (row.mode.wanted() && row.want == "") {
				t.Errorf("attached as %+v", state)
			}
			c.expect(t, c.partner, "5432", traffic.Connected)
			c.expect(t, c.stranger, "5432", traffic.TimedOut)
		})
	}
}

// TestXDPOnDevicesWithout: a driver without native XDP, and a device without
// Ethernet headers, are judged at TC.
func TestXDPOnDevicesWithout(t *testing.T) {
	c := newTown(t)
	d := c.openBy(t, Open, Options{XDP: XDPNative})
	for name, dev := range map[string]netlink.Link{
		"has no native XDP":      &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "plain"}},
		"has no Ethernet header": &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "tunnel"}, Mode: netlink.TUNTAP_MODE_TUN},
	} {
		err := c.member.Run(func() error {
			if err := netlink.LinkAdd(dev); err != nil {
				return err
			}
			made, err := netlink.LinkByName(dev.Attrs().Name)
			if err != nil {
				return err
			}
			state, err := d.Attach(uint32(made.Attrs().Index), Uplink)
			if state.XDP != "" || !strings.Contains(state.XDPProblem, name) || state.Hook == "" {
				t.Errorf("%s: attached as %+v", name, state)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestXDPFollowsTheSetting: the next process goes by its own setting, not by
// what it finds.
func TestXDPFollowsTheSetting(t *testing.T) {
	c := newTown(t)
	for _, mode := range []XDPMode{XDPNative, XDPGeneric, XDPOff, XDPAuto, XDPNative, ""} {
		d := c.open(t, Options{XDP: mode})
		state := c.enforce(t, d)
		want := ""
		if mode.wanted() {
			want, _ = mode.attached()
		}
		if state.XDP != want || state.XDPProblem != "" {
			t.Errorf("with %q: attached as %+v", mode, state)
		}
		err := c.member.Run(func() error {
			found, err := attachedXDP(c.uplink)
			if found != want {
				t.Errorf("with %q: the kernel says %q, want %q", mode, found, want)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		c.expect(t, c.stranger, "5432", traffic.TimedOut)
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := c.member.Run(func() error { return Remove(c.root) }); err != nil {
		t.Fatal(err)
	}
	if got := traffic.Try(ctx, c.stranger, "tcp", member4+":5432", 5*time.Second); got.Outcome != traffic.Connected {
		t.Errorf("after Remove: %v", got.Outcome)
	}
}
