package datapath

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/pkg/reference"
)

// kernelFlows and flowsOf write down the flows in both memories, sorted.
func (p *pair) kernelFlows(t *testing.T) []string {
	t.Helper()
	var out []string
	each := func(tuple flowTuple, f *perimeterFlow) error {
		flow := p.flow(tuple, f, moment{hz: 100})
		out = append(out, flowLine(flow.Protocol, flow.Local, flow.Peer, flow.LocalPort, flow.PeerPort, flow.Direction, flow.Reason, flow.Category))
		return nil
	}
	m := &p.objects.perimeterMaps
	for _, err := range []error{
		eachEntry(m.Established4, tuple4, each), eachEntry(m.Opening4, tuple4, each),
		eachEntry(m.Established6, tuple6, each), eachEntry(m.Opening6, tuple6, each),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(out)
	return out
}

// eachEntry is eachFlow for a table of a few entries.
func eachEntry[K any](m *ebpf.Map, tuple func(K) flowTuple, yield func(flowTuple, *perimeterFlow) error) error {
	var key K
	var flow perimeterFlow
	entries := m.Iterate()
	for entries.Next(&key, &flow) {
		if err := yield(tuple(key), &flow); err != nil {
			return err
		}
	}
	return entries.Err()
}

func flowsOf(session *reference.Session) []string {
	var out []string
	session.Flows(func(f reference.Flow) bool {
		out = append(out, flowLine(f.Protocol, f.Local, f.Peer, f.LocalPort, f.PeerPort, f.Opened.Direction, f.Opened.Reason, f.Opened.Category))
		return true
	})
	slices.Sort(out)
	return out
}

func flowLine(protocol uint8, local, peer netip.Addr, localPort, peerPort uint16, direction policy.Direction, reason policy.Reason, category policy.Category) string {
	return fmt.Sprintf("protocol %d, %s port %d and %s port %d, %v for %s %s", protocol, local, localPort, peer, peerPort, direction, reason, category)
}

// forget empties the tables of flows and fragments.
func (p *pair) forget(t *testing.T) {
	t.Helper()
	p.forgetFlows(t)
	emptyTable[perimeterFragmentKey, perimeterFragment](t, p.objects.Fragments)
}
