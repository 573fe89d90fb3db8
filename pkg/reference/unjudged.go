package reference

import "github.com/perimeterd/perimeterd/pkg/policy"

// Unjudged decides a packet whose Unjudgeable is set: it is dropped where a
// resource it may belong to is strict, and passes elsewhere.
//
// Any resource that its local address carries will do, since the port is not
// known; every resource that lives here, if it is a multicast packet or the
// address is not known either.
func (e *Evaluator) Unjudged(pkt Packet) Decision {
	known := pkt.Local.IsValid()
	var candidates []*member
	if known && !e.isMulticast(pkt) {
		candidates = e.carriedMembers(pkt.Local)
	} else {
		candidates = e.livingHere()
	}

	// about names the resource unless its address was only a guess.
	about := func(m *member) Decision {
		d := m.identity(pkt.Direction())
		if !known {
			d = Decision{Governed: true, Direction: pkt.Direction()}
		}
		d.Reason = pkt.Unjudgeable
		return d
	}
	for _, m := range candidates {
		strict := m.strict(pkt.Direction())
		if !known {
			strict = m.strict(policy.Inbound) || m.strict(policy.Outbound)
		}
		if strict {
			d := about(m)
			d.Verdict, d.WouldBe = policy.Deny, policy.Deny
			d.Category = policy.CategoryOf(d.Reason, d.Direction)
			return d
		}
	}
	for _, m := range candidates {
		if m.mode == policy.Audit {
			d := about(m)
			d.WouldBe = policy.Deny
			d.Category = policy.CategoryOf(d.Reason, d.Direction)
			return d
		}
	}
	if len(candidates) > 0 {
		return about(candidates[0])
	}
	d := ungoverned(pkt.Direction())
	d.Reason = pkt.Unjudgeable
	return d
}

// strict reports whether what cannot be judged must not reach or leave the
// resource: nothing but a rule, which cannot be consulted, would let it.
func (m *member) strict(direction policy.Direction) bool {
	access := m.resource.PublicNetworkAccess
	switch {
	case m.mode == policy.Audit:
		return false
	case m.mode == policy.Enforced, access == policy.SecuredByPerimeter:
		return true
	case m.mode == policy.Unassociated:
		return access == policy.Disabled && direction == policy.Inbound
	}
	return false
}
