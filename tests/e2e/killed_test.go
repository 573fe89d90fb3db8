package e2e_test

import (
	"testing"

	"github.com/perimeterd/perimeterd/pkg/api"
	"github.com/perimeterd/perimeterd/pkg/decisionlog"
	"github.com/perimeterd/perimeterd/tests/traffic"
)

// TestKilledUnderTraffic kills the agent while connections are used and made,
// at both hooks: nothing is cut, nothing gets in, and no decision is lost.
func TestKilledUnderTraffic(t *testing.T) {
	for _, hook := range []struct{ name, setting string }{{"tcx", ""}, {"clsact", "hook: clsact\n"}} {
		t.Run(hook.name, func(t *testing.T) {
			s := newScene(t, hook.setting, "")
			const port, queue, never = 5432, 5672, 5433
			s.serve(s.db, "tcp", port)
			s.serve(s.db, "udp", queue)
			partner := attempt{s.partner, s.db, "tcp", port, traffic.Connected}
			stranger := attempt{s.stranger, s.db, "tcp", port, traffic.TimedOut}
			s.write(policyOf("Enforced", admit("partners", "partner", "tcp/5432, udp/5672")))
			s.start()
			// A kernel without TCX says so, and then both are the same.
			if got := s.uplink(); got.Hook != hook.name && got.Degraded == "" {
				t.Fatalf("attached by %s", got.Hook)
			}
			s.flood(s.stranger, s.db, never)
			var talks []*traffic.Conversation
			for family := range both {
				talks = append(talks, s.converse(s.partner, s.db, "tcp", family, port), s.converse(s.partner, s.db, "udp", family, queue))
			}
			s.goesOn(talks...)

			before := s.generation()
			mark := s.Records.Len()
			s.Kill()
			s.ctl(3, "status")
			s.expect(partner, stranger)
			s.goesOn(talks...)

			s.start()
			if got := s.generation(); got < before {
				t.Errorf("generation %d after %d", got, before)
			}
			for family, name := range both {
				s.record(mark, "the partner without the agent, over "+name, inbound(decisionlog.OperationFlowStart, s.partner, family, port))
				s.record(mark, "the stranger without the agent, over "+name, inbound(decisionlog.OperationDeny, s.stranger, family, port))
			}
			s.goesOn(talks...)
			s.expect(partner, stranger)

			// Killed at any moment of a change: the next start completes it.
			policies := []string{
				policyOf("Enforced", admit("partners", "partner", "tcp/5432, udp/5672"), admit("guests", "stranger", "tcp/5432")),
				policyOf("Enforced", admit("partners", "partner", "tcp/5432, udp/5672")),
			}
			for i := range 4 {
				said := s.Messages.Len()
				s.write(policies[i%2])
				if i >= 2 { // as late as can be told
					s.must(s.AwaitInForce(s.soon(), said))
				}
				s.Kill()
				s.start()
				guest := stranger
				if i%2 == 0 {
					guest.want = traffic.Connected
				}
				s.expect(partner, guest)
				s.goesOn(talks...)
			}
			for _, talk := range talks {
				if r := talk.Stop(); r.Err != nil || r.Lost > 0 {
					t.Errorf("a conversation: %+v", r)
				}
			}
			if losses := s.losses(); losses > 0 {
				t.Errorf("%d decisions were lost", losses)
			}
		})
	}
}

// uplink is how the host's only link is attached.
func (s *scene) uplink() api.Interface {
	s.t.Helper()
	for _, i := range s.status(0).Interfaces {
		if i.Attached {
			return i
		}
	}
	s.t.Fatal("nothing is attached")
	return api.Interface{}
}

// losses is how many decisions were lost at any stage.
func (s *scene) losses() (sum uint64) {
	s.t.Helper()
	for _, l := range s.status(0).Losses {
		sum += l.Count
	}
	return sum
}
