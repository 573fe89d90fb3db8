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

// claimsOf returns what an item claims for a peer whose best list has this rank.
func claimsOf(it *item, rank int) []claim {
	of := func(r pointRange, width uint32) claim {
		return claim{from: r.from, to: r.to, layer: it.layer, rank: rank, width: width, outcome: &it.outcome}
	}
	if len(it.ports) == 0 {
		return []claim{of(pointRange{0, allPoints}, allPoints)}
	}
	var out []claim
	for _, p := range it.ports {
		for _, r := range pointRanges(p) {
			out = append(out, of(r, r.to-r.from))
		}
	}
	return out
}

// segment is a range of points, up to the next segment's, with one decision:
// the outcomes that count, each but the last until it expires.
type segment struct {
	from  uint32
	chain []*Outcome
}

// flatten settles which claim decides at which point. Some claim must cover
// every point. It walks the points at which claims begin and end, the claims
// that are open kept in order of precedence.
func flatten(claims []claim) []segment {
	type edge struct {
		at    uint32
		begin bool
		claim int
	}
	edges := make([]edge, 0, 2*len(claims))
	for i := range claims {
		edges = append(edges, edge{claims[i].from, true, i}, edge{claims[i].to, false, i})
	}
	slices.SortStableFunc(edges, func(a, b edge) int { return cmp.Compare(a.at, b.at) })

	var open []int
	find := func(i int) (int, bool) {
		return slices.BinarySearchFunc(open, i, func(a, b int) int {
			if x := claims[a].precedes(&claims[b]); x != 0 {
				return x
			}
			return cmp.Compare(a, b)
		})
	}
	var out []segment
	for i := 0; i < len(edges); {
		at := edges[i].at
		for ; i < len(edges) && edges[i].at == at; i++ {
			where, _ := find(edges[i].claim)
			if edges[i].begin {
				open = slices.Insert(open, where, edges[i].claim)
			} else {
				open = slices.Delete(open, where, where+1)
			}
		}
		if at == allPoints {
			break
		}
		chain := chainOf(claims, open)
		if len(out) == 0 || !slices.Equal(out[len(out)-1].chain, chain) {
			out = append(out, segment{at, chain})
		}
	}
	return out
}

// chainOf takes the claims up to the first that has no end. Where too many have
// one, those that end last are kept: for as long as any of them counts, the
// verdict is what it would have been.
func chainOf(claims []claim, open []int) []*Outcome {
	var chain []*Outcome
	for _, i := range open {
		o := claims[i].outcome
		chain = append(chain, o)
		if o.Expires.IsZero() {
			break
		}
	}
	if len(chain) > expiredMax+1 {
		ending, last := chain[:len(chain)-1], chain[len(chain)-1]
		ends := make([]time.Time, len(ending))
		for i, o := range ending {
			ends[i] = o.Expires
		}
		slices.SortFunc(ends, func(a, b time.Time) int { return b.Compare(a) })
		earliest := ends[expiredMax-1]
		kept := make([]*Outcome, 0, expiredMax+1)
		for _, o := range ending {
			if len(kept) < expiredMax && !o.Expires.Before(earliest) {
				kept = append(kept, o)
			}
		}
		chain = append(kept, last)
	}
	return chain
}
