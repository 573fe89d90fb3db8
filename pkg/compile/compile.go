package compile

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/perimeterd/perimeterd/pkg/policy"
)

// MeaningsMax bounds how many (scope, class) pairs a policy may need. Ten
// thousand members with rules of their own stay far below it; the bound keeps a
// policy whose rules all nest in each other from filling the kernel's memory.
const MeaningsMax = 8 << 20

// Compile turns a policy into tables for one host at one moment. It fails where
// the addresses of interfaces make it unclear whose a packet is
// (policy.Problems), and where the policy needs more than MeaningsMax pairs.
func Compile(p *policy.Policy, facts *policy.Facts) (*Tables, *Legend, error) {
	b := &builder{
		policy: p, facts: facts,
		tables:     &Tables{Members: []Member{{}}},
		legend:     &Legend{Members: []MemberLegend{{}}, Profiles: map[string]ProfileLegend{}},
		lists:      newLists(),
		tags:       map[string]listID{},
		covers:     newCovers(p),
		spans:      newSpanTable(),
		outcomes:   newOutcomeTable(),
		scopeIDs:   map[string]uint32{},
		perimeters: map[string]*policy.Perimeter{},
		standings:  make([]standing, len(p.Resources)),
		prefixes:   make([][]netip.Prefix, len(p.Resources)),
		identities: make([][]listID, len(p.Resources)),
	}
	if err := b.resolve(); err != nil {
		return nil, nil, err
	}
	b.addMembers()
	b.addPrivateEndpoints()
	b.addMulticastMember()
	if err := b.addClasses(); err != nil {
		return nil, nil, err
	}
	b.finish()
	return b.tables, b.legend, nil
}

// builder holds what is known halfway. Its steps are in the order Compile calls
// them; a member's number is its resource's index and one.
type builder struct {
	policy *policy.Policy
	facts  *policy.Facts
	tables *Tables
	legend *Legend

	lists    *lists
	tags     map[string]listID
	covers   *covers
	spans    *spanTable
	outcomes *outcomeTable

	scopes   []scope
	scopeIDs map[string]uint32

	perimeters map[string]*policy.Perimeter
	standings  []standing       // by resource
	prefixes   [][]netip.Prefix // by resource: on this host
	identities [][]listID       // by resource: the lists it stands in as a peer
	multicast  uint32           // the member that stands for all that live here; 0 = none does
}

// resolve finds each resource's association, prefixes and identity.
func (b *builder) resolve() error {
	index := map[string]int{}
	for i := range b.policy.Resources {
		index[b.policy.Resources[i].Name] = i
	}
	for i := range b.policy.Perimeters {
		p := &b.policy.Perimeters[i]
		b.perimeters[p.Name] = p
		profiles := map[string]*policy.Profile{}
		for j := range p.Profiles {
			profiles[p.Profiles[j].Name] = &p.Profiles[j]
			b.legend.Profiles[p.Name+"/"+p.Profiles[j].Name] = ProfileLegend{Digest: digestRules(p.Profiles[j].AccessRules)}
		}
		for j := range p.Associations {
			a := &p.Associations[j]
			b.standings[index[a.Resource]] = standing{p, profiles[a.Profile], a}
		}
	}
	for i := range b.policy.Resources {
		r := &b.policy.Resources[i]
		b.prefixes[i] = r.AddressesOn(b.facts)
		for _, p := range b.prefixes[i] {
			b.lists.addResource(i, p)
		}
		if s := b.standings[i]; s.association != nil {
			b.identities[i] = append(b.identities[i], b.profileList(s.perimeter.Name, s.profile.Name))
		}
		if r.Subscription != "" {
			b.identities[i] = append(b.identities[i], b.lists.ofIdentity("subscription", r.Subscription))
		}
	}
	if problems := b.policy.CheckAttribution(b.prefixes); len(problems) > 0 {
		return problems
	}
	return nil
}

// addMembers makes every resource a member with a scope for each direction, and
// notes what of it lives here.
func (b *builder) addMembers() {
	for i := range b.policy.Resources {
		r, s := &b.policy.Resources[i], b.standings[i]
		var m Member
		for _, direction := range []policy.Direction{policy.Inbound, policy.Outbound} {
			m.Scope[direction] = b.scopeOf(r, s, direction)
			if strict(r, s.mode(), direction) && b.facts.LivesHere(b.prefixes[i]) {
				b.tables.StrictHere = true
			}
		}
		b.tables.Members = append(b.tables.Members, m)
		l := MemberLegend{Resource: r.Name, Subscription: r.Subscription, AccessMode: s.mode()}
		if s.association != nil {
			l.Perimeter, l.Location, l.Profile = s.perimeter.Name, s.perimeter.Location, s.profile.Name
		}
		b.legend.Members = append(b.legend.Members, l)
	}
}

// addPrivateEndpoints gives the private endpoints by interface their outcomes.
func (b *builder) addPrivateEndpoints() {
	for _, e := range b.policy.PrivateEndpoints {
		if len(e.Interfaces) == 0 {
			continue
		}
		endpoint := PrivateEndpoint{PrivateEndpoint: e}
		for _, direction := range []policy.Direction{policy.Inbound, policy.Outbound} {
			endpoint.Outcomes[direction] = b.outcomes.number(Outcome{Reason: policy.ReasonPrivatePath, Direction: direction, Rule: e.Name})
		}
		b.tables.PrivateEndpoints = append(b.tables.PrivateEndpoints, endpoint)
	}
	slices.SortFunc(b.tables.PrivateEndpoints, func(x, y PrivateEndpoint) int { return strings.Compare(x.Name, y.Name) })
}

// scopeOf returns the scope of a resource in a direction. Resources for which
// the same things decide share it.
func (b *builder) scopeOf(r *policy.Resource, s standing, direction policy.Direction) uint32 {
	key := fmt.Sprintf("%d/%d/%d", direction, s.mode(), r.PublicNetworkAccess)
	if s.association != nil {
		key += "/" + s.perimeter.Name + "/" + s.profile.Name
	}
	if s.mode() == policy.Unassociated || s.mode() == policy.Learning {
		for i := range r.Firewall {
			if r.Firewall[i].Direction == direction {
				key += "/" + r.Name // its own rules make it one of its kind
				break
			}
		}
	}
	id, ok := b.scopeIDs[key]
	if !ok {
		id = uint32(len(b.scopes))
		b.scopes = append(b.scopes, scope{direction: direction, items: b.layerItems(r, s, direction)})
		b.scopeIDs[key] = id
	}
	return id
}

// addMulticastMember makes the member that stands for all that live here: what
// is sent to all of them passes only if it may reach each.
func (b *builder) addMulticastMember() {
	var here []int
	for i := range b.policy.Resources {
		if b.facts.LivesHere(b.prefixes[i]) {
			here = append(here, i)
		}
	}
	if len(here) == 0 {
		return
	}
	slices.SortFunc(here, func(x, y int) int {
		return strings.Compare(b.policy.Resources[x].Name, b.policy.Resources[y].Name)
	})
	b.multicast = uint32(len(b.tables.Members))
	var m Member
	for _, direction := range []policy.Direction{policy.Inbound, policy.Outbound} {
		sc := scope{direction: direction}
		for _, i := range here {
			number := uint32(i + 1)
			sc.parts = append(sc.parts, part{number, b.policy.Resources[i].Services, b.tables.Members[number].Scope[direction]})
		}
		m.Scope[direction] = uint32(len(b.scopes))
		b.scopes = append(b.scopes, sc)
	}
	b.tables.Members = append(b.tables.Members, m)
	b.legend.Members = append(b.legend.Members, MemberLegend{Resource: b.policy.Resources[here[0]].Name})

	var services []claim
	local := Local{Outbound: b.multicast}
	none, all := Outcome{}, Outcome{Member: b.multicast}
	services = append(services, claim{to: allPoints, layer: layerDefault, outcome: &none})
	for _, i := range here {
		b.mark(&local, i)
		it := item{ports: b.policy.Resources[i].Services, outcome: all}
		services = append(services, claimsOf(&it, 0)...)
	}
	local.Services = b.memberSpans(services)
	for _, a := range []netip.Addr{MulticastAddress4, MulticastAddress6} {
		local.Prefix = netip.PrefixFrom(a, a.BitLen())
		b.tables.Locals = append(b.tables.Locals, local)
	}
}

// mark notes on a local prefix what one of its resources is.
func (b *builder) mark(local *Local, resource int) {
	r, mode := &b.policy.Resources[resource], b.standings[resource].mode()
	for _, direction := range []policy.Direction{policy.Inbound, policy.Outbound} {
		local.Strict[direction] = local.Strict[direction] || strict(r, mode, direction)
	}
	local.Audit = local.Audit || mode == policy.Audit
}

// memberSpans stores the spans of claims whose outcomes only name members.
func (b *builder) memberSpans(claims []claim) SpanList {
	var spans []Span
	for _, s := range flatten(claims) {
		spans = append(spans, Span{s.from, s.chain[0].Member})
	}
	return b.spans.add(spans)
}

// addClasses sweeps the prefixes: each gets its class, and each local one its
// members. Then it writes down what the classes mean to the scopes.
func (b *builder) addClasses() error {
	root4, covered4 := b.covers.sweep(b.lists.marks4)
	root6, covered6 := b.covers.sweep(b.lists.marks6)
	ranked := func(id coverID) ranking { return rank(b.covers.all[id], b.identities) }
	c := newClasses(ranked(root4), ranked(root6))

	b.tables.Prefixes4 = b.addPrefixes(c, family4, covered4)
	b.tables.Prefixes6 = b.addPrefixes(c, family6, covered6)

	index := b.scopesByList()
	memo := map[string]SpanList{}
	for i := range b.tables.Members {
		if i == 0 {
			continue
		}
		m := &b.tables.Members[i]
		for direction, sc := range m.Scope {
			m.Otherwise4[direction] = b.meaning(sc, index.known(sc, c.root[family4]), memo)
			m.Otherwise6[direction] = b.meaning(sc, index.known(sc, c.root[family6]), memo)
		}
	}
	for class := uint32(1); class < uint32(len(c.rankings)); class++ {
		for _, sc := range index.touched(c.rankings[class], c.root, c.used[class]) {
			known := index.known(sc, c.rankings[class])
			key := known.key()
			same := true
			for family, used := range c.used[class] {
				same = same && (!used || index.known(sc, c.root[family]).key() == key)
			}
			if same {
				continue
			}
			if len(b.tables.ScopeClasses) == MeaningsMax {
				return fmt.Errorf("the policy needs more than %d combinations of members' rules and overlapping prefixes: nest fewer prefixes in each other, or let members share profiles", MeaningsMax)
			}
			b.tables.ScopeClasses = append(b.tables.ScopeClasses, ScopeClass{sc, class, b.meaning(sc, known, memo)})
		}
	}
	return nil
}

// addPrefixes returns the prefixes of a family that are of another class than
// what is around them, and adds those that resources have to the locals.
func (b *builder) addPrefixes(c *classes, family int, prefixes []covered) []PrefixClass {
	out := make([]PrefixClass, 0, len(prefixes))
	for _, p := range prefixes {
		class := c.of(family, p.cover, b.covers.all[p.cover], b.identities)
		outer := uint32(0)
		if p.outer != 0 {
			outer = c.of(family, p.outer, b.covers.all[p.outer], b.identities)
		}
		if class != outer {
			out = append(out, PrefixClass{p.mark.prefix, class})
		}
		if p.own {
			b.tables.Locals = append(b.tables.Locals, b.localOf(p))
		}
	}
	return out
}

// localOf says what an address in this prefix, and in no longer one of a
// resource, carries.
func (b *builder) localOf(p covered) Local {
	local := Local{Prefix: p.mark.prefix}
	none := Outcome{}
	services := []claim{{to: allPoints, layer: layerDefault, outcome: &none}}
	for rank, g := range b.covers.all[p.cover] {
		names := slices.SortedFunc(slices.Values(g.resources), func(x, y int) int {
			return strings.Compare(b.policy.Resources[x].Name, b.policy.Resources[y].Name)
		})
		for _, i := range names {
			if local.Outbound == 0 {
				local.Outbound = uint32(i + 1)
			}
			b.mark(&local, i)
			it := item{ports: b.policy.Resources[i].Services, outcome: Outcome{Member: uint32(i + 1)}}
			services = append(services, claimsOf(&it, rank)...)
		}
	}
	local.Services = b.memberSpans(services)
	return local
}

// meaning returns the spans of a scope for peers that these of its lists cover.
func (b *builder) meaning(sc uint32, known ranking, memo map[string]SpanList) SpanList {
	key := string(binary.LittleEndian.AppendUint32(nil, sc)) + known.key()
	if list, ok := memo[key]; ok {
		return list
	}
	var spans []Span
	if s := &b.scopes[sc]; len(s.parts) > 0 {
		spans = b.meet(s, known)
	} else {
		for _, seg := range flatten(s.claims(known)) {
			spans = append(spans, Span{seg.from, b.outcomes.chain(seg.chain, 0)})
		}
	}
	list := b.spans.add(spans)
	memo[key] = list
	return list
}

// claims returns what the scope's items claim for peers covered by these lists.
func (s *scope) claims(known ranking) []claim {
	rankOf := map[listID]int{}
	for i, lists := range known {
		for _, l := range lists {
			rankOf[l] = i
		}
	}
	var out []claim
	for i := range s.items {
		it := &s.items[i]
		best := len(known) // of every peer: as wide as a prefix can be
		matches := it.every
		for _, l := range it.lists {
			if r, ok := rankOf[l]; ok && (!matches || r < best) {
				best, matches = r, true
			}
		}
		if matches {
			out = append(out, claimsOf(it, best)...)
		}
	}
	return out
}

// meet returns the spans of a scope that stands for several members: at each
// point the first member by name that denies, or else the first, among those
// whose services have the point.
func (b *builder) meet(s *scope, known ranking) []Span {
	type piece struct {
		from    uint32
		outcome uint32
		denies  bool
	}
	var cuts []uint32
	parts := make([][]piece, len(s.parts))
	for i, p := range s.parts {
		for _, seg := range flatten(b.scopes[p.scope].claims(known)) {
			o := b.outcomes.chain(seg.chain, p.member)
			parts[i] = append(parts[i], piece{seg.from, o, seg.chain[0].Verdict == policy.Deny})
			cuts = append(cuts, seg.from)
		}
		for _, ports := range p.services {
			for _, r := range pointRanges(ports) {
				cuts = append(cuts, r.from)
				if r.to < allPoints {
					cuts = append(cuts, r.to)
				}
			}
		}
	}
	slices.Sort(cuts)
	cuts = slices.Compact(cuts)
	var out []Span
	for _, at := range cuts {
		var chosen *piece
		for i, p := range s.parts {
			if !serves(p.services, at) {
				continue
			}
			where, found := slices.BinarySearchFunc(parts[i], at, func(x piece, at uint32) int { return cmp.Compare(x.from, at) })
			if !found {
				where--
			}
			if here := &parts[i][where]; chosen == nil || here.denies {
				chosen = here
			}
			if chosen.denies {
				break
			}
		}
		value := uint32(0) // of no member: never asked for
		if chosen != nil {
			value = chosen.outcome
		}
		out = append(out, Span{at, value})
	}
	return out
}

func serves(services []policy.Ports, point uint32) bool {
	for _, p := range services {
		for _, r := range pointRanges(p) {
			if r.from <= point && point < r.to {
				return true
			}
		}
	}
	return len(services) == 0
}

// finish brings the tables into their order and writes the legend.
func (b *builder) finish() {
	slices.SortFunc(b.tables.Locals, func(x, y Local) int {
		if c := cmp.Compare(x.Prefix.Addr().BitLen(), y.Prefix.Addr().BitLen()); c != 0 {
			return c
		}
		return compareBlocks(blockOf(x.Prefix), blockOf(y.Prefix))
	})
	slices.SortFunc(b.tables.ScopeClasses, func(x, y ScopeClass) int {
		if c := cmp.Compare(x.Scope, y.Scope); c != 0 {
			return c
		}
		return cmp.Compare(x.Class, y.Class)
	})
	b.tables.Spans = b.spans.spans
	b.tables.Outcomes = b.outcomes.outcomes
	for _, o := range b.tables.Outcomes {
		b.legend.Outcomes = append(b.legend.Outcomes, OutcomeLegend{
			Reason: o.Reason, Category: policy.CategoryOf(o.Reason, o.Direction),
			Verdict: o.Verdict, WouldBe: o.WouldBe, Direction: o.Direction, Rule: o.Rule,
		})
	}
	b.legend.Outcomes[0] = OutcomeLegend{}
}
