package datapath

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"github.com/perimeterd/perimeterd/pkg/compile"
	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/tests/packet"
	"github.com/perimeterd/perimeterd/tests/privileged"
	"github.com/perimeterd/perimeterd/tests/world"
)

// rig is a data path in a namespace of its own.
type rig struct {
	*Datapath
	host    *world.Host
	ifindex map[string]uint32
	told    map[policy.Category]uint64 // decisions read, for balance

	compiler compile.Compiler
}

// openEthernet is Open for tests that attach to no device without a link header.
// The verifier takes a third less without the programs for these, and most of what
// a test costs in an emulated kernel. In their places is nothing, so that a test
// that does need them fails.
func openEthernet(options Options) (*Datapath, error) {
	spec, err := loadPerimeter()
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"from_l3", "towards_l3"} {
		spec.Programs[name].Instructions = asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()}
	}
	d, err := open(options, spec)
	if err != nil {
		return nil, err
	}
	p := &d.objects.perimeterPrograms
	err = errors.Join(p.FromL3.Close(), p.TowardsL3.Close())
	p.FromL3, p.TowardsL3 = nil, nil
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// newRig makes a rig whose host has interfaces of these names, all attached as
// uplinks, lo included.
func newRig(t testing.TB, options Options, interfaces ...string) *rig {
	t.Helper()
	privileged.Require(t)
	options.Root = privileged.BPFFS(t) + "/perimeterd"
	w := world.New(t)
	r := &rig{host: w.Host("host"), ifindex: map[string]uint32{}}
	for i, name := range interfaces {
		other := w.Host(name) // the end at `host` is named after the other
		w.Connect(r.host, other, fmt.Sprintf("192.0.2.%d/31", 2*i), fmt.Sprintf("192.0.2.%d/31", 2*i+1))
	}
	err := r.host.Run(func() error {
		d, err := openEthernet(options)
		if err != nil {
			return err
		}
		r.Datapath = d
		t.Cleanup(func() {
			if err := d.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		})
		for _, name := range append(interfaces, "lo") {
			link, err := r.host.Netlink().LinkByName(name)
			if err != nil {
				return err
			}
			r.ifindex[name] = uint32(link.Attrs().Index)
			if _, err := d.Attach(r.ifindex[name], Uplink); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// apply compiles a policy and puts it in force. Ends of rules are moved from the
// facts' clock, which stands still, to the kernel's, which goes on: what has not
// ended does not while a test runs.
func (r *rig) apply(t testing.TB, p *policy.Policy, facts *policy.Facts) *compile.Legend {
	t.Helper()
	tables, legend, err := r.compiler.Compile(p, facts)
	if err != nil {
		t.Fatal(err)
	}
	shift := time.Since(facts.Now)
	for i := range tables.Outcomes {
		if o := &tables.Outcomes[i]; !o.Expires.IsZero() {
			if o.Expires.After(facts.Now) {
				o.Expires = o.Expires.Add(time.Hour)
			}
			o.Expires = o.Expires.Add(shift)
		}
	}
	r.forgetNames(t)
	if _, err := r.Apply(tables, legend, nil, nil); err != nil {
		t.Fatal(err)
	}
	r.teach(t, tables, facts)
	return legend
}

// teach opens the addresses of the facts' names, for whom they are to be open.
func (r *rig) teach(t testing.TB, tables *compile.Tables, facts *policy.Facts) {
	t.Helper()
	var lessons []Learnt
	for asked, addresses := range facts.Names {
		for _, set := range tables.SetsOf(asked) {
			for _, a := range addresses {
				lessons = append(lessons, Learnt{Set: set.ID, Address: a, Name: asked, Expires: time.Now().Add(time.Hour), By: LearntResolved})
			}
		}
	}
	if err := r.Teach(lessons); err != nil {
		t.Fatal(err)
	}
}

func (r *rig) forgetNames(t testing.TB) {
	t.Helper()
	if _, err := r.ForgetLearnt(func(Learnt) bool { return true }); err != nil {
		t.Fatal(err)
	}
}

// run sends a frame through the program of its end, as if from the wire.
func (r *rig) run(frame []byte, towards bool, ifindex uint32) (policy.Verdict, error) {
	program := r.objects.From
	if towards {
		program = r.objects.Towards
	}
	return verdictOf(program.Run(&ebpf.RunOptions{Data: frame, Context: skbContext{Ifindex: ifindex}}))
}

func verdictOf(returned uint32, err error) (policy.Verdict, error) {
	if err != nil {
		return 0, err
	}
	switch int32(returned) {
	case -1:
		return policy.Allow, nil
	case 2:
		return policy.Deny, nil
	}
	return 0, fmt.Errorf("the program returned %d, which is neither next nor drop", int32(returned))
}

// decide runs a frame and says for which reason it was counted.
func (r *rig) decide(t testing.TB, frame []byte, towards bool) (policy.Verdict, policy.Reason) {
	t.Helper()
	before, err := r.Counters()
	if err != nil {
		t.Fatal(err)
	}
	verdict, err := r.run(frame, towards, 0)
	if err != nil {
		t.Fatal(err)
	}
	after, err := r.Counters()
	if err != nil {
		t.Fatal(err)
	}
	var reason policy.Reason
	for name, count := range after.Packets {
		switch count.Packets - before.Packets[name].Packets {
		case 0:
		case 1:
			if reason != "" {
				t.Fatalf("one packet was counted as %s and as %s", reason, name)
			}
			reason = name
		default:
			t.Fatalf("one packet was counted more than once as %s", name)
		}
	}
	if reason == "" {
		t.Fatal("a packet left uncounted")
	}
	return verdict, reason
}

// towards and from are decide for one side, with the frame built.
func (r *rig) towards(t testing.TB, p packet.Packet) (policy.Verdict, policy.Reason) {
	t.Helper()
	return r.decide(t, p.Frame(), true)
}

func (r *rig) from(t testing.TB, p packet.Packet) (policy.Verdict, policy.Reason) {
	t.Helper()
	return r.decide(t, p.Frame(), false)
}

// forgetFlows empties the flow tables.
func (r *rig) forgetFlows(t testing.TB) {
	t.Helper()
	forgetFlows(t, r.Datapath)
}

func forgetFlows(t testing.TB, d *Datapath) {
	t.Helper()
	m := &d.objects.perimeterMaps
	emptyTable[perimeterFlowKey4, perimeterFlow](t, m.Established4)
	emptyTable[perimeterFlowKey4, perimeterFlow](t, m.Opening4)
	emptyTable[perimeterFlowKey6, perimeterFlow](t, m.Established6)
	emptyTable[perimeterFlowKey6, perimeterFlow](t, m.Opening6)
}

func emptyTable[K, V any](t testing.TB, m *ebpf.Map) {
	t.Helper()
	var key K
	var value V
	var keys []K
	entries := m.Iterate()
	for entries.Next(&key, &value) {
		keys = append(keys, key)
	}
	if err := entries.Err(); err != nil {
		t.Fatal(err)
	}
	for _, k := range keys {
		if err := m.Delete(k); err != nil {
			t.Fatal(err)
		}
	}
}

// age makes every flow look as if its last packet came so long ago.
func (r *rig) age(t testing.TB, by time.Duration) {
	t.Helper()
	m := &r.objects.perimeterMaps
	ticks := uint32(r.clock.jiffiesIn(by))
	ageTable[perimeterFlowKey4](t, m.Established4, ticks)
	ageTable[perimeterFlowKey4](t, m.Opening4, ticks)
	ageTable[perimeterFlowKey6](t, m.Established6, ticks)
	ageTable[perimeterFlowKey6](t, m.Opening6, ticks)
}

func ageTable[K comparable](t testing.TB, m *ebpf.Map, ticks uint32) {
	t.Helper()
	var key K
	var flow perimeterFlow
	flows := map[K]perimeterFlow{}
	entries := m.Iterate()
	for entries.Next(&key, &flow) {
		flows[key] = flow
	}
	if err := entries.Err(); err != nil {
		t.Fatal(err)
	}
	for k, f := range flows {
		f.Seen -= ticks
		if err := m.Put(k, f); err != nil {
			t.Fatal(err)
		}
	}
}

// events hands on what is in the rings now.
func (r *rig) events(t testing.TB) []Event {
	t.Helper()
	var out []Event
	ctx, cancel := contextThatEnded()
	defer cancel()
	if err := r.Read(ctx, func(batch []Event) { out = append(out, batch...) }); err != nil {
		t.Fatal(err)
	}
	return out
}

// A policy for tests that are not about policies: one member, Enforced, with
// both families, and one rule.
const (
	member4, member6     = "10.20.0.5", "fd20::5"
	partner4, partner6   = "198.51.100.7", "2001:db8:100::7"
	stranger4, stranger6 = "203.0.113.7", "2001:db8:bad::7"
)

func prefixes(text ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range text {
		p, err := policy.ParsePrefix(s)
		if err != nil {
			panic(err)
		}
		out = append(out, p)
	}
	return out
}

// memberPolicy has one member in a mode, with these rules.
func memberPolicy(mode policy.AccessMode, rules ...policy.AccessRule) *policy.Policy {
	return &policy.Policy{
		Resources: []policy.Resource{{Name: "orders-db", Addresses: prefixes(member4, member6)}},
		Perimeters: []policy.Perimeter{{
			Name:         "payments",
			Profiles:     []policy.Profile{{Name: "data", AccessRules: rules}},
			Associations: []policy.Association{{Name: "orders-db", Resource: "orders-db", Profile: "data", AccessMode: mode}},
		}},
	}
}

// partnersOn5432 admits the partners to one port.
func partnersOn5432() policy.AccessRule {
	return policy.AccessRule{
		Name: "partners", Direction: policy.Inbound,
		AddressPrefixes: prefixes("198.51.100.0/24", "2001:db8:100::/48"),
		Ports:           []policy.Ports{{Protocol: policy.ProtocolTCP, First: 5432, Last: 5432}, {Protocol: policy.ProtocolUDP, First: 5432, Last: 5432}},
	}
}

// hereFacts says that the member lives on this host.
func hereFacts() *policy.Facts {
	return &policy.Facts{
		Now:      time.Now(),
		Hostname: "host",
		Interfaces: []policy.Interface{{
			Name: "eth0", Addresses: []netip.Addr{netip.MustParseAddr(member4), netip.MustParseAddr(member6)},
		}},
	}
}
