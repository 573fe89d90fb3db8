package compile_test

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/gaissmai/bart"

	"github.com/perimeterd/perimeterd/pkg/compile"
	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/pkg/reference"
)

// reader answers from tables in the way the programs in the kernel do, with a
// longest-prefix match of other hands.
type reader struct {
	tables  *compile.Tables
	legend  *compile.Legend
	locals  bart.Table[compile.Local]
	classes bart.Table[uint32]
	changed bart.Table[uint32]             // counts before classes
	meaning map[[2]uint32]compile.SpanList // by scope and class
	learnt  map[uint32]map[opened]bool     // by scope
}

// opened is an address that a set of names has opened.
type opened struct {
	set     uint64
	address netip.Addr
}

// read compiles a policy and checks what holds of all tables.
func read(t *testing.T, p *policy.Policy, facts *policy.Facts) *reader {
	t.Helper()
	tables, legend := compiled(t, p, facts)
	return readTables(t, tables, legend, facts)
}

func readTables(t *testing.T, tables *compile.Tables, legend *compile.Legend, facts *policy.Facts) *reader {
	t.Helper()
	checkForm(t, tables)
	r := &reader{tables: tables, legend: legend, meaning: map[[2]uint32]compile.SpanList{}}
	for _, l := range tables.Locals {
		r.locals.Insert(l.Prefix, l)
	}
	for _, of := range []compile.Prefixes{tables.Prefixes4, tables.Prefixes6} {
		for _, p := range of.Base {
			r.classes.Insert(p.Prefix, p.Class)
		}
		for _, p := range of.Changes {
			r.changed.Insert(p.Prefix, p.Class)
		}
	}
	for _, s := range tables.ScopeClasses {
		r.meaning[[2]uint32{s.Scope, s.Class}] = s.Meaning
	}
	r.learn(facts)
	return r
}

// checkForm checks the order and the completeness of the tables.
func checkForm(t *testing.T, tables *compile.Tables) {
	t.Helper()
	for class, parent := range tables.Parents {
		depth := 0
		for p := parent; p != 0; p = tables.Parents[p] {
			depth++
		}
		if class > 0 && int(parent) >= class || depth > 8 {
			t.Errorf("class %d: parent %d, and %d in all", class, parent, depth)
		}
	}
	byAddress := func(a, b netip.Prefix) int {
		if c := a.Addr().Compare(b.Addr()); c != 0 {
			return c
		}
		return a.Bits() - b.Bits()
	}
	ordered := func(what string, list []compile.PrefixClass) {
		for i := range list {
			if list[i].Prefix.Bits() == 0 {
				t.Errorf("%s has %s, which is of class 0", what, list[i].Prefix)
			}
			if i > 0 && byAddress(list[i-1].Prefix, list[i].Prefix) >= 0 {
				t.Errorf("%s: %s stands before %s", what, list[i-1].Prefix, list[i].Prefix)
			}
		}
	}
	ordered("Prefixes4", tables.Prefixes4.Base)
	ordered("Prefixes6", tables.Prefixes6.Base)
	ordered("the changes of Prefixes4", tables.Prefixes4.Changes)
	ordered("the changes of Prefixes6", tables.Prefixes6.Changes)
	for i := 1; i < len(tables.Locals); i++ {
		if byAddress(tables.Locals[i-1].Prefix, tables.Locals[i].Prefix) >= 0 {
			t.Errorf("Locals: %s stands before %s", tables.Locals[i-1].Prefix, tables.Locals[i].Prefix)
		}
	}
	for i := 1; i < len(tables.ScopeClasses); i++ {
		a, b := tables.ScopeClasses[i-1], tables.ScopeClasses[i]
		if a.Scope > b.Scope || a.Scope == b.Scope && a.Class >= b.Class {
			t.Errorf("ScopeClasses: %v stands before %v", a, b)
		}
	}
	whole := func(what string, list compile.SpanList, values int) {
		if list.Count == 0 {
			if int(list.First) >= values {
				t.Errorf("%s is %d of %d", what, list.First, values)
			}
			return
		}
		spans := tables.Spans[list.First : list.First+list.Count]
		for i, s := range spans {
			if i == 0 && s.From != 0 || i > 0 && s.From <= spans[i-1].From || s.From >= 1<<24 || int(s.Value) >= values {
				t.Errorf("%s: span %d of %v", what, i, spans)
			}
		}
	}
	for _, l := range tables.Locals {
		whole("services of "+l.Prefix.String(), l.Services, len(tables.Members))
	}
	for _, s := range tables.ScopeClasses {
		whole("a scope's meaning", s.Meaning, len(tables.Outcomes))
	}
	for _, m := range tables.Members[1:] {
		for _, direction := range []policy.Direction{in, out} {
			whole("a member's otherwise for IPv4", m.Otherwise4[direction], len(tables.Outcomes))
			whole("a member's otherwise for IPv6", m.Otherwise6[direction], len(tables.Outcomes))
		}
	}
	for i, m := range tables.Members {
		whole("a member's rules with names", m.Names, len(tables.NameRules))
		if i > 0 && len(tables.NameRules) == 0 {
			t.Error("there is no empty list of rules with names")
		}
	}
	if rules := tables.NameRules; rules[0].Set != 0 || rules[len(rules)-1].Set != 0 {
		t.Errorf("rules with names begin with %v and end with %v", rules[0], rules[len(rules)-1])
	}
	for i, o := range tables.Outcomes {
		// The kernel steps over no more (EXPIRED_MAX).
		for steps := 0; !o.Expires.IsZero(); steps++ {
			if steps == 16 {
				t.Errorf("outcome %d: too many follow it", i)
				break
			}
			o = tables.Outcomes[o.After]
		}
	}
}

// span is the value that a list has for a protocol and port.
func (r *reader) span(list compile.SpanList, protocol uint8, port uint16) uint32 {
	if list.Count == 0 {
		return list.First
	}
	point := uint32(protocol) << 16
	if policy.HasPorts(protocol) {
		point |= uint32(port)
	}
	var value uint32
	for _, s := range r.tables.Spans[list.First : list.First+list.Count] {
		if s.From <= point {
			value = s.Value
		}
	}
	return value
}

// learn opens what the facts say of names, for each scope, as an answer would.
func (r *reader) learn(facts *policy.Facts) {
	r.learnt = map[uint32]map[opened]bool{}
	for asked, addresses := range facts.Names {
		var class uint32
		longest := -1
		for _, n := range r.tables.Names { // the longest name that covers it
			if policy.NameCovers(n.Name, asked) {
				length := len(n.Name)
				if n.Name == asked {
					length = 1000
				}
				if length > longest {
					class, longest = n.Class, length
				}
			}
		}
		if longest < 0 {
			continue
		}
		for _, m := range r.tables.NameMeanings {
			if m.Class != class {
				continue
			}
			if r.learnt[m.Scope] == nil {
				r.learnt[m.Scope] = map[opened]bool{}
			}
			for _, set := range r.tables.NameSets[m.Meaning.First : m.Meaning.First+m.Meaning.Count] {
				for _, a := range addresses {
					r.learnt[m.Scope][opened{set, a}] = true
				}
			}
		}
	}
}

// byName is the outcome of the first of the member's rules with names that has
// opened the peer's address; false if none has.
func (r *reader) byName(m *compile.Member, pkt reference.Packet, at time.Time) (compile.Outcome, bool) {
	for i := r.span(m.Names, pkt.Protocol, pkt.PeerPort); r.tables.NameRules[i].Set != 0; i++ {
		rule := r.tables.NameRules[i]
		outcome := r.tables.Outcomes[rule.Outcome]
		if r.learnt[m.Scope[out]][opened{rule.Set, pkt.Peer}] && (outcome.Expires.IsZero() || at.Before(outcome.Expires)) {
			return outcome, true
		}
	}
	return compile.Outcome{}, false
}

// before is how early a rule of this reason counts, of those that names may come
// before; 0 for what they may not.
func before(reason policy.Reason) int {
	return 1 + slices.Index([]policy.Reason{
		policy.ReasonAccessRule, policy.ReasonResolverAccess, policy.ReasonFirewallRule,
		policy.ReasonNoAccessRule, policy.ReasonSecuredByPerimeter, policy.ReasonNoFirewallRule, policy.ReasonPublicAccessEnabled,
	}, reason)
}

// class is that of a peer. bart does not take IPv4-mapped addresses for IPv6.
func (r *reader) class(peer netip.Addr) uint32 {
	if !peer.Is4In6() {
		class, changed := r.changed.Lookup(peer)
		if !changed {
			class, _ = r.classes.Lookup(peer)
		}
		return class
	}
	for _, list := range [][]compile.PrefixClass{r.tables.Prefixes6.Changes, r.tables.Prefixes6.Base} {
		var class uint32
		bits := -1
		for _, p := range list {
			if p.Prefix.Contains(peer) && p.Prefix.Bits() > bits {
				class, bits = p.Class, p.Prefix.Bits()
			}
		}
		if bits >= 0 {
			return class
		}
	}
	return 0
}

// isMulticast reports an address of several hosts. All of them share a local.
func isMulticast(a netip.Addr) bool {
	return a.IsMulticast() || a == netip.MustParseAddr("255.255.255.255") || a == netip.IPv4Unspecified()
}

func (r *reader) local(pkt reference.Packet) (compile.Local, bool) {
	switch {
	case !pkt.Towards || !isMulticast(pkt.Local):
		return r.locals.Lookup(pkt.Local)
	case pkt.Local.Is4():
		return r.locals.Get(netip.PrefixFrom(compile.MulticastAddress4, 32))
	default:
		return r.locals.Get(netip.PrefixFrom(compile.MulticastAddress6, 128))
	}
}

// judge is the decision about the first packet of a flow at an instant.
func (r *reader) judge(direction policy.Direction, pkt reference.Packet, at time.Time) reference.Decision {
	none := reference.Decision{Direction: direction, Reason: reference.ReasonUngoverned}
	local, ok := r.local(pkt)
	if !ok {
		return none
	}
	member, port := local.Outbound, pkt.PeerPort
	if direction == in {
		member, port = r.span(local.Services, pkt.Protocol, pkt.LocalPort), pkt.LocalPort
	}
	if member == 0 {
		return none
	}
	m := r.tables.Members[member]
	list := m.Otherwise4[direction]
	if pkt.Peer.Is6() {
		list = m.Otherwise6[direction]
	}
	for class := r.class(pkt.Peer); class != 0; class = r.tables.Parents[class] {
		if meaning, ok := r.meaning[[2]uint32{m.Scope[direction], class}]; ok {
			list = meaning
			break
		}
	}
	outcome := r.tables.Outcomes[r.span(list, pkt.Protocol, port)]
	for !outcome.Expires.IsZero() && !at.Before(outcome.Expires) {
		outcome = r.tables.Outcomes[outcome.After]
	}
	if direction == out && before(outcome.Reason) > 1 {
		if named, ok := r.byName(&m, pkt, at); ok && before(named.Reason) < before(outcome.Reason) {
			outcome = named
		}
	}
	if outcome.Member != 0 {
		member = outcome.Member
	}
	for _, e := range r.tables.PrivateEndpoints {
		if e.Covers(pkt.Interface) && outcome.Reason != policy.ReasonFailsafe {
			outcome = r.tables.Outcomes[e.Outcomes[direction]]
			break
		}
	}
	l := r.legend.Members[member]
	return reference.Decision{
		Governed: true, Verdict: outcome.Verdict, WouldBe: outcome.WouldBe, Direction: outcome.Direction,
		Reason: outcome.Reason, Category: policy.CategoryOf(outcome.Reason, outcome.Direction), Rule: outcome.Rule,
		Resource: l.Resource, Perimeter: l.Perimeter, Profile: l.Profile, AccessMode: l.AccessMode,
	}
}

// packet is the opening packet of a connection between a member and a peer.
func packet(direction policy.Direction, local, peer string, port uint16) reference.Packet {
	pkt := reference.Packet{
		Towards: direction == in, Interface: "eth0", Local: netip.MustParseAddr(local), Peer: netip.MustParseAddr(peer),
		Protocol: policy.ProtocolTCP, TCPFlags: reference.SYN, LocalPort: port, PeerPort: 40000,
	}
	if direction == out {
		pkt.LocalPort, pkt.PeerPort = 40000, port
	}
	return pkt
}

// ruleFor names the rule that admits the peer to the member that guarded makes,
// "" if none does.
func (r *reader) ruleFor(peer string, port uint16) string {
	local := memberAddr
	if netip.MustParseAddr(peer).Is6() {
		local = memberAddr6
	}
	return r.judge(in, packet(in, local, peer, port), now).Rule
}
