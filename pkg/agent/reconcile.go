package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/perimeterd/perimeterd/pkg/api"
	"github.com/perimeterd/perimeterd/pkg/atomicfile"
	"github.com/perimeterd/perimeterd/pkg/compile"
	"github.com/perimeterd/perimeterd/pkg/datapath"
	"github.com/perimeterd/perimeterd/pkg/links"
	"github.com/perimeterd/perimeterd/pkg/policy"
)

// reconciler makes what is in force what the policy and the facts say, after
// each change of either. It is the only one that changes enforcement. It is a
// task.
type reconciler struct {
	a        *Agent
	ready    chan struct{}
	commands chan command

	// Only Run uses these.
	loader    policy.Loader
	compiler  compile.Compiler
	wanted    *policy.Policy // as read from the files; nil if they are bad or missing
	heldUntil time.Time      // a policy waits for its names
	lookedAt  time.Time      // when expiries were last told

	mu sync.Mutex // guards what follows, which Run alone writes
	view
}

// view is what others may know of the reconciler.
type view struct {
	enforcement *enforcement // nil while disabled
	disabled    bool

	policy  *policy.Policy // in force; nil if this process put none in force
	source  api.PolicySource
	since   time.Time // of this policy
	facts   *policy.Facts
	choices []links.Choice
	tables  *compile.Tables
	legend  *compile.Legend

	generationSince time.Time
	problem         error // of the policy's files
	problemSince    time.Time
	applyError      error // of the policy in force with new facts, or of the kernel
	attachErrors    map[int]error
	stateError      error // of writing the state directory
}

// command switches enforcement off or on.
type command struct {
	disable bool
	reply   chan<- reply
}

type reply struct {
	switched *api.Switched
	err      error
}

const (
	// retryAfter is the pause after the kernel refused something.
	retryAfter = 10 * time.Second
	// lookAgain bounds how long a jump of the clock can delay an expiry.
	lookAgain = time.Minute
	// namesPatience is how long a new policy waits for the first addresses of its
	// names, while an older one is in force.
	namesPatience = 5 * time.Second
)

func newReconciler(a *Agent) *reconciler {
	return &reconciler{
		a: a, ready: make(chan struct{}), commands: make(chan command),
		view: view{source: api.FromNowhere, attachErrors: map[int]error{}},
	}
}

func (r *reconciler) Ready() <-chan struct{} { return r.ready }
func (r *reconciler) String() string         { return "reconciler" }

func (r *reconciler) isReady() bool {
	select {
	case <-r.ready:
		return true
	default:
		return false
	}
}

// look returns a copy of the view.
func (r *reconciler) look() view {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.view
}

// set changes the view.
func (r *reconciler) set(change func(*view)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(&r.view)
}

// Run reconciles until the context ends, then returns nil. It fails if the data
// path cannot be opened, or what looks after it fails.
func (r *reconciler) Run(ctx context.Context) error {
	select {
	case <-r.a.links.Ready():
	case <-ctx.Done():
		return nil
	}
	disabled, err := isDisabled(r.a.settings)
	if err != nil {
		return err
	}
	if disabled {
		r.set(func(v *view) { v.disabled = true })
		r.a.logger.Print("enforcement is disabled: perimeterctl enable switches it on")
	} else if err := r.open(); err != nil {
		return err
	}
	r.lookedAt = time.Now()
	r.readPolicy()
	next := r.reconcile()
	close(r.ready)

	timer := time.NewTimer(time.Until(next))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.enforcementEnded():
			return fmt.Errorf("look after the data path: %w", r.look().enforcement.err)
		case <-r.a.links.Changed():
		case <-r.a.names.Changed():
		case <-r.a.policies.changed:
			r.readPolicy()
		case <-r.a.options.Reload:
			r.a.reload()
			r.readPolicy()
			r.a.logger.Print("SIGHUP: settings are read at start only; the policy was read again")
		case c := <-r.commands:
			switched, err := r.execute(c.disable)
			next = r.reconcile()
			if err == nil {
				switched.State = r.a.state()
			}
			c.reply <- reply{switched, err}
			timer.Reset(time.Until(next))
			continue
		case <-timer.C:
		}
		timer.Reset(time.Until(r.reconcile()))
	}
}

func (r *reconciler) enforcementEnded() <-chan struct{} {
	if e := r.look().enforcement; e != nil {
		return e.ended
	}
	return nil
}

func (r *reconciler) open() error {
	e, err := openEnforcement(r.a)
	if err != nil {
		return err
	}
	r.set(func(v *view) {
		v.enforcement, v.disabled = e, false
		v.tables = nil // whatever is in force was not put there by us
	})
	return nil
}

// close lets go of the data path, for after Run.
func (r *reconciler) close() error {
	e := r.look().enforcement
	if e == nil {
		return nil
	}
	r.set(func(v *view) { v.enforcement = nil })
	return e.close()
}

// execute switches enforcement. The marker is written first and removed last, so
// that whatever fails in between, the next start does what was asked for.
func (r *reconciler) execute(disable bool) (*api.Switched, error) {
	marker := r.a.settings.disabledMarker()
	v := r.look()
	if disable {
		if err := atomicfile.Write(marker, []byte(markerText), 0o600); err != nil {
			return nil, fmt.Errorf("note that enforcement is disabled: %w", err)
		}
		r.set(func(v *view) { v.disabled = true })
		err := errors.Join(r.close(), datapath.Remove(r.a.settings.PinDirectory))
		r.loader, r.compiler = policy.Loader{}, compile.Compiler{} // what they remember
		r.set(func(v *view) { v.tables, v.legend, v.generationSince = nil, nil, time.Time{} })
		if err != nil {
			return nil, fmt.Errorf("disable: %w", err)
		}
		if !v.disabled {
			r.a.logger.Print("enforcement was disabled: nothing is judged until perimeterctl enable")
		}
		return &api.Switched{Changed: !v.disabled}, nil
	}
	if v.enforcement == nil {
		if err := r.open(); err != nil {
			return nil, fmt.Errorf("enable: %w", err)
		}
		r.a.logger.Print("enforcement was enabled")
	}
	if err := atomicfile.Remove(marker); err != nil {
		return nil, fmt.Errorf("forget that enforcement was disabled: %w", err)
	}
	return &api.Switched{Changed: v.enforcement == nil}, nil
}

// disabledBeside notices that somebody disabled enforcement without the agent,
// because it did not answer: what it holds open is no longer in force.
func (r *reconciler) disabledBeside() bool {
	disabled, err := isDisabled(r.a.settings)
	if err == nil && disabled {
		_, err = r.execute(true)
	}
	if err != nil {
		r.a.logger.Print(err)
	}
	return disabled
}

const markerText = "enforcement is disabled; perimeterctl enable switches it on\n"

// readPolicy reads the files and falls back to what was kept where nothing has
// been in force since the start.
func (r *reconciler) readPolicy() {
	s := r.a.settings
	p, err := loadPolicy(&r.loader, s.Policy)
	var bad policy.Problems
	if err == nil {
		r.wanted, r.heldUntil = p, time.Now().Add(namesPatience)
		r.a.policies.follow(p.Files)
		return
	}
	r.wanted = nil
	if r.look().policy != nil {
		r.report(err)
		return
	}
	kept, keptErr := loadLastGood(s.lastGoodFile(), s.Policy)
	switch {
	case kept != nil:
		if errors.Is(err, errNoPolicy) {
			err = fmt.Errorf("%w (to forget the last good policy, remove %s and start the agent anew)", err, s.lastGoodFile())
		}
		r.report(err)
		r.set(func(v *view) { v.policy, v.source, v.since = kept.Policy, api.FromLastGood, kept.Saved })
	case keptErr == nil && errors.Is(err, errNoPolicy) && s.PolicyOptional:
		if p, err = defaultPolicy(); err != nil {
			r.report(err)
			return
		}
		r.a.logger.Printf("no policy in %s: every address of this host is in Audit, which drops nothing", s.Policy)
		r.set(func(v *view) { v.policy, v.source, v.since = p, api.FromDefault, time.Now() })
	default:
		if errors.As(err, &bad) {
			err = fmt.Errorf("%w\nthere is no earlier policy to go on with", err)
		}
		r.report(errors.Join(err, keptErr))
	}
}

// report notes what is wrong with the policy's files, nil if nothing is, and
// tells it once.
func (r *reconciler) report(err error) {
	before := r.look().problem
	if err != nil && (before == nil || before.Error() != err.Error()) {
		r.a.logger.Printf("the policy is not put in force: %v", err)
	}
	r.set(func(v *view) {
		if err == nil {
			v.problemSince = time.Time{}
		} else if v.problem == nil {
			v.problemSince = time.Now()
		}
		v.problem = err
	})
}

// reconcile puts in force what should be, and returns when to do it again if
// nothing changes before.
func (r *reconciler) reconcile() (next time.Time) {
	now := time.Now()
	next = now.Add(lookAgain)
	earlier := func(t time.Time) {
		if !t.IsZero() && t.Before(next) {
			next = t
		}
	}
	v := r.look()
	choices := links.Choose(r.a.links.Snapshot(), r.a.settings.Interfaces)
	r.a.names.Want(namesOf(v.policy, r.wanted))
	facts := r.a.factsNow(now, choices)
	r.set(func(v *view) { v.choices, v.facts = choices, facts })

	r.tellExpiries(now)
	if v.enforcement != nil && r.disabledBeside() {
		v = r.look()
	}
	if v.enforcement == nil {
		if r.wanted != nil {
			r.report(nil) // as far as it can be told without putting it in force
		}
		return next
	}

	renewed := false
	if r.wanted != nil && r.wanted != v.policy {
		if v.enforcement.dp.Generation() != 0 && now.Before(r.heldUntil) && !r.a.names.Tried(namesOf(r.wanted)) {
			earlier(r.heldUntil)
		} else if err := r.put(r.wanted, facts); err != nil {
			r.report(err)
			earlier(r.retryAt(now, err))
		} else {
			renewed = true
			defer r.tellInForce(r.wanted) // once it is attached, too
			r.becomes(r.wanted)
		}
	}
	if !renewed && v.policy != nil {
		err := r.put(v.policy, facts)
		if err != nil && (v.applyError == nil || v.applyError.Error() != err.Error()) {
			r.a.logger.Printf("the policy cannot be put in force as things are on this host: %v", err)
		}
		r.set(func(v *view) { v.applyError = err })
		earlier(r.retryAt(now, err))
	}
	if r.attach(choices) {
		earlier(now.Add(retryAfter))
	}
	if t := r.look().tables; t != nil {
		earlier(t.NextExpiry)
	}
	return next
}

// becomes notes that the policy of the files is in force, and keeps it.
func (r *reconciler) becomes(p *policy.Policy) {
	now := time.Now()
	r.report(nil)
	r.set(func(v *view) { v.policy, v.source, v.since, v.applyError = p, api.FromFiles, now, nil })
	err := saveLastGood(r.a.settings.lastGoodFile(), r.a.settings.Policy, p, now)
	if err != nil {
		r.a.logger.Print(err)
	}
	r.set(func(v *view) { v.stateError = err })
}

// tellInForce tells that a policy of the files has come in force.
func (r *reconciler) tellInForce(p *policy.Policy) {
	r.a.logger.Printf("generation %d is in force: %s from %s", r.look().enforcement.dp.Generation(), count(len(p.Resources), "resource"), r.a.settings.Policy)
	r.announceExpiries(p, time.Now())
}

// retryAt says when to try again what failed: not at all where only other files
// or other addresses can help, whose change is told.
func (r *reconciler) retryAt(now time.Time, err error) time.Time {
	var bad policy.Problems
	if err == nil || errors.As(err, &bad) {
		return time.Time{}
	}
	return now.Add(retryAfter)
}

// put compiles a policy and puts it in force, unless just that is in force.
func (r *reconciler) put(p *policy.Policy, facts *policy.Facts) error {
	tables, legend, err := r.compiler.Compile(p, facts)
	if err != nil {
		return err
	}
	v := r.look()
	same := v.tables != nil && sameTables(v.tables, tables) && sameNames(v.legend, legend)
	if same && (tables.NextExpiry.IsZero() || !clockWasSet(v.generationSince, time.Now())) {
		r.a.teach(v.enforcement.dp, tables)
		return nil
	}
	dp := v.enforcement.dp
	// After a reboot nothing is in force, and versions go on from what was.
	before := r.a.legends.of(cmp.Or(dp.Generation(), r.a.legends.last()))
	r.a.teach(dp, tables)
	generation, err := dp.Apply(tables, legend, before, r.a.legends.keep)
	if generation == 0 {
		return err
	}
	if err != nil { // in force, but something old could not be freed
		r.a.logger.Print(err)
	}
	r.set(func(v *view) { v.tables, v.legend, v.generationSince = tables, legend, dp.InForceSince() })
	return nil
}

// attach makes what is attached what was chosen. It reports whether something
// failed that may work later.
func (r *reconciler) attach(choices []links.Choice) (failed bool) {
	dp := r.look().enforcement.dp
	failures := map[int]error{}
	if dp.Generation() == 0 {
		// There is nothing to judge by.
		r.set(func(v *view) { v.attachErrors = failures })
		return false
	}
	roles := map[uint32]links.Role{}
	for _, c := range choices {
		if c.Role != links.NotAttached {
			roles[uint32(c.Index)] = c.Role
		}
	}
	attached := map[uint32]bool{}
	for _, state := range dp.Attachments() {
		if roles[state.Ifindex] == links.NotAttached {
			if err := dp.Detach(state.Ifindex); err != nil {
				failures[int(state.Ifindex)] = err
				continue
			}
			r.a.logger.Printf("packets of %s are not judged any more", state.Name)
			continue
		}
		attached[state.Ifindex] = true
	}
	before := r.look().attachErrors
	for _, c := range choices {
		if c.Role == links.NotAttached {
			continue
		}
		role := datapath.Uplink
		if c.Role == links.Workload {
			role = datapath.Workload
		}
		state, err := dp.Attach(uint32(c.Index), role)
		if err == nil && !attached[state.Ifindex] {
			r.a.logger.Printf("packets of %s are judged (%s, %s)", c.Name, state.Role, state.Hook)
		}
		if err != nil {
			failures[c.Index] = err
			if old := before[c.Index]; old == nil || old.Error() != err.Error() {
				r.a.logger.Printf("packets of %s are not judged: %v", c.Name, err)
			}
		}
	}
	r.set(func(v *view) { v.attachErrors = failures })
	return len(failures) > 0
}

// clockWasSet reports whether other time has passed by the clock than has really
// passed: the kernel ends rules by the latter. Either time has the monotonic clock.
func clockWasSet(since, now time.Time) bool {
	const slewed = time.Second // by little, NTP adjusts all the time
	passed, shown := now.Sub(since), now.Round(0).Sub(since.Round(0))
	return (passed - shown).Abs() > slewed
}

// sameTables reports whether two compilations say the same to the kernel.
func sameTables(a, b *compile.Tables) bool {
	return a.StrictHere == b.StrictHere && a.NextExpiry.Equal(b.NextExpiry) &&
		slices.Equal(a.Locals, b.Locals) && a.Prefixes4.Same(b.Prefixes4) && a.Prefixes6.Same(b.Prefixes6) &&
		slices.Equal(a.ScopeClasses, b.ScopeClasses) && slices.Equal(a.Parents, b.Parents) && slices.Equal(a.Members, b.Members) && slices.Equal(a.Spans, b.Spans) &&
		slices.Equal(a.Outcomes, b.Outcomes) && slices.Equal(a.Names, b.Names) && slices.Equal(a.NameMeanings, b.NameMeanings) &&
		slices.Equal(a.NameSets, b.NameSets) && slices.Equal(a.NameRules, b.NameRules) &&
		slices.EqualFunc(a.PrivateEndpoints, b.PrivateEndpoints, func(x, y compile.PrivateEndpoint) bool {
			return x.Name == y.Name && x.Outcomes == y.Outcomes && slices.Equal(x.Interfaces, y.Interfaces)
		})
}

// sameNames reports whether a legend in force and a new one name the same.
func sameNames(inForce, next *compile.Legend) bool {
	if len(inForce.Profiles) != len(next.Profiles) || !slices.Equal(inForce.Outcomes, next.Outcomes) {
		return false
	}
	for name, p := range next.Profiles {
		if inForce.Profiles[name].Digest != p.Digest {
			return false
		}
	}
	return slices.EqualFunc(inForce.Members, next.Members, func(x, y compile.MemberLegend) bool {
		x.AccessRulesVersion = y.AccessRulesVersion // of the digest
		return x == y
	})
}
