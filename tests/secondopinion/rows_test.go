package secondopinion_test

import (
	"slices"

	"github.com/perimeterd/perimeterd/pkg/policy"
)

// row explains one kind of difference.
type row struct {
	name   string
	here   bool    // perimeterd lets it pass
	theirs []state // what nftables may say of it
	why    string  // one line of Markdown
	// matches reports whether this row explains a difference with these verdicts.
	// No difference may be explained by two rows.
	matches func(d *difference) bool
	// parts says that from then on the two remember different things, so that the
	// rest of the session cannot be compared.
	parts bool
	// shown is a session whose last datagram is such a difference; nil if on this
	// stage there is none.
	shown func(g *stage) *session
}

// rows are all differences there are, each for a good reason. README.md has them
// too, and a test compares.
func rows() []row {
	return slices.Concat(tcpRows(), datagramRows(), icmpRows(), fragmentRows())
}

func (r *row) explains(d *difference) bool {
	return d.ours == r.here && slices.Contains(r.theirs, d.theirs) && r.matches(d) && !d.forbidden()
}

// forbidden reports a datagram between ends of which neither may open anything,
// that passed: nothing excuses that.
func (d *difference) forbidden() bool {
	e := &d.step.ends
	if d.message.about != nil {
		e = &d.message.about.ends
	}
	return d.ours && !d.mayOpen() && !e.allowed[peer] && !e.allowed[member]
}

// entered reports whether we let something pass between the ends.
func (d *difference) entered(e ends) bool {
	return slices.ContainsFunc(d.before, func(b *step) bool { return b.ends == e && b.message.about == nil && b.ours })
}

// known reports whether nftables has an entry for the ends of the step.
func (d *difference) known() bool {
	return slices.ContainsFunc(d.before, func(b *step) bool {
		return b.ends == d.step.ends && b.message.about == nil && b.theirs.passes()
	})
}

// mayOpen reports whether the policy lets the sender open a flow with it.
func (d *difference) mayOpen() bool { return d.step.allowed[d.from] }

// entersAlone reports that we enter a flow with it and conntrack nothing. Of TCP
// that does not matter, since we judge the next segment both ways again.
func (d *difference) entersAlone() bool {
	return d.step.protocol != policy.ProtocolTCP && d.message.about == nil && d.ours && !d.known()
}
