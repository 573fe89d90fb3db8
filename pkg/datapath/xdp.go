package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// XDPMode says whether packets that come in are judged at XDP, before the kernel
// makes an skb of them. It changes no verdict: TC is attached too, and judges
// what XDP has not, for whatever reason.
type XDPMode string

const (
	XDPOff     XDPMode = "off"     // TC judges; "" means the same
	XDPAuto    XDPMode = "auto"    // at the driver where it can; elsewhere TC, which is faster than generic XDP
	XDPNative  XDPMode = "native"  // at the driver, and that it cannot is a problem
	XDPGeneric XDPMode = "generic" // in the kernel's core, on any driver: for tests
)

// wanted reports whether XDP is to judge at all.
func (m XDPMode) wanted() bool { return m != "" && m != XDPOff }

// attached is how the kernel attaches for this mode.
func (m XDPMode) attached() (string, link.XDPAttachFlags) {
	if m == XDPGeneric {
		return "generic", link.XDPGenericMode
	}
	return "native", link.XDPDriverMode
}

// xdpLayer is the loaded object for XDP. missing says why there is none, where
// one is wanted.
type xdpLayer struct {
	programs xdpPrograms
	missing  string
}

func (x *xdpLayer) program(role Role) *ebpf.Program {
	if role == Uplink {
		return x.programs.XdpTowards
	}
	return x.programs.XdpFrom
}

// loadXDP loads the programs for XDP, on the same maps. A kernel that cannot
// load them is no reason not to enforce.
func (d *Datapath) loadXDP(settings perimeterLoadSettings) xdpLayer {
	if !d.options.XDP.wanted() {
		return xdpLayer{}
	}
	var x xdpLayer
	if err := d.loadXDPInto(&x.programs, settings); err != nil {
		x.missing = err.Error()
	}
	return x
}

func (d *Datapath) loadXDPInto(programs *xdpPrograms, settings perimeterLoadSettings) error {
	spec, err := loadXdp()
	if err != nil {
		return fmt.Errorf("read the compiled programs for XDP: %w", err)
	}
	inParts, err := d.takesFramesInParts()
	if err != nil {
		return err
	}
	if inParts {
		settings.XdpFramesInParts = 1
		for _, program := range spec.Programs {
			program.Flags |= unix.BPF_F_XDP_HAS_FRAGS
		}
	}
	if err := spec.Variables["settings"].Set(settings); err != nil {
		return fmt.Errorf("set the settings of the programs for XDP: %w", err)
	}
	if err := d.pinMaps(spec); err != nil {
		return err
	}
	err = spec.LoadAndAssign(programs, &ebpf.CollectionOptions{
		Maps:            ebpf.MapOptions{PinPath: d.root},
		MapReplacements: map[string]*ebpf.Map{"questions": d.objects.Questions},
	})
	if err != nil {
		return fmt.Errorf("load the programs for XDP: %w", explainLoad(err))
	}
	return nil
}

// takesFramesInParts reports whether the programs for XDP are to be handed frames
// that do not fit a page; if not, drivers refuse them where the MTU allows such
// frames. The kernel's core does not, and forgets, on 6.18, where the link header
// ends, and with it the note, of what a program that takes parts has passed.
func (d *Datapath) takesFramesInParts() (bool, error) {
	if d.options.XDP == XDPGeneric {
		return false, nil
	}
	err := features.HaveProgramHelper(ebpf.XDP, asm.FnXdpGetBuffLen)
	if err != nil && !errors.Is(err, ebpf.ErrNotSupported) {
		return false, fmt.Errorf("look for frames in parts at XDP: %w", err)
	}
	return err == nil, nil
}

// xdpPin is the second half of the name of a pinned link to XDP.
const xdpPin = "xdp"

func (d *Datapath) xdpPinOf(ifindex uint32) string {
	return filepath.Join(d.root, linksDir, fmt.Sprintf("%d-%s", ifindex, xdpPin))
}

// attachXDP has an interface that TC judges already judged at XDP too, if that is
// wanted. Its state says why not, if not.
func (d *Datapath) attachXDP(a *attachment, dev netlink.Link) {
	if !d.options.XDP.wanted() || a.xdp != nil {
		return
	}
	a.state.XDPProblem = ""
	l, err := d.linkXDP(a, dev)
	if err != nil {
		a.state.XDPProblem = err.Error()
		return
	}
	a.xdp = l
	a.state.XDP, _ = d.options.XDP.attached()
}

func (d *Datapath) linkXDP(a *attachment, dev netlink.Link) (link.Link, error) {
	name := dev.Attrs().Name
	if d.xdp.missing != "" {
		return nil, errors.New(d.xdp.missing)
	}
	if linkHeader, err := hasLinkHeader(dev); err != nil || !linkHeader {
		return nil, fmt.Errorf("%s has no Ethernet header, which XDP here reads", name)
	}
	_, flags := d.options.XDP.attached()
	l, err := link.AttachXDP(link.XDPOptions{
		Program: d.xdp.program(a.state.Role), Interface: dev.Attrs().Index, Flags: flags,
	})
	if err != nil {
		return nil, explainAttachXDP(name, err)
	}
	path := d.xdpPinOf(a.state.Ifindex)
	// A pin of an interface that is gone and whose number came back.
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, errors.Join(fmt.Errorf("remove the stale pin %s: %w", path, err), unlink(l))
	}
	if err := l.Pin(path); err != nil {
		return nil, errors.Join(fmt.Errorf("pin the link to XDP: %w", err), unlink(l))
	}
	return l, nil
}

// explainAttachXDP says what is in the way.
func explainAttachXDP(name string, err error) error {
	switch {
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, ebpf.ErrNotSupported):
		return fmt.Errorf("the driver of %s has no native XDP", name)
	case errors.Is(err, unix.EBUSY), errors.Is(err, unix.EEXIST):
		return fmt.Errorf("another program has the place at XDP of %s (`ip link show %s` tells its id)", name, name)
	default:
		return fmt.Errorf("the driver of %s refuses XDP, perhaps for its MTU, LRO or number of queues (the kernel's log tells more): %w", name, err)
	}
}

// detachXDP leaves the judging to TC.
func (d *Datapath) detachXDP(a *attachment) error {
	if a.xdp == nil {
		return nil
	}
	l := a.xdp
	a.xdp, a.state.XDP = nil, ""
	err := unlink(l)
	if missing := os.Remove(d.xdpPinOf(a.state.Ifindex)); missing != nil && !errors.Is(missing, fs.ErrNotExist) {
		err = errors.Join(err, missing)
	}
	if err != nil {
		return fmt.Errorf("detach from %s at XDP: %w", a.state.Name, err)
	}
	return nil
}

// adoptXDP takes over what an earlier process attached at XDP and gives it our
// program. What is not wanted any more, or not in this mode, is detached.
func (d *Datapath) adoptXDP(a *attachment) error {
	path := d.xdpPinOf(a.state.Ifindex)
	l, err := link.LoadPinnedLink(path, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open the pinned link %s: %w", path, err)
	}
	info, err := l.Info()
	if err != nil {
		return errors.Join(fmt.Errorf("look at the pinned link %s: %w", path, err), l.Close())
	}
	if xdp := info.XDP(); xdp == nil || xdp.Ifindex != a.state.Ifindex {
		return l.Close() // of an interface that is gone; the pin is removed with the stale ones
	}
	a.xdp = l
	mode, err := attachedXDP(a.state.Ifindex)
	if err != nil {
		return err
	}
	if asked, _ := d.options.XDP.attached(); !d.options.XDP.wanted() || d.xdp.missing != "" || mode != asked {
		return d.detachXDP(a)
	}
	if err := l.Update(d.xdp.program(a.state.Role)); err != nil {
		return fmt.Errorf("replace the program in %s: %w", path, err)
	}
	a.state.XDP = mode
	return nil
}

// attachedXDP is how a program is attached at XDP, "" if none is.
func attachedXDP(ifindex uint32) (string, error) {
	dev, err := netlink.LinkByIndex(int(ifindex))
	if err != nil {
		return "", fmt.Errorf("look up interface %d: %w", ifindex, err)
	}
	xdp := dev.Attrs().Xdp
	switch {
	case xdp == nil || !xdp.Attached:
		return "", nil
	case xdp.AttachMode == nl.XDP_ATTACHED_SKB:
		return "generic", nil
	default:
		return "native", nil
	}
}

// missingNotes says so if the driver takes no metadata, so that XDP can tell TC
// nothing and leaves all to it.
func (d *Datapath) missingNotes(a *attachment) string {
	if a.xdp == nil {
		return ""
	}
	var frames uint64
	if err := d.objects.XdpWithoutNote.Lookup(a.state.Ifindex, &frames); err != nil {
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return ""
		}
		return fmt.Sprintf("look up what XDP left to TC: %v", err)
	}
	return fmt.Sprintf("the driver of %s takes no metadata with a frame, so TC judges all (%d frames)", a.state.Name, frames)
}
