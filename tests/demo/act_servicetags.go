package main

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/perimeterd/perimeterd/pkg/api"
	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/tests/servicetags"
)

func serviceTags(d *demo) {
	d.step("Azure's service tags", `Real input: every service tag of Azure's public list becomes a rule of the vault's profile. What the kernel then
		says is held against another longest prefix match (github.com/gaissmai/bart), which reads the list itself.`)
	tags, err := servicetags.Load(d.ctx)
	d.must(err)
	neighbours, err := tags.Neighbours()
	d.must(err)
	tag := neighbours.Tag
	var rules strings.Builder
	rules.WriteString("      - name: secrets\n        accessRules:\n")
	for _, name := range tags.Names {
		fmt.Fprintf(&rules, "          - {name: %s, direction: Inbound, serviceTags: [%s], ports: [tcp/8200]}\n", name, name)
	}
	d.line("   %s", d.paint(bold, "policy/payments.yaml"))
	d.line("   %s", d.paint(green, fmt.Sprintf("+ %d rules such as", len(tags.Names))))
	d.line("   %s", d.paint(green, fmt.Sprintf("+           - {name: %s, direction: Inbound, serviceTags: [%s], ports: [tcp/8200]}", tag, tag)))
	text, _ := d.replaced("payments.yaml", "      - {name: secrets, accessRules: []}\n", rules.String())
	start := time.Now()
	d.apply("payments.yaml", text+fmt.Sprintf("serviceTags:\n  - {file: %s, format: azure}\n", tags.File))
	status, err := d.server.Client().Status(d.within())
	d.must(err)
	d.good(fmt.Sprintf("%d rules over %d different prefixes are in force on both servers after %s: %d IPv4 and %d IPv6 prefixes in the kernel, %d bytes each",
		len(tags.Names), tags.Prefixes(), time.Since(start).Round(10*time.Millisecond), status.Tables.PrefixesIPv4, status.Tables.PrefixesIPv6, status.Tables.BytesPerPrefix))
	d.askAboutEdges(tags)

	// Real connections, from an address in the tag and from the one next to it.
	tenant := &place{d.cloud.Host, "tenant", neighbours.Inside, nil}
	neighbour := &place{d.cloud.Host, "next door", neighbours.Beside, nil}
	for family, via := range d.cloud.addresses {
		for _, a := range []netip.Addr{tenant.addresses[family], neighbour.addresses[family]} {
			host := netip.PrefixFrom(a, a.BitLen()).String()
			d.cloudUplink.Address(host)
			d.internet.Route(host, via.String())
		}
	}
	d.line("\n   The cloud gets addresses: the last of a prefix of %s for a tenant, and the one after it.", tag)
	d.try(
		attempt{tenant, d.secrets, passes, inbound(policy.ReasonAccessRule, tag)},
		attempt{neighbour, d.secrets, dropped, inbound(policy.ReasonNoAccessRule)},
	)
	d.line("")
	d.ctl(d.server, 0, "explain", "--from", tenant.addresses[1].String(), "--to", "vault", "--port", "tcp/8200")
}

// askAboutEdges asks the live programs about the addresses at the edges of
// prefixes and compares verdict and rule.
func (d *demo) askAboutEdges(tags *servicetags.Tags) {
	const prefixes, askers = 600, 4
	edges := tags.Edges(prefixes)
	start := time.Now()
	wrong := make([]error, len(edges))
	var group sync.WaitGroup
	for asker := range askers {
		group.Go(func() {
			for i := asker; i < len(edges) && d.ctx.Err() == nil; i += askers {
				wrong[i] = d.askAbout(tags, edges[i])
			}
		})
	}
	group.Wait()
	d.must(d.ctx.Err())
	allowed := 0
	for i, a := range edges {
		d.must(wrong[i])
		if tags.Best(a) != "" {
			allowed++
		}
	}
	d.expect(allowed > 0 && allowed < len(edges),
		fmt.Sprintf("asked about %d addresses at the edges of prefixes, in %s: kernel and bart agree on verdict and rule, %d allowed, %d denied",
			len(edges), time.Since(start).Round(10*time.Millisecond), allowed, len(edges)-allowed),
		fmt.Sprintf("of %d addresses %d are allowed, which tells nothing", len(edges), allowed))
}

func (d *demo) askAbout(tags *servicetags.Tags, peer netip.Addr) error {
	got, err := d.server.Client().Explain(d.ctx, api.Question{From: peer.String(), To: "vault", Port: "tcp/8200"})
	if err != nil {
		return fmt.Errorf("explain %s: %w", peer, err)
	}
	want := tags.Best(peer)
	if rule := got.Answers[len(got.Answers)-1].Rule; rule != want || (got.Verdict() == policy.Allow.String()) != (want != "") {
		return fmt.Errorf("from %s: the kernel says %s by rule %q, bart says %q", peer, got.Verdict(), rule, want)
	}
	return nil
}
