package compile

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/perimeterd/perimeterd/pkg/policy"
)

// part is one member of a scope that stands for several.
type part struct {
	member uint32
	scope  uint32
	// beside is the points that are not of the member's services.
	beside []pointRange
}

// notServed stands where a member's services do not have the point.
var notServed = &Outcome{}

// addMulticast gives the multicast addresses the resources that live here: what is
// sent to all of them passes only if it may reach each.
func (b *builder) addMulticast() {
	var here []int
	for i, livesHere := range b.livesHere {
		if livesHere {
			here = append(here, i)
		}
	}
	if len(here) == 0 {
		return
	}
	here = b.byName(here)
	number := memberOf(here[0])
	// Names open no way to many at once: what stands for several members has none.
	if len(here) > 1 || len(b.scopes[b.tables.Members[number].Scope[policy.Outbound]].named) > 0 {
		number = b.addTogether(here)
	}
	none, all := Outcome{}, Outcome{Member: number}
	services := []claim{{to: allPoints, layer: layerDefault, outcome: &none}}
	local := Local{Outbound: number}
	for _, i := range here {
		b.noteStanding(&local, i)
		services = appendClaims(services, &item{ports: b.policy.Resources[i].Services, outcome: all}, 0)
	}
	local.Services = b.memberSpans(services)
	b.findBroadcasts()
	for _, a := range append([]netip.Addr{MulticastAddress4, MulticastAddress6}, b.broadcasts...) {
		local.Prefix = netip.PrefixFrom(a, a.BitLen())
		b.tables.Locals = append(b.tables.Locals, local)
	}
}

// findBroadcasts notes the directed broadcast addresses of the host, which no
// resource's own local may take from the others that live here.
func (b *builder) findBroadcasts() {
	for _, i := range b.facts.Interfaces {
		for _, a := range i.Broadcasts {
			// What is multicast by itself has a local already.
			if a.Is4() && !a.IsMulticast() && a != netip.IPv4Unspecified() {
				b.broadcasts = append(b.broadcasts, a)
			}
		}
	}
	slices.SortFunc(b.broadcasts, netip.Addr.Compare)
	b.broadcasts = slices.Compact(b.broadcasts)
}

// isBroadcast reports a prefix that is one directed broadcast address of the host.
func (b *builder) isBroadcast(p netip.Prefix) bool {
	_, found := slices.BinarySearchFunc(b.broadcasts, p.Addr(), netip.Addr.Compare)
	return found && p.IsSingleIP()
}

// addTogether adds the member that stands for several, in this order.
func (b *builder) addTogether(resources []int) uint32 {
	number := uint32(len(b.tables.Members))
	var m Member
	for _, direction := range bothDirections {
		m.Scope[direction] = uint32(len(b.scopes))
		b.together = append(b.together, m.Scope[direction])
		b.scopes = append(b.scopes, scope{direction: direction, assembly: newAssembly(b.partsOf(resources, direction))})
	}
	b.tables.Members = append(b.tables.Members, m)
	b.legend.Members = append(b.legend.Members, MemberLegend{Resource: b.policy.Resources[resources[0]].Name})
	return number
}

// partsOf returns these resources as parts, in their order. Of several with the
// same services and scope only the first will ever be named, and so is enough.
func (b *builder) partsOf(resources []int, direction policy.Direction) []part {
	var out []part
	seen := map[string]bool{}
	for _, i := range resources {
		p := part{member: memberOf(i), scope: b.tables.Members[memberOf(i)].Scope[direction]}
		if direction == policy.Inbound { // outbound, the point is the peer's
			p.beside = pointsBeside(b.policy.Resources[i].Services)
		}
		if key := fmt.Sprint(p.scope, p.beside); !seen[key] {
			seen[key] = true
			out = append(out, p)
		}
	}
	return out
}

// pointsBeside returns the points that are in none of the services. No services
// have them all.
func pointsBeside(services []policy.Ports) []pointRange {
	if len(services) == 0 {
		return nil
	}
	var inside []pointRange
	for _, s := range services {
		inside = append(inside, pointRanges(s)...)
	}
	slices.SortFunc(inside, func(x, y pointRange) int { return int(x.from) - int(y.from) })
	var out []pointRange
	next := uint32(0)
	for _, r := range inside {
		if r.from > next {
			out = append(out, pointRange{next, r.from})
		}
		next = max(next, r.to)
	}
	if next < allPoints {
		out = append(out, pointRange{next, allPoints})
	}
	return out
}

// assembly is the parts of a scope that stands for several members. At each
// point the first part that denies decides, or else the first, among those that
// serve the point. A class changes few of the parts; so they are asked by
// halves, and halves in which nothing changed only once.
type assembly struct {
	parts     []part
	byScope   map[uint32][]int
	unchanged map[[3]int][]segment // by root and range of parts
}

func newAssembly(parts []part) *assembly {
	a := &assembly{parts: parts, byScope: map[uint32][]int{}, unchanged: map[[3]int][]segment{}}
	for i, p := range parts {
		a.byScope[p.scope] = append(a.byScope[p.scope], i)
	}
	return a
}

// behind returns the parts behind these scopes, in order.
func (a *assembly) behind(scopes []uint32) []int {
	var out []int
	for _, sc := range scopes {
		out = append(out, a.byScope[sc]...)
	}
	slices.Sort(out)
	return out
}

// assemble returns what all parts together say to these peers.
func (b *builder) assemble(a *assembly, to peers) []segment {
	var changed []int
	if to.class != 0 {
		changed = a.behind(b.touchedSinceRoot(a, to.class))
	}
	return b.meet(a, 0, len(a.parts), changed, to)
}

// touchedSinceRoot returns the scopes to which a class may mean something else
// than its root: those that ask about a list of it, or about one that it hides.
// Either the lists have few askers, or the assembly few scopes to ask.
func (b *builder) touchedSinceRoot(a *assembly, number uint32) []uint32 {
	cl := &b.cover.classes.all[number]
	groups := append([][]listID{cl.hidden}, cl.ranking...)
	askers := 0
	for _, group := range groups {
		for _, l := range group {
			askers += len(b.askers[l])
		}
	}
	var out []uint32
	if askers <= len(a.byScope) {
		for _, group := range groups {
			for _, l := range group {
				out = append(out, b.askers[l]...)
			}
		}
	} else {
		for sc := range a.byScope {
			if slices.ContainsFunc(groups, func(group []listID) bool {
				b.known = b.scopes[sc].appendShared(b.known[:0], group)
				return len(b.known) > 0
			}) {
				out = append(out, sc)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// meet returns what the parts from first up to last say to these peers; changed
// are those of them to which the class may mean something else than its root.
func (b *builder) meet(a *assembly, first, last int, changed []int, to peers) []segment {
	key := [3]int{to.root, first, last}
	if len(changed) == 0 {
		if segments, ok := a.unchanged[key]; ok {
			return segments
		}
		to.class = 0
	}
	var out []segment
	if last-first == 1 {
		out = b.alone(&a.parts[first], to)
	} else {
		middle := (first + last) / 2
		split, _ := slices.BinarySearch(changed, middle)
		out = b.meet(a, first, middle, changed[:split], to)
		if len(out) > 1 || !denies(out[0].chain) {
			out = meetSegments(out, b.meet(a, middle, last, changed[split:], to))
		}
	}
	if len(changed) == 0 {
		a.unchanged[key] = out
	}
	return out
}

// alone returns what one part says to these peers.
func (b *builder) alone(p *part, to peers) []segment {
	s := &b.scopes[p.scope]
	b.known = b.appendKnown(b.known[:0], s, to)
	b.claims = b.appendClaimsOf(b.claims[:0], s, b.known)
	for _, r := range p.beside {
		b.claims = append(b.claims, claim{from: r.from, to: r.to, layer: layerNotServed, outcome: notServed})
	}
	var out []segment
	for _, seg := range b.flattener.flatten(b.claims) {
		chain := make([]*Outcome, len(seg.chain))
		for i, o := range seg.chain {
			chain[i] = o
			if o != notServed {
				named := *o
				named.Member = p.member
				chain[i] = &named
			}
		}
		out = append(out, segment{seg.from, chain})
	}
	return out
}

func meetSegments(x, y []segment) []segment {
	var out []segment
	for i, j := 0, 0; i < len(x) && j < len(y); {
		from := max(x[i].from, y[j].from)
		chain := meetChains(x[i].chain, y[j].chain)
		if len(out) == 0 || !slices.Equal(out[len(out)-1].chain, chain) {
			out = append(out, segment{from, chain})
		}
		// On to whichever ends first.
		endX, endY := endOf(x, i), endOf(y, j)
		if endX <= endY {
			i++
		}
		if endY <= endX {
			j++
		}
	}
	return out
}

func endOf(segments []segment, i int) uint32 {
	if i+1 < len(segments) {
		return segments[i+1].from
	}
	return allPoints
}

// meetChains returns what two chains come to at each instant: the first that
// denies, or else the first.
func meetChains(x, y []*Outcome) []*Outcome {
	switch {
	case x[0] == notServed:
		return y
	case y[0] == notServed, denies(x), len(x) == 1 && len(y) == 1 && !denies(y):
		return x
	}
	var out []*Outcome
	for {
		switch {
		case denies(x):
			return boundChain(append(out, x[0]))
		case denies(y):
			return boundChain(append(out, y[0]))
		}
		now, end := x[0], earlier(x[0].Expires, y[0].Expires)
		if !now.Expires.Equal(end) {
			until := *now
			until.Expires = end
			now = &until
		}
		out = append(out, now)
		if end.IsZero() {
			return boundChain(out)
		}
		x, y = after(x, end), after(y, end)
	}
}

// denies reports a chain that denies, now and for good: what ends is a rule, and
// rules only allow.
func denies(chain []*Outcome) bool { return chain[0].Verdict == policy.Deny }

func earlier(x, y time.Time) time.Time {
	if x.IsZero() || !y.IsZero() && y.Before(x) {
		return y
	}
	return x
}

// after returns the chain without what has ended by then.
func after(chain []*Outcome, end time.Time) []*Outcome {
	for !chain[0].Expires.IsZero() && !chain[0].Expires.After(end) {
		chain = chain[1:]
	}
	return chain
}
