// Package links knows the network interfaces of the host: which there are, what
// addresses they have, when that changes, and on which of them packets should be
// judged so that each is judged once.
//
// It reads and never changes anything.
package links
