package policy

// Direction says who opened the flow, seen from the member.
type Direction uint8

const (
	Inbound  Direction = iota // the peer opened it: the member's inbound rules count
	Outbound                  // the member opened it: the member's outbound rules count
)

func (d Direction) String() string {
	return [...]string{"Inbound", "Outbound"}[d]
}

// Verdict is what happens, or would happen, to a packet.
type Verdict uint8

const (
	Allow Verdict = iota
	Deny
)

func (v Verdict) String() string {
	return [...]string{"allow", "deny"}[v]
}

// Category is the access log category of NSP. The C side has an enum of the
// same names (bpf/vocabulary.h); the data path resolves one to the other by
// name when it loads and refuses to start on a name it does not find.
type Category string

const (
	PublicInboundPerimeterRulesAllowed  Category = "NspPublicInboundPerimeterRulesAllowed"
	PublicInboundPerimeterRulesDenied   Category = "NspPublicInboundPerimeterRulesDenied"
	PublicOutboundPerimeterRulesAllowed Category = "NspPublicOutboundPerimeterRulesAllowed"
	PublicOutboundPerimeterRulesDenied  Category = "NspPublicOutboundPerimeterRulesDenied"
	PublicInboundResourceRulesAllowed   Category = "NspPublicInboundResourceRulesAllowed"
	PublicInboundResourceRulesDenied    Category = "NspPublicInboundResourceRulesDenied"
	PublicOutboundResourceRulesAllowed  Category = "NspPublicOutboundResourceRulesAllowed"
	PublicOutboundResourceRulesDenied   Category = "NspPublicOutboundResourceRulesDenied"
	IntraPerimeterInboundAllowed        Category = "NspIntraPerimeterInboundAllowed"
	OutboundAttempt                     Category = "NspOutboundAttempt"
	CrossPerimeterInboundAllowed        Category = "NspCrossPerimeterInboundAllowed"
	CrossPerimeterOutboundAllowed       Category = "NspCrossPerimeterOutboundAllowed"
	PrivateInboundAllowed               Category = "NspPrivateInboundAllowed"
)

// Reason says why a policy gave this verdict. The data path has further reasons
// of its own, for packets that never reach the policy; the enum of all of them
// is in bpf/vocabulary.h and these names are resolved to it like categories.
type Reason string

const (
	// ReasonFailsafe: the operator's failsafe list allows it.
	ReasonFailsafe Reason = "failsafe"
	// ReasonPrivatePath: the packet came over a private endpoint.
	ReasonPrivatePath Reason = "private-path"
	// ReasonSamePerimeter: member and peer are in one perimeter.
	ReasonSamePerimeter Reason = "same-perimeter"
	// ReasonLinkedPerimeter: an approved link lists the inbound side's profile.
	ReasonLinkedPerimeter Reason = "linked-perimeter"
	// ReasonAccessRule: an access rule of the member's profile matches.
	ReasonAccessRule Reason = "access-rule"
	// ReasonResolverAccess: a member whose rules have names asks a resolver of
	// the host.
	ReasonResolverAccess Reason = "resolver-access"
	// ReasonNoAccessRule: nothing matches and the mode is Enforced or Audit.
	ReasonNoAccessRule Reason = "no-access-rule"
	// ReasonSecuredByPerimeter: nothing matches and the resource is
	// SecuredByPerimeter, in Learning or not associated.
	ReasonSecuredByPerimeter Reason = "secured-by-perimeter"
	// ReasonPublicAccessDisabled: nothing matches, inbound, and the resource is
	// Disabled, in Learning or not associated.
	ReasonPublicAccessDisabled Reason = "public-access-disabled"
	// ReasonFirewallRule: one of the resource's own rules matches.
	ReasonFirewallRule Reason = "firewall-rule"
	// ReasonNoFirewallRule: the resource has own rules for this direction and
	// none matches.
	ReasonNoFirewallRule Reason = "no-firewall-rule"
	// ReasonPublicAccessEnabled: the resource's own rules decide and it has
	// none for this direction.
	ReasonPublicAccessEnabled Reason = "public-access-enabled"
)

// CategoryOf returns the category a decision is logged under.
func CategoryOf(reason Reason, direction Direction) Category {
	inbound := direction == Inbound
	pick := func(in, out Category) Category {
		if inbound {
			return in
		}
		return out
	}
	switch reason {
	case ReasonPrivatePath:
		// NSP has no category for outbound private traffic; an attempt to
		// leave towards something trusted is the nearest it has.
		return pick(PrivateInboundAllowed, OutboundAttempt)
	case ReasonSamePerimeter:
		return pick(IntraPerimeterInboundAllowed, OutboundAttempt)
	case ReasonLinkedPerimeter:
		return pick(CrossPerimeterInboundAllowed, CrossPerimeterOutboundAllowed)
	case ReasonFailsafe, ReasonAccessRule, ReasonResolverAccess:
		return pick(PublicInboundPerimeterRulesAllowed, PublicOutboundPerimeterRulesAllowed)
	case ReasonFirewallRule, ReasonPublicAccessEnabled:
		return pick(PublicInboundResourceRulesAllowed, PublicOutboundResourceRulesAllowed)
	case ReasonPublicAccessDisabled, ReasonNoFirewallRule:
		return pick(PublicInboundResourceRulesDenied, PublicOutboundResourceRulesDenied)
	default: // ReasonNoAccessRule, ReasonSecuredByPerimeter, and what cannot be judged
		return pick(PublicInboundPerimeterRulesDenied, PublicOutboundPerimeterRulesDenied)
	}
}
