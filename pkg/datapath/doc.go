// Package datapath is the only package that knows BPF. It owns loading and
// pinning, generations, attachment, the flow table, counters, and the events
// that come out of the kernel.
//
// Enforcement does not live in the process: closing a Datapath, or losing the
// process, leaves programs, policy and flows as they are. Only Remove takes
// them away. The package never decides about a packet and never logs.
package datapath
