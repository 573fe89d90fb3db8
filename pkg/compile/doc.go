// Package compile owns the way from a checked policy to the tables the kernel
// looks up: which lists of prefixes there are, which class each prefix is of,
// whose rules count for which member, and what the rules say for each port.
//
// It is pure Go: it never touches the kernel, the network or the clock, and the
// same policy and facts always give the same tables; those of a Compiler that remembers
// many prefixes mean the same, but number classes as they came. What a table means is
// written in bpf/types.h.
//
//	compile.go    the steps, and who is a member
//	layers.go     what decides for a member: the order of the decision
//	links.go      linked perimeters
//	lists.go      lists of prefixes, each numbered once
//	cover.go      what all prefixes make of the addresses, and what edits change
//	sweep.go      from prefixes to their classes and members
//	blocks.go     prefixes as they are sorted and nested
//	prefixes.go   prefixes with classes, and how they are found
//	prefixchanges.go  how two lists of these differ
//	carried.go    which members an address carries
//	classes.go    ways to be covered by lists
//	meanings.go   what a class means to a scope
//	flatten.go    from what matches to one answer for each port
//	names.go      which names open which addresses, and for whom
//	multicast.go  one answer for several members
//	spans.go      answers, each stored once
//	legend.go     what the numbers stand for
package compile
