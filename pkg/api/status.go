package api

import (
	"net/netip"
	"time"

	"github.com/perimeterd/perimeterd/pkg/policy"
)

// Status is how the agent is, in all that an operator may ask about it.
type Status struct {
	Version string    `json:"version"`
	Started time.Time `json:"started"`
	// State is one of the words below.
	State State `json:"state"`
	// Problems are what has to be repaired, as sentences; none if State is
	// Healthy. Notices are what has to be known.
	Problems []string `json:"problems,omitempty"`
	Notices  []string `json:"notices,omitempty"`

	// Generation is what packets are judged by, 0 if nothing is in force.
	Generation      uint32    `json:"generation"`
	GenerationSince time.Time `json:"generationSince,omitzero"`
	Policy          Policy    `json:"policy"`

	Resources  Resources   `json:"resources"`
	Tables     Tables      `json:"tables"`
	Interfaces []Interface `json:"interfaces"`
	Failsafe   []Failsafe  `json:"failsafe"`
	Kernel     Kernel      `json:"kernel"`

	Flows     int             `json:"flows"`
	Fragments Fragments       `json:"fragments"`
	Packets   []PacketCount   `json:"packets,omitempty"`
	Decisions []DecisionCount `json:"decisions,omitempty"`
	Losses    []Loss          `json:"losses"`
	Sinks     []Sink          `json:"sinks,omitempty"`
	Names     []Name          `json:"names,omitempty"`
	// NameEvents count what came of questions, answers and addresses of names: by
	// the words of enum name_event (bpf/vocabulary.h), and what the agent made of
	// what was left to it ("agent-").
	NameEvents []NameEvent `json:"nameEvents,omitempty"`
	// OpenAddresses are those that names have opened, as of the last sweep, by who
	// learnt them: the words of LearntAddress.By.
	OpenAddresses []NameEvent      `json:"openAddresses,omitempty"`
	Expiring      []ExpiringRule   `json:"expiring,omitempty"`
	Settings      SettingsLocation `json:"settings"`
}

// State is the health of the agent.
type State string

const (
	Starting State = "starting" // has not made up its mind yet
	Healthy  State = "healthy"
	Degraded State = "degraded" // works, but not as its policy and settings say
	Disabled State = "disabled" // somebody has switched enforcement off
)

// Policy is which policy is in force, and what is wrong with the one that
// should be.
type Policy struct {
	Path string `json:"path"`
	// Source of the policy in force, one of the words below.
	Source PolicySource `json:"source"`
	Files  []string     `json:"files,omitempty"`
	// Since is when this version of the policy was put in force.
	Since time.Time `json:"since,omitzero"`
	// Problem is why what is at Path is not in force, "" if it is.
	Problem      string    `json:"problem,omitempty"`
	ProblemSince time.Time `json:"problemSince,omitzero"`
}

// PolicySource says where the policy in force comes from.
type PolicySource string

const (
	FromFiles    PolicySource = "files"
	FromDefault  PolicySource = "embedded default" // everything in Audit
	FromLastGood PolicySource = "last good"        // kept from before
	FromNowhere  PolicySource = "none"
)

// Resources counts what is governed.
type Resources struct {
	Total int `json:"total"`
	Here  int `json:"here"` // those with an address of this host, or behind its workload interfaces
	// Members by access mode, the unassociated ones included.
	ByMode     map[string]int `json:"byMode"`
	Perimeters int            `json:"perimeters"`
}

// Tables is what the policy takes in the kernel.
type Tables struct {
	PrefixesIPv4   int   `json:"prefixesIPv4"`
	PrefixesIPv6   int   `json:"prefixesIPv6"`
	Bytes          int64 `json:"bytes"`
	BytesPerPrefix int64 `json:"bytesPerPrefix,omitempty"`
}

// Interface is one interface of the host.
type Interface struct {
	Name      string       `json:"name"`
	Index     int          `json:"index"`
	Addresses []netip.Addr `json:"addresses,omitempty"`
	Attached  bool         `json:"attached"`
	Role      string       `json:"role,omitempty"`     // uplink or workload
	Hook      string       `json:"hook,omitempty"`     // tcx or clsact
	Degraded  string       `json:"degraded,omitempty"` // why not the best hook
	XDP       string       `json:"xdp,omitempty"`      // native or generic, where XDP judges what comes in
	// XDPProblem says why TC judges what XDP was asked to.
	XDPProblem string `json:"xdpProblem,omitempty"`
	// Reason says why it is not attached; Failed is set where it should be.
	Reason string `json:"reason,omitempty"`
	Failed bool   `json:"failed,omitempty"`
}

// Failsafe is traffic that no policy can cut off.
type Failsafe struct {
	Name            string         `json:"name"`
	Direction       string         `json:"direction"`
	AddressPrefixes []netip.Prefix `json:"addressPrefixes,omitempty"` // none = any
	Ports           []string       `json:"ports,omitempty"`           // none = all
}

// Kernel is what the kernel is and lacks.
type Kernel struct {
	Release  string   `json:"release"`
	Degraded []string `json:"degraded,omitempty"`
}

// Fragments is how full the table is that tells what becomes of the fragments of
// a packet. Where it is full the oldest packet is forgotten, and what still comes
// of it is counted as fragment-unknown.
type Fragments struct {
	Remembered int `json:"remembered"` // packets, as of the last sweep
	Max        int `json:"max"`
}

// PacketCount counts packets that got one reason.
type PacketCount struct {
	Reason  policy.Reason `json:"reason"`
	Packets uint64        `json:"packets"`
	Bytes   uint64        `json:"bytes"`
}

// DecisionCount is one category's books in the kernel: decided is the sum of
// submitted, folded and lost. Crowded is the part of folded whose peers were not
// told apart.
type DecisionCount struct {
	Category  policy.Category `json:"category"`
	Decided   uint64          `json:"decided"`
	Submitted uint64          `json:"submitted"`
	Folded    uint64          `json:"folded"`
	Crowded   uint64          `json:"crowded"`
	Lost      uint64          `json:"lost"`
}

// Loss is how many decisions were lost at one stage on their way to a sink.
type Loss struct {
	Stage string `json:"stage"`
	Sink  string `json:"sink,omitempty"`
	Count uint64 `json:"count"`
}

// Sink is where decisions are written.
type Sink struct {
	Name    string `json:"name"`
	Records uint64 `json:"records"`
	Pending uint64 `json:"pending"`
	Error   string `json:"error,omitempty"`
}

// Name is a name of outbound rules.
type Name struct {
	Name      string       `json:"name"`
	Addresses []netip.Addr `json:"addresses,omitempty"`
	Refreshed time.Time    `json:"refreshed,omitzero"`
	Next      time.Time    `json:"next,omitzero"`
	Error     string       `json:"error,omitempty"`
	Dropped   int          `json:"dropped,omitempty"`
}

// NameEvent counts one kind of thing that happened with names.
type NameEvent struct {
	Event string `json:"event"`
	Count uint64 `json:"count"`
}

// Names is what names of outbound rules have opened.
type Names struct {
	Generation uint32 `json:"generation"`
	// ByAgent says why answers are left to the agent; "" = the data path reads them.
	ByAgent string      `json:"byAgent,omitempty"`
	Rules   []RuleNames `json:"rules"`
}

// RuleNames is the names of one or more rules with the same ones.
type RuleNames struct {
	Owner     string          `json:"owner"` // "profile PERIMETER/PROFILE" or "resource NAME"
	Rule      string          `json:"rule"`
	Written   []string        `json:"names"`
	Addresses []LearntAddress `json:"addresses,omitempty"`
}

// LearntAddress is an address that a name has opened.
type LearntAddress struct {
	Name    string     `json:"name"` // that was asked for
	Address netip.Addr `json:"address"`
	By      string     `json:"learnt"` // inline, answer, resolved or kept
	Since   time.Time  `json:"since"`
	Expires time.Time  `json:"expires"`
	Expired bool       `json:"expired,omitempty"` // and kept for the flows it has opened
	Used    time.Time  `json:"used,omitzero"`     // when it opened a flow last
	Flows   int        `json:"flows"`             // outbound ones to it, by whatever rule
}

// ExpiringRule is a rule that ends by itself.
type ExpiringRule struct {
	Rule    string    `json:"rule"`
	Owner   string    `json:"owner"` // perimeter/profile, or resource
	Expires time.Time `json:"expires"`
}

// SettingsLocation is where the settings come from and things are.
type SettingsLocation struct {
	File           string `json:"file,omitempty"` // "" = defaults
	StateDirectory string `json:"stateDirectory"`
	PinDirectory   string `json:"pinDirectory"`
}
