package datapath

import (
	"context"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/perimeterd/perimeterd/pkg/names"
	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/tests/packet"
)

// nextAnswer returns what the data path leaves to the agent.
func (r *namesRig) nextAnswer(t *testing.T) (answer NameAnswer, ok bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	err := r.ReadAnswers(ctx, func(a NameAnswer) {
		answer, ok = a, true
		cancel()
	})
	if err != nil {
		t.Fatal(err)
	}
	return answer, ok
}

// TestAnswersLeftToTheAgent: where the data path does not read answers, and of
// those that it cannot take, the agent gets what was asked, by whom and of whom, and
// the message; and nothing that nobody has asked for.
func TestAnswersLeftToTheAgent(t *testing.T) {
	rigs := map[bool]*namesRig{} // by whether all are left to the agent
	for _, byAgent := range []bool{false, true} {
		rigs[byAgent] = newNamesRig(t, Options{Names: NameOptions{ByAgent: byAgent}}, namesRule("vault", 443, "vault.example.com"))
	}
	t.Run("all of them", func(t *testing.T) {
		r := rigs[true]
		e := ask("Vault.example.com", dns.TypeA)
		m := e.reply(t, vaultRecord)
		e.asked(t, r.rig)
		other := *m
		other.Id++
		counted := r.counted(t, func() {
			e.answered(t, r.rig, wireOf(t, &other))
			e.answered(t, r.rig, wireOf(t, m))
		})
		if counted["no-question"] != 1 || counted["left-not-read"] != 1 {
			t.Errorf("counted %v", counted)
		}
		got, ok := r.nextAnswer(t)
		if !ok || got.Name != "vault.example.com" || got.Type != dns.TypeA || got.Local.String() != member4 || got.Resolver.String() != resolver4 ||
			!got.Whole || string(got.Message) != wireOf(t, m) {
			t.Fatalf("left %+v", got)
		}
		said, err := names.ReadAnswer(got.Message, got.Name, got.Type)
		if err != nil || len(said.Addresses) != 1 || said.TTL != 300*time.Second {
			t.Errorf("it says %+v, %v", said, err)
		}
		if sets := r.tables.SetsFor(got.Local, got.Name); len(sets) != 1 || sets[0] != r.tables.Sets[0].ID {
			t.Errorf("it opens %v of %+v", sets, r.tables.Sets)
		}
	})
	t.Run("in fragments", func(t *testing.T) {
		for _, byAgent := range []bool{false, true} {
			r := rigs[byAgent]
			r.forgetQuestions(t)
			e := ask("vault.example.com", dns.TypeA)
			e.asked(t, r.rig)
			first := packet.UDP(e.resolver, e.local, 53, e.port).Payload(wireOf(t, e.reply(t, vaultRecord))).Split(7, 48)[0]
			counted := r.counted(t, func() {
				if verdict, _ := r.towards(t, first); verdict != policy.Allow {
					t.Error("the answer does not go on")
				}
			})
			if got, ok := r.nextAnswer(t); !ok || got.Whole || got.Name != "vault.example.com" || counted["left-too-long"] != 1 {
				t.Errorf("left %+v, counted %v", got, counted)
			}
			r.forgetFlows(t)
			r.expectOpen(t, "203.0.113.1", 443, false)
		}
	})
	t.Run("truncated", func(t *testing.T) {
		r := rigs[false]
		r.forgetQuestions(t)
		e := ask("vault.example.com", dns.TypeA)
		m := e.reply(t, vaultRecord)
		m.Truncated = true
		e.asked(t, r.rig)
		e.answered(t, r.rig, wireOf(t, m))
		got, ok := r.nextAnswer(t)
		if !ok || got.Whole || got.Name != "vault.example.com" {
			t.Errorf("left %+v", got)
		}
		r.forgetFlows(t)
		r.expectOpen(t, "203.0.113.1", 443, false)
	})
}
