package datapath

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/tests/packet"
)

// twin finds another address with the mark of this one.
func twin(t *testing.T, text string) string {
	t.Helper()
	of := netip.MustParseAddr(text)
	bytes := of.AsSlice()
	for i := range uint32(1 << 30) {
		binary.BigEndian.PutUint32(bytes[len(bytes)-4:], i)
		a, _ := netip.AddrFromSlice(bytes)
		if localMark(a) == localMark(of) && a != of && !isGroup(a) {
			return a.String()
		}
	}
	t.Fatal("no address has the same mark")
	return ""
}

// TestMarks: a packet between addresses that nobody knows is of no member, also if
// one of them has a member's mark; where a member is at either end it is judged.
func TestMarks(t *testing.T) {
	r := newRig(t, Options{})
	r.apply(t, memberPolicy(policy.Enforced, partnersOn5432()), hereFacts())
	for _, c := range []struct{ member, peer string }{{member4, stranger4}, {member6, stranger6}} {
		beside := twin(t, c.member)
		for _, row := range []struct {
			from, to string
			towards  bool
			want     policy.Reason
		}{
			{c.peer, c.member, true, policy.ReasonNoAccessRule},
			{c.peer, beside, true, "ungoverned"},
			{c.member, c.peer, false, policy.ReasonNoAccessRule},
			{beside, c.peer, false, "ungoverned"},
			{c.peer, c.peer, true, "ungoverned"},
			{c.member, c.peer, true, "ungoverned"}, // judged at the other end
			{beside, c.peer, true, "ungoverned"},
		} {
			for _, p := range []packet.Packet{packet.UDP(row.from, row.to, 4000, 5433), packet.TCP(row.from, row.to, 4000, 5433, packet.ACK)} {
				if _, reason := r.decide(t, p.Frame(), row.towards); reason != row.want {
					t.Errorf("%s > %s, towards %v: %s, want %s", row.from, row.to, row.towards, reason, row.want)
				}
			}
		}
	}
}

// TestMemberGoes: the flows of a resource that leaves the policy are over: their
// packets pass as anybody's, and the next sweep tells their end, once.
func TestMemberGoes(t *testing.T) {
	r := newRig(t, Options{})
	r.apply(t, memberPolicy(policy.Enforced, partnersOn5432()), hereFacts())
	opened := 0
	for _, ends := range [][2]string{{partner4, member4}, {partner6, member6}} {
		opening := packet.UDP(ends[0], ends[1], 4000, 5432)
		r.towards(t, opening)
		r.from(t, packet.UDP(ends[1], ends[0], 5432, 4000))
		opened++
	}
	other := memberPolicy(policy.Enforced, partnersOn5432())
	other.Resources[0].Addresses = prefixes("10.20.0.77", "fd20::77")
	r.apply(t, other, hereFacts())
	r.events(t)
	for _, ends := range [][2]string{{partner4, member4}, {partner6, member6}} {
		if verdict, reason := r.towards(t, packet.UDP(ends[0], ends[1], 4000, 5432)); verdict != policy.Allow || reason != "ungoverned" {
			t.Errorf("a packet of what was a member: %v, %s", verdict, reason)
		}
	}
	ends, _, err := r.Sweep()
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range ends {
		if e.Kind != FlowEnd || e.PacketsTowards != 1 || e.PacketsFrom != 1 {
			t.Errorf("the end of %v: %+v", e.Peer, e)
		}
	}
	again, stats, err := r.Sweep()
	if err != nil || len(again) != 0 || stats.Flows != 0 || len(ends) != opened {
		t.Errorf("%d flows ended, then %d, %d are left (%v); want %d, 0, 0", len(ends), len(again), stats.Flows, err, opened)
	}
}
