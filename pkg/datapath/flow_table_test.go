package datapath

import (
	"sync"
	"testing"

	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/tests/packet"
)

// TestOutsidersDoNotFillEstablished: what anybody can cause with invented
// addresses takes no place that nothing evicts.
func TestOutsidersDoNotFillEstablished(t *testing.T) {
	established := func(r *rig) (n int) {
		var key perimeterFlowKey4
		var flow perimeterFlow
		entries := r.objects.Established4.Iterate()
		for entries.Next(&key, &flow) {
			n++
		}
		if err := entries.Err(); err != nil {
			t.Fatal(err)
		}
		return n
	}
	r := newRig(t, Options{})
	services := memberPolicy(policy.Enforced, partnersOn5432())
	services.Resources[0].Services = []policy.Ports{{Protocol: policy.ProtocolTCP, First: 5432, Last: 5432}}
	r.apply(t, services, hereFacts())
	for name, frames := range map[string][]step{
		"a lone ACK":         {in(fromPartner(1, packet.ACK), allow, "access-rule")},
		"two ACKs":           {in(fromPartner(1, packet.ACK), allow, "access-rule"), in(fromPartner(1, packet.ACK), allow, "established")},
		"a SYN, answered":    {in(fromPartner(1, packet.SYN), allow, "access-rule"), out(fromMember(1, packet.SYN|packet.ACK), allow, "established")},
		"SYN, FIN":           {in(fromPartner(1, packet.SYN), allow, "access-rule"), in(fromPartner(1, packet.FIN), allow, "established")},
		"an unlisted ping":   {in(packet.ICMPEcho(stranger4, member4, 7, 1), allow, "ungoverned"), out(packet.ICMPEchoReply(member4, stranger4, 7, 1), allow, "established")},
		"unlisted datagrams": {in(packet.UDP(stranger4, member4, 1, 2), allow, "ungoverned"), in(packet.UDP(stranger4, member4, 1, 2), allow, "established"), in(packet.UDP(stranger4, member4, 1, 2), allow, "established"), in(packet.UDP(stranger4, member4, 1, 2), allow, "established")},
	} {
		r.forgetFlows(t)
		r.play(t, frames)
		if n := established(r); n != 0 {
			t.Errorf("%s: takes an unevictable place", name)
		}
	}
}

// TestMidstreamOnTwoCPUs: a flow whose both ways are first seen at once is one
// flow, told once.
func TestMidstreamOnTwoCPUs(t *testing.T) {
	r := newRig(t, Options{})
	r.apply(t, memberPolicy(policy.Enforced, partnersOn5432()), hereFacts())
	const flows = 20000
	for batch := 0; batch < 10; batch++ {
		var wg sync.WaitGroup
		start := make(chan struct{})
		for _, towards := range []bool{true, false} {
			wg.Add(1)
			go func() {
				defer wg.Done()
				<-start
				for i := 0; i < flows/10; i++ {
					port := uint16(10000 + batch*flows/10 + i)
					p := fromPartner(port, packet.ACK)
					if !towards {
						p = fromMember(port, packet.ACK)
					}
					if _, err := r.run(p.Frame(), towards, 0); err != nil {
						t.Error(err)
					}
				}
			}()
		}
		close(start)
		wg.Wait()
	}
	counters, err := r.Counters()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	if err := r.Flows(func(Flow) bool { n++; return true }); err != nil {
		t.Fatal(err)
	}
	if got := counters.Decisions[policy.PublicInboundPerimeterRulesAllowed].Decided; got != flows || n != flows {
		t.Errorf("%d connections: %d decided, %d flows", flows, got, n)
	}
}

// TestSettlingOnTwoCPUs: an answer that comes while another CPU moves the flow to
// the other table still finds it.
func TestSettlingOnTwoCPUs(t *testing.T) {
	r := newRig(t, Options{})
	rule := policy.AccessRule{Name: "dns", Direction: policy.Outbound, AddressPrefixes: prefixes("192.0.2.0/24"), Ports: []policy.Ports{{Protocol: policy.ProtocolUDP, First: 53, Last: 53}}}
	r.apply(t, memberPolicy(policy.Enforced, rule), hereFacts())
	lost := 0
	for port := 10000; port < 30000; port++ {
		if _, err := r.run(packet.UDP(member4, "192.0.2.53", uint16(port), 53).Frame(), false, 0); err != nil {
			t.Fatal(err)
		}
		answer := packet.UDP("192.0.2.53", member4, 53, uint16(port)).Frame()
		var wg sync.WaitGroup
		var got [2]policy.Verdict
		start := make(chan struct{})
		for i := range got {
			wg.Add(1)
			go func() { defer wg.Done(); <-start; got[i], _ = r.run(answer, true, 0) }()
		}
		close(start)
		wg.Wait()
		if got[0] != allow || got[1] != allow {
			lost++
		}
	}
	if lost != 0 {
		t.Errorf("%d answers were dropped", lost)
	}
}
