package traffic

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// Pace is how a conversation goes.
type Pace struct {
	// Every is the time from one question to the next; 0 = 5 ms.
	Every time.Duration
	// Patience is how long an answer may take; 0 = 1 s. It does not begin
	// anew while TCP repeats what was lost, so a connection that is cut for
	// longer has ended.
	Patience time.Duration
}

// Conversation is one long-lived connection, or UDP flow, on which a client
// asks one question after the other.
type Conversation struct {
	client *client
	pace   Pace
	stop   context.CancelFunc
	ended  chan struct{}

	mu         sync.Mutex
	changed    chan struct{} // closed and renewed with every answer
	report     Report
	lastAnswer time.Time
	endedAt    time.Time // zero while it goes on
}

// Report is how a conversation went so far.
type Report struct {
	Answers int // questions that were answered
	Lost    int // questions over UDP that were not
	// LongestGap is the longest time without an answer, the time since the
	// last one included.
	LongestGap time.Duration
	// Err is what ended the conversation; nil while it goes on, and if it was
	// stopped. OutcomeOf(Err) is TimedOut if an answer over TCP did not come.
	Err error
}

// Converse connects to a Database ("tcp") or a Broker ("udp") and returns when
// the first question is answered. The conversation then goes on until it
// breaks, is stopped, or ctx ends. Over UDP an answer that does not come is
// counted and the conversation goes on; over TCP it ends.
func Converse(ctx context.Context, n Network, network, address string, pace Pace) (*Conversation, error) {
	if pace.Every == 0 {
		pace.Every = 5 * time.Millisecond
	}
	if pace.Patience == 0 {
		pace.Patience = time.Second
	}
	first, cancel := context.WithTimeout(ctx, pace.Patience)
	defer cancel()
	c, err := dial(first, n, network, address)
	if err != nil {
		return nil, err
	}
	if err := c.ask(1); err != nil {
		return nil, errors.Join(err, c.close())
	}
	c.unbind()
	ctx, stop := context.WithCancel(ctx)
	c.unbind = interrupt(ctx, c.conn)
	v := &Conversation{
		client:     c,
		pace:       pace,
		stop:       stop,
		ended:      make(chan struct{}),
		changed:    make(chan struct{}),
		report:     Report{Answers: 1},
		lastAnswer: time.Now(),
	}
	go v.run(ctx, network == "tcp")
	return v, nil
}

// run asks until the conversation ends.
func (v *Conversation) run(ctx context.Context, reliable bool) {
	defer close(v.ended)
	defer v.stop()
	ticks := time.NewTicker(v.pace.Every)
	defer ticks.Stop()
	for number := 2; ; number++ {
		select {
		case <-ctx.Done():
			v.end(nil)
			return
		case <-ticks.C: // the pace, not a wait for anything
		}
		err := v.ask(ctx, number)
		switch {
		case ctx.Err() != nil:
			v.end(nil)
			return
		case err == nil:
			v.answered()
		case !reliable && errors.Is(err, os.ErrDeadlineExceeded):
			v.mu.Lock()
			v.report.Lost++
			v.mu.Unlock()
		default:
			v.end(err)
			return
		}
	}
}

func (v *Conversation) ask(ctx context.Context, number int) error {
	if err := v.client.conn.SetDeadline(time.Now().Add(v.pace.Patience)); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil { // its interrupt may have come before the deadline
		return err
	}
	return v.client.ask(number)
}

func (v *Conversation) answered() {
	v.mu.Lock()
	defer v.mu.Unlock()
	now := time.Now()
	v.report.Answers++
	v.report.LongestGap = max(v.report.LongestGap, now.Sub(v.lastAnswer))
	v.lastAnswer = now
	close(v.changed)
	v.changed = make(chan struct{})
}

func (v *Conversation) end(err error) {
	err = errors.Join(err, v.client.close())
	v.mu.Lock()
	defer v.mu.Unlock()
	v.endedAt = time.Now()
	v.report.Err = err
}

// Report returns how the conversation went so far.
func (v *Conversation) Report() Report {
	v.mu.Lock()
	defer v.mu.Unlock()
	r := v.report
	until := v.endedAt
	if until.IsZero() {
		until = time.Now()
	}
	r.LongestGap = max(r.LongestGap, until.Sub(v.lastAnswer))
	return r
}

// Await returns when so many more questions are answered, with an error if the
// conversation or ctx ends before.
func (v *Conversation) Await(ctx context.Context, answers int) error {
	v.mu.Lock()
	goal := v.report.Answers + answers
	v.mu.Unlock()
	for {
		v.mu.Lock()
		got, changed := v.report.Answers, v.changed
		v.mu.Unlock()
		if got >= goal {
			return nil
		}
		select {
		case <-changed:
		case <-v.ended:
			return fmt.Errorf("the conversation ended with %d of %d answers missing: %w", goal-got, answers, v.Report().cause())
		case <-ctx.Done():
			return fmt.Errorf("%d of %d answers are missing: %w", goal-got, answers, ctx.Err())
		}
	}
}

// Ended is closed when the conversation has ended by itself or was stopped.
func (v *Conversation) Ended() <-chan struct{} { return v.ended }

// Stop ends the conversation and returns its report.
func (v *Conversation) Stop() Report {
	v.stop()
	<-v.ended
	return v.Report()
}

var errStopped = errors.New("it was stopped")

func (r Report) cause() error {
	if r.Err == nil {
		return errStopped
	}
	return r.Err
}
