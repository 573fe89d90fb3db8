package bed

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// KernelMemory is what the kernel's own structures take, in bytes: slabs that are
// not caches, and areas of virtual memory. Maps are in these, whatever they say of
// themselves.
func KernelMemory() (int64, error) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	var sum int64
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "SUnreclaim:", "VmallocUsed:", "Percpu:":
			kib, err := strconv.ParseInt(fields[1], 10, 64)
			if err != nil {
				return 0, fmt.Errorf("read /proc/meminfo: %w", err)
			}
			sum += kib << 10
		}
	}
	return sum, nil
}

// LargeMapAreas is what the kernel's maps take in areas of at least 8 MiB, in bytes:
// preallocated tables of a million entries, and not what other processes do meanwhile.
func LargeMapAreas() (int64, error) {
	text, err := os.ReadFile("/proc/vmallocinfo")
	if err != nil {
		return 0, err
	}
	var sum int64
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line) // the range, the bytes, the caller
		if len(fields) < 3 || !strings.Contains(fields[2], "map_alloc") && !strings.Contains(fields[2], "prealloc") {
			continue // the callers of bpf_map_area_alloc
		}
		size, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read /proc/vmallocinfo: %w", err)
		}
		if size >= 8<<20 {
			sum += size
		}
	}
	return sum, nil
}

// Still is for how long the kernel's memory must not have fallen to be settled.
const Still = 500 * time.Millisecond

// Settle waits until the kernel has freed what it has to.
func Settle() error {
	const (
		step = 20 * time.Millisecond
		less = 1 << 20
	)
	last, err := KernelMemory()
	if err != nil {
		return err
	}
	for since := time.Now(); time.Since(since) < Still; time.Sleep(step) {
		now, err := KernelMemory()
		if err != nil {
			return err
		}
		if now < last-less {
			last, since = now, time.Now()
		}
	}
	return nil
}

// WorkerTime is how long the kernel's workers have run since boot.
func WorkerTime() (time.Duration, error) {
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return 0, err
	}
	const ticks = 100 // USER_HZ, in which /proc counts
	var sum time.Duration
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			continue // it ended meanwhile
		}
		name, rest, ok := strings.Cut(string(text), ") ")
		if !ok || !(strings.Contains(name, "(kworker") || strings.Contains(name, "(rcu") || strings.Contains(name, "(ksoftirqd")) {
			continue
		}
		fields := strings.Fields(rest)
		if len(fields) < 13 {
			return 0, fmt.Errorf("%s has %d fields", f, len(fields))
		}
		stime, err := strconv.ParseInt(fields[12], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read %s: %w", f, err)
		}
		sum += time.Duration(stime) * time.Second / ticks
	}
	return sum, nil
}
