package compile

import (
	"net/netip"

	"github.com/perimeterd/perimeterd/pkg/policy"
)

// listID numbers a prefix list, from 1: the peers that one selector means.
// Equal lists have one number, so that members of many profiles that trust the
// same prefixes cost the kernel these prefixes once.
type listID uint32

// lists numbers every prefix list of a policy and collects the prefixes. A list has
// the number that it had in the policy before, also where it was edited since.
type lists struct {
	before    *lists // until all lists are numbered
	next      listID
	bySlice   map[policy.Origin]*policy.PrefixSet
	byContent map[uint64][]owned // by fingerprint
	byOrigin  map[policy.Origin]listID
	byUse     map[string]listID // by what names it in the policy
	byName    map[string]listID
	owned     []owned
	taken     map[listID]bool // numbers that stand for a list of this policy
}

// owned is the prefixes that a list, or a resource, has.
type owned struct {
	owner uint32 // as in mark
	set   *policy.PrefixSet
}

// newLists follows the lists of the policy that was compiled before, if there was one.
func newLists(before *lists) *lists {
	l := &lists{
		before: before, bySlice: map[policy.Origin]*policy.PrefixSet{}, byContent: map[uint64][]owned{},
		byOrigin: map[policy.Origin]listID{}, byUse: map[string]listID{}, byName: map[string]listID{}, taken: map[listID]bool{},
	}
	if before == nil {
		l.before = &lists{}
	}
	l.next = l.before.next
	return l
}

// numbered forgets the policy before, which is not asked again.
func (l *lists) numbered() { l.before = nil }

// forgotten reports whether most numbers stand for lists that are no more.
func (l *lists) forgotten() bool {
	const few = 1 << 10
	return int(l.next) > few+2*(len(l.taken)+len(l.byName))
}

// ofPrefixes returns the list of exactly these prefixes, in whatever order, which the
// policy names at a place. The slice must not change afterwards.
func (l *lists) ofPrefixes(use string, prefixes []netip.Prefix) listID {
	return l.ofSet(use, l.setOf(prefixes))
}

// setOf makes a set of prefixes once, however often they are asked about.
func (l *lists) setOf(prefixes []netip.Prefix) *policy.PrefixSet {
	key := policy.OriginOf(prefixes)
	set := l.bySlice[key]
	if set == nil {
		if set = l.before.bySlice[key]; set == nil {
			set = policy.NewPrefixSet(prefixes)
		}
		l.bySlice[key] = set
	}
	return set
}

// ofSet returns the list of exactly these prefixes, which the policy names at a place.
func (l *lists) ofSet(use string, set *policy.PrefixSet) listID {
	id := l.withContent(set)
	if id == 0 {
		id = l.numberFor(use, set)
		l.taken[id] = true
		l.byOrigin[set.Origin()] = id
		l.byContent[set.Fingerprint()] = append(l.byContent[set.Fingerprint()], owned{uint32(id), set})
		l.owned = append(l.owned, owned{uint32(id), set})
	}
	l.byUse[use] = id
	return id
}

// withContent returns the list of exactly these prefixes, 0 if there is none yet.
func (l *lists) withContent(set *policy.PrefixSet) listID {
	for _, known := range l.byContent[set.Fingerprint()] {
		if known.set.Equal(set) {
			return listID(known.owner)
		}
	}
	return 0
}

// numberFor returns the number that a list had in the policy before, or the one that
// it was edited from, or that stood in its place; else a new one.
func (l *lists) numberFor(use string, set *policy.PrefixSet) listID {
	for _, id := range []listID{l.before.withContent(set), l.before.byOrigin[set.Origin()], l.before.byUse[use]} {
		if id != 0 && !l.taken[id] {
			return id
		}
	}
	return l.allocate()
}

// ofIdentity returns the list of the resources that share a name: a
// subscription, a perimeter, or a profile of one. Its prefixes are not entered
// here: which resource an address carries depends on the others around it.
func (l *lists) ofIdentity(kind, name string) listID {
	key := identityKey(kind, name)
	id, ok := l.byName[key]
	if !ok {
		if id = l.before.byName[key]; id == 0 {
			id = l.allocate()
		}
		l.byName[key] = id
	}
	return id
}

// knownIdentity is ofIdentity for a list that somebody asked for before.
func (l *lists) knownIdentity(kind, name string) (listID, bool) {
	id, ok := l.byName[identityKey(kind, name)]
	return id, ok
}

func identityKey(kind, name string) string { return kind + "\x00" + name }

func (l *lists) allocate() listID {
	l.next++
	return l.next
}

// addResource enters the prefixes of a resource.
func (l *lists) addResource(resource int, prefixes []netip.Prefix) {
	l.owned = append(l.owned, owned{ofResource | uint32(resource), l.setOf(prefixes)})
}
