package datapath

import (
	"net/netip"
	"testing"

	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/pkg/reference"
	"github.com/perimeterd/perimeterd/tests/packet"
)

// TestOwnAddressesComeFromNoWire: a packet from outside with an address of this
// host as its source is of nobody, whether a member has that address or a prefix
// around it. The neighbour in the same prefix is somebody.
func TestOwnAddressesComeFromNoWire(t *testing.T) {
	p, facts := everything(t)
	facts.Interfaces[0].Addresses = append(facts.Interfaces[0].Addresses, netip.MustParseAddr("10.20.0.18"), netip.MustParseAddr("fd20::12"))
	both := newPair(t, 256)
	both.put(t, p, facts)
	for _, row := range []struct {
		from, to string
		reason   policy.Reason
	}{
		{"10.20.0.6", member4, reference.ReasonForgedSource},
		{"10.20.0.18", member4, reference.ReasonForgedSource},
		{"10.20.0.19", member4, policy.ReasonLinkedPerimeter},
		{"fd20::6", member6, reference.ReasonForgedSource},
		{"fd20::12", member6, reference.ReasonForgedSource},
		{"fd20::13", member6, policy.ReasonLinkedPerimeter},
	} {
		t.Run(row.from, func(t *testing.T) {
			reasons := both.play(t, atXDP(comingIn(packet.UDP(row.from, row.to, 1, 2))))
			if reasons[row.reason] != 1 {
				t.Errorf("judged for %v, want %s", reasons, row.reason)
			}
		})
	}
}
