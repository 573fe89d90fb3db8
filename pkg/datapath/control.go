package datapath

import (
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// readControl returns what is in force.
func (d *Datapath) readControl() (perimeterControl, error) {
	var control perimeterControl
	if err := d.objects.ControlMap.Lookup(uint32(0), &control); err != nil {
		return control, fmt.Errorf("read which generation is in force: %w", err)
	}
	return control, nil
}

// writeControl puts a generation in force: number and flags in one store to the
// map's own memory, which every packet sees whole or not at all.
func (d *Datapath) writeControl(g *generation) error {
	memory, err := unix.Mmap(d.objects.ControlMap.FD(), 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map the control word: %w", err)
	}
	control := perimeterControl{Generation: g.number, Flags: g.flags}
	word := *(*uint64)(unsafe.Pointer(&control)) // struct control is 8 bytes, aligned to 8
	atomic.StoreUint64((*uint64)(unsafe.Pointer(&memory[0])), word)
	if err := unix.Munmap(memory); err != nil {
		return fmt.Errorf("unmap the control word: %w", err)
	}
	return nil
}
