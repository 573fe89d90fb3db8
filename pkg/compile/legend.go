package compile

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"

	"github.com/perimeterd/perimeterd/pkg/policy"
)

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
	// Profiles by "perimeter/profile".
	Profiles map[string]ProfileLegend `json:"profiles"`
}

// ProfileLegend says since when the rules of a profile are what they are.
type ProfileLegend struct {
	Digest  string `json:"digest"`  // identifies the rules
	Version uint32 `json:"version"` // the generation in which they last changed
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

// PutInForce stamps the legend with its generation, and gives each profile its
// version: that of the previous legend while the rules are the same, else this
// generation. previous may be nil.
func (l *Legend) PutInForce(generation uint32, previous *Legend) {
	l.Generation = generation
	for name, p := range l.Profiles {
		p.Version = generation
		if previous != nil {
			if before, ok := previous.Profiles[name]; ok && before.Digest == p.Digest {
				p.Version = before.Version
			}
		}
		l.Profiles[name] = p
	}
	for i := range l.Members {
		m := &l.Members[i]
		if m.Perimeter != "" {
			m.AccessRulesVersion = strconv.FormatUint(uint64(l.Profiles[profileName(m.Perimeter, m.Profile)].Version), 10)
		}
	}
}

// digestRules identifies what the rules of a profile say.
func (b *builder) digestRules(rules []policy.AccessRule) string {
	h := sha256.New()
	for i := range rules {
		r := &rules[i]
		fmt.Fprintf(h, "%q %d %x %q %q %q %v %d %q\n", r.Name, r.Direction, b.lists.setOf(r.AddressPrefixes).Fingerprint(), r.Subscriptions,
			r.FullyQualifiedDomainNames, r.ServiceTags, r.Ports, r.Expires.UnixNano(), r.Description)
	}
	return hex.EncodeToString(h.Sum(nil))
}
