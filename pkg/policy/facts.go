package policy

import (
	"net/netip"
	"path"
	"time"
)

// Facts are what a policy needs to know of the world to mean something on one
// host at one moment. They come from the agent; a test writes them down.
type Facts struct {
	Now        time.Time
	Hostname   string
	Interfaces []Interface

	// Names holds what has been learnt of names that rules cover: the addresses
	// that are open at the moment. Compiled tables do not hold them; the data path
	// has them in a table of its own.
	Names map[string][]netip.Addr
	// Resolvers are what the host asks for names. Members with names in their
	// rules may ask them without a rule.
	Resolvers []netip.Addr
	// StrictNames: members with names in their rules may ask for these only. TCP,
	// in which questions cannot be read, is then not part of access to resolvers.
	StrictNames bool

	// Failsafe is the operator's list of traffic that no policy may cut off.
	// Only Name, Direction, AddressPrefixes (empty = every peer) and Ports
	// count.
	Failsafe []AccessRule
}

// Interface is a network interface of the host.
type Interface struct {
	Name      string
	Addresses []netip.Addr
	// Broadcasts are the IPv4 addresses of all hosts of its networks at once,
	// such as 10.20.0.255.
	Broadcasts []netip.Addr
	// Workload marks the host side of a veth or tap: members may live behind
	// it, so any member of the policy may live here.
	Workload bool
	Loopback bool
}

// AddressesOn returns the prefixes the resource has on a host: its Addresses,
// or those of the interfaces it names. Loopback interfaces count only when
// named without a pattern. The result may hold duplicates.
func (r *Resource) AddressesOn(facts *Facts) []netip.Prefix {
	if len(r.Interfaces) == 0 {
		return r.Addresses
	}
	if r.Host != "" && !matches(r.Host, facts.Hostname) {
		return nil
	}
	var out []netip.Prefix
	for _, itf := range facts.Interfaces {
		for _, pattern := range r.Interfaces {
			if pattern == itf.Name || (!itf.Loopback && matches(pattern, itf.Name)) {
				for _, a := range itf.Addresses {
					a = a.WithZone("")
					out = append(out, netip.PrefixFrom(a, a.BitLen()))
				}
				break
			}
		}
	}
	return out
}

// Covers reports whether the private endpoint names the interface.
func (e *PrivateEndpoint) Covers(interfaceName string) bool {
	for _, pattern := range e.Interfaces {
		if pattern == interfaceName || matches(pattern, interfaceName) {
			return true
		}
	}
	return false
}

// matches reports a glob match; Load has checked the pattern's syntax.
func matches(pattern, name string) bool {
	ok, err := path.Match(pattern, name)
	return err == nil && ok
}

// LivesHere reports whether a resource with these prefixes may be on this
// host: one of the host's addresses is in them, or workloads are attached, whose
// addresses the host need not know.
func (f *Facts) LivesHere(prefixes []netip.Prefix) bool {
	for _, itf := range f.Interfaces {
		if itf.Workload {
			return true
		}
		for _, a := range itf.Addresses {
			for _, p := range prefixes {
				if p.Contains(a.WithZone("")) {
					return true
				}
			}
		}
	}
	return false
}
