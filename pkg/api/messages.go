package api

import (
	"net/netip"
	"time"

	"github.com/perimeterd/perimeterd/pkg/policy"
)

// Question asks what would happen to the first packet of a flow.
type Question struct {
	// From and To are an address, the name of a resource, or a name that an
	// outbound rule has.
	From string `json:"from"`
	To   string `json:"to"`
	// Port is as in a policy: tcp/5432, udp/53, icmp.
	Port string `json:"port"`
	// Interface that the packet would cross; "" = none in particular.
	Interface string `json:"interface,omitempty"`
}

// Explanation answers a Question: one Answer for each end that is governed, or
// a single one that says that none is.
type Explanation struct {
	From    netip.Addr `json:"from"`
	To      netip.Addr `json:"to"`
	Answers []Answer   `json:"answers"`
}

// Verdict is deny if any end denies.
func (e *Explanation) Verdict() string {
	for _, a := range e.Answers {
		if a.Verdict == policy.Deny.String() {
			return a.Verdict
		}
	}
	return policy.Allow.String()
}

// Answer is what the live programs say of one end.
type Answer struct {
	Verdict    string          `json:"verdict"`
	WouldBe    string          `json:"wouldBe"`
	Reason     policy.Reason   `json:"reason"`
	Words      string          `json:"words"` // the reason as a sentence
	Category   policy.Category `json:"category,omitempty"`
	Direction  string          `json:"direction"`
	Resource   string          `json:"resource,omitempty"`
	Perimeter  string          `json:"perimeter,omitempty"`
	Profile    string          `json:"profile,omitempty"`
	AccessMode string          `json:"accessMode,omitempty"`
	Rule       string          `json:"rule,omitempty"`
	RuleAt     string          `json:"ruleAt,omitempty"` // file:line:column
	Generation uint32          `json:"generation"`
	// Elsewhere is set where the end's address is not one of this host, so that
	// its packets may not be judged here.
	Elsewhere bool `json:"elsewhere,omitempty"`
}

// Rule is one access rule of a profile, own rule of a resource, or link or
// linkReference of a perimeter, which has neither Profile nor Resource.
type Rule struct {
	Perimeter string    `json:"perimeter,omitempty"`
	Profile   string    `json:"profile,omitempty"`
	Resource  string    `json:"resource,omitempty"` // of an own rule
	Name      string    `json:"name"`
	Direction string    `json:"direction"` // Inbound, Outbound, or of a link Both
	Selector  string    `json:"selector"`
	Ports     []string  `json:"ports,omitempty"` // none = all
	Expires   time.Time `json:"expires,omitzero"`
	// InForce is false for a rule that has ended or whose profile nobody uses.
	InForce bool   `json:"inForce"`
	Why     string `json:"why,omitempty"` // it is not
	// Hits are decisions by this rule since the agent started.
	Hits    uint64    `json:"hits"`
	LastHit time.Time `json:"lastHit,omitzero"`
	At      string    `json:"at,omitempty"`
}

// Rules are all rules of the policy in force.
type Rules struct {
	Generation uint32 `json:"generation"`
	Rules      []Rule `json:"rules"`
}

// FlowFilter says which flows to list. Zero fields do not limit.
type FlowFilter struct {
	Resource string
	Peer     netip.Prefix
	State    string
	Limit    int
}

// Flow is an allowed flow in the kernel's table.
type Flow struct {
	Resource       string         `json:"resource,omitempty"`
	Protocol       string         `json:"protocol"`
	Local          netip.AddrPort `json:"local"`
	Peer           netip.AddrPort `json:"peer"`
	Direction      string         `json:"direction"`
	State          string         `json:"state"`
	Reason         policy.Reason  `json:"reason"`
	Rule           string         `json:"rule,omitempty"`
	WouldBe        string         `json:"wouldBe"`
	Midstream      bool           `json:"midstream,omitempty"`
	Generation     uint32         `json:"generation"`
	Interface      string         `json:"interface,omitempty"`
	Started        time.Time      `json:"started"`
	Seen           time.Time      `json:"seen"`
	PacketsTowards uint64         `json:"packetsTowards"`
	BytesTowards   uint64         `json:"bytesTowards"`
	PacketsFrom    uint64         `json:"packetsFrom"`
	BytesFrom      uint64         `json:"bytesFrom"`
}

// Flows are the flows that a filter lets through.
type Flows struct {
	// Generation is the one in force. A flow of an older one is judged again at
	// its next packet.
	Generation uint32 `json:"generation"`
	Matching   int    `json:"matching"` // more than listed where a limit cut
	Flows      []Flow `json:"flows"`
}

// WatchFilter says which records to show.
type WatchFilter struct {
	Resource string // name of the member; "" = all
	Denied   bool   // only what was denied or would be
}

// Switched answers a request to disable or enable.
type Switched struct {
	State State `json:"state,omitempty"` // "" where no agent runs that has one
	// Changed is false if it was so already.
	Changed bool `json:"changed"`
}

// lossNotice stands in a watch stream where records are missing.
type lossNotice struct {
	Lost uint64 `json:"lost"`
}

// failure is the body of every answer that is no success.
type failure struct {
	Error string `json:"error"`
}
