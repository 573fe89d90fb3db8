package compile

import (
	"time"

	"github.com/perimeterd/perimeterd/pkg/policy"
)

// layer is a step of the decision. The first step that has something to say
// about a packet decides; the steps are in the order of this list.
type layer uint8

const (
	layerNotServed layer = iota // only for members that are judged together, see part
	layerFailsafe
	layerPrivatePath
	layerSamePerimeter
	layerLinkedPerimeter
	layerAccessRules
	layerResolvers // of members whose rules have names
	layerFirewall  // the resource's own rules, where they decide
	layerDefault   // what matches nothing
)

// item is one thing that may say something about a packet: in its layer, for
// peers in one of its lists, for its ports.
type item struct {
	layer   layer
	every   bool     // of every peer; lists is not asked
	lists   []listID // of peers in any of these
	ports   []policy.Ports
	outcome Outcome

	names []string // of peers that these have opened, and nothing else
	set   uint64   // of these names
}

// scope is all that decides for members with the same policy in one direction.
type scope struct {
	direction policy.Direction
	items     []item
	asks      []ask  // by list: which items name it
	always    []int  // the items of every peer
	named     []item // the rules with names; they are not in items

	assembly *assembly // of a scope that stands for several members at once; then items is empty
}

// standing is what a resource's association says of it.
type standing struct {
	perimeter   *policy.Perimeter
	profile     *policy.Profile
	association *policy.Association
}

func (s standing) mode() policy.AccessMode {
	if s.association == nil {
		return policy.Unassociated
	}
	return s.association.AccessMode
}

// strict reports whether traffic of the resource that cannot be judged is
// dropped: where the perimeter, or the resource's own switch, denies what is
// not allowed, and not merely its own rules.
func strict(r *policy.Resource, mode policy.AccessMode, direction policy.Direction) bool {
	switch {
	case mode == policy.Enforced:
		return true
	case mode == policy.Audit:
		return false
	case r.PublicNetworkAccess == policy.SecuredByPerimeter:
		return true
	default:
		return mode == policy.Unassociated && r.PublicNetworkAccess == policy.Disabled && direction == policy.Inbound
	}
}

// layerItems writes down everything that decides for a resource in a direction,
// step by step.
func (b *builder) layerItems(r *policy.Resource, s standing, direction policy.Direction) []item {
	var items []item
	add := func(i item) {
		i.outcome.Direction = direction
		items = append(items, i)
	}
	for i := range b.facts.Failsafe {
		f := &b.facts.Failsafe[i]
		if f.Direction != direction {
			continue
		}
		prefixes := f.AddressPrefixes
		if len(prefixes) == 0 {
			prefixes = b.everyPeer
		}
		add(item{layer: layerFailsafe, lists: []listID{b.lists.ofPrefixes("failsafe "+f.Name, prefixes)}, ports: f.Ports,
			outcome: Outcome{Reason: policy.ReasonFailsafe, Rule: f.Name}})
	}
	for i := range b.policy.PrivateEndpoints {
		if e := &b.policy.PrivateEndpoints[i]; len(e.AddressPrefixes) > 0 {
			add(item{layer: layerPrivatePath, lists: []listID{b.lists.ofPrefixes("private endpoint "+e.Name, e.AddressPrefixes)},
				outcome: Outcome{Reason: policy.ReasonPrivatePath, Rule: e.Name}})
		}
	}
	if s.association != nil {
		add(item{layer: layerSamePerimeter, lists: []listID{b.perimeterList(s.perimeter.Name)},
			outcome: Outcome{Reason: policy.ReasonSamePerimeter}})
		for _, l := range b.linksOf(s.perimeter, s.profile.Name, direction) {
			add(item{layer: layerLinkedPerimeter, lists: l.peers,
				outcome: Outcome{Reason: policy.ReasonLinkedPerimeter, Rule: l.name}})
		}
		owner := "profile " + profileName(s.perimeter.Name, s.profile.Name)
		b.addRules(add, ownRules{owner, layerAccessRules, policy.ReasonAccessRule, s.profile.AccessRules}, direction)
		items = b.numberSets(items, owner)
	}
	b.addDefault(add, r, s.mode(), direction)
	return b.addResolverAccess(b.numberSets(items, "resource "+r.Name))
}

// addDefault adds what decides when no step before did: the mode, the
// resource's own switch, or its own rules.
func (b *builder) addDefault(add func(item), r *policy.Resource, mode policy.AccessMode, direction policy.Direction) {
	otherwise := func(reason policy.Reason, verdict, wouldBe policy.Verdict) {
		add(item{layer: layerDefault, every: true, outcome: Outcome{Reason: reason, Verdict: verdict, WouldBe: wouldBe}})
	}
	switch {
	case mode == policy.Enforced:
		otherwise(policy.ReasonNoAccessRule, policy.Deny, policy.Deny)
	case mode == policy.Audit:
		otherwise(policy.ReasonNoAccessRule, policy.Allow, policy.Deny)
	case r.PublicNetworkAccess == policy.SecuredByPerimeter:
		otherwise(policy.ReasonSecuredByPerimeter, policy.Deny, policy.Deny)
	case r.PublicNetworkAccess == policy.Disabled && direction == policy.Inbound:
		otherwise(policy.ReasonPublicAccessDisabled, policy.Deny, policy.Deny)
	case !hasRules(r.Firewall, direction):
		otherwise(policy.ReasonPublicAccessEnabled, policy.Allow, policy.Allow)
	default:
		b.addRules(add, ownRules{"resource " + r.Name, layerFirewall, policy.ReasonFirewallRule, r.Firewall}, direction)
		otherwise(policy.ReasonNoFirewallRule, policy.Deny, policy.Deny)
	}
}

// hasRules reports whether rules were written for the direction; one that has
// expired was written too, and its end must not open what it narrowed.
func hasRules(rules []policy.AccessRule, direction policy.Direction) bool {
	for i := range rules {
		if rules[i].Direction == direction {
			return true
		}
	}
	return false
}

// ownRules is the rules of a profile or a resource.
type ownRules struct {
	owner  string
	layer  layer
	reason policy.Reason
	rules  []policy.AccessRule
}

// addRules adds the rules of a direction that have not expired.
func (b *builder) addRules(add func(item), of ownRules, direction policy.Direction) {
	for i := range of.rules {
		rule := &of.rules[i]
		if rule.Direction != direction || ended(rule.Expires, b.facts.Now) {
			continue
		}
		if !rule.Expires.IsZero() && (b.tables.NextExpiry.IsZero() || rule.Expires.Before(b.tables.NextExpiry)) {
			b.tables.NextExpiry = rule.Expires
		}
		add(item{layer: of.layer, lists: b.selectorLists(of.owner, rule), ports: rule.Ports, names: rule.FullyQualifiedDomainNames,
			outcome: Outcome{Reason: of.reason, Rule: rule.Name, Expires: rule.Expires}})
	}
}

func ended(expires, now time.Time) bool {
	return !expires.IsZero() && !now.Before(expires)
}

// selectorLists returns the lists of peers that the selector of an owner's rule means.
func (b *builder) selectorLists(owner string, rule *policy.AccessRule) []listID {
	var out []listID
	if len(rule.AddressPrefixes) > 0 {
		out = append(out, b.lists.ofPrefixes(owner+" rule "+rule.Name, rule.AddressPrefixes))
	}
	for _, subscription := range rule.Subscriptions {
		out = append(out, b.lists.ofIdentity(ofSubscription, subscription))
	}
	for _, tag := range rule.ServiceTags {
		out = append(out, b.lists.ofSet("service tag "+tag, b.policy.ServiceTags[tag]))
	}
	return out
}

// Kinds of names that resources share.
const (
	ofPerimeter    = "perimeter"
	ofProfile      = "profile"
	ofSubscription = "subscription"
)

func (b *builder) perimeterList(perimeter string) listID {
	return b.lists.ofIdentity(ofPerimeter, perimeter)
}

func (b *builder) profileList(perimeter, profile string) listID {
	return b.lists.ofIdentity(ofProfile, profileName(perimeter, profile))
}

func profileName(perimeter, profile string) string { return perimeter + "/" + profile }
