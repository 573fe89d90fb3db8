package decisionlog

import (
	"strings"
	"testing"
	"time"

	"github.com/perimeterd/perimeterd/pkg/datapath"
)

// The lines themselves are in testdata/records.golden.

func TestLineStyle(t *testing.T) {
	b := testBuilder()
	var r Record
	e := decision(datapath.Denied, ordersDB, 2)
	b.fill(&r, &e)
	plain := string(r.AppendLine(nil, LineStyle{}))
	coloured := string(r.AppendLine(nil, LineStyle{Colour: true}))
	if strings.Contains(plain, "\x1b") {
		t.Errorf("colour was not asked for: %q", plain)
	}
	if want := strings.Replace(plain, "deny", "\x1b[1;31mdeny\x1b[0m", 1); coloured != want {
		t.Errorf("coloured line %q, want %q", coloured, want)
	}
	there := string(r.AppendLine(nil, LineStyle{Location: time.FixedZone("CET", 3600)}))
	if !strings.HasPrefix(there, "10:15:02.114 ") {
		t.Errorf("line an hour east begins %.12s, want 10:15:02.114", there)
	}
}

func TestLineObeysNoName(t *testing.T) {
	b := testBuilder()
	var r Record
	e := decision(datapath.FlowStart, ordersDB, 1)
	b.fill(&r, &e)
	r.Properties.MatchedRule.AccessRule = "a\x1b[2Jb\nc\u009bd"
	line := string(r.AppendLine(nil, LineStyle{}))
	if !strings.HasSuffix(line, " a?[2Jb?c?d") {
		t.Errorf("line %q still commands the terminal", line)
	}
}

func TestAppendSize(t *testing.T) {
	for _, c := range []struct {
		n    uint64
		want string
	}{
		{0, "0B"}, {1023, "1023B"}, {1024, "1.0KiB"}, {1536, "1.5KiB"}, {1 << 20, "1.0MiB"}, {1<<64 - 1, "16.0EiB"},
	} {
		if got := string(appendSize(nil, c.n)); got != c.want {
			t.Errorf("%d is %s, want %s", c.n, got, c.want)
		}
	}
}
