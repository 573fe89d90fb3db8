package main

import (
	"fmt"
	"strings"
)

// kernel is one that the tests can run in.
type kernel struct {
	name   string
	suites []string // of Debian; the newest kernel in any of them. None: this machine's own.
	about  string
}

// all are the oldest kernel we support, each of Debian's releases since, the
// newest there is, and the one this machine happens to have.
var all = []kernel{
	{"5.10", []string{"bullseye"}, "Debian 11"},
	{"6.1", []string{"bookworm"}, "Debian 12"},
	{"6.12", []string{"trixie"}, "Debian 13"},
	{"newest", []string{"trixie-backports", "sid"}, "the newest of Debian's backports and unstable"},
	{"own", nil, "this machine's own, not emulated"},
}

func kernelNamed(name string) (kernel, error) {
	var names []string
	for _, k := range all {
		if k.name == name {
			return k, nil
		}
		names = append(names, k.name)
	}
	return kernel{}, fmt.Errorf("there is no kernel %q here: %s", name, strings.Join(names, ", "))
}
