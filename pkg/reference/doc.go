// Package reference is the slow and obvious evaluator of a policy: the judge
// the data path is tested against.
//
// It is written from the design's page "how a packet is decided" and the
// standards of the protocols alone, and shares nothing with the compiler or the
// C code but pkg/policy. Every
// question is a linear scan over the policy with net/netip, so that a reader
// can hold a function beside the paragraph it implements and see that the two
// agree:
//
//	evaluator.go  the order of questions, and the default of each mode
//	carried.go    which resource a packet belongs to, and who the peer is
//	rules.go      access rules, own rules and failsafe rules
//	links.go      linked perimeters
//	multicast.go  packets for every member at once
//	unjudged.go   packets that cannot be judged
//	tracker.go    flows
//	sequence.go   which numbers of TCP are believed
//	frame.go      from the bytes of a frame to a packet
//	session.go    frames in order: fragments, and what the link itself needs
//
// Timeouts and full tables are the data path's alone and have no place here.
package reference
