// Package api is how perimeterctl talks to perimeterd: HTTP and JSON over a unix
// socket that only root can open. It holds the messages, the server, which asks
// an Agent, and the client.
//
// Paths begin with the version, /v1. Within a version fields are only added.
package api
