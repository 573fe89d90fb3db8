// Package randompolicy draws policies and packets for tests that compare two
// evaluators. It prints nothing and keeps no state: the same generator state
// gives the same answers, so a test prints its seed and can be run again.
//
// A drawn policy is valid, but small on purpose and crowded: prefixes come from
// a few addresses at many lengths, so that they nest, touch and repeat between
// resources, rules, tags and names. Packets aim at the edges of what the policy
// says. Everything an evaluator can answer occurs, see TestCoverage.
//
// What never occurs, since it is the data path's alone: packets that cannot be
// judged, fragments, and what the link itself needs (IGMP, multicast listener
// and neighbour discovery, the ports of DHCP clients).
package randompolicy
