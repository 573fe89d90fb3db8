// Package names resolves the names of outbound rules and keeps their addresses
// up to date: refreshed before they expire, kept when resolvers fail, kept while
// a connection uses them, and remembered over a restart.
//
// It asks the resolvers itself and is not in anybody else's way to them. It also
// reads the answers of others that the data path could not take, and asks for the
// whole of those that were cut. It never opens an address: pkg/datapath does.
package names
