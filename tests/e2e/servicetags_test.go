package e2e_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/perimeterd/perimeterd/pkg/api"
	"github.com/perimeterd/perimeterd/pkg/decisionlog"
	"github.com/perimeterd/perimeterd/tests/servicetags"
	"github.com/perimeterd/perimeterd/tests/traffic"
)

// TestServiceTags has every tag of Azure's list as a rule of a profile, and
// holds verdicts and rules against an independent longest prefix match: with
// connections from addresses in a tag and beside it, and by asking about many.
func TestServiceTags(t *testing.T) {
	s := newScene(t, "", "")
	const port = 8200
	s.serve(s.db, "tcp", port)
	tags, err := servicetags.Load(t.Context())
	s.must(err)
	rules := make([]string, len(tags.Names))
	for i, name := range tags.Names {
		rules[i] = fmt.Sprintf("{name: %s, direction: Inbound, serviceTags: [%s], ports: [tcp/8200]}", name, name)
	}
	s.write(policyOf("Enforced", rules...) + fmt.Sprintf("serviceTags:\n  - {file: %s, format: azure}\n", tags.File))
	s.start()

	neighbours, err := tags.Neighbours()
	s.must(err)
	for family := range both {
		for _, peer := range []netip.Addr{neighbours.Inside[family], neighbours.Beside[family]} {
			host := netip.PrefixFrom(peer, peer.BitLen()).String()
			s.strangerUplink.Address(host)
			s.router.Route(host, s.stranger.addresses[family].String())
			cloud := &place{Host: s.stranger.Host}
			cloud.addresses[family] = peer
			want, operation, limit := traffic.Connected, decisionlog.OperationFlowStart, patience
			if tags.Best(peer) == "" {
				want, operation, limit = traffic.TimedOut, decisionlog.OperationDeny, brief
			}
			mark := s.Records.Len()
			if got := traffic.Try(t.Context(), cloud, "tcp", s.db.at(family, port), limit); got.Outcome != want {
				t.Errorf("from %s of tag %q: %s (%v), want %s", peer, tags.Best(peer), got.Outcome, got.Err, want)
			}
			r := s.record(mark, peer.String(), inbound(operation, cloud, family, port))
			if got := r.Properties.MatchedRule.AccessRule; got != tags.Best(peer) {
				t.Errorf("from %s: by rule %q, want %q", peer, got, tags.Best(peer))
			}
		}
	}

	const prefixes = 1000
	edges, allowed := tags.Edges(prefixes), 0
	client := s.Client()
	for _, peer := range edges {
		got, err := client.Explain(t.Context(), api.Question{From: peer.String(), To: "database", Port: "tcp/8200"})
		s.must(err)
		want := tags.Best(peer)
		if got.Answers[0].Rule != want || got.Verdict() != map[bool]string{true: "allow", false: "deny"}[want != ""] {
			t.Errorf("%s: %s by rule %q, want %q", peer, got.Verdict(), got.Answers[0].Rule, want)
		}
		if want != "" {
			allowed++
		}
	}
	if allowed == 0 || allowed == len(edges) {
		t.Errorf("%d of %d addresses are in a tag, which tells nothing", allowed, len(edges))
	}
	t.Logf("%s: %d tags, %d prefixes; %d addresses asked about, %d of them in a tag", strings.TrimPrefix(tags.File, "/"), len(tags.Names), tags.Prefixes(), len(edges), allowed)
}
