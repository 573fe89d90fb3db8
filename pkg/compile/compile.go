package compile

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/perimeterd/perimeterd/pkg/policy"
)

// MeaningsMax bounds how many (scope, class) pairs a policy may need. Ten
// thousand profiles with rules of their own need a hundred thousand. Where many
// profiles share a wide prefix, and each has prefixes of its own inside it, the
// number is that of the profiles times that of the prefixes; the bound keeps such
// a policy from filling the kernel's memory.
const MeaningsMax = 8 << 20

// Compile turns a policy into tables for one host at one moment. It fails where
// the addresses of interfaces make it unclear whose a packet is
// (policy.Problems), and where the policy needs more than MeaningsMax pairs.
func Compile(p *policy.Policy, facts *policy.Facts) (*Tables, *Legend, error) {
	return new(Compiler).Compile(p, facts)
}

// Compiler compiles one policy after another. From the last it remembers what
// takes the time where there are a million prefixes, so that a policy of which few
// have changed is compiled in the time that these and its rules take. The tables mean
// what those that Compile makes mean; classes may have other numbers. It is for one
// goroutine at a time.
type Compiler struct {
	lists *lists
	cover *cover
}

// Compile is as the function of this name.
func (c *Compiler) Compile(p *policy.Policy, facts *policy.Facts) (*Tables, *Legend, error) {
	if c.lists != nil && (c.lists.forgotten() || c.cover.forgotten()) {
		*c = Compiler{}
	}
	remembers := c.lists != nil
	tables, legend, err := c.compile(p, facts)
	var bad policy.Problems
	if err != nil && !errors.As(err, &bad) {
		*c = Compiler{}
		if remembers { // perhaps it is too much for classes that are no more
			return c.Compile(p, facts)
		}
	}
	return tables, legend, err
}

func (c *Compiler) compile(p *policy.Policy, facts *policy.Facts) (*Tables, *Legend, error) {
	b := &builder{
		policy: p, facts: facts,
		tables:      &Tables{Members: []Member{{}}},
		legend:      &Legend{Members: []MemberLegend{{}}, Profiles: map[string]ProfileLegend{}},
		lists:       newLists(c.lists),
		spans:       newSpanTable(),
		outcomes:    newOutcomeTable(),
		names:       newNamesTable(),
		resolvers:   resolverPrefixes(facts),
		scopeIDs:    map[string]uint32{},
		connections: map[string][]connection{},
		standings:   make([]standing, len(p.Resources)),
		livesHere:   make([]bool, len(p.Resources)),
		identities:  make([][]listID, len(p.Resources)),
		everyPeer:   []netip.Prefix{everyAddress(family4), everyAddress(family6)},
	}
	if err := b.resolve(); err != nil {
		return nil, nil, err
	}
	b.connect()
	b.addMembers()
	b.addPrivateEndpoints()
	b.addMulticast()
	b.identify()
	b.cover = c.coverOf(b)
	b.used = b.cover.used()
	b.tables.Prefixes4, b.tables.Prefixes6 = b.cover.prefixes[family4], b.cover.prefixes[family6]
	b.addLocals()
	b.markOwn()
	b.index()
	if err := b.addMeanings(); err != nil {
		return nil, nil, err
	}
	b.tables.Parents = make([]uint32, len(b.used))
	for class, used := range b.used {
		if used {
			b.tables.Parents[class] = b.cover.classes.all[class].parent
		}
	}
	if err := errors.Join(b.failed, b.addNameTables()); err != nil {
		return nil, nil, err
	}
	b.finish()
	return b.tables, b.legend, nil
}

// coverOf returns the cover of a policy.
func (c *Compiler) coverOf(b *builder) *cover {
	from := coverInput{owned: b.lists.owned, identities: b.identities, serving: make([]bool, len(b.policy.Resources))}
	for i := range b.policy.Resources {
		from.serving[i] = len(b.policy.Resources[i].Services) > 0
	}
	if c.cover == nil {
		c.cover = &cover{changesMost: changesMost}
	}
	c.cover.follow(from)
	b.lists.numbered()
	c.lists = b.lists
	return c.cover
}

// builder holds what is known halfway. Its steps are in the order Compile calls
// them.
type builder struct {
	policy *policy.Policy
	facts  *policy.Facts
	tables *Tables
	legend *Legend

	connections map[string][]connection // by perimeter
	standings   []standing              // by resource
	livesHere   []bool                  // by resource
	identities  [][]listID              // by resource: the lists it stands in as a peer
	everyPeer   []netip.Prefix          // what a failsafe rule without prefixes means
	broadcasts  []netip.Addr            // of the host's networks, sorted; none if no resource lives here

	lists    *lists
	scopes   []scope
	scopeIDs map[string]uint32
	askers   [][]uint32 // by list: the scopes that ask about it
	together []uint32   // the scopes that stand for several members

	cover *cover
	used  []bool // by class, see cover.used

	spans    *spanTable
	outcomes *outcomeTable

	names     *namesTable
	resolvers []netip.Prefix // what access to resolvers means
	failed    error          // of a step that goes on

	scratch
}

// scratch is buffers that spare the many small steps their own.
type scratch struct {
	flattener     flattener
	claims        []claim
	known         known
	touchedScopes []uint32
	spanBuffer    []Span
}

var bothDirections = [...]policy.Direction{policy.Inbound, policy.Outbound}

// memberOf is the member number of a resource.
func memberOf(resource int) uint32 { return uint32(resource + 1) }

// resolve finds each resource's association and its prefixes on this host.
func (b *builder) resolve() error {
	index := map[string]int{}
	for i := range b.policy.Resources {
		index[b.policy.Resources[i].Name] = i
	}
	for i := range b.policy.Perimeters {
		p := &b.policy.Perimeters[i]
		profiles := map[string]*policy.Profile{}
		for j := range p.Profiles {
			profiles[p.Profiles[j].Name] = &p.Profiles[j]
			b.legend.Profiles[profileName(p.Name, p.Profiles[j].Name)] = ProfileLegend{Digest: b.digestRules(p.Profiles[j].AccessRules)}
		}
		for j := range p.Associations {
			a := &p.Associations[j]
			b.standings[index[a.Resource]] = standing{p, profiles[a.Profile], a}
		}
	}
	prefixes := make([][]netip.Prefix, len(b.policy.Resources))
	for i := range b.policy.Resources {
		prefixes[i] = b.policy.Resources[i].AddressesOn(b.facts)
		b.livesHere[i] = b.facts.LivesHere(prefixes[i])
		b.lists.addResource(i, prefixes[i])
	}
	if problems := b.policy.CheckAttribution(prefixes); len(problems) > 0 {
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
		for _, direction := range bothDirections {
			m.Scope[direction] = b.scopeOf(r, s, direction)
			if b.livesHere[i] && strict(r, s.mode(), direction) {
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
		for _, direction := range bothDirections {
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
		items, named := splitNames(b.layerItems(r, s, direction))
		b.scopes = append(b.scopes, scope{direction: direction, items: items, named: named})
		b.scopeIDs[key] = id
	}
	return id
}

// identify notes in which lists each resource stands as a peer. Only those that
// some scope has named by now can make a difference.
func (b *builder) identify() {
	for i := range b.policy.Resources {
		stand := func(kind, name string) {
			if l, ok := b.lists.knownIdentity(kind, name); ok {
				b.identities[i] = append(b.identities[i], l)
			}
		}
		if s := b.standings[i]; s.association != nil {
			stand(ofPerimeter, s.perimeter.Name)
			stand(ofProfile, profileName(s.perimeter.Name, s.profile.Name))
		}
		if subscription := b.policy.Resources[i].Subscription; subscription != "" {
			stand(ofSubscription, subscription)
		}
	}
}

// finish brings the tables into their order and writes the legend.
func (b *builder) finish() {
	slices.SortFunc(b.tables.Locals, func(x, y Local) int { return policy.ComparePrefixes(x.Prefix, y.Prefix) })
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
