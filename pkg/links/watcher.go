package links

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
)

const (
	// settle is how long changes are gathered: bringing up one interface is a
	// dozen of them.
	settle = 100 * time.Millisecond
	// settleMax bounds that where changes never stop.
	settleMax = time.Second
	// resubscribe is the pause after the kernel's stream of changes broke, as it
	// does when it is read too slowly.
	resubscribe = time.Second
)

// Watcher follows the interfaces of the namespace the process is in. It is a
// task: it does nothing until Run is called.
type Watcher struct {
	ready   chan struct{}
	changed chan struct{}

	list      func() ([]Link, error) // replaced by tests
	subscribe func(done <-chan struct{}) (<-chan struct{}, error)

	mu   sync.Mutex
	last []Link
}

// NewWatcher returns a Watcher.
func NewWatcher() *Watcher {
	return &Watcher{
		ready:     make(chan struct{}),
		changed:   make(chan struct{}, 1),
		list:      List,
		subscribe: subscribe,
	}
}

// Snapshot returns the interfaces as last seen; nil before Ready. It is not to
// be changed.
func (w *Watcher) Snapshot() []Link {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.last
}

// Name returns the name of an interface, "" if there is none of that number.
func (w *Watcher) Name(index uint32) string {
	for _, l := range w.Snapshot() {
		if l.Index == int(index) {
			return l.Name
		}
	}
	return ""
}

// Changed gets a value after each change of Snapshot; several changes may come
// as one.
func (w *Watcher) Changed() <-chan struct{} { return w.changed }

// Ready is closed once Snapshot tells what there is.
func (w *Watcher) Ready() <-chan struct{} { return w.ready }

// String names the task.
func (w *Watcher) String() string { return "link watcher" }

// Run follows changes until the context ends, then returns nil. It fails only
// if the kernel cannot be asked at all.
func (w *Watcher) Run(ctx context.Context) error {
	for first := true; ; first = false {
		err := w.follow(ctx, first)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && first {
			return err
		}
		// The stream broke. What was missed is found by listing again.
		pause := time.NewTimer(resubscribe)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return nil
		}
	}
}

// follow subscribes, then lists, so that no change falls in between.
func (w *Watcher) follow(ctx context.Context, first bool) error {
	done := make(chan struct{})
	defer close(done)
	updates, err := w.subscribe(done)
	if err != nil {
		return err
	}
	if err := w.refresh(); err != nil {
		return err
	}
	if first {
		close(w.ready)
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case _, ok := <-updates:
			if !ok {
				return nil
			}
		}
		if !quiet(ctx, updates) {
			return nil
		}
		if err := w.refresh(); err != nil {
			return err
		}
	}
}

// quiet waits until changes pause. It reports false when there will be no more.
func quiet(ctx context.Context, updates <-chan struct{}) bool {
	pause, limit := time.NewTimer(settle), time.NewTimer(settleMax)
	defer pause.Stop()
	defer limit.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case _, ok := <-updates:
			if !ok {
				return false
			}
			pause.Reset(settle)
		case <-pause.C:
			return true
		case <-limit.C:
			return true
		}
	}
}

func (w *Watcher) refresh() error {
	now, err := w.list()
	if err != nil {
		return err
	}
	w.mu.Lock()
	same := Equal(w.last, now)
	w.last = now
	w.mu.Unlock()
	if !same {
		select {
		case w.changed <- struct{}{}:
		default:
		}
	}
	return nil
}

// subscribe returns a channel that gets a value for every change of a link or
// an address, and is closed when the kernel's stream breaks or done is closed.
func subscribe(done <-chan struct{}) (<-chan struct{}, error) {
	stop := make(chan struct{})
	links, addresses := make(chan netlink.LinkUpdate), make(chan netlink.AddrUpdate)
	// That the stream broke is told by its channel's end; why does not matter.
	broken := func(error) {}
	err := netlink.LinkSubscribeWithOptions(links, stop, netlink.LinkSubscribeOptions{ErrorCallback: broken})
	if err != nil {
		return nil, fmt.Errorf("subscribe to changes of interfaces: %w", err)
	}
	err = netlink.AddrSubscribeWithOptions(addresses, stop, netlink.AddrSubscribeOptions{ErrorCallback: broken})
	if err != nil {
		close(stop)
		drain(links)
		return nil, fmt.Errorf("subscribe to changes of addresses: %w", err)
	}
	updates := make(chan struct{})
	go func() {
		defer close(updates)
		defer drain(addresses)
		defer drain(links)
		defer close(stop)
		for {
			select {
			case <-done:
				return
			case _, ok := <-links:
				if !ok {
					return
				}
			case _, ok := <-addresses:
				if !ok {
					return
				}
			}
			select {
			case updates <- struct{}{}:
			case <-done:
				return
			}
		}
	}()
	return updates, nil
}

// drain lets a subscription that was stopped end.
func drain[T any](updates <-chan T) {
	go func() {
		for range updates {
		}
	}()
}
