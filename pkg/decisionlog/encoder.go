package decisionlog

// chunkBytes is when an encoder hands over what it has encoded: small enough
// that nobody waits for long, large enough that locks cost nothing.
const chunkBytes = 256 << 10

// encoder is the one goroutine between the queue and the sinks.
type encoder struct {
	log     *Log
	builder *builder
	record  Record
	taken   [lanes][]queued
	needed  [formats]bool // by a sink
	chunk   [formats]batch

	subscribers []*Subscription // as of this round
	total       tally           // of the chunk
}

func newEncoder(l *Log) *encoder {
	e := &encoder{log: l, builder: newBuilder(l.options.Legend, l.options.Interface)}
	e.builder.nameOf = l.options.Name
	for _, s := range l.sinks {
		e.needed[s.Format] = true
	}
	return e
}

// encodeWaiting empties the queue as it is now.
func (e *encoder) encodeWaiting() {
	l := e.log
	l.mu.Lock()
	for i := range e.taken {
		e.taken[i], l.waiting[i] = l.waiting[i], recycle(e.taken[i], 1<<12)
	}
	e.subscribers = append(e.subscribers[:0], l.subscribers...)
	l.mu.Unlock()

	e.builder.refresh()
	for i := range e.taken {
		if len(e.taken[i]) == 0 {
			continue
		}
		for j := range e.taken[i] {
			e.encode(&e.taken[i][j])
			if e.full() {
				e.handOver(lane(i))
			}
		}
		e.handOver(lane(i))
	}
}

func (e *encoder) encode(q *queued) {
	e.builder.fill(&e.record, &q.event)
	e.total.enter(q.entry)
	for f := range formats {
		if !e.needed[f] && !(f == subscriberFormat && len(e.subscribers) > 0) {
			continue
		}
		c := &e.chunk[f]
		start := len(c.bytes)
		c.bytes = f.append(c.bytes, &e.record)
		c.close(q.entry)
		if f == subscriberFormat {
			for _, s := range e.subscribers {
				s.stage(&e.record, c.bytes[start:])
			}
		}
	}
}

func (e *encoder) full() bool {
	for f := range e.chunk {
		if len(e.chunk[f].bytes) >= chunkBytes {
			return true
		}
	}
	return false
}

// handOver gives the chunk to every sink and subscriber.
func (e *encoder) handOver(from lane) {
	l := e.log
	l.mu.Lock()
	l.queued.subtract(&e.total)
	for _, s := range l.sinks {
		s.offer(from, &e.chunk[s.Format])
	}
	l.mu.Unlock()

	for _, s := range l.sinks {
		signal(s.wake)
	}
	for _, s := range e.subscribers {
		s.publish()
	}
	for f := range e.chunk {
		e.chunk[f].reset()
	}
	e.total = tally{}
}
