package decisionlog

import (
	"strconv"
	"strings"
	"time"

	"github.com/perimeterd/perimeterd/pkg/compile"
	"github.com/perimeterd/perimeterd/pkg/datapath"
	"github.com/perimeterd/perimeterd/pkg/policy"
)

// builder turns events into records. It keeps the names it has met, so that a
// record allocates nothing in steady state. Not for use by several goroutines.
type builder struct {
	legend      func(generation uint32) *compile.Legend
	linkName    func(ifindex uint32) string
	nameOf      func(*datapath.Event) string // may be nil
	transports  [256]string
	known       []*names // the newest last; the oldest makes room
	generations map[uint32]*names
	links       map[uint32]string
}

// legendsKept is how many generations' names a builder keeps: the one in
// force, and those of flows that have not met a packet since it changed.
const legendsKept = 8

// newBuilder returns a builder that asks legend for what the numbers of a
// generation stand for (nil if that is not known any more), and linkName for the
// name of an interface ("" if it has none). linkName may be nil.
func newBuilder(legend func(generation uint32) *compile.Legend, linkName func(ifindex uint32) string) *builder {
	b := &builder{
		legend:      legend,
		linkName:    linkName,
		generations: make(map[uint32]*names),
		links:       make(map[uint32]string),
	}
	for protocol := range b.transports {
		b.transports[protocol] = "Unknown:" + transportName(uint8(protocol))
	}
	return b
}

// refresh forgets what may have changed: which generations have a legend and
// how interfaces are called. To be called before each batch.
func (b *builder) refresh() {
	clear(b.generations)
	clear(b.links)
}

// fill sets every field of the record from the event. The record shares its
// strings with the legend and with the builder, which never change them.
func (b *builder) fill(r *Record, e *datapath.Event) {
	*r = Record{
		Time:      e.Time.UTC(),
		Count:     Count(max(e.Count, 1)),
		Operation: operationOf(e),
		Category:  e.Category,
	}
	if e.Count > 1 {
		r.EndTime = e.LastTime.UTC()
	}
	p := &r.Properties
	x := &p.Perimeterd
	x.Verdict = e.Verdict.String()
	x.WouldBe = e.WouldBe.String()
	x.Reason = e.Reason
	x.Generation = e.Generation
	x.Interface = b.interfaceName(e.Ifindex)
	x.Direction = e.Direction.String()
	x.Local = Endpoint{IPAddress: e.Local, Port: e.LocalPort}

	peer := &p.Source
	if e.Direction == policy.Outbound {
		peer = &p.Destination
	}
	*peer = Endpoint{IPAddress: e.Peer, Port: e.PeerPort}
	if e.Protocol != 0 {
		peer.Protocol = b.transports[e.Protocol]
	}
	x.Question = e.Name
	x.PeersNotToldApart = e.Crowd
	if b.nameOf != nil && e.Direction == policy.Outbound && e.Peer.IsValid() {
		peer.FullyQualifiedDomainName = b.nameOf(e)
	}

	switch e.Kind {
	case datapath.FlowEnd:
		r.Count = 0
		r.EndTime = time.Time{}
		x.Flow = flowOf(e)
	case datapath.FlowCut:
		x.Flow = flowOf(e)
	}
	b.name(r, e)
}

// name adds what the legend knows.
func (b *builder) name(r *Record, e *datapath.Event) {
	p := &r.Properties
	x := &p.Perimeterd
	n := b.namesOf(e.Generation)
	if e.Member != 0 {
		if m := n.member(e.Member); m != nil {
			r.ResourceID = m.perimeterID
			r.Location = m.legend.Location
			p.ServiceResourceID = m.resourceID
			p.Profile = m.legend.Profile
			p.AccessRulesVersion = m.legend.AccessRulesVersion
			x.AccessMode = m.legend.AccessMode.String()
		} else {
			x.Member = e.Member
		}
	}
	if e.Outcome != 0 {
		if o := n.outcome(e.Outcome); o != nil {
			p.MatchedRule.AccessRule = o.Rule
		} else {
			x.Outcome = e.Outcome
		}
	}
}

func operationOf(e *datapath.Event) Operation {
	switch e.Kind {
	case datapath.FlowStart:
		return OperationFlowStart
	case datapath.FlowEnd:
		return OperationFlowEnd
	case datapath.FlowCut:
		return OperationFlowCut
	}
	if e.Verdict == policy.Allow {
		return OperationWouldDeny
	}
	return OperationDeny
}

func flowOf(e *datapath.Event) Flow {
	f := Flow{
		PacketsTowards: e.PacketsTowards,
		BytesTowards:   e.BytesTowards,
		PacketsFrom:    e.PacketsFrom,
		BytesFrom:      e.BytesFrom,
		Midstream:      e.Midstream,
	}
	if !e.Started.IsZero() {
		f.Started = e.Started.UTC()
	}
	return f
}

// interfaceName returns the interface's name, or if and its number where it
// has none any more.
func (b *builder) interfaceName(ifindex uint32) string {
	if ifindex == 0 {
		return ""
	}
	name, ok := b.links[ifindex]
	if ok {
		return name
	}
	if b.linkName != nil {
		name = b.linkName(ifindex)
	}
	if name == "" {
		name = "if" + strconv.FormatUint(uint64(ifindex), 10)
	}
	b.links[ifindex] = name
	return name
}

// transportName returns the second half of NSP's protocol field.
func transportName(protocol uint8) string {
	switch protocol {
	case policy.ProtocolICMP:
		return "ICMP"
	case policy.ProtocolICMPv6:
		return "ICMPv6"
	case policy.ProtocolIGMP:
		return "IGMP"
	case policy.ProtocolTCP:
		return "TCP"
	case policy.ProtocolUDP:
		return "UDP"
	case policy.ProtocolUDPLite:
		return "UDPLite"
	case policy.ProtocolDCCP:
		return "DCCP"
	case policy.ProtocolSCTP:
		return "SCTP"
	case policy.ProtocolGRE:
		return "GRE"
	case policy.ProtocolESP:
		return "ESP"
	case policy.ProtocolAH:
		return "AH"
	}
	return strconv.Itoa(int(protocol))
}

// names is a legend with the ids that records print.
type names struct {
	legend  *compile.Legend
	members []memberNames // made when first met
}

type memberNames struct {
	legend                  *compile.MemberLegend
	perimeterID, resourceID string
}

// namesOf returns the names of a generation, nil if nobody knows them.
func (b *builder) namesOf(generation uint32) *names {
	n, ok := b.generations[generation]
	if !ok {
		n = b.lookUp(generation)
		b.generations[generation] = n
	}
	return n
}

func (b *builder) lookUp(generation uint32) *names {
	legend := b.legend(generation)
	if legend == nil {
		return nil
	}
	for _, n := range b.known {
		if n.legend == legend {
			return n
		}
	}
	if len(b.known) == legendsKept {
		b.known = append(b.known[:0], b.known[1:]...)
	}
	n := &names{legend: legend, members: make([]memberNames, len(legend.Members))}
	b.known = append(b.known, n)
	return n
}

// member returns the member's names, nil if they are not known.
func (n *names) member(number uint32) *memberNames {
	if n == nil || uint64(number) >= uint64(len(n.members)) {
		return nil
	}
	m := &n.members[number]
	if m.legend == nil {
		m.legend = &n.legend.Members[number]
		m.resourceID = "/resources/" + m.legend.Resource
		if s := m.legend.Subscription; s != "" {
			m.resourceID = "/subscriptions/" + s + m.resourceID
		}
		if p := m.legend.Perimeter; p != "" {
			m.perimeterID = "/PERIMETERS/" + strings.ToUpper(p)
		}
	}
	return m
}

func (n *names) outcome(number uint32) *compile.OutcomeLegend {
	if n == nil || uint64(number) >= uint64(len(n.legend.Outcomes)) {
		return nil
	}
	return &n.legend.Outcomes[number]
}
