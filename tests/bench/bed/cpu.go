package bed

import (
	"errors"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// ThreadTime is how long this thread has run, what interrupts left to be done in its
// time included: others who share the CPU are not in it.
func ThreadTime() time.Duration { return cpuTime(unix.CLOCK_THREAD_CPUTIME_ID) }

// ProcessTime is how long all threads of this process have run.
func ProcessTime() time.Duration { return cpuTime(unix.CLOCK_PROCESS_CPUTIME_ID) }

func cpuTime(clock int32) time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(clock, &now); err != nil {
		panic(err) // cannot be: these clocks are as old as threads
	}
	return time.Duration(now.Nano())
}

// OnOneCPU runs f with its thread kept on one CPU. A goroutine that f starts is not.
// The runtime does not interrupt the thread: a test run that is interrupted begins
// anew, on tables that the part before has changed.
func OnOneCPU(cpu int, f func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		return fmt.Errorf("look which CPUs there are: %w", err)
	}
	one.Set(cpu)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return fmt.Errorf("keep this thread on CPU %d: %w", cpu, err)
	}
	var preempting, others unix.Sigset_t
	preempting.Val[0] = 1 << (unix.SIGURG - 1)
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &preempting, &others); err != nil {
		return fmt.Errorf("block the signal that interrupts a goroutine: %w", err)
	}
	return errors.Join(f(), unix.PthreadSigmask(unix.SIG_SETMASK, &others, nil), unix.SchedSetaffinity(0, &all))
}
