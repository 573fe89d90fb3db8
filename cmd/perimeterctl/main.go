// Perimeterctl is the operator's command: it asks the agent and switches
// enforcement.
package main

import (
	"context"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	os.Exit(run(env{
		ctx:      ctx,
		stdout:   os.Stdout,
		stderr:   os.Stderr,
		colour:   term.IsTerminal(int(os.Stdout.Fd())) && os.Getenv("NO_COLOR") == "",
		now:      time.Now,
		location: time.Local,
	}, os.Args[1:]))
}
