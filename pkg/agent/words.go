package agent

import (
	"strings"

	"github.com/perimeterd/perimeterd/pkg/api"
	"github.com/perimeterd/perimeterd/pkg/policy"
)

// sentences say what a reason means. RULE, RESOURCE, PERIMETER, PROFILE and MODE
// stand for the answer's own. A test holds the list to that of the programs.
func sentences() map[policy.Reason]string {
	return map[policy.Reason]string{
		policy.ReasonFailsafe:             "the failsafe entry RULE of the settings lets it pass, whatever the policy says",
		policy.ReasonPrivatePath:          "it comes over the private endpoint RULE, which is never governed",
		policy.ReasonSamePerimeter:        "the peer is in the same perimeter, PERIMETER",
		policy.ReasonLinkedPerimeter:      "the peer's perimeter is linked by RULE, and both sides have agreed",
		policy.ReasonAccessRule:           "access rule RULE of profile PROFILE allows it",
		policy.ReasonResolverAccess:       "RESOURCE has rules with names, and may ask this host's resolvers for them",
		policy.ReasonNoAccessRule:         "no access rule of profile PROFILE allows it, and the mode is MODE",
		policy.ReasonSecuredByPerimeter:   "nothing allows it, and RESOURCE is SecuredByPerimeter",
		policy.ReasonPublicAccessDisabled: "nothing allows it, and publicNetworkAccess of RESOURCE is Disabled",
		policy.ReasonFirewallRule:         "firewall rule RULE of RESOURCE allows it",
		policy.ReasonNoFirewallRule:       "none of the firewall rules of RESOURCE allows it",
		policy.ReasonPublicAccessEnabled:  "RESOURCE has no firewall rules for this direction, so its own access decides, which is Enabled",

		"none":                 "nothing was decided",
		"not-ip":               "it is not IP, which is not governed",
		"ungoverned":           "neither end is a resource of the policy, so it passes and is only counted",
		"link-failsafe":        "the link itself needs it (neighbour discovery, DHCP and the like), so no policy stops it",
		"established":          "it belongs to a flow that was allowed",
		"related":              "it is an ICMP error about a flow that was allowed",
		"fragment-follows":     "its first fragment was allowed",
		"fragment-denied":      "its first fragment was denied",
		"no-policy":            "no policy is in force, so everything passes",
		"truncated-link":       "the frame ends inside its link header and cannot be judged",
		"too-many-tags":        "it has more VLAN tags than are read and cannot be judged",
		"truncated-ip":         "the packet ends inside its IP header and cannot be judged",
		"malformed-ip":         "its IP header contradicts itself and cannot be judged",
		"too-many-headers":     "it has more IPv6 extension headers than are read and cannot be judged",
		"truncated-header":     "it ends inside an IPv6 extension header and cannot be judged",
		"truncated-l4":         "it ends inside its transport header and cannot be judged",
		"tiny-fragment":        "its first fragment is too short for its transport header and cannot be judged",
		"fragment-overlap":     "a later fragment would overwrite the transport header and cannot be judged",
		"fragment-unknown":     "its first fragment was not seen, so it cannot be judged",
		"malformed-l4":         "its transport header is one that no socket would accept, and cannot be judged",
		"source-routed":        "where it ends is written behind its IP header (a source route), and cannot be judged",
		"forged-source":        "it comes from outside, with an address that a member has on this host as its source",
		"question-not-allowed": "it asks a resolver for a name that no rule of the resource has, and dns.strict is set",
		"question-unreadable":  "it goes to a resolver's port with no question that can be read, and dns.strict is set",
		"policy-incomplete":    "a table of the policy lacks an entry: this is a fault of perimeterd, please report it",
	}
}

// inWords is the answer as a sentence.
func inWords(a *api.Answer) string {
	words, ok := sentences()[a.Reason]
	if !ok {
		return string(a.Reason)
	}
	mode := a.AccessMode
	if mode == policy.Audit.String() && a.WouldBe == policy.Deny.String() {
		mode += ", which drops nothing"
	}
	return strings.NewReplacer("RULE", a.Rule, "RESOURCE", a.Resource, "PERIMETER", a.Perimeter,
		"PROFILE", a.Perimeter+"/"+a.Profile, "MODE", mode).Replace(words)
}
