package datapath

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/perimeterd/perimeterd/pkg/policy"
)

var (
	craftedFlag    = flag.Int("crafted", 3000, "crafted cases for each hook and policy")
	craftedForFlag = flag.Duration("crafted-for", 0, "go on with further seeds until so much time has passed")
)

// refereeMTU makes room for packets that do not fit the linear part of an skb.
// With xdpMTU they do, as many drivers demand that do XDP.
const refereeMTU, xdpMTU = 9000, 1500

// post is where the filter stands on the wire. Every post meets all frames.
type post struct {
	name     string
	atSender bool // on the sender's end of the wire: at egress
	role     Role
}

func (p *post) towards() bool { return p.atSender == (p.role == Workload) }

var posts = []post{
	{"ingress of an uplink", false, Uplink},
	{"ingress of a workload interface", false, Workload},
	{"egress of an uplink", true, Uplink},
	{"egress to a workload", true, Workload},
}

// refereeHook is a way to attach.
type refereeHook struct {
	name      string
	options   Options
	mtu       int
	onlyEnter bool                                 // stands only where packets come in
	beside    func(ifindex int) (link.Link, error) // what somebody else attaches, nil = nothing
}

var refereeHooks = []refereeHook{
	{name: "tcx", mtu: refereeMTU},
	{name: "clsact", options: Options{ClsactOnly: true}, mtu: refereeMTU},
	{name: "native XDP", options: Options{XDP: XDPNative}, mtu: xdpMTU, onlyEnter: true},
	{name: "native XDP of frames in parts", options: Options{XDP: XDPNative}, mtu: refereeMTU, onlyEnter: true},
	{name: "generic XDP", options: Options{XDP: XDPGeneric}, mtu: refereeMTU, onlyEnter: true},
	{name: "tcx behind another's native XDP", mtu: xdpMTU, onlyEnter: true, beside: passAtXDP(link.XDPDriverMode)},
	{name: "tcx behind another's generic XDP", mtu: refereeMTU, onlyEnter: true, beside: passAtXDP(link.XDPGenericMode)},
}

// passAtXDP attaches a program that passes all, and takes frames in parts where
// the kernel knows them.
func passAtXDP(mode link.XDPAttachFlags) func(int) (link.Link, error) {
	return func(ifindex int) (link.Link, error) {
		spec := &ebpf.ProgramSpec{
			Type: ebpf.XDP, License: "GPL", Flags: unix.BPF_F_XDP_HAS_FRAGS,
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()}, // XDP_PASS
		}
		program, err := ebpf.NewProgram(spec)
		if err != nil {
			spec.Flags = 0
			program, err = ebpf.NewProgram(spec)
		}
		if err != nil {
			return nil, err
		}
		defer program.Close()
		return link.AttachXDP(link.XDPOptions{Program: program, Interface: ifindex, Flags: mode})
	}
}

// TestReferee has the kernel say what a filter lets past: crafted frames go over
// a wire to a host full of sockets, first without a filter, then past every hook
// with policies that allow nothing, and one port. What reaches a socket then
// must be what the policy allows; whose packet it is says the kernel, not our
// parser. What an honest sender may send must still arrive. To look for more, as
// root and for as long as one likes:
//
//	PERIMETERD_TESTS=privileged go test ./pkg/datapath -run 'TestReferee$' -v -timeout 0 -crafted-for 8h
//
// Each round has a seed of its own, which is printed: given with -seed, and with
// the same -crafted, it is the first round again. Slow machines take fewer cases.
func TestReferee(t *testing.T) {
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	start := time.Now()
	for round := uint64(0); round == 0 || time.Since(start) < *craftedForFlag; round++ {
		if t.Failed() {
			break
		}
		t.Run(fmt.Sprintf("seed=%d", seed+round), func(t *testing.T) { refereeRound(t, seed+round) })
	}
}

func refereeRound(t *testing.T, seed uint64) {
	t.Logf("run again with -seed=%d -crafted=%d", seed, *craftedFlag)
	var unfiltered []delivery
	sum := total{reasons: map[policy.Reason]uint64{}}
	if !t.Run("without a filter", func(t *testing.T) {
		r := newReferee(t, refereeMTU)
		onOneCPU(t, func() {
			m := &match{referee: r, seed: seed}
			unfiltered = m.checkGenerator(t)
		})
	}) {
		return // what comes through a filter then proves nothing
	}
	loads := newLoads(t)
	for _, hook := range refereeHooks {
		for _, atSender := range []bool{false, true} {
			if atSender && hook.onlyEnter {
				continue
			}
			t.Run(hook.name+", "+map[bool]string{false: "ingress", true: "egress"}[atSender], func(t *testing.T) {
				r := newReferee(t, hook.mtu)
				d := r.filter(t, loads, hook, atSender)
				for _, p := range posts {
					if p.atSender != atSender {
						continue
					}
					r.stand(t, d, p)
					for _, b := range r.benches(p) {
						t.Run(p.role.String()+", "+b.name, func(t *testing.T) {
							onOneCPU(t, func() {
								m := &match{referee: r, seed: seed, filter: d, bench: b, post: p}
								m.judge(t, unfiltered)
								sum.add(m)
							})
						})
					}
				}
			})
		}
	}
	t.Logf("in all: %d frames met %d filters; of %d cases that are delivered without one, %d came through, %d of them wrongly", sum.frames, sum.posts, sum.before, sum.through, sum.wrong)
	t.Logf("reasons seen: %v", sum.reasons)
}

// filter is a data path for one of the hosts.
func (r *referee) filter(t *testing.T, loads *loads, hook refereeHook, atSender bool) *rig {
	t.Helper()
	host, options := r.host, hook.options
	if atSender {
		host = r.sender
	}
	if hook.beside != nil {
		must(t, host.Run(func() error {
			other, err := hook.beside(r.near.Index)
			if err == nil {
				t.Cleanup(func() { _ = other.Close() }) // goes with the interface too
			}
			return err
		}))
	}
	options.Limits = Limits{
		EstablishedFlows4: 1 << 12, EstablishedFlows6: 1 << 12, OpeningFlows4: 1 << 14, OpeningFlows6: 1 << 14,
		Denials: 1 << 12, FlowRing: 1 << 16, DenialRing: 1 << 16,
	}
	d := &rig{host: host, Datapath: loads.with(t, options)}
	t.Cleanup(func() {
		must(t, host.Run(func() error {
			for _, a := range d.Attachments() {
				if err := d.Detach(a.Ifindex); err != nil {
					return err
				}
			}
			return nil
		}))
	})
	return d
}

// total sums up what became of all frames that met a filter.
type total struct {
	posts, frames, before, through, wrong int
	reasons                               map[policy.Reason]uint64
}

func (s *total) add(m *match) {
	s.posts++
	s.frames += m.frames
	s.before += m.before
	s.through += m.through
	s.wrong += len(m.findings)
	for reason, count := range m.moved {
		s.reasons[reason] += count
	}
}

// stand attaches the filter at a post.
func (r *referee) stand(t *testing.T, d *rig, p post) {
	t.Helper()
	end := r.near
	if p.atSender {
		end = r.far
	}
	must(t, d.host.Run(func() error {
		state, err := d.Attach(uint32(end.Index), p.role)
		if err == nil && state.XDPProblem != "" {
			err = errors.New(state.XDPProblem)
		}
		if err != nil && r.mtu > xdpMTU && errors.Is(features.HaveProgramHelper(ebpf.XDP, asm.FnXdpGetBuffLen), ebpf.ErrNotSupported) {
			t.Skip("XDP of frames in parts needs Linux 5.18")
		}
		return err
	}))
}

// factsAt is what the host at the post knows.
func (r *referee) factsAt(p post) *policy.Facts {
	facts := r.facts
	facts.Interfaces = slices.Clone(facts.Interfaces)
	for i := range facts.Interfaces {
		if itf := &facts.Interfaces[i]; !itf.Loopback {
			itf.Workload = p.role == Workload
			if p.atSender && p.role == Uplink { // the partner is at home there
				itf.Addresses = []netip.Addr{r.ends.Partner.V4, r.ends.Partner.V6}
			}
		}
	}
	return &facts
}
