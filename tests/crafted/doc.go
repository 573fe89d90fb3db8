// Package crafted draws frames that try to get past a packet filter: what a
// filter and the kernel's network stack may read differently.
//
// Most of them are datagrams and connection attempts that somebody drew over:
// VLAN tags, IP options, extension headers, fragments of every shape, lengths and
// checksums that lie, addresses that stand for several hosts or for none. Some are
// sequences, which first make a filter remember something and then abuse it.
//
// The package has no opinion of what a kernel delivers or a filter should do; it
// only says what was done to a frame, and whether an honest sender might have
// done it. The same seed and number give the same case.
package crafted
