package agent

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/perimeterd/perimeterd/pkg/api"
	"github.com/perimeterd/perimeterd/pkg/compile"
	"github.com/perimeterd/perimeterd/pkg/datapath"
	"github.com/perimeterd/perimeterd/pkg/policy"
)

// askedSetsMax is in how many sets an address is looked up for one record. Where
// there are more, a denial is named by what was known at the last sweep.
const askedSetsMax = 16

// knownNames is by what name addresses were known at the last sweep.
type knownNames struct {
	mu sync.Mutex
	of map[netip.Addr]string
	by map[string]int // how many, by who learnt them
}

func (k *knownNames) set(all []datapath.Learnt) {
	of := make(map[netip.Addr]string, len(all))
	by := map[string]int{}
	for _, l := range all {
		of[l.Address] = l.Name
		by[string(l.By)]++
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.of, k.by = of, by
}

// counts returns how many addresses there were at the last sweep, by who learnt
// them.
func (k *knownNames) counts() (out []api.NameEvent) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, by := range sortedKeys(k.by) {
		out = append(out, api.NameEvent{Event: by, Count: uint64(k.by[by])})
	}
	return out
}

func (k *knownNames) name(a netip.Addr) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.of[a]
}

// nameOf is the name of the peer of an outbound event: of what a rule with names
// has allowed, the name that has opened it; of a denial, any that was learnt for
// the address, since that is what somebody needs who writes the rule.
func (a *Agent) nameOf(e *datapath.Event) string {
	v := a.reconciler.look()
	if v.tables == nil || len(v.tables.Sets) == 0 || e.Name != "" {
		return ""
	}
	denied := e.Kind == datapath.Denied
	rule := ""
	if !denied {
		if e.Reason != policy.ReasonAccessRule && e.Reason != policy.ReasonFirewallRule {
			return ""
		}
		if l := a.legends.of(e.Generation); l != nil && int(e.Outcome) < len(l.Outcomes) {
			rule = l.Outcomes[e.Outcome].Rule
		}
	}
	found := ""
	_ = v.use(func(dp *datapath.Datapath) error { // a record without the name is better than none
		asked := 0
		for i := range v.tables.Sets {
			set := &v.tables.Sets[i]
			if found != "" || !denied && !slices.Contains(set.Rules, rule) {
				continue
			}
			if asked++; asked > askedSetsMax {
				break
			}
			found = dp.LearntName(set.ID, e.Peer)
		}
		return nil
	})
	if found == "" && denied {
		found = a.known.name(e.Peer)
	}
	return found
}

// Names lists what names have opened, for perimeterctl names.
func (a *Agent) Names(context.Context) (*api.Names, error) {
	v := a.reconciler.look()
	out := &api.Names{}
	err := v.use(func(dp *datapath.Datapath) error {
		out.Generation, out.ByAgent = dp.Generation(), dp.NamesByAgent()
		all, err := dp.Learnt()
		if err != nil {
			return err
		}
		used := map[netip.Addr]int{}
		if err := dp.Flows(func(f datapath.Flow) bool {
			if f.Direction == policy.Outbound {
				used[f.Peer]++
			}
			return true
		}); err != nil {
			return err
		}
		if v.tables != nil {
			out.Rules = rulesWithNames(v.tables, all, used, time.Now())
		}
		return nil
	})
	return out, err
}

// rulesWithNames puts what was learnt to the rules whose names have opened it.
func rulesWithNames(tables *compile.Tables, all []datapath.Learnt, used map[netip.Addr]int, now time.Time) []api.RuleNames {
	bySet := map[uint64][]datapath.Learnt{}
	for _, l := range all {
		bySet[l.Set] = append(bySet[l.Set], l)
	}
	var out []api.RuleNames
	for i := range tables.Sets {
		set := &tables.Sets[i]
		of := api.RuleNames{Rule: strings.Join(set.Rules, ", "), Owner: set.Owner, Written: set.Names}
		for _, l := range bySet[set.ID] {
			of.Addresses = append(of.Addresses, api.LearntAddress{
				Name: l.Name, Address: l.Address, By: string(l.By), Since: l.Since, Expires: l.Expires, Used: l.Used,
				Expired: !l.Expires.After(now), Flows: used[l.Address],
			})
		}
		slices.SortFunc(of.Addresses, func(x, y api.LearntAddress) int {
			return cmp.Or(strings.Compare(x.Name, y.Name), x.Address.Compare(y.Address))
		})
		out = append(out, of)
	}
	slices.SortFunc(out, func(x, y api.RuleNames) int {
		return cmp.Or(strings.Compare(x.Owner, y.Owner), strings.Compare(x.Rule, y.Rule))
	})
	return out
}

// addLearnt adds the counters of names to a status.
func (a *Agent) addLearnt(s *api.Status, dp *datapath.Datapath) (problems []string) {
	counts, err := dp.NameCounts()
	if err != nil {
		return []string{err.Error()}
	}
	for _, word := range sortedKeys(counts) {
		s.NameEvents = append(s.NameEvents, api.NameEvent{Event: word, Count: counts[word]})
	}
	for _, more := range []struct {
		word  string
		count uint64
	}{
		{"agent-learnt", a.answers.learnt.Load()}, {"agent-opened-nothing", a.answers.nothing.Load()},
		{"agent-failed", a.answers.failed.Load()}, {"agent-passed-over", a.answers.passedOver.Load()},
	} {
		s.NameEvents = append(s.NameEvents, api.NameEvent{Event: more.word, Count: more.count})
	}
	s.OpenAddresses = a.known.counts()
	if why := dp.NamesByAgent(); why != "" {
		s.Kernel.Degraded = append(s.Kernel.Degraded, "addresses of names are open some milliseconds after their answer: "+why)
	}
	if why := dp.NamesMissing(); why != "" {
		s.Kernel.Degraded = append(s.Kernel.Degraded, "only exact names have addresses, those that the agent resolves: "+why)
		if a.settings.DNS.Strict {
			problems = append(problems, "dns.strict is set, and questions are not read: "+why)
		}
	}
	return append(problems, a.book.problems()...)
}
