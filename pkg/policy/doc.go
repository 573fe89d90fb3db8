// Package policy owns the meaning of a policy file: the object model, strict
// parsing with a position in every error, validation, and the words a decision
// is expressed in.
//
// The model is that of Azure Network Security Perimeter; names that NSP has
// are spelled as in its API. The package is pure Go. It never touches the
// network, the kernel or the clock: what a policy means on one host at one
// moment is the policy together with Facts, and Facts come from the caller.
//
// A *Policy that Load returned has passed every check; the rest of the program
// never checks again.
package policy
