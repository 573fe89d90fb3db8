package policy

import (
	"fmt"
	"net/netip"
	"time"
)

// Policy is one checked policy: everything a file or a directory of files said.
// It is never changed after Load and may be shared between goroutines.
type Policy struct {
	Resources        []Resource
	Perimeters       []Perimeter
	PrivateEndpoints []PrivateEndpoint

	// ServiceTags holds the prefixes of every service tag that a rule names,
	// by the tag's name as written in the rule.
	ServiceTags map[string]*PrefixSet

	// Files lists every file the policy was read from, service tag files
	// included, in the order they were read.
	Files []string
}

// Position is where in the policy files something was written.
// Line and Column count from 1; the zero Position means "not from a file".
type Position struct {
	File         string
	Line, Column int
}

// String returns file:line:column, the form editors understand.
func (p Position) String() string {
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column)
}

// Resource is something protected: a set of local addresses and, optionally,
// the services on them.
//
// A packet belongs to a resource by its local address and local port, see
// CheckAttribution for what happens where several resources cover one address.
type Resource struct {
	Name         string
	Subscription string // owner group; "" = none

	// Addresses are the resource's prefixes, masked; a host is a full-length
	// prefix. Empty when Interfaces is used.
	Addresses []netip.Prefix

	// Interfaces are glob patterns (path.Match) of interface names whose
	// addresses, on hosts that match Host, are the resource's addresses.
	Interfaces []string
	Host       string // glob pattern of the host's name; "" = every host

	// Services limits the resource to these protocols and local ports for
	// inbound traffic. Empty = all traffic of the addresses. Outbound traffic
	// is attributed by address alone, since its local port means nothing.
	Services []Ports

	PublicNetworkAccess PublicNetworkAccess

	// Firewall holds the resource's own rules. They count only where the
	// resource's own rules decide: not associated, or in Learning.
	Firewall []AccessRule

	At Position
}

// PublicNetworkAccess is the resource's own switch for public traffic.
type PublicNetworkAccess uint8

const (
	// Enabled is the default: the resource's own rules decide where the
	// perimeter's do not.
	Enabled PublicNetworkAccess = iota
	// Disabled denies public inbound traffic that no access rule allows.
	Disabled
	// SecuredByPerimeter denies both directions unless an access rule allows,
	// in every access mode but Audit, and also when not associated.
	SecuredByPerimeter
)

func (a PublicNetworkAccess) String() string {
	return [...]string{"Enabled", "Disabled", "SecuredByPerimeter"}[a]
}

// Perimeter groups resources that talk to each other freely.
type Perimeter struct {
	Name           string
	Location       string // copied into records; "" = none
	Profiles       []Profile
	Associations   []Association
	Links          []Link
	LinkReferences []LinkReference
	At             Position
}

// Profile is a named set of access rules. It isolates rules, not members:
// traffic between members of one perimeter ignores profiles.
type Profile struct {
	Name        string
	AccessRules []AccessRule
	At          Position
}

// AccessRule allows. There is no rule that denies, order means nothing, and any
// rule that matches is enough. Exactly one kind of selector (AddressPrefixes,
// Subscriptions, FullyQualifiedDomainNames, ServiceTags) is set, with at least
// one element.
type AccessRule struct {
	Name      string
	Direction Direction

	AddressPrefixes           []netip.Prefix // masked
	Subscriptions             []string       // inbound only
	FullyQualifiedDomainNames []string       // outbound only; lower case, no trailing dot; exact, or "*." and what names must be below
	ServiceTags               []string       // keys of Policy.ServiceTags

	// Ports limits the rule: local ports inbound, the peer's ports outbound.
	// Empty = every protocol and port.
	Ports []Ports

	Expires     time.Time // the first instant at which the rule no longer counts; zero = never
	Description string
	At          Position
}

// Association puts a resource into a perimeter, with a profile and a mode.
// A resource has at most one.
type Association struct {
	Name       string
	Resource   string
	Profile    string
	AccessMode AccessMode
	At         Position
}

// AccessMode says what the perimeter's rules do to a member's traffic.
type AccessMode uint8

const (
	// Unassociated is the mode of a resource that is in no perimeter. It cannot
	// be written in a policy.
	Unassociated AccessMode = iota
	// Learning lets the resource's own rules decide where no access rule
	// matches. Transition is another name for it.
	Learning
	// Enforced denies what no access rule allows.
	Enforced
	// Audit computes the verdict of Enforced, logs it, and drops nothing.
	Audit
)

func (m AccessMode) String() string {
	return [...]string{"Unassociated", "Learning", "Enforced", "Audit"}[m]
}

// Link is the initiating side's wish to let two perimeters talk. It is
// effective only while the remote perimeter has an Approved LinkReference that
// names this perimeter.
type Link struct {
	Name            string
	RemotePerimeter string
	// LocalInboundProfiles are the profiles of this perimeter that accept
	// inbound traffic from the remote one; ["*"] = all. Outbound is from all.
	LocalInboundProfiles []string
	Description          string
	At                   Position
}

// LinkReference is the remote side's answer to a Link.
type LinkReference struct {
	Name                 string
	RemotePerimeter      string // the perimeter that has the Link
	LocalInboundProfiles []string
	Status               LinkStatus
	Description          string
	At                   Position
}

// LinkStatus is the state of a LinkReference. Only Approved has an effect.
type LinkStatus uint8

const (
	Pending LinkStatus = iota // the default
	Approved
	Rejected
	Disconnected
)

func (s LinkStatus) String() string {
	return [...]string{"Pending", "Approved", "Rejected", "Disconnected"}[s]
}

// PrivateEndpoint declares a private path: traffic over it is never governed,
// always logged. Exactly one of the two selectors is set.
type PrivateEndpoint struct {
	Name            string
	Interfaces      []string       // glob patterns of the attached interface the packet crosses
	AddressPrefixes []netip.Prefix // the peer's address, masked
	At              Position
}

// Ports is a protocol and a range of its ports.
type Ports struct {
	// Protocol is an IANA protocol number. ICMP (1) stands for ICMP and ICMPv6.
	Protocol uint8
	// First and Last are inclusive. Protocols without ports, and a protocol
	// written without ports, have the full range 0 to 65535.
	First, Last uint16
}

// IANA protocol numbers the policy language has names for.
const (
	ProtocolICMP    = 1
	ProtocolIGMP    = 2
	ProtocolTCP     = 6
	ProtocolUDP     = 17
	ProtocolDCCP    = 33
	ProtocolGRE     = 47
	ProtocolESP     = 50
	ProtocolAH      = 51
	ProtocolICMPv6  = 58
	ProtocolSCTP    = 132
	ProtocolUDPLite = 136
)

// HasPorts reports whether packets of the protocol begin with a source and a
// destination port.
func HasPorts(protocol uint8) bool {
	switch protocol {
	case ProtocolTCP, ProtocolUDP, ProtocolDCCP, ProtocolSCTP, ProtocolUDPLite:
		return true
	}
	return false
}

// Contains reports whether a packet of this protocol and port is in the range.
// ICMPv6 counts as ICMP.
func (p Ports) Contains(protocol uint8, port uint16) bool {
	if protocol == ProtocolICMPv6 {
		protocol = ProtocolICMP
	}
	mine := p.Protocol
	if mine == ProtocolICMPv6 {
		mine = ProtocolICMP
	}
	return protocol == mine && p.First <= port && port <= p.Last
}
