package e2e_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/perimeterd/perimeterd/pkg/api"
	"github.com/perimeterd/perimeterd/pkg/decisionlog"
	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/tests/traffic"
)

// TestBooksBalance has bursts of denied and allowed traffic, with a log that
// rotates and rings that are too small while the agent stands still, and then
// holds the log's files against what the kernel has counted.
func TestBooksBalance(t *testing.T) {
	s := newScene(t, "limits: {flowRing: 65536, denialRing: 65536}\nmetrics: {listen: \"127.0.0.1:9464\"}\n", "maxMegabytes: 1, maxFiles: 100")
	const port = 5432
	s.serve(s.db, "tcp", port)
	s.write(policyOf("Enforced", admit("partners", "partner", "tcp/5432")))
	s.start()

	// Read as it comes.
	s.spray(1000, 3)
	s.connect(100, port)
	// Nobody reads: the rings overflow.
	s.must(s.Signal(syscall.SIGSTOP))
	s.spray(5000, 2)
	s.connect(600, port)
	s.must(s.Signal(syscall.SIGCONT))
	s.connect(100, port)

	logged := s.loggedLosses()
	s.must(s.Stop(s.soon())) // writes all that waits, and tells all that is counted
	files, exported := s.exported()
	s.start()
	status := s.status(0)
	var total, folded, lost uint64
	categories := 0
	for _, d := range status.Decisions {
		if d.Decided == 0 {
			continue
		}
		categories++
		total += d.Decided
		if d.Decided != d.Submitted+d.Folded+d.Lost {
			t.Errorf("the kernel's own books: %+v", d)
		}
		// Nothing is pending: the agent was stopped in order.
		if got := exported[d.Category] + d.Lost + logged[d.Category]; got != d.Decided {
			t.Errorf("%s: %d decided, but %d in the log, %d lost in the kernel and %d on the way to the log", d.Category, d.Decided, exported[d.Category], d.Lost, logged[d.Category])
		}
		if d.Lost == 0 {
			t.Errorf("%s: nothing was lost, so that the ring's loss is not tried", d.Category)
		}
		delete(exported, d.Category)
		folded += d.Folded
		lost += d.Lost
	}
	if len(exported) > 0 || categories != 2 || folded == 0 {
		t.Errorf("the log has %v besides, the kernel %+v", exported, status.Decisions)
	}
	if len(files) < 3 {
		t.Errorf("the log was not rotated: %v", files)
	}
	t.Logf("%d decisions: %d folded, %d lost, the others in %d files", total, folded, lost, len(files))
}

// spray has the stranger send datagrams to so many ports of the database, so
// many times over.
func (s *scene) spray(ports, times int) {
	s.t.Helper()
	for family, name := range both {
		socket, err := s.stranger.ListenPacket("udp", netip.AddrPortFrom(s.stranger.addresses[family], 0).String())
		s.must(err)
		for range times {
			for port := range ports {
				to := net.UDPAddrFromAddrPort(netip.AddrPortFrom(s.db.addresses[family], uint16(10000+port)))
				if _, err := socket.WriteTo([]byte("hello"), to); err != nil {
					s.t.Fatalf("over %s: %v", name, err)
				}
			}
		}
		s.must(socket.Close())
	}
}

// connect has the partner connect so many times.
func (s *scene) connect(times int, port uint16) {
	s.t.Helper()
	const atOnce = 4
	var group sync.WaitGroup
	for range atOnce {
		group.Go(func() {
			for i := range times / atOnce {
				if got := traffic.Try(s.t.Context(), s.partner, "tcp", s.db.at(i%2, port), patience); got.Err != nil {
					s.t.Errorf("the partner: %v", got.Err)
				}
			}
		})
	}
	group.Wait()
}

// exported adds up the log's files.
func (s *scene) exported() (files []string, sum map[policy.Category]uint64) {
	s.t.Helper()
	files, err := filepath.Glob(strings.TrimSuffix(s.DecisionFile, ".json") + "*")
	s.must(err)
	sum = map[policy.Category]uint64{}
	for _, path := range files {
		file, err := os.Open(path)
		s.must(err)
		lines := bufio.NewScanner(file)
		for lines.Scan() {
			var r decisionlog.Record
			if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
				s.t.Fatalf("%s: %v: %s", path, err, lines.Text())
			}
			sum[r.Category] += uint64(r.Count)
		}
		s.must(lines.Err())
		s.must(file.Close())
	}
	return files, sum
}

// loggedLosses reads from /metrics what was lost between kernel and file, and
// checks that page against status.
func (s *scene) loggedLosses() map[policy.Category]uint64 {
	s.t.Helper()
	page := s.metrics()
	sum := map[policy.Category]uint64{}
	for name, value := range page {
		category := policy.Category(label(name, "category"))
		switch {
		case strings.HasPrefix(name, "perimeterd_log_queue_lost_total{"),
			strings.HasPrefix(name, "perimeterd_log_backlog_lost_total{") && label(name, "sink") == s.DecisionFile:
			sum[category] += uint64(value)
		}
	}
	for _, d := range s.statusNow().Decisions {
		if got := page[fmt.Sprintf("perimeterd_decisions_total{category=%q}", d.Category)]; uint64(got) != d.Decided {
			s.t.Errorf("%s: %d decided, of which /metrics tells %v", d.Category, d.Decided, got)
		}
	}
	return sum
}

// statusNow is the status whatever its exit code.
func (s *scene) statusNow() *api.Status {
	s.t.Helper()
	status, err := s.Client().Status(s.soon())
	s.must(err)
	return status
}

// metrics reads the agent's /metrics: values by name and labels.
func (s *scene) metrics() map[string]float64 {
	s.t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		return s.db.DialFrom(ctx, network, "", address)
	}}}
	response, err := client.Get("http://127.0.0.1:9464/metrics")
	s.must(err)
	defer response.Body.Close() // read only
	text, err := io.ReadAll(response.Body)
	s.must(err)
	page := map[string]float64{}
	for line := range strings.Lines(string(text)) {
		name, value, found := strings.Cut(strings.TrimSpace(line), " ")
		if number, err := strconv.ParseFloat(value, 64); found && err == nil && name != "#" {
			page[name] = number
		}
	}
	return page
}

// label returns the value of a label of a metric's name.
func label(name, label string) string {
	_, after, _ := strings.Cut(name, label+`="`)
	value, _, _ := strings.Cut(after, `"`)
	return value
}
