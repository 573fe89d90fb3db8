package reference

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/perimeterd/perimeterd/pkg/policy"
)

// Evaluator is one policy on one host at one moment: one generation. It keeps
// no state and may be shared between goroutines.
type Evaluator struct {
	policy   *policy.Policy
	facts    policy.Facts
	members  []*member // every resource, by name
	failsafe []policy.AccessRule

	broadcasts []netip.Addr // directed ones, of this host
}

// member is a resource with what the perimeters say of it. Resources that are
// in no perimeter are in the list too; they have no perimeter and no profile.
type member struct {
	resource *policy.Resource
	prefixes []netip.Prefix // its addresses on this host

	perimeter *policy.Perimeter
	profile   *policy.Profile
	mode      policy.AccessMode
}

func (m *member) associated() bool { return m.mode != policy.Unassociated }

// New prepares a policy that Load or a test has found valid. It keeps
// references to both arguments; they must not change afterwards.
func New(p *policy.Policy, facts policy.Facts) *Evaluator {
	e := &Evaluator{policy: p, facts: facts, failsafe: failsafeRules(facts.Failsafe)}
	for i := range p.Resources {
		resource := &p.Resources[i]
		m := &member{resource: resource, prefixes: resource.AddressesOn(&facts)}
		m.associate(p)
		e.members = append(e.members, m)
	}
	slices.SortFunc(e.members, func(a, b *member) int {
		return cmp.Compare(a.resource.Name, b.resource.Name)
	})
	e.broadcasts = e.broadcastsOf(&facts)
	return e
}

// associate finds the one association that names the resource, if there is one.
func (m *member) associate(p *policy.Policy) {
	for i := range p.Perimeters {
		perimeter := &p.Perimeters[i]
		for _, a := range perimeter.Associations {
			if a.Resource != m.resource.Name {
				continue
			}
			m.perimeter = perimeter
			m.mode = a.AccessMode
			for j := range perimeter.Profiles {
				if perimeter.Profiles[j].Name == a.Profile {
					m.profile = &perimeter.Profiles[j]
				}
			}
		}
	}
}

// Judge decides the first packet of a flow, as one in the given direction. For
// most packets that is pkt.Direction(); a TCP packet from the middle of a
// connection is asked about in both. The TCP flags, the echo identifier and
// the quoted packet play no role, and Unjudgeable must be empty.
func (e *Evaluator) Judge(direction policy.Direction, pkt Packet) Decision {
	if e.isMulticast(pkt) {
		return e.judgeMulticast(direction, pkt)
	}
	m := e.attribute(direction, pkt)
	if m == nil {
		return ungoverned(direction)
	}
	return e.judgeFor(m, direction, pkt)
}

// judgeFor asks the questions in their order; the first that applies decides.
func (e *Evaluator) judgeFor(m *member, direction policy.Direction, pkt Packet) Decision {
	allow := func(reason policy.Reason, rule string) Decision {
		return m.decide(direction, policy.Allow, reason, rule)
	}
	// 1. Failsafe.
	if rule, ok := e.bestRule(e.failsafe, direction, pkt); ok {
		return allow(policy.ReasonFailsafe, rule)
	}
	// 2. Private path.
	if endpoint, ok := e.privatePath(pkt); ok {
		return allow(policy.ReasonPrivatePath, endpoint)
	}
	if m.associated() {
		// 3. Same perimeter.
		if e.inPerimeter(pkt.Peer, m.perimeter) {
			return allow(policy.ReasonSamePerimeter, "")
		}
		// 4. Linked perimeter.
		if link, ok := e.linked(m, direction, pkt.Peer); ok {
			return allow(policy.ReasonLinkedPerimeter, link)
		}
		// 5. Access rules of the member's profile.
		if rule, ok := e.bestRule(m.profile.AccessRules, direction, pkt); ok {
			return allow(policy.ReasonAccessRule, rule)
		}
	}
	if e.resolverAccess(m, direction, pkt) {
		return allow(policy.ReasonResolverAccess, "")
	}
	return e.judgeDefault(m, direction, pkt)
}

// judgeDefault decides what no question before it did: steps 6 to 8, and
// resources that are not associated.
func (e *Evaluator) judgeDefault(m *member, direction policy.Direction, pkt Packet) Decision {
	allow := func(reason policy.Reason, rule string) Decision {
		return m.decide(direction, policy.Allow, reason, rule)
	}
	deny := func(reason policy.Reason) Decision {
		return m.decide(direction, policy.Deny, reason, "")
	}
	access := m.resource.PublicNetworkAccess

	switch {
	case m.mode == policy.Enforced:
		return deny(policy.ReasonNoAccessRule)
	case m.mode == policy.Audit:
		// The denial of Enforced, told but not done, whatever
		// publicNetworkAccess says.
		d := deny(policy.ReasonNoAccessRule)
		d.Verdict = policy.Allow
		return d
	}

	// Learning and not associated: the resource itself decides.
	switch {
	case access == policy.SecuredByPerimeter:
		return deny(policy.ReasonSecuredByPerimeter)
	case access == policy.Disabled && direction == policy.Inbound:
		return deny(policy.ReasonPublicAccessDisabled)
	case !hasRules(m.resource.Firewall, direction):
		return allow(policy.ReasonPublicAccessEnabled, "")
	}
	if rule, ok := e.bestRule(m.resource.Firewall, direction, pkt); ok {
		return allow(policy.ReasonFirewallRule, rule)
	}
	return deny(policy.ReasonNoFirewallRule)
}

// privatePath names the private endpoint the packet came or goes over: the
// first by name that covers the interface, else the one with the longest
// prefix around the peer, of several the first by name.
func (e *Evaluator) privatePath(pkt Packet) (string, bool) {
	name, found := "", false
	for _, endpoint := range e.policy.PrivateEndpoints {
		if endpoint.Covers(pkt.Interface) && (!found || endpoint.Name < name) {
			name, found = endpoint.Name, true
		}
	}
	if found {
		return name, true
	}
	longest := -1
	for _, endpoint := range e.policy.PrivateEndpoints {
		bits, ok := longestMatch(endpoint.AddressPrefixes, pkt.Peer)
		if ok && (bits > longest || bits == longest && endpoint.Name < name) {
			name, longest = endpoint.Name, bits
		}
	}
	return name, longest >= 0
}

// inPerimeter reports whether the address is of a member of the perimeter.
func (e *Evaluator) inPerimeter(addr netip.Addr, perimeter *policy.Perimeter) bool {
	for _, m := range e.carriedMembers(addr) {
		if m.perimeter == perimeter {
			return true
		}
	}
	return false
}
