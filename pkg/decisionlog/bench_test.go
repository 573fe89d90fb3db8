package decisionlog

import (
	"context"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/perimeterd/perimeterd/pkg/compile"
	"github.com/perimeterd/perimeterd/pkg/datapath"
)

// benchEvents are starts, ends and denials, each a third.
func benchEvents(n int) []datapath.Event {
	var three [3]datapath.Event
	for _, c := range testEvents() {
		switch c.name {
		case "inbound by an access rule":
			three[0] = c.event
		case "its end":
			three[1] = c.event
		case "inbound without a rule, often":
			three[2] = c.event
		}
	}
	events := make([]datapath.Event, n)
	for i := range events {
		events[i] = three[i%3]
	}
	return events
}

func BenchmarkEncode(b *testing.B) {
	events := benchEvents(3)
	for f := range formats {
		b.Run(f.String(), func(b *testing.B) {
			b.ReportAllocs()
			builder := testBuilder()
			var r Record
			var buffer []byte
			var bytes int
			for i := 0; b.Loop(); i++ {
				builder.fill(&r, &events[i%3])
				buffer = f.append(buffer[:0], &r)
				bytes += len(buffer)
			}
			b.ReportMetric(float64(bytes)/float64(b.N), "B/record")
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
		})
	}
}

// BenchmarkLog brings events to a rotated file, from Submit to the last byte
// written. Every event must be exported, so that it cannot measure a loss. Run
// it with -cpu 1,2.
func BenchmarkLog(b *testing.B) {
	b.Run("file", func(b *testing.B) { benchmarkLog(b, FormatNSP) })
	b.Run("flat file", func(b *testing.B) { benchmarkLog(b, FormatFlat) })
}

func benchmarkLog(b *testing.B, format Format) {
	file, err := OpenFile(FileOptions{Path: filepath.Join(b.TempDir(), "decisions.json"), MaxFiles: 2})
	if err != nil {
		b.Fatal(err)
	}
	defer file.Close()
	legend := testLegend()
	const batch = 3000
	l, err := New(Options{
		Legend: func(uint32) *compile.Legend { return legend },
		Sinks:  []Sink{{Name: "file", To: file, Format: format}},
	})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	<-l.Ready()

	events := benchEvents(batch)
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; i < b.N; i += batch {
		l.Submit(events[:min(batch, b.N-i)])
		for l.crowded() { // this producer waits where the kernel's would not
			runtime.Gosched()
		}
	}
	cancel()
	if err := <-ended; err != nil {
		b.Fatal(err)
	}
	b.StopTimer()
	c := l.Counters()
	if err := c.Verify(); err != nil {
		b.Fatal(err)
	}
	s := c.Sinks[0]
	if s.Records != uint64(b.N) {
		b.Fatalf("%d records of %d exported, %d lost in the queue, %d in the backlog", s.Records, b.N, c.LostQueue.Total(), s.LostBacklog.Total())
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
	b.ReportMetric(float64(s.Bytes)/float64(b.N), "B/record")
	b.ReportMetric(float64(b.N)/float64(s.Writes), "records/write")
}

// crowded reports whether the next batch might find no room.
func (l *Log) crowded() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.sinks {
		for i := range s.backlog {
			if len(s.backlog[i].bytes) > s.BacklogBytes/4 {
				return true
			}
		}
	}
	return len(l.waiting[laneFlows]) > l.options.QueueEvents/2
}

// BenchmarkSubmit is what the reader of the rings pays for an event, whether the
// queue has room for it or not.
func BenchmarkSubmit(b *testing.B) {
	for _, c := range []struct {
		name string
		full bool
	}{{"taken", false}, {"refused", true}} {
		b.Run(c.name, func(b *testing.B) {
			l, err := New(Options{Legend: func(uint32) *compile.Legend { return nil }})
			if err != nil {
				b.Fatal(err)
			}
			const batch = 300
			events := benchEvents(batch)
			if c.full {
				for range 2 * defaultQueueEvents / batch * 3 {
					l.Submit(events)
				}
			}
			b.ReportAllocs()
			b.ResetTimer()
			for i := 0; i < b.N; i += batch {
				l.Submit(events[:min(batch, b.N-i)])
				if !c.full {
					for lane := range l.waiting {
						l.waiting[lane] = l.waiting[lane][:0]
					}
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}
