package decisionlog

import (
	"testing"

	"github.com/perimeterd/perimeterd/pkg/policy"
)

func TestClassify(t *testing.T) {
	for _, c := range []struct {
		category policy.Category
		reason   policy.Reason
		want     class
		short    string
	}{
		{policy.PublicInboundPerimeterRulesAllowed, policy.ReasonAccessRule, class{"Public", "NSP", "Approved"}, "perimeter"},
		{policy.PublicInboundPerimeterRulesDenied, policy.ReasonNoAccessRule, class{"Public", "NSP", "Denied"}, "perimeter"},
		{policy.PublicOutboundPerimeterRulesAllowed, policy.ReasonAccessRule, class{"Public", "NSP", "Approved"}, "perimeter"},
		{policy.PublicOutboundPerimeterRulesDenied, policy.ReasonNoAccessRule, class{"Public", "NSP", "Denied"}, "perimeter"},
		{policy.PublicInboundResourceRulesAllowed, policy.ReasonFirewallRule, class{"Public", "PaaS resource", "Approved"}, "resource"},
		{policy.PublicInboundResourceRulesDenied, policy.ReasonNoFirewallRule, class{"Public", "PaaS resource", "Denied"}, "resource"},
		{policy.PublicOutboundResourceRulesAllowed, policy.ReasonFirewallRule, class{"Public", "PaaS resource", "Approved"}, "resource"},
		{policy.PublicOutboundResourceRulesDenied, policy.ReasonNoFirewallRule, class{"Public", "PaaS resource", "Denied"}, "resource"},
		{policy.IntraPerimeterInboundAllowed, policy.ReasonSamePerimeter, class{"Intra", "", "Approved"}, "intra"},
		{policy.CrossPerimeterInboundAllowed, policy.ReasonLinkedPerimeter, class{"Cross", "NSP", "Approved"}, "cross"},
		{policy.CrossPerimeterOutboundAllowed, policy.ReasonLinkedPerimeter, class{"Cross", "NSP", "Approved"}, "cross"},
		{policy.PrivateInboundAllowed, policy.ReasonPrivatePath, class{"Private", "", "Approved"}, "private"},
		{policy.OutboundAttempt, policy.ReasonSamePerimeter, class{"Intra", "", "Approved"}, "intra"},
		{policy.OutboundAttempt, policy.ReasonLinkedPerimeter, class{"Cross", "", "Approved"}, "cross"},
		{policy.OutboundAttempt, policy.ReasonPrivatePath, class{"Private", "", "Approved"}, "private"},
		{policy.OutboundAttempt, "", class{"", "", "Approved"}, "-"},
		{"", policy.ReasonNoAccessRule, class{}, "-"},
	} {
		if got := classify(c.category, c.reason); got != c.want || got.short() != c.short {
			t.Errorf("%s, %s: %+v %q, want %+v %q", c.category, c.reason, got, got.short(), c.want, c.short)
		}
	}
}
