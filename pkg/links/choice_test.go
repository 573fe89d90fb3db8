package links

import (
	"strings"
	"testing"
)

func TestChoose(t *testing.T) {
	t.Parallel()
	up := func(index int, name, kind string) Link { return Link{Index: index, Name: name, Type: kind, Up: true} }
	with := func(l Link, change func(*Link)) Link { change(&l); return l }
	port := func(l Link, master int) Link { return with(l, func(l *Link) { l.Master = master }) }
	on := func(l Link, parent int) Link { return with(l, func(l *Link) { l.Parent = parent }) }
	down := func(l Link) Link { return with(l, func(l *Link) { l.Up = false }) }
	lo := with(up(1, "lo", ""), func(l *Link) { l.Loopback = true })

	for _, test := range []struct {
		name      string
		links     []Link
		selection Selection
		want      string // name=role, or name:part of the reason
	}{
		{"all but loopback", []Link{lo, up(2, "eth0", ""), up(3, "wg0", "wireguard")}, Selection{}, "lo:loopback eth0=uplink wg0=uplink"},
		{"loopback by name", []Link{lo, up(2, "eth0", "")}, Selection{Uplinks: []string{"lo"}}, "lo=uplink eth0:not named"},
		{"down is attached, so that it comes up judged", []Link{down(up(2, "eth0", ""))}, Selection{}, "eth0=uplink"},
		{"a tunnel that only a module left is not", []Link{down(up(2, "sit0", "sit")), up(3, "he6", "sit")}, Selection{}, "sit0:down he6=uplink"},
		{"by pattern", []Link{up(2, "eth0", ""), up(3, "eth1", ""), up(4, "wlan0", "")}, Selection{Uplinks: []string{"eth*"}}, "eth0=uplink eth1=uplink wlan0:not named"},
		{"bond", []Link{port(up(2, "eth0", ""), 4), port(up(3, "eth1", ""), 4), up(4, "bond0", "bond")}, Selection{}, "eth0:port of bond0 eth1:port of bond0 bond0=uplink"},
		{"port whose bond is not chosen", []Link{port(up(2, "eth0", ""), 4), up(4, "bond0", "bond")}, Selection{Uplinks: []string{"eth0"}}, "eth0=uplink bond0:not named"},
		{"vlan", []Link{up(2, "eth0", ""), on(up(3, "eth0.5", "vlan"), 2)}, Selection{}, "eth0=uplink eth0.5:on top of eth0"},
		{"vlan whose base is not chosen", []Link{up(2, "eth0", ""), on(up(3, "eth0.5", "vlan"), 2)}, Selection{Uplinks: []string{"eth0.*"}}, "eth0:not named eth0.5=uplink"},
		{"vlan on a bond", []Link{port(up(2, "eth0", ""), 3), up(3, "bond0", "bond"), on(up(4, "bond0.5", "vlan"), 3)}, Selection{}, "eth0:port of bond0 bond0=uplink bond0.5:on top of bond0"},
		{"vlan on a bridge's port never reaches the bridge", []Link{port(up(2, "eth0", ""), 3), up(3, "br0", "bridge"), on(up(4, "eth0.5", "vlan"), 2)}, Selection{}, "eth0:port of br0 br0=uplink eth0.5=uplink"},
		{"macvlan", []Link{up(2, "eth0", ""), on(up(3, "mac0", "macvlan"), 2)}, Selection{}, "eth0=uplink mac0:on top of eth0"},
		{"vrf", []Link{up(2, "red", "vrf"), port(up(3, "eth0", ""), 2)}, Selection{}, "red:VRF eth0=uplink"},
		{"veth is an uplink like any other", []Link{up(2, "veth1", "veth")}, Selection{}, "veth1=uplink"},
		{"workload by name, also as a port", []Link{port(up(2, "tap1", "tun"), 3), up(3, "br0", "bridge")}, Selection{Workloads: []string{"tap*"}}, "tap1=workload br0=uplink"},
		{"workload that is also named an uplink", []Link{up(2, "tap1", "tun")}, Selection{Uplinks: []string{"*"}, Workloads: []string{"tap1"}}, "tap1=workload"},
		{"a circle ends", []Link{port(up(2, "br0", "bridge"), 3), port(up(3, "br1", "bridge"), 2)}, Selection{}, "br0=uplink br1=uplink"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			choices := Choose(test.links, test.selection)
			wants := splitWants(test.want)
			if len(choices) != len(wants) {
				t.Fatalf("%d choices, want %d", len(choices), len(wants))
			}
			for i, c := range choices {
				want := wants[i]
				if c.Name != want.name || c.Role.String() != want.role || !strings.Contains(c.Reason, want.reason) || (c.Reason == "") != (want.reason == "") {
					t.Errorf("%s: %s %q, want %+v", c.Name, c.Role, c.Reason, want)
				}
			}
		})
	}
}

type want struct{ name, role, reason string }

// splitWants reads "a=uplink b:port of c".
func splitWants(text string) []want {
	var out []want
	for word := range strings.SplitSeq(text, " ") {
		switch name, role, ok := strings.Cut(word, "="); {
		case ok:
			out = append(out, want{name: name, role: role})
		default:
			if name, reason, ok := strings.Cut(word, ":"); ok {
				out = append(out, want{name, NotAttached.String(), reason})
			} else {
				out[len(out)-1].reason += " " + word
			}
		}
	}
	return out
}

func TestSelectionCheck(t *testing.T) {
	t.Parallel()
	if err := (Selection{Uplinks: []string{"eth*"}, Workloads: []string{"tap[0-9]"}}).Check(); err != nil {
		t.Error(err)
	}
	if err := (Selection{Workloads: []string{"tap["}}).Check(); err == nil || !strings.Contains(err.Error(), `"tap["`) {
		t.Errorf("got %v", err)
	}
}
