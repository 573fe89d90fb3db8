package compile

import (
	"flag"
	"math/rand/v2"
	"testing"
)

var seedFlag = flag.Uint64("seed", 0, "seed of random tests; 0 = choose one and print it")

// KeepAlways makes a compiler keep bases of few prefixes and many changes too.
func (c *Compiler) KeepAlways() {
	c.cover = &cover{changesMost: func(prefixes int) int { return prefixes }}
}

// Remembers tells how many numbers of lists and of classes a compiler has given.
func (c *Compiler) Remembers() (lists, classes int) {
	return int(c.lists.next), len(c.cover.classes.all)
}

// ChangesOf is changesOf.
var ChangesOf = changesOf

// Seed is that of a random test. It is printed, so that a failure can be repeated.
func Seed(t *testing.T) uint64 {
	t.Helper()
	chosen := *seedFlag
	if chosen == 0 {
		chosen = rand.Uint64()
	}
	t.Logf("run again with -seed=%d", chosen)
	return chosen
}
