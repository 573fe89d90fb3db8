package datapath

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/perimeterd/perimeterd/pkg/compile"
	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/tests/packet"
)

var flipsFlag = flag.Int("flips", 60, "changes of the policy under traffic")

// TestNoMixture flips between two policies under traffic: every packet must be
// judged by all of one or all of the other. The numbers of members, outcomes
// and classes mean other things in each, so a mixture would show.
func TestNoMixture(t *testing.T) {
	r := newRig(t, Options{})
	named := func(prefix string, extra int) *policy.Policy {
		rule := partnersOn5432()
		rule.Name = prefix
		p := memberPolicy(policy.Enforced)
		for i := range extra { // shifts every number there is
			p.Resources = append([]policy.Resource{{
				Name: fmt.Sprintf("other-%d", i), Addresses: prefixes(fmt.Sprintf("10.99.0.%d", i)),
			}}, p.Resources...)
			p.Perimeters[0].Profiles[0].AccessRules = append(p.Perimeters[0].Profiles[0].AccessRules, policy.AccessRule{
				Name: fmt.Sprintf("extra-%d", i), Direction: policy.Inbound, AddressPrefixes: prefixes(fmt.Sprintf("10.98.%d.0/24", i)),
			})
		}
		p.Perimeters[0].Profiles[0].AccessRules = append(p.Perimeters[0].Profiles[0].AccessRules, rule)
		return p
	}
	var mu sync.Mutex
	legends := map[uint32]*compile.Legend{}
	apply := func(name string, extra int) error {
		tables, legend, err := compile.Compile(named(name, extra), hereFacts())
		if err != nil {
			return err
		}
		_, err = r.Apply(tables, legend, nil, func(l *compile.Legend) error {
			mu.Lock()
			defer mu.Unlock()
			legends[l.Generation] = l
			return nil
		})
		return err
	}
	if err := apply("even", 0); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	flipped := make(chan error, 1)
	go func() {
		defer cancel()
		for i := range *flipsFlag {
			if err := apply([]string{"odd", "even"}[i%2], []int{7, 0}[i%2]); err != nil {
				flipped <- err
				return
			}
		}
		flipped <- nil
	}()
	frame := packet.TCP(partner4, member4, 1, 5432, packet.SYN).Frame()
	asked, generations := 0, map[uint32]bool{}
	for ctx.Err() == nil {
		answer, err := r.Explain(frame, true, 0)
		if err != nil {
			t.Fatal(err)
		}
		asked++
		generations[answer.Generation] = true
		mu.Lock()
		legend := legends[answer.Generation]
		mu.Unlock()
		if legend == nil {
			t.Fatalf("judged by generation %d before its names were kept", answer.Generation)
		}
		rule := []string{"odd", "even"}[answer.Generation%2]
		if int(answer.Member) >= len(legend.Members) || int(answer.Outcome) >= len(legend.Outcomes) ||
			legend.Members[answer.Member].Resource != "orders-db" || legend.Outcomes[answer.Outcome].Rule != rule {
			t.Fatalf("generation %d: a mixture: %+v", answer.Generation, answer)
		}
	}
	if err := <-flipped; err != nil {
		t.Fatal(err)
	}
	if len(generations) < *flipsFlag/2 {
		t.Errorf("%d questions met only %d of %d generations", asked, len(generations), *flipsFlag)
	}
	t.Logf("%d questions, answered by %d generations", asked, len(generations))
}

// TestFailedApplyChangesNothing: whatever step fails, the old policy decides on.
func TestFailedApplyChangesNothing(t *testing.T) {
	r := newRig(t, Options{})
	r.apply(t, memberPolicy(policy.Enforced, partnersOn5432()), hereFacts())
	before := mapCount(t)
	open := memberPolicy(policy.Learning)

	t.Run("names cannot be kept", func(t *testing.T) {
		tables, legend := compiled(t, open, hereFacts())
		full := errors.New("disk full")
		if _, err := r.Apply(tables, legend, nil, func(*compile.Legend) error { return full }); !errors.Is(err, full) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a word the kernel does not know", func(t *testing.T) {
		tables, legend := compiled(t, open, hereFacts())
		tables.Outcomes[1].Reason = "no such reason"
		if _, err := r.Apply(tables, legend, nil, nil); err == nil {
			t.Error("no error")
		}
	})
	if g := r.Generation(); g != 1 {
		t.Errorf("generation %d is in force", g)
	}
	r.play(t, []step{
		in(fromPartner(1, packet.SYN), allow, "access-rule"),
		in(packet.TCP(stranger4, member4, 1, 5432, packet.SYN), deny, "no-access-rule"),
	})
	r.apply(t, open, hereFacts())
	r.play(t, []step{in(packet.TCP(stranger4, member4, 1, 5432, packet.SYN), allow, "public-access-enabled")})
	// Maps are freed after a grace period; those of failures must not pile up.
	eventually(t, func() error {
		if after := mapCount(t); after > before {
			return fmt.Errorf("%d maps in the kernel, %d before the failures", after, before)
		}
		return nil
	})
}

// mapCount counts the maps in the kernel with the names of ours.
func mapCount(t *testing.T) int {
	t.Helper()
	n := 0
	for id, err := ebpf.MapGetNextID(0); err == nil; id, err = ebpf.MapGetNextID(id) {
		m, err := ebpf.NewMapFromID(id)
		if err != nil {
			continue // gone meanwhile
		}
		info, err := m.Info()
		if err == nil && info.Name == "outcomes_inner" {
			n++
		}
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

// eventually waits for what the kernel does in its own time.
func eventually(t *testing.T, check func() error) {
	t.Helper()
	deadline := time.Now().Add(enough)
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(pause)
	}
}

// TestNoPolicyYet: between the attachment and the first policy everything
// passes, and is counted as that.
func TestNoPolicyYet(t *testing.T) {
	r := newRig(t, Options{})
	r.play(t, []step{
		in(packet.TCP(stranger4, member4, 1, 22, packet.SYN), allow, "no-policy"),
		out(packet.UDP(member4, stranger4, 1, 22), allow, "no-policy"),
	})
}

// steppedClock is a clock that was set.
type steppedClock struct {
	clock
	by time.Duration
}

func (c steppedClock) now() (moment, error) {
	m, err := c.clock.now()
	m.wall = m.wall.Add(c.by)
	return m, err
}

// TestEndsFollowASetClock: the kernel ends rules by the time that passes, so with the
// next policy, whatever it changes, their ends follow a clock that was set.
func TestEndsFollowASetClock(t *testing.T) {
	r := newRig(t, Options{})
	end := time.Now().Add(4 * time.Hour).UTC().Truncate(time.Second)
	endIn := func(peers ...string) (jiffies uint64) {
		rule := partnersOn5432()
		rule.Expires, rule.AddressPrefixes = end, prefixes(peers...)
		r.apply(t, memberPolicy(policy.Enforced, rule), hereFacts())
		for i, o := range r.inForce.tables.Outcomes {
			if !o.Expires.IsZero() {
				var outcome perimeterOutcome
				must(t, r.inForce.maps["outcomes"].Lookup(uint32(i), &outcome))
				return outcome.Expires
			}
		}
		t.Fatal("no outcome has an end")
		return 0
	}
	before := endIn("192.0.2.0/25")
	r.clock = steppedClock{r.clock, -3 * time.Hour}
	after := endIn("192.0.2.128/25")
	if moved, want := after-before, r.clock.jiffiesIn(3*time.Hour); moved < want-want/100 || moved > want+want/100 {
		t.Errorf("the clock was set back by three hours, and the end moved by %d jiffies, want some %d", moved, want)
	}
}

// TestInstallFails: what the kernel refuses of a generation leaves that in force as it is.
func TestInstallFails(t *testing.T) {
	r := newRig(t, Options{})
	r.apply(t, memberPolicy(policy.Enforced, partnersOn5432()), hereFacts())
	for _, outer := range []string{"spans", "prefixes4", "members"} {
		tables, _ := compiled(t, memberPolicy(policy.Learning), hereFacts())
		next, err := r.build(r.inForce.number+1, tables)
		must(t, err)
		good := next.maps[outer]
		next.maps[outer] = r.objects.ControlMap // not what the slot takes
		if err := r.install(next); err == nil {
			t.Errorf("%s: the kernel has taken another table than it can", outer)
		}
		next.maps[outer] = good
		must(t, next.release())
		r.forgetFlows(t)
		r.play(t, []step{
			in(fromPartner(1, packet.SYN), allow, "access-rule"),
			in(packet.TCP(stranger4, member4, 1, 5432, packet.SYN), deny, "no-access-rule"),
		})
	}
	r.apply(t, memberPolicy(policy.Learning), hereFacts())
	r.play(t, []step{in(packet.TCP(stranger4, member4, 1, 5432, packet.SYN), allow, "public-access-enabled")})
}
