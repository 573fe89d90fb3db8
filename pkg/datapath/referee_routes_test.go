package datapath

import (
	"net/netip"
	"os"
	"slices"
	"testing"

	"github.com/perimeterd/perimeterd/tests/packet"
)

// TestSourceRoutes: on a host that follows source routes, which Linux does not
// unless it is told to, a packet to an address of no member may end at a member's.
func TestSourceRoutes(t *testing.T) {
	const beside4, beside6 = "10.20.0.6", "fd20::6"
	_, err := os.Stat("/proc/sys/net/ipv6/conf/all/seg6_enabled")
	segmentRouting := err == nil // Linux 4.10, if it is built so
	follow := func(r *referee) {
		must(t, r.host.Run(func() error {
			for _, itf := range []string{"all", r.near.Name} {
				err := os.WriteFile("/proc/sys/net/ipv4/conf/"+itf+"/accept_source_route", []byte("1"), 0)
				if err == nil && segmentRouting {
					err = os.WriteFile("/proc/sys/net/ipv6/conf/"+itf+"/seg6_enabled", []byte("1"), 0)
				}
				if err != nil {
					return err
				}
			}
			return nil
		}))
		r.near.Address(beside4+"/24", beside6+"/64")
	}
	final, via := netip.MustParseAddr(member6).As16(), netip.MustParseAddr(beside6).As16()
	segments := slices.Concat([]byte{4, 4, 1, 1, 0, 0, 0}, final[:], via[:])
	packets := []packet.Packet{
		packet.UDP(stranger4, beside4, 4000, refereePort).Payload("loose").Options(131, 7, 4, 10, 20, 0, 5),
		packet.UDP(stranger4, beside4, 4000, refereePort).Payload("strict").Options(137, 7, 4, 10, 20, 0, 5),
	}
	if segmentRouting {
		packets = append(packets, packet.UDP(stranger6, beside6, 4000, refereePort).Payload("segments").RawExtension(packet.Routing, segments...))
	}
	reached := func(r *referee, p packet.Packet) bool {
		o, err := r.send(p.Ethernet(r.far.MAC, r.near.MAC).Frame())
		must(t, err)
		return slices.ContainsFunc(o.receipts, func(r receipt) bool {
			return r.destination == netip.MustParseAddr(member4) || r.destination == netip.MustParseAddr(member6)
		})
	}

	bare := newReferee(t, xdpMTU)
	follow(bare)
	r := newReferee(t, xdpMTU)
	d := r.filter(t, newLoads(t), refereeHooks[0], false)
	r.stand(t, d, posts[0])
	facts := r.factsAt(posts[0])
	b := r.benches(posts[0])[0]
	d.apply(t, b.policy(facts), facts)
	follow(r) // addresses of no member
	for _, p := range packets {
		onOneCPU(t, func() {
			if !reached(bare, p) {
				t.Errorf("%s does not reach the member even without a filter", p)
			}
			if reached(r, p) {
				t.Errorf("%s reaches the member", p)
			}
		})
	}
}
