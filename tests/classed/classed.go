// Package classed makes prefixes with classes for tests, as the compiler does, and
// tables of them that are not the product's. It never judges.
package classed

import (
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"

	"github.com/perimeterd/perimeterd/pkg/compile"
)

// Prefixes draws classes below a number for prefixes, and sorts them. Like a compiler
// it leaves out what is of the class around it.
func Prefixes(source *rand.Rand, classes uint32, prefixes []netip.Prefix) []compile.PrefixClass {
	slices.SortFunc(prefixes, netip.Prefix.Compare)
	var out []compile.PrefixClass
	var table bart.Table[uint32]
	for _, p := range slices.Compact(prefixes) {
		class := source.Uint32N(classes)
		if around, _ := table.LookupPrefix(p); around == class {
			continue
		}
		table.Insert(p, class)
		out = append(out, compile.PrefixClass{Prefix: p, Class: class})
	}
	return out
}

// Table looks for the longest prefix around an address.
func Table(prefixes []compile.PrefixClass) *bart.Table[uint32] {
	table := new(bart.Table[uint32])
	for _, p := range prefixes {
		table.Insert(p.Prefix, p.Class)
	}
	return table
}
