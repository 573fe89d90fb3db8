package verified

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTableIsReadAsWritten(t *testing.T) {
	table := Table{
		{5, 10}: {"towards": 41000, "from": 42000},
		{6, 1}:  {"towards": 44103, "from": 44235, "xdp": 39000},
		{6, 18}: {"towards": 38000},
	}
	var text strings.Builder
	if err := table.Write(&text); err != nil {
		t.Fatal(err)
	}
	want := comment + "\n" +
		"program\t5.10\t6.1\t6.18\n" +
		"from\t42000\t44235\t-\n" +
		"towards\t41000\t44103\t38000\n" +
		"xdp\t-\t39000\t-\n"
	if diff := cmp.Diff(want, text.String()); diff != "" {
		t.Errorf("written (-want +got):\n%s", diff)
	}
	got, err := Read(strings.NewReader(text.String()))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(table, got); diff != "" {
		t.Errorf("read back (-want +got):\n%s", diff)
	}
}

func TestTableThatCannotBeRead(t *testing.T) {
	for text, want := range map[string]string{
		"":                                  "no kernel",
		"# only words\n":                    "no kernel",
		"program\tnew\n":                    "line 1",
		"program\t5.10\ntowards\n":          "line 2 has 1 columns",
		"program\t5.10\ntowards\t1\t2\n":    "line 2 has 3 columns",
		"program\t5.10\ntowards\tplenty\n":  `"plenty"`,
		"#\nprogram\t5.10\n\ntowards\t1k\n": "line 4",
	} {
		if _, err := Read(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want an error with %q", text, err, want)
		}
	}
}

func TestChange(t *testing.T) {
	table := Table{{5, 10}: {"towards": 41000}, {6, 1}: {"towards": 44103, "from": 44235}}
	for _, c := range []struct {
		kernel  Series
		program string
		count   int
		want    string
	}{
		{Series{5, 10}, "towards", 41000, "towards: 41000 instructions verified, as recorded for Linux 5.10"},
		{Series{5, 10}, "towards", 41200, "towards: 41200 instructions verified, +200 against 41000 recorded for Linux 5.10"},
		{Series{6, 1}, "towards", 44000, "towards: 44000 instructions verified, -103 against 44103 recorded for Linux 6.1"},
		{Series{5, 10}, "from", 41000, "from: 41000 instructions verified, not recorded for Linux 5.10"},
		{Series{6, 12}, "towards", 44103, "towards: 44103 instructions verified, as recorded for Linux 6.1"},
		{Series{5, 4}, "towards", 44103, "towards: 44103 instructions verified, nothing recorded for Linux 5.4"},
	} {
		if got := table.Change(c.kernel, c.program, c.count); got != c.want {
			t.Errorf("%v %s %d: %q, want %q", c.kernel, c.program, c.count, got, c.want)
		}
	}
}

func TestSeries(t *testing.T) {
	for release, want := range map[string]Series{
		"5.10":                       {5, 10},
		"5.10.0-32-cloud-amd64":      {5, 10},
		"6.12.107+deb13-cloud-amd64": {6, 12},
		"7.3-rc4":                    {7, 3},
		"6.1~rc2":                    {6, 1},
		"10.0.1":                     {10, 0},
	} {
		if got, err := ParseSeries(release); err != nil || got != want {
			t.Errorf("%q: %v, %v, want %v", release, got, err, want)
		}
	}
	for _, release := range []string{"", "6", "6.", "six.one", ".1"} {
		if got, err := ParseSeries(release); err == nil {
			t.Errorf("%q: %v, want an error", release, got)
		}
	}
	ordered := []Series{{5, 4}, {5, 10}, {6, 1}, {6, 2}, {6, 12}, {7, 0}}
	for i, older := range ordered {
		for _, newer := range ordered[i+1:] {
			if older.Compare(newer) >= 0 || newer.Compare(older) <= 0 || older.Compare(older) != 0 {
				t.Errorf("%v is not older than %v", older, newer)
			}
		}
	}
}
