// Package secondopinion_test asks nftables and its connection tracking what they
// think of our verdicts. README.md says how.
package secondopinion_test

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/perimeterd/perimeterd/tests/privileged"
)

var (
	seedFlag     = flag.Uint64("seed", 0, "seed of the random policies and sessions; 0 = choose one and print it")
	sessionsFlag = flag.Int("sessions", 5000, "number of random sessions")
	updateFlag   = flag.Bool("update", false, "write the table in README.md anew instead of comparing with it")
)

// TestRandomSessions plays random sessions, under random policies, through
// perimeterd and through nftables. Where they disagree, exactly one row of the
// table must say why.
func TestRandomSessions(t *testing.T) {
	privileged.Require(t)
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("run again with -seed=%d", seed)
	const perPolicy, atOnce = 500, 100
	total := newTally()
	layouts := layouts()
	for round := uint64(0); total.sessions < *sessionsFlag && !t.Failed(); round++ {
		r := rand.New(rand.NewPCG(seed, round))
		at := layouts[round%uint64(len(layouts))]
		t.Run(fmt.Sprintf("policy %d, %s", round, at.name), func(t *testing.T) {
			p := randomPolicy(r)
			consult(t, at, p, func(o *opinions) error {
				d := &draw{r: r, policy: p, noDCCP: o.tracksDCCP, taken: map[string]bool{}}
				for range perPolicy / atOnce {
					sessions := make([]*session, atOnce)
					for i := range sessions {
						sessions[i] = d.session()
					}
					if err := o.play(sessions); err != nil {
						return err
					}
					for _, s := range sessions {
						total.compare(s)
					}
				}
				return nil
			})
			total.report(t)
		})
	}
	t.Log(total)
}

// tally is what comparing sessions gave.
type tally struct {
	table                            []row
	sessions, datagrams, agreed, cut int
	explained                        map[string]int // by row
	unexplained                      []string
}

func newTally() *tally { return &tally{table: rows(), explained: map[string]int{}} }

// compare looks at the verdicts on a session that was played.
func (y *tally) compare(s *session) {
	y.sessions++
	for i, st := range s.steps {
		if st.lost {
			continue
		}
		y.datagrams++
		d := &difference{s, st, s.steps[:i]}
		parted := d.madeApart()
		if st.agreed() {
			y.agreed++
		} else {
			row := y.explain(d)
			if row == nil {
				return
			}
			y.explained[row.name]++
			parted = parted || row.parts || d.entersAlone()
		}
		if parted {
			y.cut += len(s.steps) - i - 1
			return
		}
	}
}

// explain returns the one row that explains the difference; nil if there is
// none, or another.
func (y *tally) explain(d *difference) *row {
	var by []*row
	var names []string
	for i := range y.table {
		if r := &y.table[i]; r.explains(d) {
			by, names = append(by, r), append(names, r.name)
		}
	}
	if len(by) == 1 {
		return by[0]
	}
	why := "no row explains this"
	if len(by) > 1 {
		why = "several rows explain this: " + strings.Join(names, ", ")
	}
	y.unexplained = append(y.unexplained, why+"\n"+d.describe(d.step))
	return nil
}

// report fails the test with the first of what is not explained.
func (y *tally) report(t *testing.T) {
	t.Helper()
	const enough = 5
	for _, text := range y.unexplained[:min(enough, len(y.unexplained))] {
		t.Error(text)
	}
	if more := len(y.unexplained) - enough; more > 0 {
		t.Errorf("and %d more", more)
	}
}

func (y *tally) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d sessions, %d datagrams: %d agreements, %d differences that the table explains, %d not compared since the two had parted before",
		y.sessions, y.datagrams+y.cut, y.agreed, y.datagrams-y.agreed, y.cut)
	for _, name := range slices.Sorted(maps.Keys(y.explained)) {
		fmt.Fprintf(&b, "\n%7d %s", y.explained[name], name)
	}
	for _, r := range y.table {
		if y.explained[r.name] == 0 {
			fmt.Fprintf(&b, "\n  never %s", r.name)
		}
	}
	return b.String()
}
