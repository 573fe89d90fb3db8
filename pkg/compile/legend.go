package compile

import "github.com/perimeterd/perimeterd/pkg/policy"

// Legend tells what the numbers of one generation stand for. The kernel deals
// in numbers only; whoever reads an event or a flow needs the legend of the
// generation it names. A Legend is never changed once its generation is in
// force, and may be shared between goroutines. It encodes to JSON, so that it
// outlives the agent.
type Legend struct {
	// Generation is set when the tables go into force.
	Generation uint32 `json:"generation"`
	// Members by member number. Index 0 is unused: "member not known".
	Members []MemberLegend `json:"members"`
	// Outcomes by outcome number. Index 0 is unused: "judged without the policy".
	Outcomes []OutcomeLegend `json:"outcomes"`
}

// MemberLegend names a governed resource.
type MemberLegend struct {
	Resource     string            `json:"resource"`
	Subscription string            `json:"subscription,omitempty"`
	Perimeter    string            `json:"perimeter,omitempty"` // "" = not associated
	Location     string            `json:"location,omitempty"`
	Profile      string            `json:"profile,omitempty"`
	AccessMode   policy.AccessMode `json:"accessMode"`
	// AccessRulesVersion is the generation in which the rules of the profile
	// last changed, in decimal; it rises with every change, as NSP's does.
	AccessRulesVersion string `json:"accessRulesVersion,omitempty"`
}

// OutcomeLegend names what decided.
type OutcomeLegend struct {
	Reason    policy.Reason    `json:"reason"`
	Category  policy.Category  `json:"category"`
	Verdict   policy.Verdict   `json:"verdict"`
	WouldBe   policy.Verdict   `json:"wouldBe"`
	Direction policy.Direction `json:"direction"`
	Rule      string           `json:"rule,omitempty"` // access rule, firewall rule, link, private endpoint or failsafe entry
}
