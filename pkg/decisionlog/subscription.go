package decisionlog

import (
	"context"
	"errors"
	"io"
	"sync"
)

// subscriberFormat is what subscribers get: Record reads it back.
const subscriberFormat = FormatNSP

const defaultBufferBytes = 1 << 20

// SubscribeOptions of a Subscription.
type SubscribeOptions struct {
	// Filter reports which records the subscriber wants. Optional, defaults to
	// all. It runs on the encoder's goroutine, so it must be quick, and must not
	// keep the record.
	Filter func(*Record) bool
	// BufferBytes is how much may wait for the subscriber. Optional, defaults to
	// 1 MiB.
	BufferBytes int
}

// Subscription is a live view of the log. A subscriber that is too slow loses
// records and is told how many; it never holds up anybody else.
type Subscription struct {
	log    *Log
	filter func(*Record) bool
	limit  int
	wake   chan struct{}

	staged batch // in the encoder's hands

	mu      sync.Mutex // guards what follows
	waiting Lines
	given   Lines // what Next returned last
	lost    uint64
	ended   bool
}

// Lines are records in NSP's schema, each ended by a line feed.
type Lines struct {
	Bytes   []byte
	Records int
	// Lost is how many records are missing after these.
	Lost uint64
}

// Subscribe returns a Subscription that begins with the next record. The
// caller must close it.
func (l *Log) Subscribe(o SubscribeOptions) (*Subscription, error) {
	if o.BufferBytes < 0 {
		return nil, errors.New("decision log: a subscriber's BufferBytes must not be negative")
	}
	setDefault(&o.BufferBytes, defaultBufferBytes)
	s := &Subscription{log: l, filter: o.Filter, limit: o.BufferBytes, wake: make(chan struct{}, 1)}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		s.ended = true
		return s, nil
	}
	l.subscribers = append(l.subscribers, s)
	return s, nil
}

// Next waits for records. What it returns is valid until the next call. Its
// error is io.EOF when the Log has ended and all was returned, or the context's.
// Not for use by several goroutines.
func (s *Subscription) Next(ctx context.Context) (Lines, error) {
	for {
		s.mu.Lock()
		if s.waiting.Records > 0 || s.waiting.Lost > 0 {
			s.given, s.waiting = s.waiting, Lines{Bytes: recycle(s.given.Bytes, 1<<16)}
			s.mu.Unlock()
			return s.given, nil
		}
		ended := s.ended
		s.mu.Unlock()
		if ended {
			return Lines{}, io.EOF
		}
		select {
		case <-s.wake:
		case <-ctx.Done():
			return Lines{}, ctx.Err()
		}
	}
}

// Close ends the subscription; Next returns io.EOF after what already waits.
func (s *Subscription) Close() {
	s.end() // first, so that nothing is lost after it has been added up
	l := s.log
	l.mu.Lock()
	for i, other := range l.subscribers {
		if other == s {
			l.subscribers = append(l.subscribers[:i], l.subscribers[i+1:]...)
			l.pastLost += s.totalLost()
			break
		}
	}
	l.mu.Unlock()
}

func (l *Log) endSubscriptions() {
	l.mu.Lock()
	ended := l.subscribers
	l.subscribers = nil
	for _, s := range ended {
		l.pastLost += s.totalLost()
	}
	l.mu.Unlock()
	for _, s := range ended {
		s.end()
	}
}

func (s *Subscription) end() {
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	signal(s.wake)
}

func (s *Subscription) totalLost() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lost
}

// stage keeps the record's line, if it is wanted, until publish.
func (s *Subscription) stage(r *Record, line []byte) {
	if s.filter != nil && !s.filter(r) {
		return
	}
	s.staged.bytes = append(s.staged.bytes, line...)
	s.staged.marks = append(s.staged.marks, mark{end: len(s.staged.bytes)})
}

// publish hands what is staged to the subscriber, as far as there is room.
func (s *Subscription) publish() {
	if len(s.staged.marks) == 0 {
		return
	}
	s.mu.Lock()
	if !s.ended {
		s.deliver()
	}
	s.mu.Unlock()
	s.staged.reset()
	signal(s.wake)
}

func (s *Subscription) deliver() {
	start := 0
	for _, m := range s.staged.marks {
		line := s.staged.bytes[start:m.end]
		start = m.end
		// After the first loss all is lost until the subscriber comes back, so
		// that the gap is one, and where Lines says.
		if s.waiting.Lost > 0 || len(s.waiting.Bytes)+len(line) > s.limit {
			s.waiting.Lost++
			s.lost++
			continue
		}
		s.waiting.Bytes = append(s.waiting.Bytes, line...)
		s.waiting.Records++
	}
}
