package datapath

import (
	"fmt"
	"time"
)

// Options says where and how the data path is loaded.
type Options struct {
	// Root is the directory in a bpffs under which everything is pinned.
	// Required; it is created if it does not exist.
	Root string
	// Limits of what is preallocated. Optional; zero fields have defaults.
	// What is pinned keeps the sizes it was created with.
	Limits Limits
	// Timeouts of idle flows. Optional; zero fields have defaults.
	Timeouts Timeouts
	// FirstGeneration is the least number the first generation may get where
	// no pinned one says otherwise, so that numbers go on rising over a
	// reboot. Optional, defaults to 1.
	FirstGeneration uint32
	// ClsactOnly attaches by clsact even where the kernel has TCX. Optional.
	ClsactOnly bool
	// XDP says whether packets that come in are judged at XDP already.
	// Optional, defaults to XDPOff.
	XDP XDPMode
	// Names says how addresses of names are learnt. Optional; zero fields have
	// defaults.
	Names NameOptions
}

// Limits are sizes, in entries or bytes.
type Limits struct {
	EstablishedFlows4 uint32 // default 131072
	EstablishedFlows6 uint32 // default 65536
	OpeningFlows4     uint32 // default 65536
	OpeningFlows6     uint32 // default 32768
	Denials           uint32 // repeated denials told apart by peer, default 32768
	Crowds            uint32 // repeated denials told apart once there is no room for another peer, default 4096
	FlowRing          uint32 // bytes, a power of two of at least a page; default 8 MiB
	DenialRing        uint32 // likewise; default 4 MiB
	LearntAddresses   uint32 // addresses that names have opened, default 65536
	AnswerRing        uint32 // bytes, likewise; default 1 MiB
}

func (l Limits) withDefaults() Limits {
	def := func(v *uint32, d uint32) {
		if *v == 0 {
			*v = d
		}
	}
	def(&l.EstablishedFlows4, 1<<17)
	def(&l.EstablishedFlows6, 1<<16)
	def(&l.OpeningFlows4, 1<<16)
	def(&l.OpeningFlows6, 1<<15)
	def(&l.Denials, 1<<15)
	def(&l.Crowds, 1<<12)
	def(&l.FlowRing, 8<<20)
	def(&l.DenialRing, 4<<20)
	def(&l.LearntAddresses, 1<<16)
	def(&l.AnswerRing, 1<<20)
	return l
}

func (l Limits) check() error {
	for name, size := range map[string]uint32{"flow ring": l.FlowRing, "denial ring": l.DenialRing, "answer ring": l.AnswerRing} {
		if size < 4096 || size&(size-1) != 0 {
			return fmt.Errorf("%s of %d bytes: must be a power of two of at least 4096", name, size)
		}
	}
	return nil
}

// Timeouts say how long a flow may be idle before it is over, by the state it
// is in. Opening: no answer yet; Closing: one side has finished; Closed: both
// have, or a reset.
type Timeouts struct {
	TCPOpening, TCPEstablished, TCPClosing, TCPClosed time.Duration // 60 s, 5 days, 2 min, 30 s
	UDPOpening, UDPEstablished                        time.Duration // 60 s, 3 min
	ICMP                                              time.Duration // 30 s
	OtherOpening, OtherEstablished                    time.Duration // 10 min, 1 h
	Fragment                                          time.Duration // 30 s: how long a first fragment's verdict counts
}

// withDefaults fills in what nf_conntrack's users are used to; established TCP
// lives for its five days, so that no idle connection of a database pool is cut.
func (t Timeouts) withDefaults() Timeouts {
	def := func(v *time.Duration, d time.Duration) {
		if *v == 0 {
			*v = d
		}
	}
	def(&t.TCPOpening, time.Minute)
	def(&t.TCPEstablished, 5*24*time.Hour)
	def(&t.TCPClosing, 2*time.Minute)
	def(&t.TCPClosed, 30*time.Second)
	def(&t.UDPOpening, time.Minute)
	def(&t.UDPEstablished, 3*time.Minute)
	def(&t.ICMP, 30*time.Second)
	def(&t.OtherOpening, 10*time.Minute)
	def(&t.OtherEstablished, time.Hour)
	def(&t.Fragment, 30*time.Second)
	return t
}

// timeoutMax keeps idle times within a signed 32-bit count of jiffies at any HZ.
const timeoutMax = 20 * 24 * time.Hour

func (t Timeouts) check() error {
	for _, d := range []time.Duration{t.TCPOpening, t.TCPEstablished, t.TCPClosing, t.TCPClosed, t.UDPOpening,
		t.UDPEstablished, t.ICMP, t.OtherOpening, t.OtherEstablished, t.Fragment} {
		if d < time.Second || d > timeoutMax {
			return fmt.Errorf("timeout %v: must be between 1s and %v", d, timeoutMax)
		}
	}
	return nil
}

// rows returns the timeouts as the kernel has them, in jiffies.
func (t Timeouts) rows(c clock) [4][4]uint32 {
	var rows [4][4]uint32
	row := func(which perimeterTimeoutRow, states ...time.Duration) {
		for i, d := range states {
			rows[which][i] = uint32(c.jiffiesIn(d))
		}
	}
	row(perimeterTimeoutRowTIMEOUT_TCP, t.TCPOpening, t.TCPEstablished, t.TCPClosing, t.TCPClosed)
	row(perimeterTimeoutRowTIMEOUT_UDP, t.UDPOpening, t.UDPEstablished, t.UDPEstablished, t.UDPEstablished)
	row(perimeterTimeoutRowTIMEOUT_ICMP, t.ICMP, t.ICMP, t.ICMP, t.ICMP)
	row(perimeterTimeoutRowTIMEOUT_OTHER, t.OtherOpening, t.OtherEstablished, t.OtherEstablished, t.OtherEstablished)
	return rows
}
