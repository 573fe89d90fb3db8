package datapath

import (
	"encoding/binary"
	"fmt"
	"math"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// clock translates between the two clocks that packets are judged by, jiffies and
// nanoseconds since boot, and the time people read.
type clock interface {
	now() (moment, error)
	jiffiesIn(time.Duration) uint64
	Close() error
}

// tickRate is how many jiffies a second has.
type tickRate uint64

func (hz tickRate) jiffiesIn(d time.Duration) uint64 {
	return uint64(d) * uint64(hz) / uint64(time.Second)
}

// kernelClock is the running kernel's.
type kernelClock struct {
	tickRate
	prog *ebpf.Program
}

// hzKnown are the tick rates Linux can be built with on the architectures we
// run on. A measurement is only trusted to tell them apart.
var hzKnown = [...]tickRate{100, 250, 300, 1000}

// newClock measures the kernel's tick rate, which no interface tells.
func newClock(prog *ebpf.Program) (*kernelClock, error) {
	c := &kernelClock{prog: prog}
	fromJiffies, fromNs, err := c.tick()
	if err != nil {
		return nil, err
	}
	for {
		jiffies, ns, err := c.tick()
		if err != nil {
			return nil, err
		}
		if ns-fromNs < uint64(50*time.Millisecond) {
			continue
		}
		measured := float64(jiffies-fromJiffies) * 1e9 / float64(ns-fromNs)
		best := hzKnown[0]
		for _, hz := range hzKnown {
			if math.Abs(float64(hz)-measured) < math.Abs(float64(best)-measured) {
				best = hz
			}
		}
		if math.Abs(float64(best)-measured) > 0.08*float64(best) {
			// The process was kept from running across a tick; measure again.
			if fromJiffies, fromNs, err = c.tick(); err != nil {
				return nil, err
			}
			continue
		}
		c.tickRate = best
		return c, nil
	}
}

// tick waits for the jiffies to change, and reads both clocks right then.
func (c *kernelClock) tick() (jiffies, ns uint64, err error) {
	first, _, err := c.read()
	if err != nil {
		return 0, 0, err
	}
	for {
		jiffies, ns, err = c.read()
		if err != nil || jiffies != first {
			return jiffies, ns, err
		}
	}
}

func (c *kernelClock) read() (jiffies, ns uint64, err error) {
	out := skbContext{}
	if _, err := c.prog.Run(&ebpf.RunOptions{Data: make([]byte, 64), ContextOut: &out}); err != nil {
		return 0, 0, fmt.Errorf("read the kernel's clocks: %w", err)
	}
	join := func(low, high uint32) uint64 { return uint64(high)<<32 | uint64(low) }
	return join(out.CB[0], out.CB[1]), join(out.CB[2], out.CB[3]), nil
}

func (c *kernelClock) now() (moment, error) {
	jiffies, ns, err := c.read()
	return moment{hz: c.tickRate, jiffies: jiffies, boot: ns, wall: time.Now()}, err
}

func (c *kernelClock) Close() error { return c.prog.Close() }

// moment is one instant on all three clocks.
type moment struct {
	hz      tickRate
	jiffies uint64
	boot    uint64 // ns
	wall    time.Time
}

// ofBoot returns the time of a reading of the boot clock.
func (m moment) ofBoot(ns uint64) time.Time {
	return m.wall.Add(time.Duration(int64(ns - m.boot))).Round(0)
}

// ofJiffies returns the time of a count of jiffies.
func (m moment) ofJiffies(jiffies uint64) time.Time {
	ticks := int64(jiffies - m.jiffies)
	return m.wall.Add(time.Duration(ticks) * (time.Second / time.Duration(m.hz))).Round(0)
}

// ofJiffies32 does so for the low half of a count not more than half its range ago.
func (m moment) ofJiffies32(low uint32) time.Time {
	return m.ofJiffies(m.jiffies + uint64(int64(int32(low-uint32(m.jiffies)))))
}

// jiffiesAt returns the count of jiffies at a time to come, at least 1.
func (m moment) jiffiesAt(t time.Time) uint64 {
	ticks := int64(t.Sub(m.wall)) / int64(time.Second/time.Duration(m.hz))
	if ticks < 0 && uint64(-ticks) >= m.jiffies {
		return 1
	}
	return m.jiffies + uint64(ticks)
}

// bootToWall is what to add to the boot clock to get the time of day.
func bootToWall() (time.Time, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return time.Time{}, fmt.Errorf("read the boot clock: %w", err)
	}
	return time.Now().Add(-time.Duration(ts.Nano())), nil
}

// skbContext is struct __sk_buff of the kernel's interface (linux/bpf.h), as
// far as test runs read and write it.
type skbContext struct {
	Len            uint32
	PktType        uint32
	Mark           uint32
	QueueMapping   uint32
	Protocol       uint32
	VlanPresent    uint32
	VlanTCI        uint32
	VlanProto      uint32
	Priority       uint32
	IngressIfindex uint32
	Ifindex        uint32
	TCIndex        uint32
	CB             [5]uint32
	// The kernel's struct is longer, and grows; it wants room for all of it.
	_ [188]byte
}

// callbackOffset is where struct __sk_buff has cb.
const callbackOffset = int(unsafe.Offsetof(skbContext{}.CB))

// callback reads cb of a struct __sk_buff.
func callback(context []byte) (cb [5]uint32) {
	for i := range cb {
		cb[i] = binary.NativeEndian.Uint32(context[callbackOffset+4*i:])
	}
	return cb
}
