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

// writeControl puts a generation in force.
func (d *Datapath) writeControl(g *generation) error {
	return d.storeControl(perimeterControl{Generation: g.number, Flags: g.flags})
}

// announce has answers open addresses for an installed generation too, beside the
// one in force, and returns when all do. Where either has no names there is nothing
// to open in both.
func (d *Datapath) announce(next *generation) error {
	if d.inForce == nil || d.inForce.flags&next.flags&uint32(perimeterControlFlagCONTROL_NAMES) == 0 {
		return nil
	}
	err := d.storeControl(perimeterControl{
		Generation: d.inForce.number, Flags: d.inForce.flags | uint32(perimeterControlFlagCONTROL_NEXT),
	})
	if err != nil {
		return err
	}
	// Entering a map that is already there changes nothing, but waits for packets.
	if err := d.objects.Spans.Put(next.slot(), next.maps["spans"]); err != nil {
		return fmt.Errorf("wait for packets: %w", err)
	}
	return nil
}

// withdraw takes an announcement back: the generation will not be in force.
func (d *Datapath) withdraw() error {
	if d.inForce == nil {
		return nil
	}
	return d.writeControl(d.inForce)
}

// storeControl writes number and flags in one store to the map's own memory, which
// every packet sees whole or not at all.
func (d *Datapath) storeControl(control perimeterControl) error {
	memory, err := unix.Mmap(d.objects.ControlMap.FD(), 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map the control word: %w", err)
	}
	word := *(*uint64)(unsafe.Pointer(&control)) // struct control is 8 bytes, aligned to 8
	atomic.StoreUint64((*uint64)(unsafe.Pointer(&memory[0])), word)
	if err := unix.Munmap(memory); err != nil {
		return fmt.Errorf("unmap the control word: %w", err)
	}
	return nil
}
