// Package metrics shows the agent's facts to Prometheus. Nothing is counted
// here: everything is read from the agent when it is scraped.
package metrics
