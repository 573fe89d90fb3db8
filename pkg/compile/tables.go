package compile

import (
	"net/netip"
	"time"

	"github.com/perimeterd/perimeterd/pkg/policy"
)

// Tables is one generation, ready to be loaded. It is not changed after
// Compile returned it.
type Tables struct {
	// Locals says which members an address carries. Sorted by prefix, IPv4
	// first; the longest prefix that holds an address counts.
	Locals []Local
	// Prefixes4 and Prefixes6 give the peers their classes.
	Prefixes4, Prefixes6 Prefixes
	// ScopeClasses says what a class of peers means to a scope, where it means
	// something else than Member.Otherwise. Sorted.
	ScopeClasses []ScopeClass
	// Parents gives each class the one whose meaning counts where ScopeClasses has
	// none of its own; 0 = Member.Otherwise does. A parent has a lower number, and
	// no class more than 8 of them. Index 0 is unused.
	Parents  []uint32
	Members  []Member // by member number; index 0 is unused
	Spans    []Span
	Outcomes []Outcome // by outcome number; index 0 is unused

	// Names gives every name that a rule has its class. Sorted by name.
	Names []NameClass
	// NameMeanings says which of NameSets, as a piece of it, a name of a class
	// opens for a scope. Sorted.
	NameMeanings []ScopeClass
	NameSets     []uint64
	// NameRules holds lists of rules with names, each ended by one of set 0. The
	// one at 0 is empty. Member.Names points into it.
	NameRules []NameRule
	// Sets tells what the numbers in NameSets stand for. Sorted by ID.
	Sets []NameSet

	// StrictHere: a strict resource lives on this host, so what cannot even be
	// attributed is dropped.
	StrictHere bool
	// PrivateEndpoints are those by interface, by name.
	PrivateEndpoints []PrivateEndpoint
	// NextExpiry is when the first rule ends; zero = none does.
	NextExpiry time.Time
}

// Local is what one local prefix carries.
type Local struct {
	Prefix   netip.Prefix
	Services SpanList // by local port: the member inbound traffic belongs to, 0 = none
	Outbound uint32   // the member outbound traffic belongs to
	Strict   [2]bool  // by policy.Direction: one of its members is strict
	Audit    bool     // one of its members is in Audit
	Own      bool     // an address of this host itself, not of what lives behind it
}

// ScopeClass says what a class means to a scope.
type ScopeClass struct {
	Scope, Class uint32
	Meaning      SpanList
}

// Member is one governed resource. Arrays are by policy.Direction.
type Member struct {
	Scope                  [2]uint32
	Otherwise4, Otherwise6 [2]SpanList
	// Names says by port of the peer which list in NameRules is asked, outbound,
	// where nothing else allows.
	Names SpanList
}

// SpanList is a piece of Tables.Spans that covers every protocol and port. With
// Count 0, First is itself the value for all of them.
type SpanList struct{ First, Count uint32 }

// Span holds from its point on up to the next span's point.
type Span struct {
	From  uint32 // protocol<<16 | port
	Value uint32 // an outcome, or in Local.Services a member
}

// PrivateEndpoint is one by interface, with the outcome, by policy.Direction, of
// all that crosses an interface it covers. Of several, the first counts.
type PrivateEndpoint struct {
	policy.PrivateEndpoint
	Outcomes [2]uint32
}

// Outcome is what is done with the first packet of a flow, and why.
type Outcome struct {
	Reason    policy.Reason
	Direction policy.Direction
	Verdict   policy.Verdict
	WouldBe   policy.Verdict
	Rule      string
	Expires   time.Time // zero = never; from then on After counts
	After     uint32
	Member    uint32 // names another member than the one asked; 0 = that one
}

// MulticastAddress4 and MulticastAddress6 stand in Locals for every multicast
// destination and the broadcast to all: they carry the members that live on this
// host. Directed broadcast addresses stand there themselves, with the same.
var (
	MulticastAddress4 = netip.AddrFrom4([4]byte{224})
	MulticastAddress6 = netip.AddrFrom16([16]byte{0xff})
)
