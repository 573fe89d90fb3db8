package secondopinion_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/perimeterd/perimeterd/tests/privileged"
)

// TestEachRowIsShown plays the session of each row, in both families and
// wherever we attach. Its last datagram must be judged differently, by that row
// alone.
func TestEachRowIsShown(t *testing.T) {
	privileged.Require(t)
	p := stagePolicy()
	for _, at := range layouts() {
		t.Run(at.name, func(t *testing.T) {
			var sessions []*session
			var names []string
			consult(t, at, p, func(o *opinions) error {
				for family := range families {
					g := &stage{policy: p, family: family, noDCCP: o.tracksDCCP}
					for _, r := range rows() {
						if s := r.shown(g); s != nil {
							sessions, names = append(sessions, s), append(names, r.name)
						}
					}
				}
				return o.play(sessions)
			})
			for i, s := range sessions {
				last := len(s.steps) - 1
				d := &difference{s, s.steps[last], s.steps[:last]}
				y := newTally()
				if d.agreed() {
					t.Errorf("%s: both say the same\n%s", names[i], s.describe(nil))
				} else if r := y.explain(d); r == nil {
					t.Errorf("%s: %s", names[i], y.unexplained[0])
				} else if r.name != names[i] {
					t.Errorf("%s: it is %s that explains this\n%s", names[i], r.name, s.describe(nil))
				}
			}
		})
	}
}

// TestReadme compares the table in README.md with the rows.
func TestReadme(t *testing.T) {
	const path, begin, end = "README.md", "<!-- begin: written by go test -update -->\n", "<!-- end -->\n"
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(text), begin)
	have, after, foundEnd := strings.Cut(rest, end)
	if !found || !foundEnd {
		t.Fatalf("%s has no place for the table, between %q and %q", path, begin, end)
	}
	want := markdown(rows())
	switch {
	case have == want:
	case *updateFlag:
		if err := os.WriteFile(path, []byte(before+begin+want+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
	default:
		t.Errorf("%s has another table than the rows; run go test -run TestReadme -update\nhave\n%swant\n%s", path, have, want)
	}
}

func markdown(rows []row) string {
	var b strings.Builder
	b.WriteString("| difference | perimeterd | nftables | why |\n| --- | --- | --- | --- |\n")
	for _, r := range rows {
		var theirs []string
		for _, s := range r.theirs {
			theirs = append(theirs, s.String())
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", r.name, passOrDrop(r.here), strings.Join(theirs, "; "), r.why)
	}
	return b.String()
}
