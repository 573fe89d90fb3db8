package names

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/errgroup"
)

// Options of a Resolver.
type Options struct {
	// Servers returns the resolvers to ask, as host:port, in order. Required; it
	// is called for each round, so that a change of the network is followed.
	Servers func() ([]string, error)
	// Exchange asks one server over "udp" or "tcp". Optional, defaults to the
	// network; a test answers itself.
	Exchange func(ctx context.Context, question *dns.Msg, network, server string) (*dns.Msg, error)
	// InUse returns which of the addresses are the peer of a flow that is open.
	// Optional; without it none is. Called by Run.
	InUse func([]netip.Addr) map[netip.Addr]bool
	// State is the file that addresses are kept in over a restart. Optional,
	// defaults to none.
	State string

	// All of these are optional.
	Floor    time.Duration // least time until a name is asked for again; default 60 s
	Ceiling  time.Duration // most; default 24 h
	Grace    time.Duration // how long an address counts that is no longer in answers nor in use; default 10 min
	Timeout  time.Duration // of one question to one server; default 3 s
	Backoff  time.Duration // pause after a failure, doubled with each up to five times Floor; default 5 s
	Limit    int           // addresses of one name; default 1000
	Parallel int           // names asked for at a time; default 16
}

func (o Options) withDefaults() Options {
	if o.Exchange == nil {
		o.Exchange = exchange
	}
	if o.InUse == nil {
		o.InUse = func([]netip.Addr) map[netip.Addr]bool { return nil }
	}
	for value, otherwise := range map[*time.Duration]time.Duration{
		&o.Floor: time.Minute, &o.Ceiling: 24 * time.Hour, &o.Grace: 10 * time.Minute,
		&o.Timeout: 3 * time.Second, &o.Backoff: 5 * time.Second,
	} {
		if *value == 0 {
			*value = otherwise
		}
	}
	if o.Limit == 0 {
		o.Limit = 1000
	}
	if o.Parallel == 0 {
		o.Parallel = 16
	}
	return o
}

// Resolver keeps the addresses of a set of names. It is a task: it does nothing
// until Run is called. Its other methods may be called at any time.
type Resolver struct {
	options Options
	ready   chan struct{}
	changed chan struct{}
	wanted  chan struct{} // the set of names changed

	refreshed chan struct{}

	mu    sync.Mutex
	names map[string]*name
	trial error // of reading or writing the state file
}

// New returns a Resolver that knows what an earlier one has kept. A state file
// that cannot be read is no reason to have no resolver: Status says so, and it is
// written anew.
func New(o Options) (*Resolver, error) {
	if o.Servers == nil {
		return nil, errors.New("resolver: Servers is required")
	}
	o = o.withDefaults()
	if o.Floor > o.Ceiling || o.Floor < 0 || o.Grace < 0 || o.Timeout < 0 || o.Backoff < 0 || o.Limit < 0 || o.Parallel < 0 {
		return nil, errors.New("resolver: times and limits must not be negative, nor Floor more than Ceiling")
	}
	r := &Resolver{
		options: o,
		ready:   make(chan struct{}),
		changed: make(chan struct{}, 1),
		wanted:  make(chan struct{}, 1),

		refreshed: make(chan struct{}, 1),
	}
	r.names, r.trial = load(o.State)
	return r, nil
}

// Want sets the names to resolve. What is known of names that are still, or
// again, wanted stays.
func (r *Resolver) Want(wanted []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	changed := false
	set := map[string]bool{}
	for _, w := range wanted {
		set[w] = true
		if n := r.names[w]; n == nil {
			r.names[w] = newName()
			changed = true
		} else if !n.wanted {
			n.wanted, changed = true, true
		}
		r.names[w].wanted = true
	}
	for known := range r.names {
		if !set[known] {
			delete(r.names, known)
			changed = true
		}
	}
	if changed {
		signal(r.wanted)
	}
}

// Addresses returns what each wanted name stands for, sorted. A name without any
// is left out.
func (r *Resolver) Addresses() map[string][]netip.Addr {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := map[string][]netip.Addr{}
	for text, n := range r.names {
		if addresses := n.addresses(); len(addresses) > 0 && n.wanted {
			out[text] = addresses
		}
	}
	return out
}

// Tried reports whether each of the names has been asked for at least once, or
// its addresses were kept from before.
func (r *Resolver) Tried(wanted []string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !slices.ContainsFunc(wanted, func(text string) bool {
		n := r.names[text]
		return n == nil || n.next.IsZero() && len(n.seen) == 0
	})
}

// Changed gets a value after each change of Addresses or Tried; several changes
// may come as one.
func (r *Resolver) Changed() <-chan struct{} { return r.changed }

// Ready is closed once Run works. That names have addresses is not waited for.
func (r *Resolver) Ready() <-chan struct{} { return r.ready }

// String names the task.
func (r *Resolver) String() string { return "name resolver" }

// Run resolves until the context ends, then returns nil.
func (r *Resolver) Run(ctx context.Context) error {
	close(r.ready)
	for ctx.Err() == nil {
		due, wait := r.due(time.Now())
		if len(due) > 0 {
			r.round(ctx, due)
			continue
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-r.wanted:
		case <-timer.C:
		}
		timer.Stop()
	}
	return nil
}

// idle is how long Run sleeps when nothing is due.
const idle = time.Hour

// due returns the names to ask for now, or how long there are none.
func (r *Resolver) due(now time.Time) (due []string, wait time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	wait = idle
	for text, n := range r.names {
		switch left := n.next.Sub(now); {
		case !n.wanted:
		case left <= 0:
			due = append(due, text)
		default:
			wait = min(wait, left)
		}
	}
	slices.Sort(due)
	return due, wait
}

// round asks for some names and enters what it learns.
func (r *Resolver) round(ctx context.Context, due []string) {
	servers, serversErr := r.options.Servers()
	if serversErr == nil && len(servers) == 0 {
		serversErr = errors.New("no resolver is configured: name one in the settings or in /etc/resolv.conf")
	}
	var group errgroup.Group
	group.SetLimit(r.options.Parallel)
	for _, text := range due {
		group.Go(func() error {
			var answers [families]answer
			for f := range answers {
				if answers[f].err = serversErr; serversErr == nil {
					answers[f] = r.ask(ctx, servers, text, family(f))
				}
			}
			if ctx.Err() == nil { // else a failure says nothing
				r.enter(text, answers, time.Now())
			}
			return nil
		})
	}
	_ = group.Wait() // what went wrong is entered with its name
	r.keep()
	signal(r.refreshed)
}

// enter notes the answers for a name and plans the next question.
func (r *Resolver) enter(text string, answers [families]answer, now time.Time) {
	gone := r.gone(text, answers)
	used := map[netip.Addr]bool{}
	if len(gone) > 0 {
		used = r.options.InUse(gone)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.names[text]
	if n == nil {
		return // no longer wanted
	}
	before, first := n.addresses(), n.next.IsZero()
	n.enter(answers, used, now, &r.options)
	if first || !slices.Equal(before, n.addresses()) {
		signal(r.changed)
	}
}

// gone returns the addresses that a successful answer does not have any more.
func (r *Resolver) gone(text string, answers [families]answer) []netip.Addr {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.names[text]
	if n == nil {
		return nil
	}
	var out []netip.Addr
	for address := range n.seen {
		a := answers[familyOf(address)]
		if a.err == nil && !slices.Contains(a.addresses, address) {
			out = append(out, address)
		}
	}
	return out
}

// Status tells how a name is doing.
type Status struct {
	Name      string       `json:"name"`
	Addresses []netip.Addr `json:"addresses"`
	// Refreshed is when all was last answered; zero = never by this process.
	Refreshed time.Time `json:"refreshed,omitzero"`
	Next      time.Time `json:"next,omitzero"`
	// Failures is how often in a row it went wrong, and Error what last.
	Failures int    `json:"failures,omitempty"`
	Error    string `json:"error,omitempty"`
	// Dropped is how many addresses there was no room for.
	Dropped int `json:"dropped,omitempty"`
}

// Status returns how each wanted name is doing, by name, and what is wrong with
// the state file, if something is.
func (r *Resolver) Status() ([]Status, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := []Status{}
	for _, text := range slices.Sorted(maps.Keys(r.names)) {
		n := r.names[text]
		if !n.wanted {
			continue
		}
		s := Status{
			Name: text, Addresses: n.addresses(), Refreshed: n.refreshed, Next: n.next,
			Failures: n.failures, Dropped: n.dropped,
		}
		if n.err != nil {
			s.Error = n.err.Error()
		}
		out = append(out, s)
	}
	return out, r.trial
}

func (r *Resolver) keep() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := save(r.options.State, r.names); err != nil {
		r.trial = fmt.Errorf("keep the addresses of names: %w", err)
	} else {
		r.trial = nil
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
