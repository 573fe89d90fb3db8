// Package names resolves the names of outbound rules and keeps their addresses
// up to date: refreshed before they expire, kept when resolvers fail, kept while
// a connection uses them, and remembered over a restart.
//
// It asks the resolvers itself and is not in anybody else's way to them.
package names
