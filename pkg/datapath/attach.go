package datapath

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Role says on which side of an interface members are.
type Role uint8

const (
	// Uplink: members are on this host's side. What comes in is towards a
	// member, what goes out is from one.
	Uplink Role = iota
	// Workload: members are behind the interface (the host side of a veth or
	// tap). What comes in is from a member, what goes out is towards one.
	Workload
)

func (r Role) String() string { return [...]string{"uplink", "workload"}[r] }

// AttachState is an interface that packets are judged on.
type AttachState struct {
	Ifindex uint32
	Name    string
	Role    Role
	// Hook is "tcx" or "clsact".
	Hook string
	// Degraded says why not the best hook; "" if it is.
	Degraded string
	// XDP is "native" or "generic" where packets that come in are judged at XDP
	// already, else "".
	XDP string
	// XDPProblem says why TC judges what XDP was asked to; "" if all is well.
	XDPProblem string
}

// linksDir holds the pinned links, as IFINDEX-DIRECTION.
const linksDir = "links"

// direction is a direction of an interface, not of a flow.
type direction struct {
	name   string
	tcx    ebpf.AttachType
	clsact uint32
}

var directions = [...]direction{
	{"ingress", ebpf.AttachTCXIngress, netlink.HANDLE_MIN_INGRESS},
	{"egress", ebpf.AttachTCXEgress, netlink.HANDLE_MIN_EGRESS},
}

// attachment is an interface with our programs. links is empty for clsact,
// whose filters need no process. xdp is nil where XDP does not judge.
type attachment struct {
	state AttachState
	links []link.Link
	xdp   link.Link
}

func (a *attachment) release() error {
	var errs []error
	for _, l := range a.links {
		errs = append(errs, l.Close())
	}
	if a.xdp != nil {
		errs = append(errs, a.xdp.Close())
	}
	return errors.Join(errs...)
}

// program picks the program for a direction of an interface: which end it
// judges follows from the role, how it reads frames from the device.
func (d *Datapath) program(role Role, dir direction, dev netlink.Link) *ebpf.Program {
	linkHeader, err := hasLinkHeader(dev)
	if err != nil {
		linkHeader = true // Attach has refused it
	}
	towards := (dir.name == "ingress") == (role == Uplink)
	p := &d.objects.perimeterPrograms
	switch {
	case towards && linkHeader:
		return p.Towards
	case towards:
		return p.TowardsL3
	case linkHeader:
		return p.From
	default:
		return p.FromL3
	}
}

// hasLinkHeader reports whether frames of the device begin with an Ethernet
// header, as those of loopback do too, or with the IP header. Devices of any
// other kind are refused: what is read at the wrong place cannot be judged, and
// a strict member would lose all its traffic.
func hasLinkHeader(l netlink.Link) (bool, error) {
	if gre, ok := l.(*netlink.Gretun); ok && !gre.FlowBased && (gre.Remote.IsUnspecified() || gre.Remote.IsMulticast() || len(gre.Remote) == 0) {
		return false, fmt.Errorf("%s is a GRE tunnel to many, whose packets begin with the header of the tunnel: judge its packets at the workloads or the uplink, or use tunnels with a remote address", l.Attrs().Name)
	}
	switch kind := l.Attrs().EncapType; kind {
	case "ether", "loopback":
		return true, nil
	case "none", "ppp", "ipip", "tunnel6", "sit", "gre",
		fmt.Sprintf("unknown%d", unix.ARPHRD_IP6GRE), fmt.Sprintf("unknown%d", unix.ARPHRD_RAWIP):
		return false, nil
	default:
		return false, fmt.Errorf("%s is a device of kind %q, whose frames are not read: attach to an Ethernet or IP device", l.Attrs().Name, kind)
	}
}

// Attach has packets of an interface judged from now on, in both directions. It
// is attached once; attaching again follows a change of its role or its name,
// without a moment in which its packets are not judged. Other programs on the
// interface go on running.
func (d *Datapath) Attach(ifindex uint32, role Role) (AttachState, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	dev, err := netlink.LinkByIndex(int(ifindex))
	if err != nil {
		return AttachState{}, fmt.Errorf("look up interface %d: %w", ifindex, err)
	}
	if a := d.attachments[ifindex]; a != nil {
		return d.reattach(a, dev, role)
	}
	if _, err := hasLinkHeader(dev); err != nil {
		return AttachState{}, err
	}
	a := &attachment{state: AttachState{Ifindex: ifindex, Name: dev.Attrs().Name, Role: role, Hook: "tcx"}}
	err = ebpf.ErrNotSupported
	if !d.options.ClsactOnly {
		err = d.attachTCX(a, dev)
	}
	if errors.Is(err, ebpf.ErrNotSupported) {
		a.state.Hook, a.state.Degraded = "clsact", "TCX needs Linux 6.6"
		if d.options.ClsactOnly {
			a.state.Degraded = "TCX is switched off"
		}
		err = d.attachClsact(a, dev)
	}
	if err != nil {
		return AttachState{}, fmt.Errorf("attach to %s: %w", a.state.Name, err)
	}
	d.attachments[ifindex] = a
	// Only now may other interfaces rely on it that this one judged.
	if err := d.markInterface(a, d.inForce); err != nil {
		return AttachState{}, errors.Join(err, d.detach(ifindex))
	}
	err = d.retireOlderLayouts() // which may be in XDP's place
	d.attachXDP(a, dev)
	return a.state, err
}

// reattach gives an attached interface another role, or another name.
func (d *Datapath) reattach(a *attachment, dev netlink.Link, role Role) (AttachState, error) {
	name := dev.Attrs().Name
	d.attachXDP(a, dev)
	if a.state.Role == role && a.state.Name == name {
		return a.state, nil
	}
	if a.state.Role != role {
		a.state.Role = role
		if a.state.Hook == "clsact" {
			if err := d.attachClsact(a, dev); err != nil {
				// It has taken both filters away: nobody may rely on them any more.
				return AttachState{}, errors.Join(fmt.Errorf("attach to %s as %s: %w", name, role, err), d.detach(a.state.Ifindex))
			}
		}
		for i, l := range a.links {
			if err := l.Update(d.program(role, directions[i], dev)); err != nil {
				return AttachState{}, fmt.Errorf("attach to %s as %s: %w", name, role, err)
			}
		}
		if a.xdp != nil {
			if err := a.xdp.Update(d.xdp.program(role)); err != nil {
				return AttachState{}, fmt.Errorf("attach to %s at XDP as %s: %w", name, role, err)
			}
		}
	}
	a.state.Name = name
	return a.state, d.markInterface(a, d.inForce)
}

// retireOlderLayouts detaches what an agent with another pin layout attached,
// on the interfaces that are judged here now: its programs would go on enforcing
// a policy that nobody changes any more. What it pinned goes with the last.
// Filters of clsact are ours by their name, and were replaced already.
func (d *Datapath) retireOlderLayouts() error {
	if d.inForce == nil {
		return nil // theirs is still the only policy
	}
	pins, err := filepath.Glob(filepath.Join(filepath.Dir(d.root), "*", linksDir, "*"))
	if err != nil {
		return fmt.Errorf("look for older layouts: %w", err)
	}
	left := map[string]int{}
	for _, pin := range pins {
		layout := filepath.Dir(filepath.Dir(pin))
		if layout == d.root {
			continue
		}
		number, _, _ := strings.Cut(filepath.Base(pin), "-")
		ifindex, err := strconv.ParseUint(number, 10, 32)
		if a := d.attachments[uint32(ifindex)]; err != nil || a == nil {
			left[layout]++
			continue
		}
		left[layout] += 0
		l, err := link.LoadPinnedLink(pin, nil)
		if err != nil {
			return fmt.Errorf("open the pinned link %s: %w", pin, err)
		}
		if err := errors.Join(unlink(l), os.Remove(pin)); err != nil {
			return fmt.Errorf("detach %s: %w", pin, err)
		}
	}
	for layout, pins := range left {
		if pins == 0 {
			if err := os.RemoveAll(layout); err != nil {
				return fmt.Errorf("remove an older layout: %w", err)
			}
		}
	}
	return nil
}

// attachTCX links both programs and pins the links. It attaches both or none.
func (d *Datapath) attachTCX(a *attachment, dev netlink.Link) (err error) {
	var pinned []string
	defer func() {
		if err == nil {
			return
		}
		for _, l := range a.links {
			err = errors.Join(err, l.Close())
		}
		for _, path := range pinned {
			err = errors.Join(err, os.Remove(path))
		}
		a.links = nil
	}()
	for _, dir := range directions {
		l, err := link.AttachTCX(link.TCXOptions{
			Interface: dev.Attrs().Index,
			Program:   d.program(a.state.Role, dir, dev),
			Attach:    dir.tcx,
			// Before all others: one of them that passes a packet ends the chain.
			Anchor: link.Head(),
		})
		if err != nil {
			return err
		}
		a.links = append(a.links, l)
		path := d.linkPin(a.state.Ifindex, dir)
		// A pin of an interface that is gone and whose number came back.
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove the stale pin %s: %w", path, err)
		}
		if err := l.Pin(path); err != nil {
			return fmt.Errorf("pin the link: %w", err)
		}
		pinned = append(pinned, path)
	}
	return nil
}

func (d *Datapath) linkPin(ifindex uint32, dir direction) string {
	return filepath.Join(d.root, linksDir, fmt.Sprintf("%d-%s", ifindex, dir.name))
}

// filterName marks our clsact filters among those of others.
const filterName = "perimeterd"

// attachClsact adds both programs as direct-action filters. It adds both or none:
// nobody would know of a filter that is left alone.
func (d *Datapath) attachClsact(a *attachment, dev netlink.Link) (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, removeFilters(a.state.Ifindex))
		}
	}()
	qdisc := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: dev.Attrs().Index,
		Handle:    netlink.MakeHandle(0xffff, 0),
		Parent:    netlink.HANDLE_CLSACT,
	}}
	if err := netlink.QdiscAdd(qdisc); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add a clsact qdisc: %w", err)
	}
	for _, dir := range directions {
		filter := &netlink.BpfFilter{
			FilterAttrs: netlink.FilterAttrs{
				LinkIndex: dev.Attrs().Index,
				Parent:    dir.clsact,
				Protocol:  unix.ETH_P_ALL,
				Priority:  1,
			},
			Fd:           d.program(a.state.Role, dir, dev).FD(),
			Name:         filterName,
			DirectAction: true,
		}
		mine, err := ownFilters(dev, dir)
		if err != nil {
			return err
		}
		if len(mine) > 0 {
			// The same handle and priority: replaced in one step.
			filter.Handle, filter.Priority = mine[0].Handle, mine[0].Priority
			err = netlink.FilterReplace(filter)
		} else {
			err = netlink.FilterAdd(filter)
		}
		if err != nil {
			return fmt.Errorf("add the %s filter before those of others, at priority 1 (`tc filter show dev %s %s` tells whose is there): %w", dir.name, dev.Attrs().Name, dir.name, err)
		}
	}
	return nil
}

func ownFilters(dev netlink.Link, dir direction) ([]*netlink.BpfFilter, error) {
	filters, err := netlink.FilterList(dev, dir.clsact)
	if err != nil {
		return nil, fmt.Errorf("list the %s filters of %s: %w", dir.name, dev.Attrs().Name, err)
	}
	var mine []*netlink.BpfFilter
	for _, f := range filters {
		if b, ok := f.(*netlink.BpfFilter); ok && b.Name == filterName {
			mine = append(mine, b)
		}
	}
	return mine, nil
}

// unlink detaches a link at once, whoever else holds it open, and closes it. A
// link whose interface is gone is detached already.
func unlink(l link.Link) error {
	err := l.Detach()
	if errors.Is(err, unix.ENOLINK) {
		err = nil
	}
	return errors.Join(err, l.Close())
}

// Detach stops judging an interface. An interface that is gone counts as done.
func (d *Datapath) Detach(ifindex uint32) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.detach(ifindex)
}

func (d *Datapath) detach(ifindex uint32) error {
	a := d.attachments[ifindex]
	if a == nil {
		return nil
	}
	// First nobody may rely on it any more.
	if err := d.objects.Interfaces.Delete(ifindex); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("forget interface %s: %w", a.state.Name, err)
	}
	delete(d.attachments, ifindex)
	errs := []error{d.detachXDP(a)}
	for _, l := range a.links {
		errs = append(errs, unlink(l))
	}
	for _, dir := range directions {
		if err := os.Remove(d.linkPin(ifindex, dir)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	if a.state.Hook == "clsact" {
		errs = append(errs, removeFilters(ifindex))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("detach from %s: %w", a.state.Name, err)
	}
	return nil
}

// removeFilters removes our clsact filters of an interface, and the qdisc if
// nobody else has a filter there.
func removeFilters(ifindex uint32) error {
	dev, err := netlink.LinkByIndex(int(ifindex))
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil // its filters went with it
	}
	if err != nil {
		return fmt.Errorf("look up interface %d: %w", ifindex, err)
	}
	others, removed := false, false
	for _, dir := range directions {
		mine, err := ownFilters(dev, dir)
		if err != nil {
			return err
		}
		for _, f := range mine {
			if err := netlink.FilterDel(f); err != nil {
				return fmt.Errorf("remove the %s filter of %s: %w", dir.name, dev.Attrs().Name, err)
			}
			removed = true
		}
		left, err := netlink.FilterList(dev, dir.clsact)
		if err != nil {
			return fmt.Errorf("list the %s filters of %s: %w", dir.name, dev.Attrs().Name, err)
		}
		others = others || len(left) > 0
	}
	if others || !removed {
		return nil
	}
	err = netlink.QdiscDel(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: int(ifindex), Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}})
	if err != nil {
		return fmt.Errorf("remove the clsact qdisc of %s: %w", dev.Attrs().Name, err)
	}
	return nil
}

// Attachments returns what is attached, by interface number.
func (d *Datapath) Attachments() []AttachState {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make([]AttachState, 0, len(d.attachments))
	for _, a := range d.attachments {
		state := a.state
		state.XDPProblem = cmp.Or(state.XDPProblem, d.missingNotes(a))
		out = append(out, state)
	}
	slices.SortFunc(out, func(a, b AttachState) int { return cmp.Compare(a.Ifindex, b.Ifindex) })
	return out
}

// markInterface writes what packets need to know of an interface: that it
// judges, and whether it is a private endpoint in the generation given. What
// the other slot's generation says of it stays.
func (d *Datapath) markInterface(a *attachment, g *generation) error {
	var old perimeterInterface
	if err := d.objects.Interfaces.Lookup(a.state.Ifindex, &old); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("look up interface %s in the kernel: %w", a.state.Name, err)
	}
	noted := perimeterInterface{Flags: uint32(perimeterInterfaceFlagINTERFACE_UPLINK), PrivatePath: old.PrivatePath}
	if a.state.Role == Workload {
		noted.Flags = uint32(perimeterInterfaceFlagINTERFACE_WORKLOAD)
	}
	if g != nil && g.tables != nil {
		noted.PrivatePath[g.slot()] = [2]uint32{}
		for i := range g.tables.PrivateEndpoints {
			if e := &g.tables.PrivateEndpoints[i]; e.Covers(a.state.Name) {
				noted.PrivatePath[g.slot()] = e.Outcomes
				break
			}
		}
	}
	if err := d.objects.Interfaces.Put(a.state.Ifindex, noted); err != nil {
		return fmt.Errorf("note interface %s in the kernel: %w", a.state.Name, err)
	}
	return nil
}

func (d *Datapath) markPrivateInterfaces(g *generation) error {
	for _, a := range d.attachments {
		if err := d.markInterface(a, g); err != nil {
			return err
		}
	}
	return nil
}

// adoptLinks takes over what an earlier process attached and gives it our
// programs. What belongs to an interface that is gone is removed.
func (d *Datapath) adoptLinks() error {
	var ifindex uint32
	var noted perimeterInterface
	known := map[uint32]perimeterInterface{}
	entries := d.objects.Interfaces.Iterate()
	for entries.Next(&ifindex, &noted) {
		known[ifindex] = noted
	}
	if err := entries.Err(); err != nil {
		return fmt.Errorf("list the interfaces in the kernel: %w", err)
	}
	for ifindex, noted := range known {
		role := Uplink
		if noted.Flags&uint32(perimeterInterfaceFlagINTERFACE_WORKLOAD) != 0 {
			role = Workload
		}
		a, err := d.adoptInterface(ifindex, role)
		if err != nil {
			return err
		}
		if a != nil {
			d.attachments[ifindex] = a
			if err := d.adoptXDP(a); err != nil {
				return err
			}
			continue
		}
		if err := d.objects.Interfaces.Delete(ifindex); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("forget interface %d: %w", ifindex, err)
		}
	}
	return d.removeStalePins()
}

// adoptInterface returns nil for an interface that has nothing of ours.
func (d *Datapath) adoptInterface(ifindex uint32, role Role) (*attachment, error) {
	dev, err := netlink.LinkByIndex(int(ifindex))
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look up interface %d: %w", ifindex, err)
	}
	a := &attachment{state: AttachState{Ifindex: ifindex, Name: dev.Attrs().Name, Role: role, Hook: "tcx"}}
	for _, dir := range directions {
		l, err := d.adoptLink(ifindex, dir, d.program(role, dir, dev))
		if err != nil {
			return nil, errors.Join(err, a.release())
		}
		if l != nil {
			a.links = append(a.links, l)
		}
	}
	if len(a.links) == len(directions) {
		return a, nil
	}
	if err := a.release(); err != nil {
		return nil, err
	}
	a.links = nil
	for _, dir := range directions {
		mine, err := ownFilters(dev, dir)
		if err != nil {
			return nil, err
		}
		if len(mine) == 0 {
			return nil, nil
		}
	}
	a.state.Hook, a.state.Degraded = "clsact", "attached by clsact before"
	return a, d.attachClsact(a, dev)
}

// adoptLink opens a pinned link and replaces its program. nil: there is none,
// or its interface is gone.
func (d *Datapath) adoptLink(ifindex uint32, dir direction, program *ebpf.Program) (link.Link, error) {
	path := d.linkPin(ifindex, dir)
	l, err := link.LoadPinnedLink(path, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open the pinned link %s: %w", path, err)
	}
	info, err := l.Info()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("look at the pinned link %s: %w", path, err), l.Close())
	}
	if tcx := info.TCX(); tcx == nil || tcx.Ifindex != ifindex {
		return nil, l.Close() // of an interface that is gone
	}
	if err := l.Update(program); err != nil {
		return nil, errors.Join(fmt.Errorf("replace the program in %s: %w", path, err), l.Close())
	}
	return l, nil
}

// removeStalePins removes the pins of links that belong to no attachment.
func (d *Datapath) removeStalePins() error {
	pins, err := os.ReadDir(filepath.Join(d.root, linksDir))
	if err != nil {
		return fmt.Errorf("list the pinned links: %w", err)
	}
	for _, pin := range pins {
		number, what, _ := strings.Cut(pin.Name(), "-")
		ifindex, err := strconv.ParseUint(number, 10, 32)
		if a := d.attachments[uint32(ifindex)]; err == nil && a != nil {
			if what == xdpPin && a.xdp != nil || what != xdpPin && len(a.links) > 0 {
				continue
			}
		}
		if err := os.Remove(filepath.Join(d.root, linksDir, pin.Name())); err != nil {
			return fmt.Errorf("remove a stale pin: %w", err)
		}
	}
	return nil
}

// removeLinks detaches everything that was attached under a pin directory, by
// the pins alone. One that fails does not keep the others attached.
func removeLinks(dir string) error {
	pins, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list the pinned links: %w", err)
	}
	var errs []error
	for _, pin := range pins {
		path := filepath.Join(dir, pin.Name())
		l, err := link.LoadPinnedLink(path, nil)
		if err == nil {
			err = unlink(l)
		}
		if err := errors.Join(err, os.Remove(path)); err != nil {
			errs = append(errs, fmt.Errorf("detach %s: %w", path, err))
		}
	}
	return errors.Join(append(errs, removeNotedFilters(filepath.Join(filepath.Dir(dir), "interfaces")))...)
}

// removeNotedFilters removes the filters of clsact, which have no pins, from the
// interfaces that are noted in a pinned map.
func removeNotedFilters(path string) error {
	interfaces, err := ebpf.LoadPinnedMap(path, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open the map of interfaces: %w", err)
	}
	defer interfaces.Close()
	var errs []error
	var ifindex uint32
	var noted perimeterInterface
	entries := interfaces.Iterate()
	for entries.Next(&ifindex, &noted) {
		errs = append(errs, removeFilters(ifindex))
	}
	return errors.Join(append(errs, entries.Err())...)
}
