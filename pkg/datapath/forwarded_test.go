package datapath

import (
	"context"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/tests/packet"
	"github.com/perimeterd/perimeterd/tests/privileged"
	"github.com/perimeterd/perimeterd/tests/traffic"
	"github.com/perimeterd/perimeterd/tests/world"
)

// forwarded runs a frame as one that came in by another interface.
func (r *rig) forwarded(t *testing.T, p packet.Packet, towards bool, arrived, ifindex uint32) policy.Verdict {
	t.Helper()
	program := r.objects.From
	if towards {
		program = r.objects.Towards
	}
	var v policy.Verdict
	err := r.host.Run(func() (err error) {
		v, err = verdictOf(program.Run(&ebpf.RunOptions{Data: p.Frame(), Context: skbContext{IngressIfindex: arrived, Ifindex: ifindex}}))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestTranslatedPackets: a packet that is forwarded under other addresses than it
// came with is judged for what it has become.
func TestTranslatedPackets(t *testing.T) {
	r := newRig(t, Options{}, "eth0", "veth0")
	err := r.host.Run(func() error { _, err := r.Attach(r.ifindex["veth0"], Workload); return err })
	if err != nil {
		t.Fatal(err)
	}
	r.apply(t, memberPolicy(policy.Enforced, partnersOn5432()), hereFacts())
	eth0, veth0 := r.ifindex["eth0"], r.ifindex["veth0"]
	const host = "192.0.2.0"
	// A published port: towards the host where it arrives, towards the member where it leaves.
	if v := r.forwarded(t, packet.TCP(stranger4, host, 4000, 8080, packet.SYN), true, eth0, eth0); v != allow {
		t.Fatalf("at arrival: %v", v)
	}
	if v := r.forwarded(t, packet.TCP(stranger4, member4, 4000, 5432, packet.SYN), true, eth0, veth0); v != deny {
		t.Errorf("a stranger's SYN, translated to the member: %v", v)
	}
	// A guest behind the host, whose address the host puts in place of it.
	if v := r.forwarded(t, packet.TCP("172.17.0.2", stranger4, 4000, 443, packet.SYN), false, veth0, veth0); v != allow {
		t.Fatalf("of no member: %v", v)
	}
	if v := r.forwarded(t, packet.TCP(member4, stranger4, 4000, 443, packet.SYN), false, veth0, eth0); v != deny {
		t.Errorf("a guest's SYN in the member's name: %v", v)
	}
}

// TestBridgedGuestCountedOnce: a bridge between two attached interfaces puts its
// own number where a packet's way in is noted, and the packet is still counted
// once.
func TestBridgedGuestCountedOnce(t *testing.T) {
	privileged.Require(t)
	root := privileged.BPFFS(t) + "/perimeterd"
	w := world.New(t)
	host := w.Router("host")
	guest, partner := w.Host("guest"), w.Host("partner")
	inner, outside := w.Connect(host, guest)
	host.Bridge("br0", inner).Address("10.20.0.1/24")
	outside.Address(member4 + "/24")
	guest.Route("0.0.0.0/0", "10.20.0.1")
	_, outer := w.Uplink(partner, host, partner4+"/24")
	database, err := traffic.Database(guest, ":5432")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { database.Close() })
	var d *Datapath
	err = host.Run(func() (err error) {
		if d, err = Open(Options{Root: root}); err != nil {
			return err
		}
		if _, err = d.Attach(uint32(outer.Index), Uplink); err != nil {
			return err
		}
		_, err = d.Attach(uint32(inner.Index), Workload)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	facts := hereFacts()
	facts.Interfaces = []policy.Interface{{Name: "inner", Workload: true}}
	tables, legend := compiled(t, memberPolicy(policy.Enforced, partnersOn5432()), facts)
	if _, err := d.Apply(tables, legend, nil, nil); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	talk, err := traffic.Converse(ctx, partner, "tcp", member4+":5432", traffic.Pace{Every: time.Millisecond, Patience: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if err := talk.Await(ctx, 50); err != nil {
		t.Fatal(err)
	}
	talk.Stop()
	if err := d.Flows(func(f Flow) bool {
		t.Logf("%s towards %d from %d", f.State, f.PacketsTowards, f.PacketsFrom)
		if f.PacketsFrom > f.PacketsTowards*3/2 {
			t.Errorf("counted twice")
		}
		return true
	}); err != nil {
		t.Fatal(err)
	}
}
