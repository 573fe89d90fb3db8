package policy

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
)

// clash is a pair of resources between which an address cannot decide.
type clash struct {
	kind    clashKind
	a, b    int          // indices of resources
	address netip.Addr   // one that carries both
	prefix  netip.Prefix // of the group both are in; inbound only
	service Ports        // that both name; sameService only
}

type clashKind uint8

const (
	bothWithoutServices clashKind = iota
	sameService
	differentOutbound
)

// findClashes implements CheckAttribution. Every resource that clashes with
// another is in the result, though not every pair of a crowd.
//
// It sorts all prefixes so that each comes directly after those it lies in, and
// walks over them with a stack of the prefixes around the present one. The
// addresses of a prefix that are in none of the prefixes inside it, its own
// ones, all carry the same resources, so that one of them stands for all.
func findClashes(resources []Resource, outbound []outboundPolicy, prefixes [][]netip.Prefix) []clash {
	s := newSweep(resources, outbound, prefixes)
	for start := 0; start < len(s.spans); {
		prefix, end := s.spans[start].prefix, start+1
		for end < len(s.spans) && s.spans[end].prefix == prefix {
			end++
		}
		for len(s.stack) > 0 && !s.top().prefix.Contains(prefix.Addr()) {
			s.pop()
		}
		s.push(s.spans[start:end])
		start = end
	}
	for len(s.stack) > 0 {
		s.pop()
	}
	return s.clashes
}

// span is a prefix that a resource has.
type span struct {
	prefix netip.Prefix
	rank   int32
}

// sweep is the state of findClashes. It knows resources by their rank in the
// order of their names.
type sweep struct {
	resources []Resource
	byRank    []int   // index of the resource with a rank
	class     []int32 // equal for ranks with the same outbound policy
	spans     []span  // sorted

	stack     []layer
	unsettled int // layers on the stack with rivals that are not all reported

	above []int32 // resources of the more specific layers of the present walk

	clashes  []clash
	reported map[[3]int32]bool // kind and ranks
}

// layer is a prefix on the stack, with the resources that have it.
type layer struct {
	prefix netip.Prefix
	spans  []span // by name
	// open says that all the resources have services, so that an address here
	// also carries those of the layer below.
	open bool

	// first is the first resource an own address carries, other the first of
	// them with another outbound policy, or -1.
	first, other int32

	// rivals are the resources that clash with each other inbound.
	// They are settled once all of them were judged together; until then
	// judged holds which of them were absent in the judgements so far.
	rivals  []int32
	settled bool
	judged  map[absence]bool

	// next is the first address after the prefixes inside that were met so
	// far, own an own address; either may be invalid.
	next, own netip.Addr
}

// absence is a small set of ranks, filled up with -1.
type absence [4]int32

func newSweep(resources []Resource, outbound []outboundPolicy, prefixes [][]netip.Prefix) *sweep {
	s := &sweep{
		resources: resources,
		byRank:    make([]int, len(resources)),
		class:     make([]int32, len(resources)),
		reported:  map[[3]int32]bool{},
	}
	for i := range s.byRank {
		s.byRank[i] = i
	}
	slices.SortStableFunc(s.byRank, func(i, j int) int { return strings.Compare(resources[i].Name, resources[j].Name) })

	total := 0
	for _, p := range prefixes {
		total += len(p)
	}
	s.spans = make([]span, 0, total)
	classes := map[outboundPolicy]int32{}
	for rank, i := range s.byRank {
		class, ok := classes[outbound[i]]
		if !ok {
			class = int32(len(classes))
			classes[outbound[i]] = class
		}
		s.class[rank] = class
		for _, p := range prefixes[i] {
			s.spans = append(s.spans, span{p, int32(rank)})
		}
	}
	slices.SortFunc(s.spans, func(a, b span) int {
		return cmp.Or(a.prefix.Addr().Compare(b.prefix.Addr()), cmp.Compare(a.prefix.Bits(), b.prefix.Bits()), cmp.Compare(a.rank, b.rank))
	})
	s.spans = slices.Compact(s.spans)
	return s
}

func (s *sweep) top() *layer { return &s.stack[len(s.stack)-1] }

// push enters the prefix that these spans have in common.
func (s *sweep) push(spans []span) {
	l := layer{prefix: spans[0].prefix, spans: spans, open: true, first: spans[0].rank, other: -1}
	l.next = l.prefix.Addr()
	for _, span := range spans {
		if len(s.resource(span.rank).Services) == 0 {
			l.open = false
		}
		if l.other < 0 && s.class[span.rank] != s.class[l.first] {
			l.other = span.rank
		}
	}
	if len(s.stack) > 0 {
		parent := s.top()
		parent.cover(l.prefix)
		if l.other < 0 && l.open {
			// What the parent's addresses carry, this one's carry too.
			if l.other = parent.other; s.class[parent.first] != s.class[l.first] {
				l.other = parent.first
			}
		}
	}
	if len(spans) > 1 {
		ranks := make([]int32, len(spans))
		for i, span := range spans {
			ranks[i] = span.rank
		}
		for _, r := range s.rivalries(ranks) {
			l.rivals = append(l.rivals, r.a, r.b)
		}
		slices.Sort(l.rivals)
		l.rivals = slices.Compact(l.rivals)
	}
	if len(l.rivals) > 0 {
		s.unsettled++
	}
	s.stack = append(s.stack, l)
}

// cover notes that a prefix inside is not the layer's own.
func (l *layer) cover(inside netip.Prefix) {
	if !l.own.IsValid() && l.next != inside.Addr() {
		l.own = l.next
	}
	l.next = lastAddress(inside).Next()
}

// pop leaves the innermost prefix and judges its own addresses.
func (s *sweep) pop() {
	l := s.top()
	if !l.own.IsValid() && l.prefix.Contains(l.next) {
		l.own = l.next
	}
	if l.own.IsValid() {
		if l.other >= 0 {
			s.report(clash{kind: differentOutbound, address: l.own}, l.first, l.other)
		}
		if s.unsettled > 0 {
			s.judgeInbound(l.own)
		}
	}
	if len(l.rivals) > 0 && !l.settled {
		s.unsettled--
	}
	s.stack = s.stack[:len(s.stack)-1]
}

// judgeInbound walks over the groups of resources that an own address of the
// innermost prefix carries.
func (s *sweep) judgeInbound(address netip.Addr) {
	s.above = s.above[:0]
	for i := len(s.stack) - 1; i >= 0; i-- {
		l := &s.stack[i]
		if len(l.rivals) > 0 && !l.settled {
			s.judgeGroup(l, address)
		}
		if !l.open || s.unsettled == 0 {
			return
		}
		for _, span := range l.spans {
			s.above = append(s.above, span.rank)
		}
	}
}

// judgeGroup judges the group that an address carries of a layer: the resources
// without those that have a longer prefix there, s.above.
func (s *sweep) judgeGroup(l *layer, address netip.Addr) {
	var absent []int32
	for _, rank := range s.above {
		if _, ok := slices.BinarySearch(l.rivals, rank); ok {
			absent = append(absent, rank)
		}
	}
	if len(absent) == 0 {
		l.settled = true
		s.unsettled--
	}
	slices.Sort(absent)
	absent = slices.Compact(absent)
	// Where a prefix is cut into many, the same few are absent again and again.
	if len(absent) <= len(absence{}) {
		var key absence
		copy(key[:], absent)
		for i := len(absent); i < len(key); i++ {
			key[i] = -1
		}
		if l.judged[key] {
			return
		}
		if l.judged == nil {
			l.judged = map[absence]bool{}
		}
		l.judged[key] = true
	}
	present := make([]int32, 0, len(l.rivals))
	for _, rank := range l.rivals {
		if _, ok := slices.BinarySearch(absent, rank); !ok {
			present = append(present, rank)
		}
	}
	for _, r := range s.rivalries(present) {
		s.report(clash{kind: r.kind, address: address, prefix: l.prefix, service: r.service}, r.a, r.b)
	}
}

// rivalry is a pair of resources that cannot be in one group.
type rivalry struct {
	kind    clashKind
	a, b    int32
	service Ports
}

// rivalries returns, for every resource of a group that cannot be in it
// together with some other, a pair that it is in.
func (s *sweep) rivalries(group []int32) []rivalry {
	if len(group) < 2 {
		return nil
	}
	type claim struct {
		ports Ports
		rank  int32
	}
	var found []rivalry
	var claims []claim
	all := int32(-1) // the first without services
	for _, rank := range group {
		services := s.resource(rank).Services
		switch {
		case len(services) > 0:
		case all < 0:
			all = rank
		default:
			found = append(found, rivalry{kind: bothWithoutServices, a: all, b: rank})
		}
		for _, ports := range services {
			if ports.Protocol == ProtocolICMPv6 {
				ports.Protocol = ProtocolICMP
			}
			claims = append(claims, claim{ports, rank})
		}
	}
	slices.SortFunc(claims, func(a, b claim) int {
		return cmp.Or(comparePorts(a.ports, b.ports), cmp.Compare(a.rank, b.rank))
	})

	// A claim that overlaps an earlier one overlaps the one that reaches
	// furthest so far. Comparing with that finds every resource in a clash,
	// though not every pair.
	furthest := claim{rank: -1}
	for _, c := range claims {
		overlaps := furthest.rank >= 0 && furthest.ports.Protocol == c.ports.Protocol && furthest.ports.Last >= c.ports.First
		if overlaps && furthest.rank != c.rank {
			shared := Ports{c.ports.Protocol, c.ports.First, min(c.ports.Last, furthest.ports.Last)}
			found = append(found, rivalry{sameService, furthest.rank, c.rank, shared})
		}
		if !overlaps || c.ports.Last > furthest.ports.Last {
			furthest = c
		}
	}
	return found
}

// report adds a clash between two resources once.
func (s *sweep) report(c clash, a, b int32) {
	key := [3]int32{int32(c.kind), min(a, b), max(a, b)}
	if s.reported[key] {
		return
	}
	s.reported[key] = true
	c.a, c.b = s.byRank[a], s.byRank[b]
	s.clashes = append(s.clashes, c)
}

func (s *sweep) resource(rank int32) *Resource {
	return &s.resources[s.byRank[rank]]
}

// lastAddress returns the last address of a prefix.
func lastAddress(p netip.Prefix) netip.Addr {
	if p.IsSingleIP() {
		return p.Addr()
	}
	bytes := p.Addr().As16()
	for bit := p.Bits() + 128 - p.Addr().BitLen(); bit < 128; bit++ {
		bytes[bit/8] |= 0x80 >> (bit % 8)
	}
	last := netip.AddrFrom16(bytes)
	if p.Addr().Is4() {
		return last.Unmap()
	}
	return last
}
