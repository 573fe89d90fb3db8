package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/perimeterd/perimeterd/pkg/policy"
)

func agentKilled(d *demo) {
	d.step("The agent is killed under traffic", `Enforcement lives in the kernel, not in the process. While the partner and the members talk and the stranger
		sends datagrams as fast as it can, perimeterd gets kill -9 and is started again.`)
	talk := d.converse(d.partner, d.postgres, 1)
	d.goesOn(talk, "the partner's session in the database (TCP, IPv6)")
	flood := d.flood(d.stranger, d.shut)
	before := d.generation(d.server)

	d.typed("kill -9 $(pidof perimeterd)    (on server)")
	d.server.Kill()
	d.ctl(d.server, 3, "status")
	mark := d.server.Records.Len()
	talks := []attempt{
		{d.partner, d.postgres, passes, unjudged},
		{d.batch, d.postgres, passes, unjudged},
		{d.stranger, d.postgres, dropped, unjudged},
		{d.partner, d.queue, dropped, unjudged},
	}
	d.try(talks...)
	d.goesOn(talk, "without perimeterd, the partner's session")
	d.stillInside()
	d.line("")

	d.typed("perimeterd --settings perimeterd.yaml    (on server)")
	said := d.server.Messages.Len()
	d.must(d.server.Start(d.within()))
	d.must(d.server.AwaitInForce(d.within(), said))
	for _, m := range d.server.Messages.After(said) {
		d.quoted(d.elided(m))
	}
	d.expect(d.generation(d.server) >= before, "", "generations went back")
	d.line("   It finds what was decided while it was dead:")
	marks := map[*guarded]int{d.server: mark}
	for i, why := range []evidence{
		inbound(policy.ReasonAccessRule, "partners"), inbound(policy.ReasonAccessRule, "nightly-jobs"),
		inbound(policy.ReasonNoAccessRule), inbound(policy.ReasonNoAccessRule),
	} {
		talks[i].why = why
		d.explain(talks[i], marks)
	}
	d.goesOn(talk, "the partner's session")
	d.stillInside()
	report := talk.Stop()
	d.expect(report.Err == nil, fmt.Sprintf("no answer was lost, and the longest pause was %s", report.LongestGap.Round(time.Millisecond)), fmt.Sprint(report.Err))
	sent := flood()
	d.expect(d.shut.server.Reached() == 0, fmt.Sprintf("of %d datagrams of the stranger, before, meanwhile and after, none arrived", sent),
		fmt.Sprintf("%d of %d datagrams of the stranger arrived", d.shut.server.Reached(), sent))
}

func (d *demo) generation(on *guarded) uint32 {
	status, err := on.Client().Status(d.within())
	d.must(err)
	return status.Generation
}

// flood sends datagrams to a service until the function it returns is called,
// which returns how many were sent.
func (d *demo) flood(from *place, to *service) (stop func() (sent int)) {
	ctx, cancel := context.WithCancel(d.ctx)
	socket, err := from.Dial(ctx, "udp", to.address(0))
	d.must(err)
	sent := make(chan int)
	go func() {
		defer close(sent)
		defer socket.Close() // nothing is waiting in it
		ticks := time.NewTicker(time.Millisecond)
		defer ticks.Stop()
		n := 0
		for ctx.Err() == nil {
			if _, err := io.WriteString(socket, "hello\n"); err == nil {
				n++
			}
			<-ticks.C // the pace, not a wait for anything
		}
		select {
		case sent <- n:
		case <-d.ctx.Done():
		}
	}()
	return func() int {
		cancel()
		return <-sent
	}
}
