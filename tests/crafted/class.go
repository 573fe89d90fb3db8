package crafted

// Class is a kind of packet, or something that was done to one.
type Class string

// Kinds of packets. Every case has one.
const (
	UDP         Class = "udp"
	TCP         Class = "tcp"
	TCPFlags    Class = "tcp with any flags"
	UDPLite     Class = "udp-lite"
	SCTP        Class = "sctp"
	DCCP        Class = "dccp"
	Echo        Class = "echo"
	ICMP        Class = "icmp of any type"
	Discovery   Class = "neighbour discovery"
	Membership  Class = "group membership"
	DHCP        Class = "dhcp"
	AnyProtocol Class = "any protocol"
	Sequence    Class = "sequence"
)

// What is done to packets. Plain is a case to which nothing was done.
const (
	Plain Class = "plain"

	SourceSpecial     Class = "source: special"
	SourceOwn         Class = "source: the host's own"
	SourceStranger    Class = "source: stranger"
	DestinationShared Class = "destination: shared"
	DestinationOther  Class = "destination: of nobody"
	MACShared         Class = "mac: broadcast or group"
	MACOther          Class = "mac: of another host"

	Tags        Class = "tags: up to four of VLAN 0"
	TagStack    Class = "tags: more"
	TagPriority Class = "tags: priority"
	TagService  Class = "tags: of the service kind"
	TagOther    Class = "tags: other VLANs and kinds"
	LLC         Class = "802.3"
	EtherType   Class = "ethertype"
	Trailer     Class = "trailer"
	FrameCut    Class = "frame cut"

	OptionPadding   Class = "options: padding"
	OptionAlert     Class = "options: router alert"
	OptionRecord    Class = "options: record route, timestamp"
	OptionRoute     Class = "options: source route"
	OptionGarbage   Class = "options: garbage"
	HeaderLength    Class = "ipv4 header length"
	HeaderFlags     Class = "ipv4 flags"
	HeaderChecksum  Class = "ipv4 checksum"
	Version         Class = "ip version"
	LengthShort     Class = "ip length: less than the frame"
	LengthLong      Class = "ip length: more than the frame"
	LengthZero      Class = "ip length: zero"
	Hops            Class = "hops"
	Authentication4 Class = "ipv4 authentication header"

	Extensions        Class = "extensions: up to eight"
	ExtensionStack    Class = "extensions: more"
	ExtensionLong     Class = "extensions: long"
	ExtensionContent  Class = "extensions: odd contents"
	ExtensionLate     Class = "extensions: hop-by-hop not first"
	ExtensionSecurity Class = "extensions: authentication"
	ExtensionMobility Class = "extensions: mobility"
	ExtensionUpper    Class = "extensions: hip, shim6, none"
	Routing           Class = "routing: at its end"
	RoutingLeft       Class = "routing: segments left"
	Jumbo             Class = "jumbo payload"

	Fragments          Class = "fragments: in order"
	FragmentReserved   Class = "fragments: reserved bits"
	FragmentAtomic     Class = "fragments: only one"
	FragmentTiny       Class = "fragments: tiny"
	FragmentOrder      Class = "fragments: out of order"
	FragmentRepeated   Class = "fragments: repeated"
	FragmentOverlap    Class = "fragments: overlapping"
	FragmentFirsts     Class = "fragments: two firsts"
	FragmentIdentities Class = "fragments: of two datagrams"
	FragmentHole       Class = "fragments: some missing"
	FragmentNested     Class = "fragments: in fragments"
	FragmentDecoy      Class = "fragments: first to another host"
	FragmentHeaders    Class = "fragments: cut in the headers"
	FragmentOdd        Class = "fragments: of odd lengths"

	SegmentShort    Class = "segment: length too short"
	SegmentLong     Class = "segment: length too long"
	SegmentCut      Class = "segment: cut"
	SegmentChecksum Class = "segment: checksum"
	SegmentOffset   Class = "segment: data offset"
	SegmentNumbers  Class = "segment: sequence numbers"
	PortsSwapped    Class = "ports swapped"
	Large           Class = "larger than a page"

	FlowProtocol  Class = "flow: another protocol"
	FlowPorts     Class = "flow: other ports"
	FlowError     Class = "flow: an error about it"
	FlowMidstream Class = "flow: made up, then a SYN"
	FlowFragments Class = "flow: its fragment identity again"
)

// Classes lists all of them.
func Classes() []Class { return append(Delivered(), undelivered...) }

// undelivered are those of which a kernel may refuse every case.
var undelivered = []Class{
	SourceOwn, DestinationOther, MACOther, TagOther, LLC, EtherType, FrameCut, OptionRoute, OptionGarbage,
	HeaderChecksum, Version, LengthLong, ExtensionLate, RoutingLeft, Jumbo, FragmentOverlap, FragmentFirsts,
	FragmentHole, FragmentNested, FragmentHeaders, FragmentOdd, Large,
}

// Delivered lists the classes of which every kernel delivers some cases. The
// others it may refuse, all of them; they are drawn to be sure.
func Delivered() []Class {
	return []Class{
		UDP, TCP, TCPFlags, UDPLite, SCTP, DCCP, Echo, ICMP, Discovery, Membership, DHCP, AnyProtocol, Sequence, Plain,
		SourceSpecial, SourceStranger, DestinationShared, MACShared,
		Tags, TagStack, TagPriority, TagService, Trailer,
		OptionPadding, OptionAlert, OptionRecord, HeaderLength, HeaderFlags, LengthShort, LengthZero, Hops, Authentication4,
		Extensions, ExtensionStack, ExtensionLong, ExtensionContent, ExtensionSecurity, ExtensionMobility, ExtensionUpper, Routing,
		Fragments, FragmentReserved, FragmentAtomic, FragmentTiny, FragmentOrder, FragmentRepeated,
		FragmentIdentities, FragmentDecoy,
		SegmentShort, SegmentLong, SegmentCut, SegmentChecksum, SegmentOffset, SegmentNumbers, PortsSwapped,
		FlowProtocol, FlowPorts, FlowError, FlowMidstream, FlowFragments,
	}
}
