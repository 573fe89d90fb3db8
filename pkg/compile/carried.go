package compile

import (
	"encoding/binary"
	"slices"
	"strings"

	"github.com/perimeterd/perimeterd/pkg/policy"
)

// carriedID numbers what addresses carry. 0 is no resource.
type carriedID uint32

// carried is the resources that addresses carry: in groups, those with the
// longest prefix first, up to and including the first group with a resource that
// takes all traffic. By index, sorted.
type carried struct {
	groups [][]int
}

// carriers numbers what addresses carry, and remembers what a prefix of these
// resources makes of what is around it: a resource may have a million prefixes.
type carriers struct {
	serving []bool // by resource: it takes traffic to some ports only
	all     []carried
	nested  map[string]carriedID
	key     []byte
}

func newCarriers(serving []bool) *carriers {
	return &carriers{serving: serving, all: []carried{{}}, nested: map[string]carriedID{}}
}

// within returns what addresses carry in a prefix that these resources have, and
// whether the resources around it are hidden there.
func (c *carriers) within(outer carriedID, own []int) (inside carriedID, hides bool) {
	hides = slices.ContainsFunc(own, func(i int) bool { return !c.serving[i] })
	if hides {
		outer = 0
	}
	c.key = binary.LittleEndian.AppendUint32(c.key[:0], uint32(outer))
	for _, i := range own {
		c.key = binary.LittleEndian.AppendUint32(c.key, uint32(i))
	}
	id, ok := c.nested[string(c.key)]
	if ok {
		return id, hides
	}
	groups := [][]int{slices.Clone(own)}
	for _, g := range c.all[outer].groups {
		if rest := without(g, own); len(rest) > 0 {
			groups = append(groups, rest)
		}
	}
	id = carriedID(len(c.all))
	c.all = append(c.all, carried{groups: groups})
	c.nested[string(c.key)] = id
	return id, hides
}

// without returns the sorted values that are not in the other sorted list: the
// same slice where none is.
func without[T ~int | ~uint32](values, other []T) []T {
	has := func(v T) bool {
		_, found := slices.BinarySearch(other, v)
		return found
	}
	if !slices.ContainsFunc(values, has) {
		return values
	}
	return slices.DeleteFunc(slices.Clone(values), has)
}

// addLocals gives the prefixes that resources have their locals.
func (b *builder) addLocals() {
	locals := make([]*Local, len(b.cover.carriers.all)) // by carriedID: made when first met
	for _, family := range []int{family4, family6} {
		for _, p := range b.cover.places[family] {
			if b.isBroadcast(p.prefix) {
				continue
			}
			if locals[p.carried] == nil {
				locals[p.carried] = b.newLocal(b.cover.carriers.all[p.carried].groups)
			}
			local := *locals[p.carried]
			local.Prefix = p.prefix
			b.tables.Locals = append(b.tables.Locals, local)
		}
	}
}

// newLocal says what addresses that carry this do with traffic. All but the prefix
// is set.
func (b *builder) newLocal(groups [][]int) *Local {
	local := &Local{}
	none := Outcome{}
	services := []claim{{to: allPoints, layer: layerDefault, outcome: &none}}
	for rank, group := range groups {
		for _, i := range b.byName(group) {
			if local.Outbound == 0 {
				local.Outbound = memberOf(i)
			}
			b.noteStanding(local, i)
			it := item{ports: b.policy.Resources[i].Services, outcome: Outcome{Member: memberOf(i)}}
			services = appendClaims(services, &it, rank)
		}
	}
	local.Services = b.memberSpans(services)
	return local
}

// byName returns resources in the order of their names.
func (b *builder) byName(resources []int) []int {
	return slices.SortedFunc(slices.Values(resources), func(x, y int) int {
		return strings.Compare(b.policy.Resources[x].Name, b.policy.Resources[y].Name)
	})
}

// noteStanding notes on a local what one of its resources is.
func (b *builder) noteStanding(local *Local, resource int) {
	r, mode := &b.policy.Resources[resource], b.standings[resource].mode()
	for _, direction := range bothDirections {
		local.Strict[direction] = local.Strict[direction] || strict(r, mode, direction)
	}
	local.Audit = local.Audit || mode == policy.Audit
}

// memberSpans stores the spans of claims whose outcomes only name members.
func (b *builder) memberSpans(claims []claim) SpanList {
	var spans []Span
	for _, s := range b.flattener.flatten(claims) {
		spans = append(spans, Span{s.from, s.chain[0].Member})
	}
	return b.spans.add(spans)
}
