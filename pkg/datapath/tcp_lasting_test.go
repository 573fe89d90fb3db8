package datapath

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/tests/privileged"
	"github.com/perimeterd/perimeterd/tests/traffic"
	"github.com/perimeterd/perimeterd/tests/world"
)

// TestProbes: what a connection sends to see whether the other end is there, or has
// room again, which is not what it would send next, passes; and it goes on after.
func TestProbes(t *testing.T) {
	w := newEnforced(t)
	type probing struct {
		connected
		name          string
		prober, other *net.TCPConn
		before        Flow
	}
	var all []probing
	for _, s := range w.sides() {
		c := connect(t, s, 0)
		all = append(all, probing{connected: c, name: s.name + ", the client probes", prober: c.client, other: c.server})
		c = connect(t, s, 0)
		all = append(all, probing{connected: c, name: s.name + ", the server probes", prober: c.server, other: c.client})
	}
	// First where there is nothing to say.
	for i := range all {
		p := &all[i]
		p.talk(t, "opened")
		p.before = w.flowOf(t, p.connected)
		if err := p.prober.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: 9}); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range all {
		until(t, p.name+", and is answered", func() bool { _, each := w.wentOn(t, p.connected, p.before); return each })
		p.talk(t, "after a probe")
	}
	// Then where nobody listens.
	text := strings.Repeat("more than it takes ", 400_000)
	written := make(chan error, len(all))
	for _, p := range all {
		go func() {
			_, err := io.WriteString(p.prober, text)
			written <- err
		}()
	}
	for i := range all {
		p := &all[i]
		until(t, p.name+", and finds the other full", func() bool {
			info := tcpInfo(t, p.prober)
			return info.Notsent_bytes > 0 && info.Unacked == 0
		})
		p.before = w.flowOf(t, p.connected)
	}
	for _, p := range all {
		until(t, p.name+", and is told so again", func() bool { _, each := w.wentOn(t, p.connected, p.before); return each })
	}
	for _, p := range all {
		got := make([]byte, len(text))
		if _, err := io.ReadFull(p.other, got); err != nil || string(got) != text {
			t.Errorf("%s: other bytes came: %v", p.name, err)
		}
	}
	for range all {
		if err := <-written; err != nil {
			t.Error(err)
		}
	}
	counted := w.counted(t)
	expectUnderstood(t, counted)
	if counted["no-access-rule"] > 0 {
		t.Errorf("something was denied: %s", describe(counted))
	}
}

// TestOlderThanTheFilter: connections that were open before their packets were
// judged go on if either end may have opened them, and others do not.
func TestOlderThanTheFilter(t *testing.T) {
	w := newWired(t)
	w.join(t, w.memberVeth, w.partnerVeth)
	var old []connected
	for _, s := range w.sides() {
		c := connect(t, s, 0)
		c.talk(t, "opened")
		old = append(old, c)
		half := connect(t, s, 0)
		if err := half.client.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		old = append(old, half)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*enough)
	defer cancel()
	var denied []*traffic.Conversation
	for _, way := range []struct {
		host, to *world.Host
		address  string
	}{{w.partner, w.member, net.JoinHostPort(member4, "5433")}, {w.member, w.partner, net.JoinHostPort(partner6, "444")}} {
		database, err := traffic.Database(way.to, way.address)
		if err != nil {
			t.Fatal(err)
		}
		defer database.Close()
		v, err := traffic.Converse(ctx, way.host, "tcp", way.address, traffic.Pace{Patience: shortly})
		if err != nil {
			t.Fatal(err)
		}
		denied = append(denied, v)
	}
	w.enforce(t, Options{}, w.memberVeth)
	for i, c := range old {
		if i%2 == 0 {
			c.talk(t, "judged")
		} else if err := says(c.server, c.client, "after the end"); err != nil {
			t.Errorf("half closed: %v", err)
		}
	}
	midstream := 0
	for _, f := range w.flowsOf(t, policy.ProtocolTCP) {
		if f.Midstream {
			midstream++
		}
	}
	if midstream != len(old) {
		t.Errorf("%d flows from the middle of a connection, want %d", midstream, len(old))
	}
	for _, v := range denied {
		select {
		case <-v.Ended():
		case <-ctx.Done():
			t.Error("a connection that nobody may open goes on")
		}
	}
}

// TestConnectionsThroughARestart: connections in every state go on while nobody
// has the data path open, and under the next who opens it.
func TestConnectionsThroughARestart(t *testing.T) {
	w := newWired(t)
	w.join(t, w.memberVeth, w.partnerVeth)
	options := Options{Root: privileged.BPFFS(t) + "/perimeterd"}
	w.judgeBy(t, loaded(t, options, wiredPolicy(), hereFacts()), w.memberVeth)
	var open []connected
	for _, s := range w.sides() {
		busy, half := connect(t, s, 0), connect(t, s, 0)
		busy.talk(t, "opened")
		if err := half.client.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		open = append(open, busy, half)
	}
	goOn := func(when string) {
		t.Helper()
		for i, c := range open {
			if i%2 == 0 {
				c.talk(t, when)
			} else if err := says(c.server, c.client, when); err != nil {
				t.Errorf("%s, half closed: %v", when, err)
			}
		}
	}
	goOn("before")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	goOn("meanwhile")
	err := w.member.Run(func() (err error) {
		w.Datapath, err = Open(options)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	goOn("after")
	if n := len(w.flowsOf(t, policy.ProtocolTCP)); n != len(open) {
		t.Errorf("%d flows, want %d", n, len(open))
	}
	if n := w.counted(t)["no-access-rule"]; n > 0 {
		t.Errorf("%d packets were denied", n)
	}
}
