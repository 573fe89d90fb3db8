package bed

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/cilium/ebpf"

	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/tests/bench/floor"
	"github.com/perimeterd/perimeterd/tests/bench/measure"
	"github.com/perimeterd/perimeterd/tests/packet"
)

// Track is where programs of one hook and family are run on packets: the floors,
// the driver and the tuples. It is used by one goroutine, which stays on one CPU.
type Track struct {
	Hook   floor.Hook
	Family int
	Floors *floor.Set
	// Ifindex of an interface that packets seem to cross, 0 for loopback.
	Ifindex uint32
	// Slice is how long a slice is to take.
	Slice time.Duration

	used    int // tuples
	drivers map[*ebpf.Program]*ebpf.Program
}

// NewTrack loads the floors.
func NewTrack(hook floor.Hook, family int, sizes floor.Sizes, ifindex uint32, slice time.Duration) (*Track, error) {
	floors, err := floor.Load(floor.Options{Hook: hook, Family: family, Sizes: sizes})
	if err != nil {
		return nil, err
	}
	return &Track{Hook: hook, Family: family, Floors: floors, Ifindex: ifindex, Slice: slice, drivers: map[*ebpf.Program]*ebpf.Program{}}, nil
}

// Close frees the floors.
func (t *Track) Close() error { return t.Floors.Close() }

// Group is a part of the tuples that is walked round and round.
type Group struct{ first, count, at uint32 }

// Group enters tuples.
func (t *Track) Group(tuples []floor.Tuple) (*Group, error) {
	if err := t.Floors.SetTuples(t.used, tuples); err != nil {
		return nil, err
	}
	g := &Group{first: uint32(t.used), count: uint32(len(tuples))}
	t.used += len(tuples)
	return g, nil
}

// Part is a piece of a group with a place of its own.
func (g *Group) Part(first, count int) *Group {
	return &Group{first: g.first + uint32(first), count: uint32(count)}
}

// Size is how many tuples there are.
func (g *Group) Size() int { return int(g.count) }

// Frame is what the tuples are written into: a segment without data.
func (t *Track) Frame(flags packet.Flags, sequence, acknowledgement uint32) []byte {
	a, b := OtherAddress(t.Family), MemberAddress(t.Family)
	return packet.TCP(a, b, 1, 2, flags).Sequence(sequence, acknowledgement).Frame()
}

// Run is a program, the packets it runs on, and what must become of them.
type Run struct {
	Program *ebpf.Program
	Packets *Group
	Frame   []byte
	// From: the packets leave by the interface, and do not come in.
	From bool
	// Verdict is what the program returns.
	Verdict int32
	// Watch reads a number that rises by Rise with each run.
	Watch func() (uint64, error)
	Rise  uint64
	// Most bounds the runs of a slice; 0 = none.
	Most int
	// Before and After are called around a slice, and not timed.
	Before, After func() error
}

// Verdicts.
func (t *Track) pass() int32 { return map[floor.Hook]int32{floor.TC: -1, floor.XDP: 2}[t.Hook] }
func (t *Track) drop() int32 { return map[floor.Hook]int32{floor.TC: 2, floor.XDP: 1}[t.Hook] }

// Floor is a run of a floor program that finds something each time, or never.
func (t *Track) Floor(name string, packets *Group, frame []byte, finds bool) Run {
	r := Run{Program: t.Floors.Program(name), Packets: packets, Frame: frame, Verdict: t.pass(), Watch: func() (uint64, error) {
		w, err := t.Floors.Walk()
		return w.Found, err
	}}
	if finds {
		r.Rise = 1
	}
	return r
}

// Product is a run of a program of the data path, after which each packet must have
// been counted under the reason.
func (t *Track) Product(f *Filter, program string, packets *Group, frame []byte, reason policy.Reason, verdict policy.Verdict) (Run, error) {
	p, err := f.Program(program)
	if err != nil {
		return Run{}, err
	}
	r := Run{Program: p, Packets: packets, Frame: frame, Verdict: t.pass(), Rise: 1, Watch: func() (uint64, error) {
		c, err := f.Counters()
		if err != nil {
			return 0, err
		}
		for category, d := range c.Decisions {
			if d.Lost > 0 {
				return 0, fmt.Errorf("%d events of %s were lost, so it is not the whole work that was timed", d.Lost, category)
			}
		}
		return c.Packets[reason].Packets, nil
	}}
	if verdict == policy.Deny {
		r.Verdict = t.drop()
	}
	return r, nil
}

// Once runs the program once for each of its packets.
func (t *Track) Once(r Run) error {
	_, err := t.timed(&r, r.Packets.Size())
	return err
}

// Repeated makes slices of a run, as long as they are to take. How many runs that
// is is found out by growing slices: the first ones meet cold caches.
func (t *Track) Repeated(r Run) measure.Slice {
	const few = 4096 // so that beginning a test run, some 10 us, counts for little
	repeat := 0
	return func() (float64, error) {
		for n := few; repeat == 0; n = r.bounded(4 * n) {
			ns := math.Inf(1)
			for range 3 { // one alone may have been charged for somebody else's interrupt
				took, err := t.timed(&r, n)
				if err != nil {
					return 0, err
				}
				ns = min(ns, took)
			}
			if 4*ns*float64(n) > float64(t.Slice) || n == r.bounded(4*n) {
				repeat = r.bounded(max(int(float64(t.Slice)/ns), few))
			}
		}
		return t.timed(&r, repeat)
	}
}

// bounded is at most what a slice may have.
func (r *Run) bounded(runs int) int {
	runs = min(runs, 1<<20)
	if r.Most > 0 {
		runs = min(runs, r.Most)
	}
	return runs
}

// errDisturbed is what a test run gives that a signal cut short, after which it
// begins anew.
var errDisturbed = errors.New("the driver is not where so many runs should have brought it")

// timed runs a program so many times and returns ns of CPU for each. One that was
// interrupted is begun again.
func (t *Track) timed(r *Run, repeat int) (float64, error) {
	for try := 0; ; try++ {
		ns, err := t.attempt(r, repeat)
		if !errors.Is(err, errDisturbed) || try == 5 {
			return ns, err
		}
	}
}

func (t *Track) attempt(r *Run, repeat int) (float64, error) {
	driver := t.drivers[r.Program]
	if driver == nil {
		var err error
		if driver, err = t.Floors.Driver(r.Program); err != nil {
			return 0, err
		}
		t.drivers[r.Program] = driver
	}
	if r.Before != nil {
		if err := r.Before(); err != nil {
			return 0, err
		}
	}
	g := r.Packets
	if err := t.Floors.SetWalk(floor.Walk{First: g.first, Count: g.count, At: g.at}); err != nil {
		return 0, err
	}
	var before, after uint64
	var err error
	if r.Watch != nil {
		if before, err = r.Watch(); err != nil {
			return 0, err
		}
	}
	returned, ns, err := t.run(driver, r, repeat)
	if err != nil {
		return 0, fmt.Errorf("run the program: %w", err)
	}
	if int32(returned) != r.Verdict {
		return 0, fmt.Errorf("the last packet's verdict was %d, and not %d", int32(returned), r.Verdict)
	}
	w, err := t.Floors.Walk()
	if err != nil {
		return 0, err
	}
	expected := (g.at + uint32(repeat)) % g.count
	g.at = w.At
	if r.Watch != nil {
		if after, err = r.Watch(); err != nil {
			return 0, err
		}
	}
	if r.After != nil {
		if err := r.After(); err != nil {
			return 0, err
		}
	}
	if w.At != expected {
		return 0, errDisturbed
	}
	if rise := r.Rise * uint64(repeat); after-before != rise {
		return 0, fmt.Errorf("of %d runs, %d did what was to be timed, and not %d", repeat, after-before, rise)
	}
	return ns, nil
}

// run runs the driver and returns what a run took. That is by the thread's own time,
// in which others who share the CPU are not. At XDP the kernel first has a place for
// the program made, which takes it up to milliseconds of that time; its own figure has
// not that, but the others: the smaller of the two is nearer.
func (t *Track) run(driver *ebpf.Program, r *Run, repeat int) (returned uint32, ns float64, err error) {
	began := ThreadTime()
	if t.Hook == floor.TC {
		returned, err = driver.Run(&ebpf.RunOptions{Data: r.Frame, Repeat: uint32(repeat), Context: t.context(r)})
		return returned, float64(ThreadTime()-began) / float64(repeat), err
	}
	returned, each, err := driver.Benchmark(r.Frame, repeat, nil)
	return returned, min(float64(each), float64(ThreadTime()-began)/float64(repeat)), err
}

// context is the part of struct __sk_buff (linux/bpf.h) that makes a test run look
// like a packet that comes in by an interface, or leaves by it.
func (t *Track) context(r *Run) []byte {
	const (
		size, ingressIfindex, ifindex, wireLen = 192, 36, 40, 160
		ethernet                               = 14
	)
	context := make([]byte, size)
	binary.NativeEndian.PutUint32(context[ifindex:], t.Ifindex)
	if !r.From {
		binary.NativeEndian.PutUint32(context[ingressIfindex:], t.Ifindex)
		// Of what comes in, TC counts another length than it hands over.
		binary.NativeEndian.PutUint32(context[wireLen:], uint32(len(r.Frame)+ethernet))
	}
	return context
}
