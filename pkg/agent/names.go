package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/perimeterd/perimeterd/pkg/atomicfile"
	"github.com/perimeterd/perimeterd/pkg/compile"
	"github.com/perimeterd/perimeterd/pkg/datapath"
	"github.com/perimeterd/perimeterd/pkg/names"
)

// nameBook has what the agent knows of open addresses beside the data path: what
// was kept from before a reboot, and what the file that keeps it says.
type nameBook struct {
	path string

	mu      sync.Mutex
	kept    []datapath.Learnt // of before, until a policy is in force
	trial   error             // of reading or writing the file
	failure error             // of teaching the data path
}

// keptName is an address on disk.
type keptName struct {
	Set     uint64            `json:"set"`
	Address netip.Addr        `json:"address"`
	Name    string            `json:"name"`
	Expires time.Time         `json:"expires"`
	By      datapath.LearntBy `json:"by"`
}

// newNameBook reads what was kept. A file that cannot be read is no reason to
// have no names: status says so, and it is written anew.
func newNameBook(path string) *nameBook {
	b := &nameBook{path: path}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return b
	}
	var kept []keptName
	if err == nil {
		err = json.Unmarshal(text, &kept)
	}
	if err != nil {
		b.trial = fmt.Errorf("read the learnt addresses that were kept: %w", err)
		return b
	}
	for _, k := range kept {
		if k.Address.IsValid() && k.Name != "" && len(k.Name) <= 253 {
			b.kept = append(b.kept, datapath.Learnt{Set: k.Set, Address: k.Address, Name: k.Name, Expires: k.Expires, By: datapath.LearntKept})
		}
	}
	return b
}

// save replaces the file.
func (b *nameBook) save(all []datapath.Learnt) {
	kept := []keptName{}
	now := time.Now()
	for _, l := range all {
		if l.Expires.After(now) {
			kept = append(kept, keptName{l.Set, l.Address, l.Name, l.Expires, l.By})
		}
	}
	text, err := json.Marshal(kept)
	if err == nil {
		err = atomicfile.Write(b.path, text, 0o600)
	}
	if err != nil {
		err = fmt.Errorf("keep the learnt addresses: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.trial = err
}

// problems are what is wrong with keeping and teaching.
func (b *nameBook) problems() (out []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, err := range []error{b.trial, b.failure} {
		if err != nil {
			out = append(out, err.Error())
		}
	}
	return out
}

// takeKept returns what was kept from before, once.
func (b *nameBook) takeKept() []datapath.Learnt {
	b.mu.Lock()
	defer b.mu.Unlock()
	kept := b.kept
	b.kept = nil
	return kept
}

// lessons are what the resolver knows, for the sets of tables that it opens.
func lessons(open []names.Open, tables *compile.Tables) []datapath.Learnt {
	var out []datapath.Learnt
	sets := map[string][]*compile.NameSet{}
	for _, o := range open {
		of, ok := sets[o.Name]
		if !ok {
			of = tables.SetsOf(o.Name)
			sets[o.Name] = of
		}
		for _, set := range of {
			out = append(out, datapath.Learnt{Set: set.ID, Address: o.Address, Name: o.Name, Expires: o.Until, By: datapath.LearntResolved})
		}
	}
	return out
}

// teach opens what the agent knows for the sets of tables, which need not be in
// force yet: so a policy's names are open when it is.
func (a *Agent) teach(dp *datapath.Datapath, tables *compile.Tables) {
	known := lessons(a.names.Open(), tables)
	if kept := a.book.takeKept(); dp.Generation() == 0 { // else the kernel has them still
		sets := map[uint64]bool{}
		for _, set := range tables.Sets {
			sets[set.ID] = true
		}
		for _, l := range kept {
			if sets[l.Set] {
				known = append(known, l)
			}
		}
	}
	err := dp.OpenSets(tables.Sets)
	if err == nil {
		err = dp.Teach(known)
	}
	a.book.mu.Lock()
	defer a.book.mu.Unlock()
	a.book.failure = err
}

// namesEvery is how often expired addresses are swept, and savedEvery how often
// the file is written.
const (
	namesEvery = 10 * time.Second
	savedEvery = time.Minute
)

// nameKeeper keeps the learnt addresses: it opens what the resolver learns,
// forgets what is over, and keeps the rest on disk. It is a task.
type nameKeeper struct {
	a     *Agent
	dp    *datapath.Datapath
	ready chan struct{}
	saved time.Time
}

func (k *nameKeeper) Ready() <-chan struct{} { return k.ready }
func (k *nameKeeper) String() string         { return "name keeper" }

func (k *nameKeeper) Run(ctx context.Context) error {
	ticks := time.NewTicker(namesEvery)
	defer ticks.Stop()
	close(k.ready)
	for {
		select {
		case <-ctx.Done():
			return k.save()
		case <-k.a.names.Refreshed():
			k.teach()
		case <-ticks.C:
			k.teach()
			if err := k.sweep(); err != nil {
				return err
			}
		}
	}
}

func (k *nameKeeper) teach() {
	if tables := k.a.reconciler.look().tables; tables != nil {
		k.a.teach(k.dp, tables)
	}
}

func (k *nameKeeper) sweep() error {
	if _, err := k.dp.SweepNames(); err != nil {
		return err
	}
	all, err := k.dp.Learnt()
	if err != nil {
		return err
	}
	k.a.known.set(all)
	if time.Since(k.saved) < savedEvery {
		return nil
	}
	return k.save()
}

func (k *nameKeeper) save() error {
	all, err := k.dp.Learnt()
	if err == nil {
		k.a.book.save(all)
		k.saved = time.Now()
	}
	return err
}

// asksMax is how many questions of the agent to resolvers may be open at a time,
// for answers that were cut. What comes while they are is passed over, and counted.
const asksMax = 32

// answerReader learns from the answers that the data path leaves to the agent. It
// is a task.
type answerReader struct {
	a     *Agent
	dp    *datapath.Datapath
	ready chan struct{}
	stats *answerStats
}

// answerStats counts what came of answers that were left to the agent.
type answerStats struct {
	learnt, nothing, failed, passedOver atomic.Uint64
}

func (r *answerReader) Ready() <-chan struct{} { return r.ready }
func (r *answerReader) String() string         { return "answer reader" }

func (r *answerReader) Run(ctx context.Context) error {
	close(r.ready)
	var asking errgroup.Group
	asking.SetLimit(asksMax)
	err := r.dp.ReadAnswers(ctx, func(answer datapath.NameAnswer) {
		if answer.Whole {
			said, err := names.ReadAnswer(answer.Message, answer.Name, answer.Type)
			r.learn(&answer, said, err)
			return
		}
		if !asking.TryGo(func() error {
			limited, cancel := context.WithTimeout(ctx, r.a.settings.DNS.QuestionTimeout)
			defer cancel()
			said, err := names.Ask(limited, answer.Resolver, answer.Name, answer.Type)
			r.learn(&answer, said, err)
			return nil
		}) {
			r.stats.passedOver.Add(1)
		}
	})
	_ = asking.Wait() // each notes what went wrong by itself
	return err
}

// learn opens what an answer says, for the member that asked.
func (r *answerReader) learn(answer *datapath.NameAnswer, said names.Learnt, err error) {
	tables := r.a.reconciler.look().tables
	if err != nil || tables == nil {
		r.stats.failed.Add(1)
		return
	}
	d := r.a.settings.DNS
	expires := time.Now().Add(min(max(said.TTL, d.Floor), d.Ceiling) + datapath.NameSlack)
	var known []datapath.Learnt
	for _, set := range tables.SetsFor(answer.Local, answer.Name) {
		for _, address := range said.Addresses {
			known = append(known, datapath.Learnt{Set: set, Address: address, Name: answer.Name, Expires: expires, By: datapath.LearntAnswer})
		}
	}
	switch err := r.dp.Teach(known); {
	case err != nil:
		r.stats.failed.Add(1)
	case len(known) == 0:
		r.stats.nothing.Add(1)
	default:
		r.stats.learnt.Add(1)
	}
}
