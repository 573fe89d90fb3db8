// Package compile owns the way from a checked policy to the tables the kernel
// looks up: which lists of prefixes there are, which class each prefix is of,
// whose rules count for which member, and what the rules say for each port.
//
// It is pure Go: it never touches the kernel, the network or the clock, and the
// same policy and facts always give the same tables. What a table means is
// written in bpf/types.h; the order of the decision is in layers.go.
package compile
