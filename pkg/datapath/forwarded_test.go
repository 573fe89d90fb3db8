package datapath

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

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
	if errors.Is(err, unix.EINVAL) {
		t.Skip("this kernel cannot be told where a test packet came in: needs Linux 5.16")
	}
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

// forwarder is a host that forwards between a partner and a guest, who is a
// member: the partner's side is an uplink, the guest's a workload interface.
type forwarder struct {
	*Datapath
	partner *world.Host
}

// newForwarder makes one. A bridge may stand between the host and its guest.
func newForwarder(t *testing.T, bridged bool) *forwarder {
	t.Helper()
	privileged.Require(t)
	root := privileged.BPFFS(t) + "/perimeterd"
	w := world.New(t)
	host, guest := w.Router("host"), w.Host("guest")
	f := &forwarder{partner: w.Host("partner")}
	var inner world.Interface
	if bridged {
		var outside world.Interface
		inner, outside = w.Connect(host, guest)
		host.Bridge("br0", inner).Address("10.20.0.1/24")
		outside.Address(member4 + "/24")
		guest.Route("0.0.0.0/0", "10.20.0.1")
	} else {
		_, inner = w.Uplink(guest, host, member4+"/24")
	}
	_, outer := w.Uplink(f.partner, host, partner4+"/24")
	database, err := traffic.Database(guest, ":5432")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { database.Close() })
	err = host.Run(func() (err error) {
		if f.Datapath, err = openEthernet(Options{Root: root}); err != nil {
			return err
		}
		if _, err = f.Attach(uint32(outer.Index), Uplink); err != nil {
			return err
		}
		_, err = f.Attach(uint32(inner.Index), Workload)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	facts := hereFacts()
	facts.Interfaces = []policy.Interface{{Name: "inner", Workload: true}}
	tables, legend := compiled(t, memberPolicy(policy.Enforced, partnersOn5432()), facts)
	if _, err := f.Apply(tables, legend, nil, nil); err != nil {
		t.Fatal(err)
	}
	return f
}

// TestForwardedOnce: a packet that crosses two attached interfaces on its way is
// judged and counted once, also if a bridge between them puts its own number
// where the packet's way in is noted.
func TestForwardedOnce(t *testing.T) {
	for name, bridged := range map[string]bool{"routed": false, "bridged": true} {
		t.Run(name, func(t *testing.T) {
			f := newForwarder(t, bridged)
			const rounds = 50
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
			defer cancel()
			talk, err := traffic.Converse(ctx, f.partner, "tcp", member4+":5432", traffic.Pace{Every: time.Millisecond, Patience: 2 * time.Second})
			if err != nil {
				t.Fatal(err)
			}
			if err := talk.Await(ctx, rounds); err != nil {
				t.Fatal(err)
			}
			talk.Stop()
			if got := traffic.Try(ctx, f.partner, "tcp", member4+":5433", 300*time.Millisecond); got.Outcome != traffic.TimedOut {
				t.Errorf("the next port: %v", got.Outcome)
			}
			counters, err := f.Counters()
			if err != nil {
				t.Fatal(err)
			}
			if n := counters.Decisions[policy.PublicInboundPerimeterRulesAllowed].Decided; n != 1 {
				t.Errorf("one connection was decided %d times", n)
			}
			var flows []Flow
			if err := f.Flows(func(f Flow) bool { flows = append(flows, f); return true }); err != nil {
				t.Fatal(err)
			}
			if len(flows) != 1 {
				t.Fatalf("one connection is %d flows: %+v", len(flows), flows)
			}
			// Every segment once: neither way can have twice the other.
			in, out := flows[0].PacketsTowards, flows[0].PacketsFrom
			if in < rounds || out < rounds || in > out*3/2 || out > in*3/2 {
				t.Errorf("%d packets towards and %d from: counted twice?", in, out)
			}
			// One that comes while its flow moves to the other table may be counted
			// in the copy that stays behind.
			if counted := counters.Packets["established"].Packets + 1; counted < in+out || counted > in+out+2 {
				t.Errorf("the flow has %d packets, but %d were counted", in+out, counted)
			}
		})
	}
}
