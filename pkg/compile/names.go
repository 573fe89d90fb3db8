package compile

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/perimeterd/perimeterd/pkg/policy"
)

// Names of outbound rules. Their addresses are not in the tables: they are learnt
// while a generation is in force, into sets. The tables say which names open which
// sets, and which sets a member's first packet may pass by.

// Limits of what the kernel asks for one packet (bpf/settings.h).
const (
	nameRulesMax = 64
	nameSetsMax  = 64
)

// NameClass gives a name, as rules write it, its class: which of the policy's
// names cover it.
type NameClass struct {
	Name  string
	Class uint32
}

// NameRule is a rule with names, in the order in which they count for one member
// at one port. One of set 0 ends a list.
type NameRule struct {
	Set     uint64
	Outcome uint32
}

// NameSet is the names of one or more rules of one owner. Its ID is made of just
// these, so that what was learnt stays while they do.
type NameSet struct {
	ID    uint64
	Owner string // "profile PERIMETER/PROFILE" or "resource NAME"
	Rules []string
	Names []string // sorted
}

// namesTable collects what scopes say of names.
type namesTable struct {
	sets    map[uint64]*NameSet
	lists   map[string]uint32 // of name rules, by content
	classes map[string]uint32 // by the names that cover one
	rules   []NameRule
}

func newNamesTable() *namesTable {
	return &namesTable{sets: map[uint64]*NameSet{}, lists: map[string]uint32{}, classes: map[string]uint32{}, rules: []NameRule{{}}}
}

// setOf numbers the names of a rule. It fails should two sets have one number,
// which is as likely as a collision of 64 bits of SHA-256.
func (t *namesTable) setOf(owner, rule string, names []string) (uint64, error) {
	sorted := slices.Compact(slices.Sorted(slices.Values(names)))
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q", owner, sorted))
	id := max(binary.LittleEndian.Uint64(sum[:]), 1)
	set := t.sets[id]
	switch {
	case set == nil:
		t.sets[id] = &NameSet{ID: id, Owner: owner, Rules: []string{rule}, Names: sorted}
	case set.Owner != owner || !slices.Equal(set.Names, sorted):
		return 0, fmt.Errorf("the names of rule %s of %s and those of %s happen to have the same number: write them in another order of rules, or add one", rule, owner, set.Owner)
	case !slices.Contains(set.Rules, rule):
		set.Rules = append(set.Rules, rule)
	}
	return id, nil
}

// numberSets gives the rules with names of an owner their sets.
func (b *builder) numberSets(items []item, owner string) []item {
	for i := range items {
		if it := &items[i]; len(it.names) > 0 && it.set == 0 {
			set, err := b.names.setOf(owner, it.outcome.Rule, it.names)
			if err != nil && b.failed == nil {
				b.failed = err
			}
			it.set = set
		}
	}
	return items
}

// resolverPorts are those of DNS; over TCP, questions cannot be read.
func (b *builder) resolverPorts() []policy.Ports {
	ports := []policy.Ports{{Protocol: policy.ProtocolUDP, First: 53, Last: 53}}
	if !b.facts.StrictNames {
		ports = append(ports, policy.Ports{Protocol: policy.ProtocolTCP, First: 53, Last: 53})
	}
	return ports
}

// addResolverAccess lets members whose rules have names ask the host's resolvers.
func (b *builder) addResolverAccess(items []item) []item {
	_, named := splitNames(items)
	if len(named) == 0 || len(b.facts.Resolvers) == 0 {
		return items
	}
	access := item{
		layer: layerResolvers, lists: []listID{b.lists.ofPrefixes("resolvers", b.resolvers)}, ports: b.resolverPorts(),
		outcome: Outcome{Reason: policy.ReasonResolverAccess, Direction: policy.Outbound, Expires: named[0].outcome.Expires},
	}
	for _, it := range named { // it ends with the last of the rules
		if ends := it.outcome.Expires; ends.IsZero() || !access.outcome.Expires.IsZero() && ends.After(access.outcome.Expires) {
			access.outcome.Expires = ends
		}
	}
	return append(items, access)
}

func resolverPrefixes(facts *policy.Facts) []netip.Prefix {
	var out []netip.Prefix
	for _, a := range facts.Resolvers {
		a = a.Unmap().WithZone("")
		out = append(out, netip.PrefixFrom(a, a.BitLen()))
	}
	return out
}

// splitNames takes the rules with names out of a scope's items.
func splitNames(items []item) (others, named []item) {
	for _, it := range items {
		if len(it.names) > 0 {
			named = append(named, it)
		} else {
			others = append(others, it)
		}
	}
	return others, named
}

// nameSpans writes down, for each point, which rules with names are asked, in
// order.
func (b *builder) nameSpans(named []item) (SpanList, error) {
	var claims []claim
	set := map[*Outcome]uint64{}
	points := []uint32{0}
	for i := range named {
		claims = appendClaims(claims, &named[i], 0)
		set[&named[i].outcome] = named[i].set
	}
	for _, c := range claims {
		points = append(points, c.from, c.to)
	}
	slices.Sort(points)
	slices.SortStableFunc(claims, func(x, y claim) int { return x.precedes(&y) })
	var spans []Span
	for _, point := range slices.Compact(points) {
		if point == allPoints {
			continue
		}
		list, err := b.nameRulesAt(claims, set, point)
		if err != nil {
			return SpanList{}, err
		}
		spans = append(spans, Span{point, list})
	}
	return b.spans.add(spans), nil
}

// nameRulesAt returns where the list of rules for a point begins, 0 if there is
// none.
func (b *builder) nameRulesAt(claims []claim, set map[*Outcome]uint64, point uint32) (uint32, error) {
	var rules []NameRule
	var seen []*Outcome
	var key []byte
	for _, c := range claims {
		if point < c.from || point >= c.to || slices.Contains(seen, c.outcome) {
			continue
		}
		seen = append(seen, c.outcome)
		o := *c.outcome
		o.Expires = o.Expires.Round(0).UTC()
		r := NameRule{Set: set[c.outcome], Outcome: b.outcomes.number(o)}
		rules = append(rules, r)
		key = binary.LittleEndian.AppendUint64(key, r.Set)
		key = binary.LittleEndian.AppendUint32(key, r.Outcome)
	}
	if len(rules) == 0 {
		return 0, nil
	}
	if len(rules) > nameRulesMax {
		return 0, fmt.Errorf("%d rules with names, of which one is %s, allow one and the same port to one resource: at most %d can be asked for a packet; write names of the same ports into one rule", len(rules), seen[0].Rule, nameRulesMax)
	}
	at, ok := b.names.lists[string(key)]
	if !ok {
		at = uint32(len(b.names.rules))
		b.names.rules = append(append(b.names.rules, rules...), NameRule{})
		b.names.lists[string(key)] = at
	}
	return at, nil
}

// addNameTables writes the tables of names, once all scopes are known.
func (b *builder) addNameTables() error {
	lists := make([]SpanList, len(b.scopes))
	for i := range b.scopes {
		if s := &b.scopes[i]; len(s.named) > 0 {
			var err error
			if lists[i], err = b.nameSpans(s.named); err != nil {
				return err
			}
		}
	}
	for i := range b.tables.Members[1:] {
		m := &b.tables.Members[i+1]
		m.Names = lists[m.Scope[policy.Outbound]]
	}
	b.tables.NameRules = b.names.rules
	for _, id := range sortedIDs(b.names.sets) {
		slices.Sort(b.names.sets[id].Rules)
		b.tables.Sets = append(b.tables.Sets, *b.names.sets[id])
	}
	return b.addNameMeanings(b.addNameClasses())
}

// Covers reports whether one of the set's names covers one that was asked for, in
// lower case and without a trailing dot.
func (s *NameSet) Covers(asked string) bool {
	return slices.ContainsFunc(s.Names, func(written string) bool { return policy.NameCovers(written, asked) })
}

// SetsOf returns the sets with a name that covers one that was asked for, in
// lower case and without a trailing dot. Of whichever owner: a resolver asks for
// all of them at once.
func (t *Tables) SetsOf(asked string) []*NameSet {
	var out []*NameSet
	for i := range t.Sets {
		if t.Sets[i].Covers(asked) {
			out = append(out, &t.Sets[i])
		}
	}
	return out
}

// SetsFor returns the sets that an answer about a name opens for the member whose
// outbound traffic comes from an address, as the kernel would.
func (t *Tables) SetsFor(local netip.Addr, asked string) []uint64 {
	member, longest := uint32(0), -1
	for i := range t.Locals {
		if l := &t.Locals[i]; l.Prefix.Contains(local) && l.Prefix.Bits() > longest {
			member, longest = l.Outbound, l.Prefix.Bits()
		}
	}
	if member == 0 || t.Members[member].Names == (SpanList{}) {
		return nil
	}
	class, ok := t.nameClass(asked)
	if !ok {
		return nil
	}
	for _, m := range t.NameMeanings {
		if m.Scope == t.Members[member].Scope[policy.Outbound] && m.Class == class {
			return t.NameSets[m.Meaning.First : m.Meaning.First+m.Meaning.Count]
		}
	}
	return nil
}

// nameClass is the class of the longest of the policy's names that covers one.
func (t *Tables) nameClass(asked string) (class uint32, ok bool) {
	for candidate := asked; ; {
		if i, found := slices.BinarySearchFunc(t.Names, candidate, func(n NameClass, s string) int { return strings.Compare(n.Name, s) }); found {
			return t.Names[i].Class, true
		}
		_, below, more := strings.Cut(strings.TrimPrefix(candidate, "*."), ".")
		if !more {
			return 0, false
		}
		candidate = "*." + below
	}
}

func sortedIDs(sets map[uint64]*NameSet) []uint64 {
	var ids []uint64
	for id := range sets {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// addNameClasses gives every name a class and returns, by class, the names that
// cover it. A trie answers with the longest only, so each has all around it.
func (b *builder) addNameClasses() [][]string {
	written := map[string]bool{}
	for _, set := range b.tables.Sets {
		for _, name := range set.Names {
			written[name] = true
		}
	}
	var names []string
	for name := range written {
		names = append(names, name)
	}
	slices.Sort(names)
	covering := [][]string{nil}
	for _, name := range names {
		cover := []string{name}
		_, below, _ := strings.Cut(strings.TrimPrefix(name, "*."), ".")
		for ; below != ""; _, below, _ = strings.Cut(below, ".") {
			if wider := "*." + below; written[wider] {
				cover = append(cover, wider)
			}
		}
		slices.Sort(cover)
		key := strings.Join(cover, " ")
		class, ok := b.names.classes[key]
		if !ok {
			class = uint32(len(covering))
			covering = append(covering, cover)
			b.names.classes[key] = class
		}
		b.tables.Names = append(b.tables.Names, NameClass{name, class})
	}
	return covering
}

// addNameMeanings writes down which sets of each scope a name of a class opens.
func (b *builder) addNameMeanings(covering [][]string) error {
	classesOf := map[string][]uint32{} // by name that covers
	for class, cover := range covering {
		for _, name := range cover {
			classesOf[name] = append(classesOf[name], uint32(class))
		}
	}
	known := map[string]SpanList{}
	for number := range b.scopes {
		sets := map[uint32][]uint64{} // by class
		for _, it := range b.scopes[number].named {
			for _, name := range it.names {
				for _, class := range classesOf[name] {
					if !slices.Contains(sets[class], it.set) {
						sets[class] = append(sets[class], it.set)
					}
				}
			}
		}
		for class := range uint32(len(covering)) {
			opened := sets[class]
			if len(opened) == 0 {
				continue
			}
			if len(opened) > nameSetsMax {
				return fmt.Errorf("%d rules of one profile cover the name %s: one answer can open at most %d; write its name into fewer rules", len(opened), covering[class][0], nameSetsMax)
			}
			slices.Sort(opened)
			var key []byte
			for _, id := range opened {
				key = binary.LittleEndian.AppendUint64(key, id)
			}
			list, ok := known[string(key)]
			if !ok {
				list = SpanList{First: uint32(len(b.tables.NameSets)), Count: uint32(len(opened))}
				b.tables.NameSets = append(b.tables.NameSets, opened...)
				known[string(key)] = list
			}
			b.tables.NameMeanings = append(b.tables.NameMeanings, ScopeClass{uint32(number), class, list})
		}
	}
	slices.SortFunc(b.tables.NameMeanings, func(x, y ScopeClass) int {
		return cmp.Or(cmp.Compare(x.Scope, y.Scope), cmp.Compare(x.Class, y.Class))
	})
	return nil
}
