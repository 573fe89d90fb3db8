package decisionlog

import (
	"strings"

	"github.com/perimeterd/perimeterd/pkg/policy"
)

// class is what a category's name says beside the direction, in the words of
// the NSPAccessLogs columns.
type class struct {
	traffic string // TrafficType: Public, Intra, Cross or Private
	rules   string // RuleType: where the rule lives; "" where no rule decides
	action  string // ResultAction: Approved or Denied
}

// classify reads the category's name. NspOutboundAttempt does not say where
// the attempt goes; there the reason does.
func classify(category policy.Category, reason policy.Reason) class {
	name := string(category)
	var c class
	switch {
	case category == "":
		return c
	case category == policy.OutboundAttempt:
		c.action = "Approved"
		switch reason {
		case policy.ReasonSamePerimeter:
			c.traffic = "Intra"
		case policy.ReasonLinkedPerimeter:
			c.traffic = "Cross"
		case policy.ReasonPrivatePath:
			c.traffic = "Private"
		}
		return c
	case strings.HasPrefix(name, "NspPublic"):
		c.traffic = "Public"
		c.rules = "NSP"
		if strings.Contains(name, "ResourceRules") {
			c.rules = "PaaS resource"
		}
	case strings.HasPrefix(name, "NspIntra"):
		c.traffic = "Intra"
	case strings.HasPrefix(name, "NspCross"):
		c.traffic = "Cross"
		c.rules = "NSP"
	case strings.HasPrefix(name, "NspPrivate"):
		c.traffic = "Private"
	}
	c.action = "Approved"
	if strings.HasSuffix(name, "Denied") {
		c.action = "Denied"
	}
	return c
}

// short is the class in one word, for a line that already shows direction and
// verdict: whose rules decided, or whose traffic it is.
func (c class) short() string {
	switch {
	case c.rules == "PaaS resource":
		return "resource"
	case c.traffic == "Public":
		return "perimeter"
	case c.traffic == "":
		return "-"
	}
	return strings.ToLower(c.traffic)
}
