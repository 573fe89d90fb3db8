package decisionlog

import (
	"encoding/json"
	"net/netip"
	"time"

	"github.com/perimeterd/perimeterd/pkg/policy"
)

// Record is one line of the access log. The tags are its JSON form, which
// AppendJSON writes without them: a test holds the two together.
type Record struct {
	Time       time.Time       `json:"time"`
	EndTime    time.Time       `json:"timeGeneratedEndTime,omitzero"`
	Count      Count           `json:"count,omitzero"`
	ResourceID string          `json:"resourceId,omitempty"` // the perimeter
	Location   string          `json:"location,omitempty"`
	Operation  Operation       `json:"operationName"`
	Category   policy.Category `json:"category,omitempty"`
	Properties Properties      `json:"properties"`
}

// Count is how many decisions a record stands for; it is left out when 1.
type Count uint64

// IsZero reports whether the count is left out of the JSON form.
func (c Count) IsZero() bool { return c == 1 }

// Operation is what happened, see the package comment.
type Operation string

const (
	OperationFlowStart Operation = "FlowStart"
	OperationFlowEnd   Operation = "FlowEnd"
	OperationFlowCut   Operation = "FlowCut"
	OperationDeny      Operation = "Deny"
	OperationWouldDeny Operation = "WouldDeny"
)

// Properties says who decided what about whom. One of Source and Destination
// is set, or none if the packet's addresses could not be read.
type Properties struct {
	ServiceResourceID  string      `json:"serviceResourceId,omitempty"` // the member
	Profile            string      `json:"profile,omitempty"`
	AccessRulesVersion string      `json:"accessRulesVersion,omitempty"`
	MatchedRule        MatchedRule `json:"matchedRule,omitzero"`
	Source             Endpoint    `json:"source,omitzero"`
	Destination        Endpoint    `json:"destination,omitzero"`
	Perimeterd         Extension   `json:"perimeterd"`
}

// MatchedRule names the access rule, firewall rule, link, private endpoint or
// failsafe entry that decided.
type MatchedRule struct {
	AccessRule string `json:"accessRule"`
}

// Endpoint is one end of a flow.
type Endpoint struct {
	IPAddress netip.Addr `json:"ipAddress,omitzero"`
	Port      uint16     `json:"port,string,omitempty"`
	Protocol  string     `json:"protocol,omitempty"` // of a peer only
	// FullyQualifiedDomainName is the name that has opened the address, or of a
	// denial one that somebody was told it for. Of a destination only.
	FullyQualifiedDomainName string `json:"fullyQualifiedDomainName,omitempty"`
}

// Extension is what an operator needs and NSP's schema has no place for.
type Extension struct {
	Verdict    string        `json:"verdict"` // allow or deny: what happened
	WouldBe    string        `json:"wouldBe"` // what Enforced would have done
	Reason     policy.Reason `json:"reason,omitempty"`
	AccessMode string        `json:"accessMode,omitempty"`
	Generation uint32        `json:"generation"`
	Interface  string        `json:"interface,omitempty"`
	Direction  string        `json:"direction"`
	Local      Endpoint      `json:"local,omitzero"`
	Flow       Flow          `json:"flow,omitzero"`
	Question   string        `json:"question,omitempty"` // what a denied question asked a resolver for
	// PeersNotToldApart is true of denials that are counted without their peers'
	// addresses, because more peers came than are told apart.
	PeersNotToldApart bool `json:"peersNotToldApart,omitempty"`

	// Member and Outcome are set where the legend of the generation is not
	// known and they stand for something.
	Member  uint32 `json:"member,omitempty"`
	Outcome uint32 `json:"outcome,omitempty"`
}

// Flow is what passed, of a flow that ended or was cut. Towards and From are
// seen from the member; bytes are those of the IP packets.
type Flow struct {
	Started        time.Time `json:"started,omitzero"`
	PacketsTowards uint64    `json:"packetsTowards"`
	BytesTowards   uint64    `json:"bytesTowards"`
	PacketsFrom    uint64    `json:"packetsFrom"`
	BytesFrom      uint64    `json:"bytesFrom"`
	Midstream      bool      `json:"midstream,omitempty"` // picked up without its opening packet
}

// MarshalJSON returns what AppendJSON appends.
func (r Record) MarshalJSON() ([]byte, error) {
	return r.AppendJSON(nil), nil
}

// UnmarshalJSON reads a line that AppendJSON wrote.
func (r *Record) UnmarshalJSON(line []byte) error {
	type plain Record // without this method
	out := plain{Count: 1}
	if err := json.Unmarshal(line, &out); err != nil {
		return err
	}
	*r = Record(out)
	return nil
}
