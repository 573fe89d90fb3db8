package compile

import (
	"cmp"
	"slices"
	"time"

	"github.com/perimeterd/perimeterd/pkg/policy"
)

// allPoints is how many (protocol, port) points there are.
const allPoints = 1 << 24

// expiredMax is how many rules with an end one point may name in a row; the
// kernel steps over no more (EXPIRED_MAX, bpf/settings.h, less one).
const expiredMax = 15

// claim is a range of points that an item wants to decide. Of several at one
// point the first by precedence does.
type claim struct {
	from, to uint32 // to is the first point after
	layer    layer
	rank     int    // of the peer's prefix: 0 = longest
	width    uint32 // of the ports item that matched
	outcome  *Outcome
}

func (c *claim) precedes(d *claim) int {
	if x := cmp.Compare(c.layer, d.layer); x != 0 {
		return x
	}
	if x := cmp.Compare(c.rank, d.rank); x != 0 {
		return x
	}
	if x := cmp.Compare(c.width, d.width); x != 0 {
		return x
	}
	return cmp.Compare(c.outcome.Rule, d.outcome.Rule)
}

// pointRange is a ports item as a range of points.
type pointRange struct{ from, to uint32 }

// pointRanges returns the points of ports: `icmp` is ICMP and ICMPv6, no ports
// is everything. Packets of protocols without ports are at port 0.
func pointRanges(p policy.Ports) []pointRange {
	of := func(protocol uint8) pointRange {
		base := uint32(protocol) << 16
		return pointRange{base | uint32(p.First), base | uint32(p.Last) + 1}
	}
	if p.Protocol == policy.ProtocolICMP || p.Protocol == policy.ProtocolICMPv6 {
		return []pointRange{of(policy.ProtocolICMP), of(policy.ProtocolICMPv6)}
	}
	return []pointRange{of(p.Protocol)}
}

// appendClaims appends what an item claims for a peer whose best list has this
// rank.
func appendClaims(claims []claim, it *item, rank int) []claim {
	of := func(r pointRange, width uint32) {
		claims = append(claims, claim{from: r.from, to: r.to, layer: it.layer, rank: rank, width: width, outcome: &it.outcome})
	}
	if len(it.ports) == 0 {
		of(pointRange{0, allPoints}, allPoints)
	}
	for _, p := range it.ports {
		for _, r := range pointRanges(p) {
			of(r, r.to-r.from)
		}
	}
	return claims
}

// segment is a range of points, up to the next segment's, with one decision:
// the outcomes that count, each but the last until it expires.
type segment struct {
	from  uint32
	chain []*Outcome
}

// flattener settles which claim decides at which point. It is asked often, and
// so keeps its buffers.
type flattener struct {
	edges  []edge
	open   []int
	chains []*Outcome
	out    []segment
}

// edge is where a claim begins or ends.
type edge struct {
	at    uint32
	claim int
	begin bool
}

// flatten settles the claims, of which some must cover every point. It walks the
// points at which claims begin and end, the claims that are open kept in order of
// precedence. It reorders the claims; the result holds until the next call.
func (f *flattener) flatten(claims []claim) []segment {
	slices.SortStableFunc(claims, func(a, b claim) int { return a.precedes(&b) })
	f.edges, f.open, f.chains, f.out = f.edges[:0], f.open[:0], f.chains[:0], f.out[:0]
	for i := range claims {
		f.edges = append(f.edges, edge{claims[i].from, i, true}, edge{claims[i].to, i, false})
	}
	slices.SortFunc(f.edges, func(a, b edge) int { return cmp.Compare(a.at, b.at) })

	for i := 0; i < len(f.edges); {
		at := f.edges[i].at
		for ; i < len(f.edges) && f.edges[i].at == at; i++ {
			e := f.edges[i]
			where, _ := slices.BinarySearch(f.open, e.claim)
			if e.begin {
				f.open = slices.Insert(f.open, where, e.claim)
			} else {
				f.open = slices.Delete(f.open, where, where+1)
			}
		}
		if at == allPoints {
			break
		}
		chain := f.chain(claims)
		if len(f.out) == 0 || !slices.Equal(f.out[len(f.out)-1].chain, chain) {
			f.out = append(f.out, segment{at, chain})
		}
	}
	return f.out
}

// chain takes the open claims up to the first that has no end.
func (f *flattener) chain(claims []claim) []*Outcome {
	start := len(f.chains)
	var latest time.Time
	for _, i := range f.open {
		o := claims[i].outcome
		if o.Expires.IsZero() {
			f.chains = append(f.chains, o)
			break
		}
		if o.Expires.After(latest) { // or it never counts
			f.chains = append(f.chains, o)
			latest = o.Expires
		}
	}
	return boundChain(f.chains[start:len(f.chains):len(f.chains)])
}

// boundChain drops outcomes from a chain in which each ends later than the one
// before, if the kernel would not step over all of them. It keeps the last one
// that ends: what ends is a rule, rules only allow, and so the verdict is at
// every instant what it would have been.
func boundChain(chain []*Outcome) []*Outcome {
	if drop := len(chain) - (expiredMax + 1); drop > 0 {
		return slices.Delete(slices.Clone(chain), expiredMax-1, expiredMax-1+drop)
	}
	return chain
}
