// Package agent is perimeterd: it brings a policy file, the interfaces of the
// host and the addresses of names together into tables for the data path, keeps
// the last good policy when the present one is broken, and turns what the data
// path decides into logs, answers and metrics.
//
// An Agent is a list of tasks. Nothing of what it does is needed for packets to
// be judged: when it ends, or is killed, the data path goes on with the policy it
// has. Only disabling takes enforcement away.
package agent
