// Package traffic is real servers and clients for end-to-end tests and the
// demo: a database (TCP), a broker (UDP), a vault (HTTP) and a store for bulk
// uploads; a single attempt that says how it ended, and a conversation that
// goes on and notices gaps.
//
// They run on a Network, such as a host of a test world, and wait for events
// with deadlines that the caller chooses.
package traffic

import (
	"context"
	"errors"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Network is where servers listen and clients come from.
type Network interface {
	Listen(network, address string) (net.Listener, error)
	ListenPacket(network, address string) (net.PacketConn, error)
	Dial(ctx context.Context, network, address string) (net.Conn, error)
}

// Outcome is how an attempt to reach a server ended.
type Outcome uint8

const (
	Connected   Outcome = iota
	Refused             // the other end said no: nobody listens
	TimedOut            // no answer in time, as when packets are dropped
	Unreachable         // this end, or a router, knows no way
	Failed              // in any other way
)

func (o Outcome) String() string {
	return [...]string{"connected", "refused", "timed out", "unreachable", "failed"}[o]
}

// OutcomeOf returns the outcome that an error of a network operation means.
func OutcomeOf(err error) Outcome {
	var timeout net.Error
	switch {
	case err == nil:
		return Connected
	case errors.Is(err, unix.ECONNREFUSED):
		return Refused
	case errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.ENETUNREACH):
		return Unreachable
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded),
		errors.As(err, &timeout) && timeout.Timeout():
		return TimedOut
	default:
		return Failed
	}
}

// Attempt is the report of one try.
type Attempt struct {
	Outcome Outcome
	Err     error // nil if Connected
	Took    time.Duration
}

// Try tries to reach a server and waits no longer than patience. With "tcp" it
// connects; with "udp" it asks one question and is Connected if that is
// answered, as a Broker does.
func Try(ctx context.Context, n Network, network, address string, patience time.Duration) Attempt {
	start := time.Now()
	ctx, cancel := context.WithDeadline(ctx, start.Add(patience))
	defer cancel()
	err := try(ctx, n, network, address)
	return Attempt{Outcome: OutcomeOf(err), Err: err, Took: time.Since(start)}
}

func try(ctx context.Context, n Network, network, address string) error {
	c, err := dial(ctx, n, network, address)
	if err != nil {
		return err
	}
	if network != "tcp" {
		err = c.ask(1)
	}
	return errors.Join(err, c.close())
}
