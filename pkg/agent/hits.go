package agent

import (
	"sync"
	"time"

	"github.com/perimeterd/perimeterd/pkg/compile"
	"github.com/perimeterd/perimeterd/pkg/datapath"
	"github.com/perimeterd/perimeterd/pkg/policy"
)

// hits counts decisions by rule since the agent started.
type hits struct {
	legend func(uint32) *compile.Legend

	mu sync.Mutex
	// rules is by what a rule is called, which outlives generations; numbers
	// leads there and is only a shortcut.
	rules   map[ruleKey]*hit
	numbers map[numberKey]*hit
}

// ruleKey names a rule. An access rule, link or failsafe entry has no resource,
// since every member of the profile shares it.
type ruleKey struct {
	perimeter, profile, resource string
	direction                    policy.Direction
	reason                       policy.Reason
	rule                         string
}

type numberKey struct{ generation, member, outcome uint32 }

type hit struct {
	count uint64
	last  time.Time
}

// numbersMax bounds the shortcuts; beyond it they are found anew.
const numbersMax = 1 << 16

func newHits(legend func(uint32) *compile.Legend) *hits {
	return &hits{legend: legend, rules: map[ruleKey]*hit{}, numbers: map[numberKey]*hit{}}
}

// count enters decisions. The end of a flow is none.
func (h *hits) count(events []datapath.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range events {
		e := &events[i]
		if e.Kind == datapath.FlowEnd || e.Outcome == 0 {
			continue
		}
		if at := h.of(numberKey{e.Generation, e.Member, e.Outcome}); at != nil {
			at.count += max(e.Count, 1)
			if e.LastTime.After(at.last) {
				at.last = e.LastTime
			}
		}
	}
}

// of finds the rule behind the numbers; nil if no rule decided.
func (h *hits) of(n numberKey) *hit {
	if at, ok := h.numbers[n]; ok {
		return at
	}
	if len(h.numbers) >= numbersMax {
		clear(h.numbers)
	}
	var at *hit
	if key, ok := keyOf(h.legend(n.generation), n); ok {
		if at = h.rules[key]; at == nil {
			at = new(hit)
			h.rules[key] = at
		}
	}
	h.numbers[n] = at
	return at
}

func keyOf(l *compile.Legend, n numberKey) (ruleKey, bool) {
	if l == nil || int(n.outcome) >= len(l.Outcomes) || int(n.member) >= len(l.Members) || l.Outcomes[n.outcome].Rule == "" {
		return ruleKey{}, false
	}
	o, m := &l.Outcomes[n.outcome], &l.Members[n.member]
	key := ruleKey{direction: o.Direction, reason: o.Reason, rule: o.Rule}
	switch o.Reason {
	case policy.ReasonAccessRule:
		key.perimeter, key.profile = m.Perimeter, m.Profile
	case policy.ReasonLinkedPerimeter:
		key.perimeter = m.Perimeter
	case policy.ReasonFirewallRule:
		key.resource = m.Resource
	}
	return key, true
}

// get returns the hits of a rule.
func (h *hits) get(key ruleKey) hit {
	h.mu.Lock()
	defer h.mu.Unlock()
	if at := h.rules[key]; at != nil {
		return *at
	}
	return hit{}
}
