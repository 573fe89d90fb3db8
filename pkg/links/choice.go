package links

import (
	"fmt"
	"path"
	"slices"
)

// Role says on which side of an interface members are.
type Role uint8

const (
	NotAttached Role = iota
	Uplink           // members are on this host's side: the usual case
	Workload         // members are behind the interface: the host side of a veth or tap
)

func (r Role) String() string { return [...]string{"not attached", "uplink", "workload"}[r] }

// Selection says which interfaces packets are judged on.
type Selection struct {
	// Uplinks are glob patterns (path.Match) of names. Empty means every
	// interface but loopback.
	Uplinks []string
	// Workloads likewise; empty means none. An interface that both name is a
	// workload.
	Workloads []string
}

// Check reports the first pattern that is malformed.
func (s Selection) Check() error {
	for _, pattern := range slices.Concat(s.Uplinks, s.Workloads) {
		if _, err := path.Match(pattern, ""); err != nil {
			return fmt.Errorf("interface pattern %q: %w", pattern, err)
		}
	}
	return nil
}

// Choice is what to do with one interface.
type Choice struct {
	Link
	Role Role
	// Reason says why an interface is not attached; "" if it is.
	Reason string
}

// Choose says for every interface whether it is to be attached. A packet must
// meet one hook on its way to a member, not two:
//
//   - what arrives at a port of a bridge, bond or team for this host arrives
//     again at the master, so the master is attached and not the port;
//   - what arrives at a VLAN or macvlan interface has passed its base, where tags
//     are read too, so the base is attached and not the interface on it;
//   - a VRF device shows only what its interfaces show, so these are attached.
//
// This holds only where the other device is attached itself. An interface that
// the settings call a workload is attached in any case: it is another member's
// end that is judged there than at its master.
func Choose(all []Link, s Selection) []Choice {
	c := chooser{selection: s, byIndex: map[int]*Link{}, decided: map[int]bool{}}
	for i := range all {
		c.byIndex[all[i].Index] = &all[i]
	}
	out := make([]Choice, len(all))
	for i := range all {
		out[i].Link = all[i]
		out[i].Role, out[i].Reason = c.decide(&all[i])
	}
	return out
}

type chooser struct {
	selection Selection
	byIndex   map[int]*Link
	decided   map[int]bool // guards against devices stacked in a circle
}

// portMasters are the masters that receive what their ports receive.
var portMasters = []string{"bridge", "bond", "team", "openvswitch"}

func (c *chooser) decide(l *Link) (Role, string) {
	role, reason := c.wanted(l)
	if role != Uplink {
		return role, reason
	}
	if master := c.byIndex[l.Master]; master != nil && slices.Contains(portMasters, master.Type) && c.attached(master) {
		return NotAttached, fmt.Sprintf("a port of %s, where its packets are judged", master.Name)
	}
	if parent := c.byIndex[l.Parent]; parent != nil && c.attached(parent) {
		return NotAttached, fmt.Sprintf("on top of %s, where its packets are judged", parent.Name)
	}
	return Uplink, ""
}

// attached reports what decide says of a device that another one depends on.
func (c *chooser) attached(l *Link) bool {
	if c.decided[l.Index] {
		return false
	}
	c.decided[l.Index] = true
	defer delete(c.decided, l.Index)
	role, _ := c.decide(l)
	return role != NotAttached
}

// fallbacks are kinds of tunnel of which the kernel makes one, down, in every
// namespace as soon as a module is loaded.
var fallbacks = []string{"sit", "ip6tnl", "ipip", "gre", "gretap", "erspan", "ip6gre", "vti", "vti6"}

// wanted is what the settings alone say. An interface that is down is attached
// all the same, so that no packet passes unjudged while it comes up.
func (c *chooser) wanted(l *Link) (Role, string) {
	switch {
	case matchesAny(c.selection.Workloads, l.Name):
		return Workload, ""
	case len(c.selection.Uplinks) > 0 && !matchesAny(c.selection.Uplinks, l.Name):
		return NotAttached, "not named in the settings"
	case len(c.selection.Uplinks) > 0:
		return Uplink, ""
	case l.Loopback:
		return NotAttached, "loopback, which is judged only if the settings name it"
	case l.Type == "vrf":
		return NotAttached, "a VRF, whose packets are judged at its interfaces"
	case !l.Up && slices.Contains(fallbacks, l.Type):
		return NotAttached, "down"
	}
	return Uplink, ""
}

func matchesAny(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		ok, err := path.Match(pattern, name)
		return err == nil && ok
	})
}
