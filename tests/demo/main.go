// Demo shows what perimeterd does, on a network of namespaces, with the real
// binaries and real servers and clients. It checks all it says: at the first
// surprise it ends and fails. It needs root and leaves nothing behind.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/perimeterd/perimeterd/tests/deployment"
	"github.com/perimeterd/perimeterd/tests/world"
)

// acts are the story, in its order.
var acts = []func(*demo){
	nothingGoverned,
	learning,
	enforced,
	inboundRule,
	subscriptionRule,
	link,
	exfiltration,
	liveConnectionCut,
	agentKilled,
	serviceTags,
	disabled,
}

func main() {
	// A reader that goes away (make demo | head) must not keep us from cleaning up.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM, unix.SIGHUP, unix.SIGPIPE)
	defer stop()
	out := newPage(os.Stdout, term.IsTerminal(int(os.Stdout.Fd())) && os.Getenv("NO_COLOR") == "")
	if err := run(ctx, out); err != nil {
		if ctx.Err() != nil {
			err = errors.New("interrupted")
		}
		fmt.Fprintf(os.Stderr, "\ndemo: %v\n", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, out *page) error {
	if os.Geteuid() != 0 {
		return errors.New("it builds network namespaces and loads BPF programs, which needs root: sudo make demo")
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // for what still goes on after a surprise
	started := time.Now()
	out.line("Building perimeterd, perimeterctl, and a network for them …")
	directory, err := os.MkdirTemp("", "perimeterd-demo-")
	if err != nil {
		return err
	}
	d := &demo{ctx: ctx, page: out}
	binaries, err := deployment.Build(ctx, directory)
	if err == nil {
		err = world.Build(func(w *world.World) error { return d.play(w, binaries) })
	}
	if err := errors.Join(d.surprise, err, os.RemoveAll(directory)); err != nil {
		return err
	}
	out.summary(fmt.Sprintf("%d steps, %d expectations met, %.0f s", d.steps, d.met, time.Since(started).Seconds()))
	return nil
}

// play builds the town and plays all acts.
func (d *demo) play(w *world.World, binaries deployment.Binaries) error {
	defer d.close()
	d.town = d.build(w)
	if err := d.deploy(binaries); err != nil {
		return err
	}
	d.line("%s", townMap)
	for _, act := range acts {
		act(d)
	}
	return nil
}
