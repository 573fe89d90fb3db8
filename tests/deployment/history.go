package deployment

import (
	"context"
	"slices"
	"sync"
)

// History is what was said so far, in its order, and lets wait for more.
type History[T any] struct {
	mu      sync.Mutex
	items   []T
	changed chan struct{} // closed and renewed with every item
}

func newHistory[T any]() *History[T] {
	return &History[T]{changed: make(chan struct{})}
}

func (h *History[T]) add(item T) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.items = append(h.items, item)
	close(h.changed)
	h.changed = make(chan struct{})
}

// Len returns how many items there are: a mark for After and Await.
func (h *History[T]) Len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.items)
}

// After returns the items after the first n.
func (h *History[T]) After(n int) []T {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.items[n:])
}

// Has reports whether an item is wanted.
func (h *History[T]) Has(wanted func(T) bool) bool {
	return slices.ContainsFunc(h.After(0), wanted)
}

// Await returns the first item after the first n that is wanted, waiting for it
// until ctx ends.
func (h *History[T]) Await(ctx context.Context, n int, wanted func(T) bool) (T, error) {
	for {
		h.mu.Lock()
		for ; n < len(h.items); n++ {
			if item := h.items[n]; wanted(item) {
				h.mu.Unlock()
				return item, nil
			}
		}
		changed := h.changed
		h.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			var none T
			return none, ctx.Err()
		}
	}
}
