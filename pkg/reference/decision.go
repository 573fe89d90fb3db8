package reference

import "github.com/perimeterd/perimeterd/pkg/policy"

// Reasons of verdicts that need no policy, spelled as the data path spells them.
const (
	// ReasonNotIP: nothing a policy could speak of. It passes.
	ReasonNotIP policy.Reason = "not-ip"
	// ReasonLinkFailsafe: the link itself needs it. It passes.
	ReasonLinkFailsafe policy.Reason = "link-failsafe"
	// ReasonForgedSource: from outside, with an address of a member of this host
	// as its source. It cannot be judged.
	ReasonForgedSource policy.Reason = "forged-source"
	// ReasonUngoverned: the packet is of no member.
	ReasonUngoverned policy.Reason = "ungoverned"
	// ReasonEstablished: the packet belongs to an allowed flow.
	ReasonEstablished policy.Reason = "established"
	// ReasonRelated: an ICMP error that quotes a packet of an allowed flow.
	ReasonRelated policy.Reason = "related"
)

// Decision is what happens to a packet, and why. Two decisions may be compared
// with ==.
type Decision struct {
	// Governed is false for packets of no member. They pass.
	Governed bool

	Verdict policy.Verdict
	// WouldBe is the verdict Enforced would give. It differs from Verdict only
	// in Audit.
	WouldBe policy.Verdict

	// Direction is that of the flow, which in Judge is the one asked about.
	Direction policy.Direction
	Reason    policy.Reason
	// Category is empty where nothing is logged: ungoverned, established,
	// related, and unjudgeable packets that pass without a would-be denial.
	Category policy.Category

	// Resource is the one the packet belongs to; empty when ungoverned, and
	// when the packet's addresses could not be read.
	Resource   string
	Perimeter  string // empty when the resource is not associated
	Profile    string // empty when the resource is not associated
	AccessMode policy.AccessMode

	// Rule names what decided: the access rule, own rule or failsafe rule, the
	// private endpoint, or the link or linkReference of the member's own
	// perimeter. Empty where nothing with a name did.
	Rule string

	// Cut is set, by a Tracker only, on the packet that ends a flow which a
	// changed policy no longer allows.
	Cut bool
}

// ungoverned is the decision about a packet of no member.
func ungoverned(direction policy.Direction) Decision {
	return Decision{
		Verdict:   policy.Allow,
		WouldBe:   policy.Allow,
		Direction: direction,
		Reason:    ReasonUngoverned,
	}
}

// withoutPolicy lets a packet pass that no policy is asked about.
func withoutPolicy(pkt Packet, reason policy.Reason) Decision {
	d := ungoverned(pkt.Direction())
	d.Reason = reason
	return d
}

// decide is a decision about a packet of this member. What decides here is
// what Enforced would say too; Audit's default is the exception and says so.
func (m *member) decide(direction policy.Direction, verdict policy.Verdict, reason policy.Reason, rule string) Decision {
	d := m.identity(direction)
	d.Verdict = verdict
	d.WouldBe = verdict
	d.Reason = reason
	d.Category = policy.CategoryOf(reason, direction)
	d.Rule = rule
	return d
}

// identity is a decision that says only whom it is about.
func (m *member) identity(direction policy.Direction) Decision {
	d := Decision{
		Governed:   true,
		Direction:  direction,
		Resource:   m.resource.Name,
		AccessMode: m.mode,
	}
	if m.associated() {
		d.Perimeter = m.perimeter.Name
		d.Profile = m.profile.Name
	}
	return d
}
