package datapath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"time"

	"github.com/cilium/ebpf"

	"github.com/perimeterd/perimeterd/pkg/compile"
	"github.com/perimeterd/perimeterd/pkg/policy"
)

// ReplayOptions says how frames of a capture are judged.
type ReplayOptions struct {
	// Start is when the capture begins. Required. Frames from before count as if
	// they were of then.
	Start time.Time
	// Limits and Timeouts as of a data path. Optional; zero fields have defaults.
	// The rings' sizes do not count.
	Limits   Limits
	Timeouts Timeouts
}

// Replay judges the frames of a capture with the programs of the data path, on
// the capture's own clock. It has maps of its own, pins nothing and touches no
// interface, so that nothing of it is left when the process ends, however it
// ends. It is not safe for use by several goroutines.
type Replay struct {
	d        *Datapath // of which only the maps and what fills them are in use
	programs replayPrograms
	replayed *ebpf.Variable
	clock    *toldClock
	on       *attachment // the interface of the last frame

	swept  time.Time
	opened uint32 // flows since then, at most

	frame  []byte // room for one that has to be longer
	answer []byte // room for struct __sk_buff
}

// replayInterface is the interface that test runs are on when they name none:
// loopback, which has the same number in every network namespace.
const replayInterface = 1

// OpenReplay loads the programs. The caller needs CAP_BPF, CAP_NET_ADMIN and
// CAP_PERFMON, or root, and closes the Replay.
func OpenReplay(options ReplayOptions) (*Replay, error) {
	spec, err := loadReplay()
	if err != nil {
		return nil, fmt.Errorf("read the compiled programs: %w", err)
	}
	// Each frame's decision is told with its verdict; nobody reads the rings.
	ring := uint32(os.Getpagesize())
	options.Limits.FlowRing, options.Limits.DenialRing = ring, ring
	d, err := newDatapath(Options{Limits: options.Limits, Timeouts: options.Timeouts}, spec)
	if err != nil {
		return nil, err
	}
	r := &Replay{
		d: d, clock: newToldClock(options.Start), swept: options.Start,
		on:     &attachment{state: AttachState{Ifindex: replayInterface}},
		answer: make([]byte, binary.Size(skbContext{})),
	}
	d.clock = r.clock
	d.attachments[replayInterface] = r.on

	settings := d.settings()
	settings.WakeAt = math.MaxUint32
	settings.Instance, settings.Replay = 1, 1
	if err := spec.Variables["settings"].Set(settings); err != nil {
		return nil, fmt.Errorf("set the programs' settings: %w", err)
	}
	var loaded struct {
		perimeterMaps // those of every object
		replayPrograms
		Replayed *ebpf.Variable `ebpf:"replayed"`
	}
	if err := spec.LoadAndAssign(&loaded, nil); err != nil {
		return nil, fmt.Errorf("load the programs: %w", explainLoad(err))
	}
	d.objects.perimeterMaps = loaded.perimeterMaps
	r.programs, r.replayed = loaded.replayPrograms, loaded.Replayed
	return r, nil
}

// Close frees what the Replay has in the kernel.
func (r *Replay) Close() error {
	return errors.Join(r.programs.Close(), r.d.Close())
}

// Apply puts tables in force, from the moment of the last frame on, and stamps
// the legend with their generation.
func (r *Replay) Apply(tables *compile.Tables, legend *compile.Legend) error {
	_, err := r.d.apply(tables, legend, nil, nil)
	return err
}

// ReplayFrame is one frame of a capture.
type ReplayFrame struct {
	// Data is the Ethernet frame as far as it was captured.
	Data []byte
	// Length is how many bytes it had on the wire.
	Length int
	// Time is when it was captured. One from before the last frame's counts as if
	// it were of then.
	Time time.Time
	// Interface it was captured on, which matters for private endpoints; "" = not
	// known.
	Interface string
}

// Step is what became of a frame.
type Step struct {
	// Answer is that of the end that denied the frame; else of the one that is
	// governed; of both the destination's.
	Answer
	// Towards is true if the answer is of the destination's end.
	Towards bool
	// Governed is false for a frame that passed without being judged: it is of no
	// member, not IP, needed by the link itself, or could not be judged.
	Governed bool
	// Other is the other end's answer if that is governed too; nil where the
	// source's end denied the frame, which then never came to the other.
	Other *Answer
}

// Frame judges a frame as a host would on which all members live: first for its
// source, then, unless that denies it, for its destination.
func (r *Replay) Frame(f ReplayFrame) (Step, error) {
	data, longer := r.fit(f.Data)
	if err := r.prepare(f, longer); err != nil {
		return Step{}, err
	}
	from, err := r.run(r.programs.ReplayFrom, data)
	if err != nil {
		return Step{}, err
	}
	if from.Verdict == policy.Deny {
		return Step{Answer: from, Governed: true}, nil
	}
	towards, err := r.run(r.programs.ReplayTowards, data)
	if err != nil {
		return Step{}, err
	}
	r.count(from)
	r.count(towards)
	step := Step{Answer: towards, Towards: true, Governed: governed(towards)}
	switch {
	case step.Governed && governed(from):
		step.Other = &from
	case step.Governed:
	case governed(from), towards.Member == 0 && from.Member != 0:
		step = Step{Answer: from, Governed: governed(from)}
	}
	return step, nil
}

// governed reports whether an end judged the packet by its policy. What follows
// a first fragment is judged with it.
func governed(a Answer) bool {
	return a.Verdict == policy.Deny || a.Outcome != 0 || a.Reason == reasonFragmentFollows
}

// What passes with something that was judged before it.
const (
	reasonEstablished     policy.Reason = "established"
	reasonRelated         policy.Reason = "related"
	reasonFragmentFollows policy.Reason = "fragment-follows"
)

// Remembered reports whether the packet was not judged itself but belongs to a
// flow or a datagram that was allowed before.
func (a Answer) Remembered() bool {
	return a.Reason == reasonEstablished || a.Reason == reasonRelated || a.Reason == reasonFragmentFollows
}

// prepare tells the programs of the frame that comes, which is so much longer
// than it was.
func (r *Replay) prepare(f ReplayFrame, longer int) error {
	if err := r.advance(f.Time); err != nil {
		return err
	}
	if f.Interface != r.on.state.Name {
		r.on.state.Name = f.Interface
		if err := r.d.markInterface(r.on, r.d.inForce); err != nil {
			return err
		}
	}
	now := r.clock.at
	length := min(max(f.Length, len(f.Data))+longer, math.MaxUint32)
	told := replayReplayedFrame{Jiffies: now.jiffies, Ns: now.boot, Length: uint32(length)}
	if err := r.replayed.Set(told); err != nil {
		return fmt.Errorf("tell the programs of the frame: %w", err)
	}
	return nil
}

// replayMax is how much of a frame is handed to the programs. They read no
// header beyond HEADER_BYTES_MAX (bpf/settings.h), also in what an ICMP error
// quotes, and a test run takes less than a page.
const replayMax = 2048

// What a test run takes at least is an Ethernet header, and behind it, in newer
// kernels, the IP header that it announces.
const (
	macsSize     = 12
	ethernetSize = 14
	tagSize      = 4
	etherTypeTag = 0x8100
)

// fit returns a frame that a test run takes and that the programs judge as they
// would judge this one, and how much longer it is. Of a long one it is the
// beginning. One that ends too soon is given a tag of VLAN 0, behind which a test
// run does not look: so it ends where it did, and not with made up bytes.
func (r *Replay) fit(data []byte) (fitting []byte, longer int) {
	data = data[:min(len(data), replayMax)]
	if len(data) < ethernetSize {
		r.frame = append(r.frame[:0], make([]byte, macsSize)...)
		return binary.BigEndian.AppendUint16(r.frame, etherTypeTag), ethernetSize - len(data)
	}
	least := ethernetSize
	switch binary.BigEndian.Uint16(data[macsSize:]) {
	case 0x0800:
		least += 20
	case 0x86dd:
		least += 40
	}
	if len(data) >= least {
		return data, 0
	}
	r.frame = append(r.frame[:0], data[:macsSize]...)
	r.frame = binary.BigEndian.AppendUint32(r.frame, etherTypeTag<<16)
	r.frame = append(r.frame, data[macsSize:]...)
	return r.frame, tagSize
}

func (r *Replay) run(program *ebpf.Program, data []byte) (Answer, error) {
	if _, err := program.Run(&ebpf.RunOptions{Data: data, ContextOut: r.answer}); err != nil {
		return Answer{}, fmt.Errorf("run the program: %w", err)
	}
	return r.d.words.answer(callback(r.answer)), nil
}

// count keeps in mind how many flows there may be that sweep has not seen.
func (r *Replay) count(a Answer) {
	if a.Outcome != 0 && !a.Remembered() {
		r.opened++
	}
}

// advance moves the clock on, and removes idle flows where that is due.
//
// Packets find out by themselves that a flow is idle. But what is idle takes a
// place that another may need, so it is removed before a table can be filled with
// it. And the kernel's stamps are 32 bits wide, which at the replay's tick rate
// is 248 days either way, so nothing may stay for longer than a few timeouts.
func (r *Replay) advance(to time.Time) error {
	last := r.clock.at.wall
	switch {
	case to.Sub(last) > timeoutMax+time.Second:
		// By now all is idle. It is swept as of a time at which that can be told.
		r.clock.advance(last.Add(timeoutMax + time.Second))
	case to.Sub(r.swept) > timeoutMax:
		r.clock.advance(to)
	case r.opened >= min(r.d.options.Limits.EstablishedFlows4, r.d.options.Limits.EstablishedFlows6)/4:
		r.clock.advance(to)
	default:
		r.clock.advance(to)
		return nil
	}
	if _, _, err := r.d.Sweep(); err != nil {
		return err
	}
	r.clock.advance(to)
	r.swept, r.opened = r.clock.at.wall, 0
	return nil
}

// toldClock is the clock of a capture: it stands where the last frame was.
type toldClock struct {
	tickRate
	start time.Time
	at    moment
}

// The tick rate of the replay, and the time since boot at which a capture
// begins: there was something before it.
const (
	replayTicks = tickRate(100)
	replayBoot  = time.Hour
)

func newToldClock(start time.Time) *toldClock {
	c := &toldClock{tickRate: replayTicks, start: start}
	c.set(start)
	return c
}

func (c *toldClock) set(t time.Time) {
	boot := uint64(replayBoot) + uint64(t.Sub(c.start))
	c.at = moment{hz: c.tickRate, jiffies: boot / (uint64(time.Second) / uint64(c.tickRate)), boot: boot, wall: t}
}

// advance moves the clock to a time, unless it is past that.
func (c *toldClock) advance(t time.Time) {
	if t.After(c.at.wall) {
		c.set(t)
	}
}

func (c *toldClock) now() (moment, error) { return c.at, nil }

func (c *toldClock) Close() error { return nil }
