package datapath

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/tests/privileged"
	"github.com/perimeterd/perimeterd/tests/traffic"
	"github.com/perimeterd/perimeterd/tests/world"
)

// town is a member behind a wire, and a partner and a stranger who call it.
type town struct {
	root                      string
	member, partner, stranger *world.Host
	database                  *traffic.Server
	closed                    *traffic.Server // a service that no rule admits anyone to
	uplink                    uint32
}

func newTown(t *testing.T) *town {
	t.Helper()
	privileged.Require(t)
	w := world.New(t)
	router := w.Router("router")
	c := &town{
		root:   privileged.BPFFS(t) + "/perimeterd",
		member: w.Host("member"), partner: w.Host("partner"), stranger: w.Host("stranger"),
	}
	up, _ := w.Uplink(c.member, router, member4+"/24", member6+"/64")
	w.Uplink(c.partner, router, partner4+"/24", partner6+"/64")
	w.Uplink(c.stranger, router, stranger4+"/24", stranger6+"/64")
	c.uplink = uint32(up.Index)
	var err error
	if c.database, err = traffic.Database(c.member, ":5432"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.database.Close() })
	if c.closed, err = traffic.Database(c.member, ":5433"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.closed.Close() })
	return c
}

// open opens the data path in the member's namespace, for its uplink.
func (c *town) open(t *testing.T, options Options) *Datapath {
	t.Helper()
	return c.openBy(t, openEthernet, options)
}

func (c *town) openBy(t *testing.T, open func(Options) (*Datapath, error), options Options) *Datapath {
	t.Helper()
	options.Root = c.root
	var d *Datapath
	err := c.member.Run(func() (err error) {
		d, err = open(options)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return d
}

func (c *town) enforce(t *testing.T, d *Datapath) AttachState {
	t.Helper()
	tables, legend := compiled(t, memberPolicy(policy.Enforced, partnersOn5432()), hereFacts())
	if _, err := d.Apply(tables, legend, nil, nil); err != nil {
		t.Fatal(err)
	}
	var state AttachState
	err := c.member.Run(func() (err error) {
		state, err = d.Attach(c.uplink, Uplink)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return state
}

// expect tries a connection to the member over both families, at once.
func (c *town) expect(t *testing.T, from *world.Host, port string, want traffic.Outcome) {
	t.Helper()
	patience := 400 * time.Millisecond
	if want == traffic.Connected {
		patience = 10 * time.Second // of a machine that is busy
	}
	var calls sync.WaitGroup
	for _, address := range []string{member4 + ":" + port, "[" + member6 + "]:" + port} {
		calls.Go(func() {
			got := traffic.Try(context.Background(), from, "tcp", address, patience)
			if got.Outcome != want {
				t.Errorf("%s to %s: %v (%v), want %v", from.Name, address, got.Outcome, got.Err, want)
			}
		})
	}
	calls.Wait()
}

// bestHook is what Attach is expected to choose on this kernel.
func bestHook(options Options) string {
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{
		asm.Mov.Imm(asm.R0, -1), asm.Return(),
	}})
	if err != nil {
		return "no hook at all: " + err.Error()
	}
	defer program.Close()
	// No interface has this number: the kernel says so, if it knows of TCX.
	_, err = link.AttachTCX(link.TCXOptions{Interface: 1<<31 - 1, Program: program, Attach: ebpf.AttachTCXIngress})
	if options.ClsactOnly || errors.Is(err, ebpf.ErrNotSupported) {
		return "clsact"
	}
	return "tcx"
}

// hooks are all the ways in which packets are judged.
var hooks = []struct {
	name    string
	options Options
}{
	{"tcx", Options{}},
	{"clsact", Options{ClsactOnly: true}},
	{"xdp native", Options{XDP: XDPNative}},
	{"xdp generic", Options{XDP: XDPGeneric}},
	{"xdp native and clsact", Options{XDP: XDPNative, ClsactOnly: true}},
}

// TestHooks has real connections through every hook: what is allowed passes, its
// neighbour does not, programs of others still run, and Remove leaves nothing.
func TestHooks(t *testing.T) {
	for _, hook := range hooks {
		t.Run(hook.name, func(t *testing.T) {
			c := newTown(t)
			c.expect(t, c.stranger, "5432", traffic.Connected)

			d := c.open(t, hook.options)
			state := c.enforce(t, d)
			if best := bestHook(hook.options); state.Hook != best || (state.Degraded == "") != (best == "tcx") {
				t.Errorf("attached by %q, degraded %q, where %q is the best", state.Hook, state.Degraded, best)
			}
			if state.XDPProblem != "" || (state.XDP != "") != hook.options.XDP.wanted() {
				t.Errorf("at XDP %q, problem %q, asked for %q", state.XDP, state.XDPProblem, hook.options.XDP)
			}
			seen := countAfter(t, c, state.Hook)
			c.expect(t, c.partner, "5432", traffic.Connected)
			c.expect(t, c.partner, "5433", traffic.TimedOut)
			c.expect(t, c.stranger, "5432", traffic.TimedOut)
			if seen() == 0 {
				t.Error("the program of somebody else, behind ours, saw nothing")
			}

			if err := c.member.Run(func() error { return Remove(c.root) }); err != nil {
				t.Fatal(err)
			}
			c.expect(t, c.stranger, "5432", traffic.Connected)
			if _, err := os.Stat(c.root); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("Remove left %s: %v", c.root, err)
			}
			if seen() == 0 {
				t.Error("Remove took away the program of somebody else")
			}
			left := 0
			err := c.member.Run(func() error {
				dev, err := netlink.LinkByIndex(int(c.uplink))
				if err != nil {
					return err
				}
				for _, dir := range directions {
					mine, err := ownFilters(dev, dir)
					if err != nil {
						return err
					}
					left += len(mine)
				}
				return nil
			})
			if err != nil || left != 0 {
				t.Errorf("%d of our filters left, %v", left, err)
			}
		})
	}
}

// countAfter attaches a counting program of somebody else behind ours, and
// returns how to read it.
func countAfter(t *testing.T, c *town, hook string) func() uint64 {
	t.Helper()
	counter, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { counter.Close() })
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{
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
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	err = c.member.Run(func() error {
		if hook == "tcx" {
			l, err := link.AttachTCX(link.TCXOptions{Interface: int(c.uplink), Program: program, Attach: ebpf.AttachTCXIngress, Anchor: link.Tail()})
			if err == nil {
				t.Cleanup(func() { l.Close() })
			}
			return err
		}
		return netlink.FilterAdd(&netlink.BpfFilter{
			FilterAttrs: netlink.FilterAttrs{LinkIndex: int(c.uplink), Parent: netlink.HANDLE_MIN_INGRESS, Protocol: 0x0003, Priority: 99},
			Fd:          program.FD(), Name: "somebody-else", DirectAction: true,
		})
	})
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

// TestRestart: without the process enforcement and connections go on, and the
// next process takes over what it finds, by every hook.
func TestRestart(t *testing.T) {
	for _, hook := range hooks {
		t.Run(hook.name, func(t *testing.T) {
			c := newTown(t)
			first := c.open(t, hook.options)
			c.enforce(t, first)
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
			defer cancel()
			talk, err := traffic.Converse(ctx, c.partner, "tcp", member4+":5432", traffic.Pace{Every: 5 * time.Millisecond, Patience: 2 * time.Second})
			if err != nil {
				t.Fatal(err)
			}
			goOn := func() {
				t.Helper()
				if err := talk.Await(ctx, 10); err != nil {
					t.Fatalf("the conversation ended: %v", err)
				}
			}
			goOn()
			if err := first.Close(); err != nil {
				t.Fatal(err)
			}
			goOn()
			c.expect(t, c.stranger, "5432", traffic.TimedOut)
			c.expect(t, c.partner, "5432", traffic.Connected)

			second := c.open(t, hook.options)
			attached := second.Attachments()
			if len(attached) != 1 || attached[0].Ifindex != c.uplink || attached[0].Hook != bestHook(hook.options) || second.Generation() != 1 {
				t.Fatalf("took over %+v in generation %d", attached, second.Generation())
			}
			goOn()
			c.enforce(t, second) // generation 2, the interface as it is
			if got := second.Generation(); got != 2 {
				t.Errorf("generation %d, want 2", got)
			}
			goOn()
			c.expect(t, c.stranger, "5432", traffic.TimedOut)

			err = c.member.Run(func() error { return second.Detach(c.uplink) })
			if err != nil {
				t.Fatal(err)
			}
			c.expect(t, c.stranger, "5432", traffic.Connected)
			if report := talk.Report(); report.Lost != 0 || report.Err != nil {
				t.Errorf("the conversation: %+v", report)
			}
			talk.Stop()
		})
	}
}

// TestReattach: another role, or another name, of an attached interface is followed,
// by every hook.
func TestReattach(t *testing.T) {
	for _, hook := range hooks {
		t.Run(hook.name, func(t *testing.T) {
			c := newTown(t)
			d := c.open(t, hook.options)
			if err := c.member.Run(func() error { _, err := d.Attach(c.uplink, Workload); return err }); err != nil {
				t.Fatal(err)
			}
			if state := c.enforce(t, d); state.Role != Uplink {
				t.Errorf("still attached as %v", state.Role)
			}
			c.expect(t, c.partner, "5432", traffic.Connected)
			c.expect(t, c.stranger, "5432", traffic.TimedOut)

			p := memberPolicy(policy.Enforced)
			p.PrivateEndpoints = []policy.PrivateEndpoint{{Name: "private", Interfaces: []string{"backbone"}}}
			tables, legend := compiled(t, p, hereFacts())
			if _, err := d.Apply(tables, legend, nil, nil); err != nil {
				t.Fatal(err)
			}
			c.expect(t, c.stranger, "5432", traffic.TimedOut)
			err := c.member.Run(func() error {
				dev, err := netlink.LinkByIndex(int(c.uplink))
				if err != nil {
					return err
				}
				if err := netlink.LinkSetName(dev, "backbone"); err != nil {
					return err // EBUSY before Linux 6.2: not while it is up
				}
				state, err := d.Attach(c.uplink, Uplink)
				if state.Name != "backbone" {
					t.Errorf("still called %s", state.Name)
				}
				return err
			})
			if errors.Is(err, unix.EBUSY) {
				t.Skip("this kernel does not rename an interface that is up: needs Linux 6.2")
			}
			if err != nil {
				t.Fatal(err)
			}
			c.expect(t, c.stranger, "5432", traffic.Connected)
		})
	}
}

// TestAdoptWithDamage: pins that somebody removed, or that are of an interface
// that is gone, neither keep the next process from starting nor from attaching.
func TestAdoptWithDamage(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, c *town){
		"a link's pin is gone": func(t *testing.T, c *town) {
			if bestHook(Options{}) != "tcx" {
				return // clsact has no pins
			}
			remove(t, filepath.Join(c.root, pinLayout, linksDir, "*-ingress"))
		},
		"the interface is gone": func(t *testing.T, c *town) {
			err := c.member.Run(func() error {
				dev, err := netlink.LinkByIndex(int(c.uplink))
				if err != nil {
					return err
				}
				return netlink.LinkDel(dev)
			})
			if err != nil {
				t.Fatal(err)
			}
		},
		"a map of a generation is gone": func(t *testing.T, c *town) {
			remove(t, filepath.Join(c.root, pinLayout, "spans"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newTown(t)
			first := c.open(t, Options{})
			c.enforce(t, first)
			if err := first.Close(); err != nil {
				t.Fatal(err)
			}
			damage(t, c)
			second := c.open(t, Options{})
			tables, legend := compiled(t, memberPolicy(policy.Enforced, partnersOn5432()), hereFacts())
			if _, err := second.Apply(tables, legend, nil, nil); err != nil {
				t.Fatal(err)
			}
			if name == "the interface is gone" {
				if left := second.Attachments(); len(left) != 0 {
					t.Errorf("still attached: %+v", left)
				}
				return
			}
			c.enforce(t, second)
			c.expect(t, c.partner, "5432", traffic.Connected)
			c.expect(t, c.stranger, "5432", traffic.TimedOut)
		})
	}
}

func remove(t *testing.T, pattern string) {
	t.Helper()
	paths, err := filepath.Glob(pattern)
	if err != nil || len(paths) == 0 {
		t.Fatalf("nothing matches %s: %v", pattern, err)
	}
	for _, path := range paths {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSomebodyElsesVerdictComesAfter: a program that was there before and lets
// everything pass does not decide in our place.
func TestSomebodyElsesVerdictComesAfter(t *testing.T) {
	privileged.Require(t)
	if bestHook(Options{}) != "tcx" {
		t.Skip("clsact orders by priority, and ours is the first there is: needs TCX, Linux 6.6")
	}
	c := newTown(t)
	d := c.open(t, Options{})
	pass, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{
		asm.Mov.Imm(asm.R0, 0), asm.Return(), // TCX_PASS: ends the chain
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer pass.Close()
	err = c.member.Run(func() error {
		for _, hook := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
			l, err := link.AttachTCX(link.TCXOptions{Interface: int(c.uplink), Program: pass, Attach: hook})
			if err != nil {
				return err
			}
			t.Cleanup(func() { l.Close() })
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	c.enforce(t, d)
	c.expect(t, c.stranger, "5432", traffic.TimedOut)
}

// TestOlderLayoutIsRetired: after an upgrade with another pin layout, only the
// new policy counts.
func TestOlderLayoutIsRetired(t *testing.T) {
	c := newTown(t)
	first := c.open(t, Options{})
	c.enforce(t, first)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if err := unix.Rename(filepath.Join(c.root, pinLayout), filepath.Join(c.root, "layout-0")); err != nil {
		t.Fatal(err)
	}
	second := c.open(t, Options{})
	c.enforce(t, second)
	c.expect(t, c.stranger, "5432", traffic.TimedOut)
	everybody := partnersOn5432()
	everybody.AddressPrefixes = prefixes("0.0.0.0/0", "::/0")
	tables, legend := compiled(t, memberPolicy(policy.Enforced, everybody), hereFacts())
	if _, err := second.Apply(tables, legend, nil, nil); err != nil {
		t.Fatal(err)
	}
	c.expect(t, c.stranger, "5432", traffic.Connected)
}

// TestClsactBothOrNone: a filter of somebody else in the way of one direction
// leaves nothing of ours in the other, where not even Remove would find it.
func TestClsactBothOrNone(t *testing.T) {
	c := newTown(t)
	d := c.open(t, Options{ClsactOnly: true})
	tables, legend := compiled(t, memberPolicy(policy.Enforced, partnersOn5432()), hereFacts())
	if _, err := d.Apply(tables, legend, nil, nil); err != nil {
		t.Fatal(err)
	}
	err := c.member.Run(func() error {
		dev, err := netlink.LinkByIndex(int(c.uplink))
		if err != nil {
			return err
		}
		if err := netlink.QdiscAdd(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
			LinkIndex: dev.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
		}}); err != nil {
			return err
		}
		// Of another protocol, which the kernel does not mix under one priority.
		if err := netlink.FilterAdd(&netlink.BpfFilter{
			FilterAttrs: netlink.FilterAttrs{LinkIndex: dev.Attrs().Index, Parent: netlink.HANDLE_MIN_EGRESS, Protocol: unix.ETH_P_ARP, Priority: 1},
			Fd:          d.objects.ReadClocks.FD(), Name: "somebody-else", DirectAction: true,
		}); err != nil {
			return err
		}
		if _, err := d.Attach(c.uplink, Uplink); err == nil {
			t.Error("attached all the same")
		} else {
			t.Logf("attach: %v", err)
		}
		if err := d.Close(); err != nil {
			return err
		}
		return Remove(c.root)
	})
	if err != nil {
		t.Fatal(err)
	}
	c.expect(t, c.stranger, "5432", traffic.Connected)
}
