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

// TestMemberGoes: the flows of a resource that leaves the policy are over, though
// not at once: their packets pass as anybody's, and a sweep tells their end, once.
// If the resource comes back before that, they go on.
func TestMemberGoes(t *testing.T) {
	r := newRig(t, Options{})
	for _, row := range []struct {
		name    string
		after   policy.Resource
		returns bool
		ends    int
	}{
		{"to another address", policy.Resource{Addresses: prefixes("10.20.0.77", "fd20::77")}, false, 2},
		{"to a prefix in one family", policy.Resource{Addresses: prefixes("10.20.0.77", "fd20:1::/64")}, false, 1}, // the other is asked about, by its packets
		{"and comes back", policy.Resource{Addresses: prefixes("10.20.0.77", "fd20::77")}, true, 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			r.forgetFlows(t)
			here := memberPolicy(policy.Enforced, partnersOn5432())
			r.apply(t, here, hereFacts())
			opening := packet.UDP(partner4, member4, 4000, 5432)
			answer := packet.UDP(member4, partner4, 5432, 4000)
			r.towards(t, opening)
			r.from(t, answer)
			r.towards(t, packet.UDP(partner6, member6, 4000, 5432))
			r.from(t, packet.UDP(member6, partner6, 5432, 4000))
			away := memberPolicy(policy.Enforced, partnersOn5432())
			row.after.Name = away.Resources[0].Name
			away.Resources[0] = row.after
			r.apply(t, away, hereFacts())
			r.events(t)
			expectSwept(t, r, 0)
			if row.returns {
				r.apply(t, here, hereFacts())
			} else if verdict, reason := r.towards(t, opening); verdict != policy.Allow || reason != "ungoverned" {
				t.Errorf("a packet of what was a member: %v, %s", verdict, reason)
			}
			r.inForce.since -= r.clock.jiffiesIn(2 * unknownFor)
			expectSwept(t, r, row.ends)
			expectSwept(t, r, 0)
			if row.returns {
				if verdict, reason := r.from(t, answer); verdict != policy.Allow || reason != "established" {
					t.Errorf("a packet of a member that came back: %v, %s", verdict, reason)
				}
			}
		})
	}
}

// expectSwept sweeps, and wants the ends of so many flows.
func expectSwept(t *testing.T, r *rig, want int) {
	t.Helper()
	ends, stats, err := r.Sweep()
	if err != nil || len(ends) != want || stats.Removed != want {
		t.Errorf("%d flows were removed, %d ends told (%v), want %d", stats.Removed, len(ends), err, want)
	}
	for _, e := range ends {
		if e.Kind != FlowEnd || e.PacketsTowards != 1 || e.PacketsFrom != 1 {
			t.Errorf("the end of %v: %+v", e.Peer, e)
		}
	}
}
