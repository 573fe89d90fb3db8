package decisionlog

import (
	"fmt"
	"io"
	"time"
)

// sink is a Sink with its backlog and its books. The Log's mutex guards all
// but the options and wake.
type sink struct {
	Sink
	wake chan struct{}

	backlog [lanes]batch
	writing batch // in the hands of the sink's goroutine, which alone reads it without the mutex
	turn    lane  // whose backlog is written next

	exported, pending, lostBacklog, lostWrite tally
	records, bytes, writes, errors            uint64
	err                                       error
	abandoned                                 bool // the books are closed; the goroutine may still hang in Write
}

func newSink(s Sink) *sink {
	return &sink{Sink: s, wake: make(chan struct{}, 1)}
}

// offer adds a chunk to the backlog, if there is room.
func (s *sink) offer(from lane, chunk *batch) {
	if len(chunk.marks) == 0 {
		return
	}
	backlog := &s.backlog[from]
	if len(backlog.bytes)+len(chunk.bytes) > s.BacklogBytes {
		s.lostBacklog.add(&chunk.total)
		return
	}
	backlog.append(chunk)
	s.pending.add(&chunk.total)
}

// take moves the backlog of one lane to writing; the lanes take turns, so that
// neither waits for all of the other. It reports whether there was anything.
func (s *sink) take() bool {
	for range lanes {
		next := &s.backlog[s.turn]
		s.turn = (s.turn + 1) % lanes
		if len(next.marks) > 0 {
			s.writing.reset()
			s.writing, *next = *next, s.writing
			return true
		}
	}
	return false
}

// writeBacklog is the sink's goroutine. It ends when the Log is closing and
// nothing is left, or the sink has failed once more.
func (l *Log) writeBacklog(s *sink) {
	closing := false
	for {
		l.mu.Lock()
		found := !s.abandoned && s.take()
		l.mu.Unlock()
		switch {
		case found:
			if !l.write(s) {
				return
			}
		case closing:
			return
		default:
			select {
			case <-s.wake:
			case <-l.closing:
				closing = true
			}
		}
	}
}

// write writes what was taken, as often as it needs. It reports false when the
// Log is closing and the sink still fails.
func (l *Log) write(s *sink) bool {
	done := 0  // marks that are settled
	start := 0 // bytes that are written
	closing := false
	for start < len(s.writing.bytes) {
		rest := s.writing.bytes[start:]
		n, err := s.To.Write(rest)
		n = min(max(n, 0), len(rest))
		if err == nil && n < len(rest) {
			err = io.ErrShortWrite
		}
		start += n

		l.mu.Lock()
		if s.abandoned {
			l.mu.Unlock()
			return false
		}
		done = s.settle(done, start)
		s.bytes += uint64(n)
		s.writes++
		s.err = err
		if err != nil {
			s.errors++
		}
		l.mu.Unlock()

		if err == nil || start == len(s.writing.bytes) {
			continue
		}
		if closing {
			return false
		}
		pause := time.NewTimer(l.options.RetryAfter)
		select {
		case <-pause.C:
		case <-l.closing: // one last attempt
			closing = true
			pause.Stop()
		}
	}
	return true
}

// settle books the marks from the given one on whose lines are written, and
// returns the first that is not.
func (s *sink) settle(mark, written int) int {
	marks := s.writing.marks
	if mark == 0 && written == len(s.writing.bytes) { // the usual case at no cost
		s.exported.add(&s.writing.total)
		s.pending.subtract(&s.writing.total)
		s.records += uint64(len(marks))
		return len(marks)
	}
	var part tally
	for mark < len(marks) && marks[mark].end <= written {
		part.enter(marks[mark].entry)
		s.records++
		mark++
	}
	s.exported.add(&part)
	s.pending.subtract(&part)
	return mark
}

// abandon closes the books: what still waits is lost. It returns what to tell
// the caller of Run.
func (s *sink) abandon() error {
	s.abandoned = true
	if s.pending == (tally{}) {
		return nil
	}
	var decisions uint64
	for _, n := range s.pending.decisions {
		decisions += n
	}
	ends := s.pending.flowEnds
	s.lostWrite.add(&s.pending)
	s.pending = tally{}
	if s.err == nil {
		return fmt.Errorf("sink %s: %d decisions and %d flow ends were not written: the sink is too slow or hangs", s.Name, decisions, ends)
	}
	return fmt.Errorf("sink %s: %d decisions and %d flow ends were not written: %w", s.Name, decisions, ends, s.err)
}

func (s *sink) counters(c *categories) SinkCounters {
	return SinkCounters{
		Name:        s.Name,
		Exported:    s.exported.public(c),
		Pending:     s.pending.public(c),
		LostBacklog: s.lostBacklog.public(c),
		LostWrite:   s.lostWrite.public(c),
		Records:     s.records,
		Bytes:       s.bytes,
		Writes:      s.writes,
		Errors:      s.errors,
		Err:         s.err,
	}
}
