package bed

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Ring is the reader's side of a ring of events that nobody reads at the moment. It can
// make the ring look full to packets and back, without another table, another ring or
// a packet more than there would be otherwise.
type Ring struct {
	consumer, producer []byte // the first pages of either side, as the kernel shows them
	size               uint64
}

// OpenRing opens the reader's side. The caller closes it, and may close the map.
func OpenRing(m *ebpf.Map) (*Ring, error) {
	page := os.Getpagesize()
	r := &Ring{size: uint64(m.MaxEntries())}
	var err error
	if r.consumer, err = unix.Mmap(m.FD(), 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return nil, fmt.Errorf("map the reader's place in a ring: %w", err)
	}
	if r.producer, err = unix.Mmap(m.FD(), int64(page), page, unix.PROT_READ, unix.MAP_SHARED); err != nil {
		return nil, errors.Join(fmt.Errorf("map the writers' place in a ring: %w", err), unix.Munmap(r.consumer))
	}
	return r, nil
}

// FlowRing opens the ring that the filter has for flows.
func (f *Filter) FlowRing() (*Ring, error) {
	paths, err := filepath.Glob(filepath.Join(f.root, "*", "flow_events"))
	if err != nil {
		return nil, err
	}
	if len(paths) != 1 {
		return nil, fmt.Errorf("%d rings for flows are pinned below %s, and not 1", len(paths), f.root)
	}
	m, err := ebpf.LoadPinnedMap(paths[0], nil)
	if err != nil {
		return nil, fmt.Errorf("open the ring for flows: %w", err)
	}
	defer m.Close()
	return OpenRing(m)
}

// LookFull puts the reader as far behind as the ring is long: packets find no room. It
// never fails; it and LookRead are for Before and After of a Run.
func (r *Ring) LookFull() error {
	r.readFrom(r.size)
	return nil
}

// LookRead puts the reader where the writers are: the ring is empty, and what is in it
// is never read.
func (r *Ring) LookRead() error {
	r.readFrom(0)
	return nil
}

func (r *Ring) readFrom(behind uint64) {
	written := atomic.LoadUint64((*uint64)(unsafe.Pointer(&r.producer[0])))
	atomic.StoreUint64((*uint64)(unsafe.Pointer(&r.consumer[0])), written-behind)
}

// Close leaves the ring as it looks.
func (r *Ring) Close() error {
	return errors.Join(unix.Munmap(r.consumer), unix.Munmap(r.producer))
}
