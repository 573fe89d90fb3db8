package names

import (
	"cmp"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// name is what is known of one name.
type name struct {
	// wanted is false for a name read from the state file that nobody has asked
	// for yet.
	wanted bool
	// seen holds each address with when an answer last had it, or a flow used it.
	seen map[netip.Addr]time.Time

	next, refreshed time.Time
	failures        int
	err             error
	dropped         int
}

func newName() *name {
	return &name{wanted: true, seen: map[netip.Addr]time.Time{}}
}

func (n *name) addresses() []netip.Addr {
	return slices.SortedFunc(maps.Keys(n.seen), netip.Addr.Compare)
}

// refreshEarly is the part of a TTL after which a name is asked for again, so
// that the new answer is there before clients have it.
const refreshEarly = 0.8

// enter notes the answers. A family that was not answered keeps its addresses.
func (n *name) enter(answers [families]answer, used map[netip.Addr]bool, now time.Time, o *Options) {
	var errs []error
	ttl := o.Ceiling
	for f, a := range answers {
		if a.err != nil {
			errs = append(errs, a.err)
			continue
		}
		ttl = min(ttl, a.ttl)
		for address := range n.seen {
			if familyOf(address) == family(f) && used[address] {
				n.seen[address] = now
			}
		}
		for _, address := range a.addresses {
			n.seen[address] = now
		}
		for address, at := range n.seen {
			if familyOf(address) == family(f) && now.Sub(at) > o.Grace {
				delete(n.seen, address)
			}
		}
	}
	current := inAnswers(answers)
	n.bound(current, o.Limit)

	n.err = errors.Join(errs...)
	if n.err != nil {
		pause := o.Backoff << min(n.failures, 6)
		n.failures++
		n.next = now.Add(min(pause, max(o.Floor, o.Backoff)*5))
		return
	}
	n.failures, n.refreshed = 0, now
	n.next = now.Add(max(time.Duration(float64(ttl)*refreshEarly), o.Floor))
	if len(n.seen) > len(current) { // some are only kept: look again when their grace ends
		n.next = now.Add(min(n.next.Sub(now), max(o.Grace, o.Floor)))
	}
}

func inAnswers(answers [families]answer) map[netip.Addr]bool {
	out := map[netip.Addr]bool{}
	for _, a := range answers {
		for _, address := range a.addresses {
			out[address] = true
		}
	}
	return out
}

// bound drops what is beyond the limit: first what is in no answer, the oldest
// first.
func (n *name) bound(current map[netip.Addr]bool, limit int) {
	n.dropped = max(len(n.seen)-limit, 0)
	if n.dropped == 0 {
		return
	}
	order := n.addresses()
	slices.SortStableFunc(order, func(a, b netip.Addr) int {
		if current[a] != current[b] {
			if current[a] {
				return -1
			}
			return 1
		}
		return cmp.Compare(n.seen[b].UnixNano(), n.seen[a].UnixNano())
	})
	for _, address := range order[limit:] {
		delete(n.seen, address)
	}
}
