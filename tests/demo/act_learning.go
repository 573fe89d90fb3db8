package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/tests/traffic"
)

func learning(d *demo) {
	d.step("Learning", `perimeterd starts on both servers, with a policy in which database, broker and reports learn and the vault is
		in Audit. Neither drops anything here: in Learning the resource's own rules decide, and these have none; in Audit
		the verdict of Enforced is computed and only logged.`)
	d.typed("perimeterctl validate policy")
	result, err := d.server.Ctl(d.within(), "validate", d.server.Policy)
	d.must(err)
	d.quoted(d.elided(result.Stdout))
	d.expect(result.Code == 0, "", result.Stdout)
	for _, s := range d.servers() {
		d.typed(fmt.Sprintf("perimeterd --settings perimeterd.yaml    (on %s)", s.host.Name))
		before := s.Messages.Len()
		d.must(s.Start(d.within()))
		d.must(s.AwaitInForce(d.within(), before))
		for _, m := range s.Messages.After(before) {
			d.quoted(d.elided(m))
		}
	}
	d.line("")
	d.stillInside()

	mark := d.server.Records.Len()
	d.try(
		attempt{d.vault, d.postgres, passes, inbound(policy.ReasonSamePerimeter)},
		attempt{d.partner, d.postgres, passes, inbound(policy.ReasonPublicAccessEnabled)},
		attempt{d.batch, d.postgres, passes, inbound(policy.ReasonPublicAccessEnabled)},
		attempt{d.reports, d.postgres, passes, inbound(policy.ReasonPublicAccessEnabled)},
		attempt{d.stranger, d.postgres, passes, inbound(policy.ReasonPublicAccessEnabled)},
		attempt{d.stranger, d.queue, passes, inbound(policy.ReasonPublicAccessEnabled)},
		attempt{d.stranger, d.secrets, passes, inbound(policy.ReasonNoAccessRule)},
		attempt{d.database, d.dropSite, passes, outbound(policy.ReasonPublicAccessEnabled)},
	)
	d.tellWhatWouldBreak(mark)
	d.watch()
}

// tellWhatWouldBreak sums up from the log what Enforced will not allow.
func (d *demo) tellWhatWouldBreak(mark int) {
	d.line("\n   What Enforced would cut, from the decisions so far:")
	lines := map[string]bool{}
	for _, r := range d.server.Records.After(mark) {
		p := &r.Properties
		own := strings.Contains(string(r.Category), "ResourceRules")
		if !own && p.Perimeterd.WouldBe != policy.Deny.String() {
			continue
		}
		member := p.ServiceResourceID[strings.LastIndex(p.ServiceResourceID, "/")+1:]
		peer, arrow := p.Source.IPAddress, "←"
		if p.Perimeterd.Direction == policy.Outbound.String() {
			peer, arrow = p.Destination.IPAddress, "→"
		}
		lines[fmt.Sprintf("%-8s %s %-18s %s", member, arrow, peer, r.Category)] = true
	}
	for _, line := range slices.Sorted(maps.Keys(lines)) {
		d.quoted(line)
	}
	const would = 7 * len(families)
	d.expect(len(lines) == would, fmt.Sprintf("%d ways in or out, of which some are wanted and the others are why we are here", would),
		fmt.Sprintf("%d ways are told, want %d", len(lines), would))
}

// watch has perimeterctl watch show a decision as it is made.
func (d *demo) watch() {
	d.line("")
	d.typed("perimeterctl watch --resource database")
	watch, err := d.server.Follow("watch", "--resource", "database")
	d.must(err)
	defer watch.Stop() // if there is a surprise
	about := func(line string) bool { return strings.Contains(line, d.batch.addresses[0].String()) }
	ctx := d.within()
	pace := time.NewTicker(50 * time.Millisecond)
	defer pace.Stop()
	for ; !watch.Lines.Has(about); <-pace.C { // it shows what comes after it has begun
		if got := traffic.Try(ctx, d.batch, d.postgres.network, d.postgres.address(0), patience); got.Err != nil {
			d.fail(got.Err)
		}
	}
	line, err := watch.Lines.Await(ctx, 0, about)
	d.must(err)
	d.quoted(line)
	code := watch.Stop()
	d.expect(code == 0, "", fmt.Sprintf("perimeterctl watch ended with %d: %v", code, watch.Errors.After(0)))
}
