// Perimeterd is the agent: it puts the policy of this host in force and logs
// every decision.
package main

import (
	"context"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	// Whoever reads standard output may go away, as the journal does when it is
	// restarted. That is the log's trouble, and no reason to end.
	signal.Ignore(unix.SIGPIPE)
	reload := make(chan os.Signal, 1)
	signal.Notify(reload, unix.SIGHUP)
	hostname, err := os.Hostname()
	os.Exit(run(env{
		ctx:          ctx,
		stdout:       os.Stdout,
		stderr:       os.Stderr,
		terminal:     term.IsTerminal(int(os.Stdout.Fd())),
		reload:       reload,
		hostname:     hostname,
		hostnameErr:  err,
		notifySocket: os.Getenv("NOTIFY_SOCKET"),
		noColour:     os.Getenv("NO_COLOR") != "",
	}, os.Args[1:]))
}
