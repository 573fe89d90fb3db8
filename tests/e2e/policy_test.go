package e2e_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/perimeterd/perimeterd/pkg/api"
	"github.com/perimeterd/perimeterd/pkg/decisionlog"
	"github.com/perimeterd/perimeterd/tests/traffic"
)

// TestPolicyChangesAtOnce changes between two policies that exchange who may
// reach which port, under load. Every decision must be the one of the policy
// that its generation is, what both allow must never fail, and what both deny
// must never pass.
func TestPolicyChangesAtOnce(t *testing.T) {
	s := newScene(t, "", "")
	const mail, web, always, never = 25, 80, 5432, 5433
	for _, port := range []uint16{mail, web, always} {
		s.serve(s.db, "tcp", port)
	}
	policies := [2]string{
		policyOf("Enforced", admit("always", "partner", "tcp/5432"), admit("partner-mail", "partner", "tcp/25"), admit("stranger-web", "stranger", "tcp/80")),
		policyOf("Enforced", admit("always", "partner", "tcp/5432"), admit("partner-web", "partner", "tcp/80"), admit("stranger-mail", "stranger", "tcp/25")),
	}
	s.write(policies[0])
	s.start()
	s.flood(s.stranger, s.db, never)
	talks := []*traffic.Conversation{s.converse(s.partner, s.db, "tcp", 0, always), s.converse(s.partner, s.db, "tcp", 1, always)}

	ctx, stop := context.WithCancel(t.Context())
	var group sync.WaitGroup
	for _, from := range []*place{s.partner, s.stranger} {
		for _, port := range []uint16{mail, web} {
			group.Go(func() {
				for family := 0; ctx.Err() == nil; family = 1 - family {
					traffic.Try(ctx, from, "tcp", s.db.at(family, port), 50*time.Millisecond) // either is right
				}
			})
		}
	}
	group.Go(func() {
		for family := 0; ctx.Err() == nil; family = 1 - family {
			if got := traffic.Try(ctx, s.partner, "tcp", s.db.at(family, always), patience); got.Outcome != traffic.Connected && ctx.Err() == nil {
				t.Errorf("what both policies allow: %s (%v)", got.Outcome, got.Err)
			}
		}
	})

	which := map[uint32]int{s.status(0).Generation: 0}
	const changes = 16
	for i := 1; i <= changes; i++ {
		mark := s.Records.Len()
		s.apply(policies[i%2])
		now := s.generation()
		which[now] = i % 2
		// Decisions under the new one, before the next.
		s.record(mark, "the partner", func(r *decisionlog.Record) bool {
			return r.Properties.Perimeterd.Generation == now && from(r, s.partner)
		})
	}
	s.goesOn(talks...)
	stop()
	group.Wait()
	s.must(s.Stop(s.soon()))

	checked := map[string]int{}
	for _, r := range s.Records.After(0) {
		x := &r.Properties.Perimeterd
		port := x.Local.Port
		if r.Operation == decisionlog.OperationFlowEnd || r.Operation == decisionlog.OperationFlowCut || port != mail && port != web {
			continue
		}
		policy, known := which[x.Generation]
		// Outbound are only the server's last packets of a connection that was cut.
		want := "deny"
		if x.Direction == "Inbound" && from(r, s.partner) == ((port == mail) == (policy == 0)) {
			want = "allow"
		}
		if !known || x.Verdict != want {
			t.Errorf("generation %d is policy %d (%v): %s", x.Generation, policy, known, r.AppendLine(nil, decisionlog.LineStyle{}))
		}
		checked[fmt.Sprint(policy, x.Verdict)]++
	}
	if len(which) != changes+1 || len(checked) != 4 {
		t.Errorf("%d generations and %v decisions: too few to tell anything", len(which), checked)
	}
	t.Logf("%v decisions by policy and verdict, in %d generations", checked, len(which))
}

func (s *scene) generation() uint32 {
	s.t.Helper()
	status, err := s.Client().Status(s.soon())
	s.must(err)
	return status.Generation
}

// from reports whether a place is the peer of an inbound record.
func from(r *decisionlog.Record, p *place) bool {
	a := r.Properties.Source.IPAddress
	return a == p.addresses[0] || a == p.addresses[1]
}

// TestLastGoodPolicyStays has a policy break while the agent runs, over a
// restart, and go missing altogether.
func TestLastGoodPolicyStays(t *testing.T) {
	s := newScene(t, "", "")
	const port = 5432
	s.serve(s.db, "tcp", port)
	partner := attempt{s.partner, s.db, "tcp", port, traffic.Connected}
	stranger := attempt{s.stranger, s.db, "tcp", port, traffic.TimedOut}
	good := policyOf("Enforced", admit("partners", "partner", "tcp/5432"))
	s.write(good)
	s.start()
	talk := s.converse(s.partner, s.db, "tcp", 1, port)
	s.expect(partner, stranger)
	if got := s.status(0); got.State != api.Healthy || got.Policy.Source != api.FromFiles {
		t.Errorf("status: %+v", got)
	}

	// Admits everybody, with a key that there is not.
	open := strings.ReplaceAll(policyOf("Enforced", admit("partners", "partner", "tcp/5432"), admit("all", "stranger", "tcp")), "resources:", "oops: 1\nresources:")
	if err := s.Apply(s.soon(), "policy.yaml", open); err == nil || !strings.Contains(err.Error(), "policy.yaml:1:1: ") || !strings.Contains(err.Error(), "oops") {
		t.Errorf("a bad policy: %v", err)
	}
	s.expect(partner, stranger)
	if got := s.status(1); got.State != api.Degraded || !strings.Contains(got.Policy.Problem, "oops") {
		t.Errorf("status with a bad policy: %+v", got)
	}

	for _, restart := range []struct {
		what string
		do   func() error
		want string
	}{
		{"bad", func() error { return nil }, "oops"},
		{"missing", func() error { return os.Remove(filepath.Join(s.Policy, "policy.yaml")) }, "holds no file"},
	} {
		s.must(s.Stop(s.soon()))
		s.must(restart.do())
		s.must(s.Start(s.soon()))
		s.expect(partner, stranger)
		s.goesOn(talk)
		if got := s.status(1); got.State != api.Degraded || got.Policy.Source != api.FromLastGood || !strings.Contains(got.Policy.Problem, restart.want) {
			t.Errorf("status after a start with the policy %s: %+v", restart.what, got)
		}
	}

	s.apply(good)
	if got := s.status(0); got.State != api.Healthy || got.Policy.Source != api.FromFiles {
		t.Errorf("status after the repair: %+v", got)
	}
	s.goesOn(talk)
}

// TestFirstStartCutsOnlyWhatIsDenied starts the agent on a host with live
// connections.
func TestFirstStartCutsOnlyWhatIsDenied(t *testing.T) {
	s := newScene(t, "", "")
	const port, back, other = 5432, 8443, 8444
	s.serve(s.db, "tcp", port)
	s.serve(s.partner, "tcp", back)
	s.serve(s.partner, "tcp", other)
	var allowed, denied []*traffic.Conversation
	for family := range both {
		allowed = append(allowed, s.converse(s.partner, s.db, "tcp", family, port), s.converse(s.db, s.partner, "tcp", family, back))
		denied = append(denied, s.converse(s.stranger, s.db, "tcp", family, port), s.converse(s.db, s.partner, "tcp", family, other))
	}
	s.write(policyOf("Enforced", admit("partners", "partner", "tcp/5432"), allowOut("rates", "tcp/8443")))
	s.start()
	for _, talk := range denied {
		select {
		case <-talk.Ended():
		case <-s.soon().Done():
			t.Fatal("what is denied goes on")
		}
		if got := traffic.OutcomeOf(talk.Report().Err); got != traffic.TimedOut {
			t.Errorf("what is denied ended: %s", got)
		}
	}
	s.goesOn(allowed...)
	flows := s.flows("--state", "established")
	if len(flows) != len(allowed) {
		t.Errorf("%d flows are established, want %d: %+v", len(flows), len(allowed), flows)
	}
	for _, f := range flows {
		if f.Resource != "database" || f.Reason != "access-rule" || !f.Midstream || (f.Rule == "rates") != (f.Direction == "Outbound") {
			t.Errorf("a flow from before the start: %+v", f)
		}
	}
}
