// Package world builds small networks on one machine: hosts, routers, the
// links between them and their addresses, for tests and for the demo.
//
// A host is a network namespace, a link is a veth pair. What runs on a host is
// ordinary code of this process (Run, Go, Listen, Dial) or another program
// (Start); the kernel's real network stack is between them. Nothing but the
// kernel is needed, no tool is called.
//
//	w := world.New(t)
//	router := w.Router("router")
//	db, app := w.Host("db"), w.Host("app")
//	w.Uplink(db, router, "10.20.0.5/24", "fd20::5/64")
//	w.Uplink(app, router, "10.30.0.9/24", "fd30::9/64")
//	conn, err := app.Dial(ctx, "tcp", "10.20.0.5:5432")
//
// A world is quiet and ready: when a call returns, its links carry traffic and
// its addresses can be used; duplicate address detection, router
// solicitations, reverse path filters and ICMP rate limits are off, whatever
// the machine's own settings are.
//
// What builds a world ends the test, or the function given to Build, when it
// cannot; what uses one returns errors. Root is needed for both.
package world
