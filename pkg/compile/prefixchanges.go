package compile

import (
	"net/netip"

	"github.com/perimeterd/perimeterd/pkg/policy"
)

const (
	// changesMin is from how many prefixes on tables are kept and changed: to make
	// them anew takes some tens of milliseconds below.
	changesMin = 1 << 14
	// changesLimit bounds what a first packet pays for asking about changes.
	changesLimit = 4096
)

// changesMost is how many changes of so many prefixes are kept beside them. More
// are better written into new tables.
func changesMost(prefixes int) int {
	if prefixes < changesMin {
		return 0
	}
	return min(prefixes/64, changesLimit)
}

// changedTo keeps the base where the classes of wanted differ little from it.
func (p Prefixes) changedTo(wanted []PrefixClass, changesMost func(prefixes int) int) Prefixes {
	changes, few := changesOf(p.Base, wanted, changesMost(len(p.Base)))
	if p.Changes = changes; few && !p.tooMuch(changesMost) {
		return p
	}
	return newPrefixes(wanted)
}

// tooMuch reports whether the base is not worth to be kept for these changes: of a wide
// prefix that is gone with all in it there is one change, but a table to free.
func (p Prefixes) tooMuch(changesMost func(prefixes int) int) bool {
	if len(p.Changes) > changesMost(len(p.Base)) {
		return true
	}
	covered := p.walkChanges(func(PrefixClass, []PrefixClass, int) {})
	return covered > len(p.Changes)+len(p.Base)/2
}

// changesOf is where the classes of wanted are not those of built: prefixes with
// the class that their addresses shall have, of which the longest counts, whatever
// built has inside. Both are sorted as Tables has them. A prefix that is
// new, gone, or of another class brings along all of wanted inside it. False: there
// are more than most.
func changesOf(built, wanted []PrefixClass, most int) (changes []PrefixClass, few bool) {
	if SameClasses(built, wanted) {
		return nil, true
	}
	var around []PrefixClass // of wanted, around where the walk is: each inside the one before
	var changed netip.Prefix // what lies inside is a change
	for len(built)+len(wanted) > 0 {
		order := 0
		switch {
		case len(built) == 0:
			order = 1
		case len(wanted) == 0:
			order = -1
		default:
			order = policy.ComparePrefixes(built[0].Prefix, wanted[0].Prefix)
		}
		var at PrefixClass
		if order < 0 {
			at = built[0]
		} else {
			at = wanted[0]
		}
		around = onlyAround(around, at.Prefix)
		inside := changed.IsValid() && policy.Holds(changed, at.Prefix)
		switch {
		case order < 0: // gone: its addresses are of what is around it
			if !inside {
				at.Class = 0
				if len(around) > 0 {
					at.Class = around[len(around)-1].Class
				}
				changes, changed = append(changes, at), at.Prefix
			}
		case inside:
			changes = append(changes, at)
		case order > 0 || built[0].Class != at.Class:
			changes, changed = append(changes, at), at.Prefix
		}
		if len(changes) > most {
			return nil, false
		}
		if order <= 0 {
			built = built[1:]
		}
		if order >= 0 {
			around = append(around, at)
			wanted = wanted[1:]
		}
	}
	return changes, true
}
