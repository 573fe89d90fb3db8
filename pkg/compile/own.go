package compile

import "net/netip"

// markOwn marks the local addresses that are this host's own: what comes from
// outside does not come from them. One that a member has only within a prefix
// gets a place of its own, which says the same as the prefix.
func (b *builder) markOwn() {
	own := map[netip.Addr]bool{}
	for _, i := range b.facts.Interfaces {
		if i.Workload || i.Loopback {
			continue // a workload's addresses do come in, and so does loopback's own
		}
		for _, address := range i.Addresses {
			own[address] = true
		}
	}
	var wider []*Local
	for i := range b.tables.Locals {
		l := &b.tables.Locals[i]
		switch {
		case !l.Prefix.IsSingleIP():
			wider = append(wider, l)
		case own[l.Prefix.Addr()]:
			l.Own = true
			delete(own, l.Prefix.Addr())
		}
	}
	var added []Local
	for address := range own {
		var around *Local
		for _, l := range wider {
			if l.Prefix.Contains(address) && (around == nil || l.Prefix.Bits() > around.Prefix.Bits()) {
				around = l
			}
		}
		if around != nil {
			local := *around
			local.Prefix, local.Own = netip.PrefixFrom(address, address.BitLen()), true
			added = append(added, local)
		}
	}
	b.tables.Locals = append(b.tables.Locals, added...)
}
