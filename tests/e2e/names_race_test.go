package e2e_test

import (
	"context"
	"flag"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

var roundsFlag = flag.Int("rounds", 120, "how often each kind of client resolves a fresh name and connects at once, in each part of TestNoRace; 10000 proves it")

// freshCounter makes names that nobody has asked for.
var freshCounter atomic.Uint64

func freshName() string { return fmt.Sprintf("n%d.%s", freshCounter.Add(1), freshZone) }

// client resolves fresh names and connects to each at once. It returns what went
// wrong, one line each.
type client struct {
	name string
	run  func(town *namesTown, rounds int) []string
}

var clients = []client{{"go", goClient}, {"glibc", glibcClient}, {"curl", curlClient}}

// goClient is Go's own resolver and dialer. Like the other two it leaves its address
// to the kernel. Of a socket that is bound first the port is its own for the minute
// after it is closed, and some ten thousand rounds in a minute use them up; chosen with
// the connection, a port may be used again towards another address, which here each is.
func goClient(town *namesTown, rounds int) (failures []string) {
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return town.db.Dial(ctx, network, dnsResolver+":53")
	}}
	for range rounds {
		ctx, cancel := context.WithTimeout(town.t.Context(), patience)
		name := freshName()
		addresses, err := resolver.LookupHost(ctx, name)
		if err == nil {
			var conn net.Conn
			if conn, err = town.db.Host.Dial(ctx, "tcp", fmt.Sprintf("%s:%d", addresses[0], freshPort)); err == nil {
				err = conn.Close()
			}
		}
		cancel()
		if err != nil {
			failures = append(failures, err.Error())
		}
	}
	return failures
}

// glibcClient is bash, which connects by getaddrinfo.
func glibcClient(town *namesTown, rounds int) []string {
	var script strings.Builder
	for range rounds {
		fmt.Fprintf(&script, "exec 3<>/dev/tcp/%s/%d && exec 3>&- || echo failed\n", freshName(), freshPort)
	}
	return lines(town.inResolving(script.String(), "bash", "-s"))
}

// curlClient is one curl that asks for many URLs, each by a connection of its own.
func curlClient(town *namesTown, rounds int) []string {
	var config strings.Builder
	for range rounds {
		fmt.Fprintf(&config, "url = \"http://%s:%d/\"\noutput = /dev/null\n", freshName(), freshPort)
	}
	return lines(town.inResolving(config.String(), "curl", "--silent", "--show-error", "--connect-timeout", "15", "--config", "-"))
}

func lines(text string, err error) (out []string) {
	for line := range strings.Lines(text) {
		out = append(out, strings.TrimSpace(line))
	}
	if err != nil && len(out) == 0 {
		out = append(out, err.Error())
	}
	return out
}

// TestNoRace: whoever resolves a fresh name and connects at once gets through at
// the first attempt: no connection fails and no SYN is sent twice. So it is while
// the agent runs, after it was killed, and while the policy is changed all the
// time, which the rule with the names is part of.
func TestNoRace(t *testing.T) {
	needsTool(t, "bash", "bash")
	needsTool(t, "curl", "curl")
	town := newNamesTown(t, "dns: {servers: ["+dnsResolver+"]}\n")
	town.write(namesPolicy())
	town.start()

	town.t.Run("with the agent", func(t *testing.T) { town.rounds(t) })
	town.Kill()
	town.t.Run("after kill -9", func(t *testing.T) { town.rounds(t) })
	town.start()
	ctx, stop := context.WithCancel(t.Context())
	changed := make(chan int, 1)
	go func() {
		n := 0
		for ; ctx.Err() == nil; n++ {
			if err := town.WritePolicy("policy.yaml", namesPolicy(fmt.Sprintf("other-%d.example.org", n%2))); err != nil {
				t.Error(err)
				break
			}
			time.Sleep(50 * time.Millisecond) // the pace of changes; nothing waits for it
		}
		changed <- n
	}()
	first := town.generation()
	town.t.Run("while the policy changes", func(t *testing.T) {
		for town.generation() < first+changesMet && !t.Failed() {
			town.rounds(t)
		}
	})
	stop()
	t.Logf("the policy was written %d times; generations %d to %d were in force", <-changed, first, town.generation())
}

// changesMet is how many generations come in force under traffic, at least.
const changesMet = 5

// rounds has each client do its rounds, all at the same time.
func (town *namesTown) rounds(t *testing.T) {
	before, reached := town.synRetransmits(), town.reached.Load()
	asked := town.zone.asked.Load()
	done := make(chan struct {
		client
		failures []string
	})
	for _, c := range clients {
		go func() {
			done <- struct {
				client
				failures []string
			}{c, c.run(town, *roundsFlag)}
		}()
	}
	for range clients {
		d := <-done
		if len(d.failures) > 0 {
			t.Errorf("%s: %d of %d rounds failed, first: %s", d.name, len(d.failures), *roundsFlag, d.failures[0])
		}
	}
	again := town.synRetransmits() - before
	connections := town.reached.Load() - reached
	t.Logf("%d rounds of %d clients: %d connections, %d SYNs sent again, %d questions at the source", *roundsFlag, len(clients), connections, again, town.zone.asked.Load()-asked)
	if again != 0 {
		t.Errorf("%d SYNs were sent again", again)
	}
	if want := uint64(*roundsFlag * len(clients)); connections < want {
		t.Errorf("%d connections came through, want %d", connections, want)
	}
}
