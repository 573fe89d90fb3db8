package e2e_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/perimeterd/perimeterd/pkg/api"
	"github.com/perimeterd/perimeterd/pkg/decisionlog"
	"github.com/perimeterd/perimeterd/tests/deployment"
	"github.com/perimeterd/perimeterd/tests/traffic"
)

func (s *scene) flows(args ...string) []api.Flow {
	s.t.Helper()
	flows := new(api.Flows)
	s.must(json.Unmarshal([]byte(s.ctl(0, append([]string{"flows", "-o", "json"}, args...)...).Stdout), flows))
	return flows.Flows
}

// TestExplainAgreesWithTraffic asks and tries, in both directions.
func TestExplainAgreesWithTraffic(t *testing.T) {
	s := newScene(t, "", "")
	for _, port := range []uint16{5432, 5433, 9000} {
		s.serve(s.db, "tcp", port)
		s.serve(s.partner, "tcp", port)
		s.serve(s.stranger, "tcp", port)
	}
	s.serve(s.db, "udp", 5672)
	s.serve(s.partner, "udp", 5672)
	s.write(policyOf("Enforced",
		admit("partners", "partner", "tcp/5432, udp/5672"), admit("guests", "stranger", "tcp/9000"),
		allowOut("rates", "tcp/9000")))
	s.start()
	for _, test := range []struct {
		attempt
		rule string
	}{
		{attempt{s.partner, s.db, "tcp", 5432, traffic.Connected}, "partners"},
		{attempt{s.partner, s.db, "tcp", 5433, traffic.TimedOut}, ""},
		{attempt{s.partner, s.db, "udp", 5672, traffic.Connected}, "partners"},
		{attempt{s.partner, s.db, "tcp", 9000, traffic.TimedOut}, ""},
		{attempt{s.stranger, s.db, "tcp", 9000, traffic.Connected}, "guests"},
		{attempt{s.stranger, s.db, "tcp", 5432, traffic.TimedOut}, ""},
		{attempt{s.stranger, s.db, "udp", 5672, traffic.TimedOut}, ""},
		{attempt{s.db, s.partner, "tcp", 9000, traffic.Connected}, "rates"},
		{attempt{s.db, s.partner, "tcp", 5432, traffic.TimedOut}, ""},
		{attempt{s.db, s.partner, "udp", 5672, traffic.TimedOut}, ""},
		{attempt{s.db, s.stranger, "tcp", 9000, traffic.TimedOut}, ""},
		{attempt{s.stranger, s.partner, "tcp", 9000, traffic.Connected}, ""}, // nobody's business here
	} {
		s.expect(test.attempt)
		for family, name := range both {
			code, verdict := 0, "allow"
			if test.want == traffic.TimedOut {
				code, verdict = 1, "deny"
			}
			what := fmt.Sprintf("%s to %s %s/%d over %s", test.from.Name, test.to.Name, test.network, test.port, name)
			result := s.ctl(code, "explain", "-o", "json", "--from", test.from.addresses[family].String(),
				"--to", test.to.addresses[family].String(), "--port", fmt.Sprintf("%s/%d", test.network, test.port))
			got := new(api.Explanation)
			s.must(json.Unmarshal([]byte(result.Stdout), got))
			if len(got.Answers) != 1 || got.Answers[0].Verdict != verdict || got.Answers[0].Rule != test.rule {
				t.Errorf("%s: %+v, want %s by %q", what, got.Answers, verdict, test.rule)
			}
			if governed := test.from == s.db || test.to == s.db; (got.Answers[0].Resource == "database") != governed {
				t.Errorf("%s: of resource %q", what, got.Answers[0].Resource)
			}
		}
	}
}

// TestWatch follows the decisions with every filter and format, and sees how
// each way of ending is told.
func TestWatch(t *testing.T) {
	s := newScene(t, "", "")
	const port = 5432
	s.serve(s.db, "tcp", port)
	s.write(policyOf("Enforced", admit("partners", "partner", "tcp/5432")))
	s.start()
	follow := func(args ...string) *deployment.Running {
		t.Helper()
		watch, err := s.Follow(append([]string{"watch"}, args...)...)
		s.must(err)
		t.Cleanup(func() { watch.Stop() })
		return watch
	}
	all, machine, denied, nobody := follow(), follow("-o", "json"), follow("--denied"), follow("--resource", "somebody-else")

	// A watch shows what comes after it has begun, which it does not tell.
	partner := attempt{s.partner, s.db, "tcp", port, traffic.Connected}
	stranger := attempt{s.stranger, s.db, "tcp", port, traffic.TimedOut}
	for all.Lines.Len() == 0 || machine.Lines.Len() == 0 || denied.Lines.Len() == 0 {
		s.expect(partner, stranger)
	}
	s.expect(partner, stranger) // which all of them see
	for _, want := range []struct {
		watch *deployment.Running
		parts []string
	}{
		{all, []string{"allow ", "database:5432", "198.51.100.7", "access-rule partners"}},
		{all, []string{"deny ", "database:5432", "203.0.113.9", "no-access-rule"}},
		{all, []string{"deny ", "database:5432", "2001:db8:bad::9", "no-access-rule"}},
		{denied, []string{"deny ", "database:5432", "203.0.113.9", "no-access-rule"}},
		{machine, []string{`"operationName":"FlowStart"`, `"accessRule":"partners"`, `"ipAddress":"198.51.100.7"`}},
		{machine, []string{`"category":"NspPublicInboundPerimeterRulesDenied"`, `"ipAddress":"203.0.113.9"`}},
	} {
		_, err := want.watch.Lines.Await(s.soon(), 0, func(line string) bool {
			for _, part := range want.parts {
				if !strings.Contains(line, part) {
					return false
				}
			}
			return true
		})
		if err != nil {
			t.Errorf("no line with %q: %v; there are\n%s", want.parts, err, strings.Join(want.watch.Lines.After(0), "\n"))
		}
	}
	for _, line := range machine.Lines.After(0) {
		if err := json.Unmarshal([]byte(line), new(decisionlog.Record)); err != nil {
			t.Errorf("%q: %v", line, err)
		}
	}
	if denied.Lines.Has(func(line string) bool { return strings.Contains(line, "allow ") }) {
		t.Error("watch --denied shows what was allowed")
	}
	if lines := nobody.Lines.After(0); len(lines) > 0 {
		t.Errorf("watch of somebody else shows %q", lines)
	}

	if code := all.Stop(); code != 0 {
		t.Errorf("an interrupted watch ended with %d: %q", code, all.Errors.After(0))
	}
	s.must(s.Stop(s.soon()))
	for _, watch := range []*deployment.Running{machine, nobody} {
		<-watch.Ended()
		if code := watch.Stop(); code != 1 || !strings.Contains(strings.Join(watch.Errors.After(0), "\n"), "the agent ended") {
			t.Errorf("a watch whose agent ended: %d, %q", code, watch.Errors.After(0))
		}
	}
}

// TestDisableAndEnable switches with perimeterctl, with and without the agent.
func TestDisableAndEnable(t *testing.T) {
	s := newScene(t, "", "")
	const port = 5432
	s.serve(s.db, "tcp", port)
	partner := attempt{s.partner, s.db, "tcp", port, traffic.Connected}
	denied := attempt{s.stranger, s.db, "tcp", port, traffic.TimedOut}
	open := attempt{s.stranger, s.db, "tcp", port, traffic.Connected}
	s.write(policyOf("Enforced", admit("partners", "partner", "tcp/5432")))
	s.start()
	s.expect(partner, denied)
	talk := s.converse(s.partner, s.db, "tcp", 0, port)

	s.ctl(0, "disable")
	s.expect(partner, open)
	if got := s.status(1); got.State != api.Disabled || got.Generation != 0 {
		t.Errorf("status while disabled: %+v", got)
	}
	s.ctl(0, "disable") // is so already
	s.ctl(1, "flows")
	s.ctl(0, "enable")
	s.expect(partner, denied)
	s.goesOn(talk)
	s.ctl(0, "status")

	// The agent is gone: disabled all the same, and until somebody enables.
	s.Kill()
	s.expect(partner, denied)
	s.ctl(0, "disable")
	s.expect(partner, open)
	s.must(s.Start(s.soon()))
	s.expect(partner, open)
	s.ctl(1, "status")
	s.must(s.Stop(s.soon()))
	s.ctl(0, "enable")
	s.expect(partner, open) // nobody is there to enforce anything
	s.start()
	s.expect(partner, denied)
	s.goesOn(talk)
}

// TestExitCodes has each code of perimeterctl and perimeterd once, with what
// they say.
func TestExitCodes(t *testing.T) {
	s := newScene(t, "", "")
	s.ctl(3, "status")
	s.ctl(3, "explain", "--from", "192.0.2.1", "--to", "10.20.0.5", "--port", "tcp/1")
	s.ctl(3, "rules")
	s.ctl(3, "flows")
	s.ctl(3, "watch")
	s.write(policyOf("Enforced", admit("partners", "partner", "tcp/5432")))
	s.start()
	bad := filepath.Join(filepath.Dir(s.Settings), "bad.yaml")
	s.must(os.WriteFile(bad, []byte(policyOf("Enforce")), 0o600))
	for _, test := range []struct {
		code int
		says string
		args []string
	}{
		{0, "healthy", []string{"status"}},
		{0, "partners", []string{"rules"}},
		{0, "access rule partners", []string{"explain", "--from", "198.51.100.7", "--to", "database", "--port", "tcp/5432"}},
		{1, "no access rule", []string{"explain", "--from", "203.0.113.9", "--to", "database", "--port", "tcp/5432"}},
		{2, "no resource", []string{"explain", "--from", "203.0.113.9", "--to", "databas", "--port", "tcp/5432"}},
		{2, "tcp/x", []string{"explain", "--from", "203.0.113.9", "--to", "database", "--port", "tcp/x"}},
		{2, "--port is needed", []string{"explain", "--from", "203.0.113.9", "--to", "database"}},
		{2, "no command", []string{"statu"}},
		{2, "unknown flag", []string{"status", "--colour"}},
		{2, "takes 1 argument", []string{"validate"}},
		{2, "no such file", []string{"validate", "/nonexistent"}},
		{1, "Enforced", []string{"validate", bad}},
		{0, "good", []string{"validate", s.Policy}},
		{0, "Usage", []string{"status", "--help"}},
	} {
		result := s.ctl(test.code, test.args...)
		if told := result.Stdout + result.Stderr; !strings.Contains(told, test.says) {
			t.Errorf("perimeterctl %s does not say %q, but:\n%s", strings.Join(test.args, " "), test.says, told)
		}
	}
	s.ctl(0, "disable")
	s.ctl(1, "status")
}
