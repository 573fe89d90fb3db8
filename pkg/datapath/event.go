package datapath

import (
	"net/netip"
	"time"

	"github.com/perimeterd/perimeterd/pkg/policy"
)

// EventKind is what an Event tells.
type EventKind uint8

const (
	FlowStart EventKind = iota // an allowed flow began
	FlowEnd                    // it ended: closed, idle for its timeout, or replaced on its key
	FlowCut                    // a changed policy no longer allows it
	Denied                     // packets were denied, or in Audit could not be judged
)

// Event is one decision, as the kernel reported it. Member and Outcome are
// numbers of Generation; compile.Legend of that generation names them.
type Event struct {
	Kind EventKind
	// Time is when the decision was made; of repeated denials, the first that
	// this event counts. Of a flow's end it is the last packet's time.
	Time time.Time
	// LastTime is the last of Count decisions. Equal to Time when Count is 1.
	LastTime time.Time
	// Count is how many decisions the event stands for, at least 1. A denial
	// that repeats comes again with the number of repetitions.
	Count uint64

	Generation uint32
	Member     uint32 // 0 = could not be known
	Outcome    uint32 // 0 = judged without the policy
	Ifindex    uint32 // interface where it was judged

	Direction policy.Direction
	Verdict   policy.Verdict
	WouldBe   policy.Verdict  // what Enforced would have given
	Reason    policy.Reason   // as spelled in bpf/vocabulary.h
	Category  policy.Category // "" where none applies

	Protocol            uint8
	Local, Peer         netip.Addr // invalid when the packet's addresses could not be read
	LocalPort, PeerPort uint16     // 0 for protocols without ports

	// Crowd is true of denials whose peers were not told apart, because more of
	// them came than there was room for. Peer is then invalid; of the ports only
	// the one that was asked for is told; and that, the protocol, the local address
	// and the interface only where all had the same.
	Crowd bool

	// Of FlowEnd and FlowCut only. Towards and From the member, L3 bytes.
	Started                      time.Time
	PacketsTowards, BytesTowards uint64
	PacketsFrom, BytesFrom       uint64
	Midstream                    bool // picked up without its opening packet
	// Name is what a denied question asked for; "" for all else.
	Name string
}
