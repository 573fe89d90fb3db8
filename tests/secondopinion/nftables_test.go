package secondopinion_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/tests/world"
)

// state is what conntrack says of a datagram that came out of the nftables
// field. An invalid one comes out too, so that we know it from one that no rule
// admits; it counts as dropped. That it is let through changes nothing, since
// conntrack attaches nothing to it.
type state uint8

const (
	notAdmitted state = iota // new to conntrack, and no rule admits it
	invalid
	established
	related
	admitted   // new, and a rule admits it
	ungoverned // of no member
)

func (s state) String() string {
	return [...]string{"drop, new", "drop, invalid", "pass, established", "pass, related", "pass, new", "pass, ungoverned"}[s]
}

func (s state) passes() bool { return s >= established }

// hopsOf is the hop limit that tells the state.
func hopsOf(s state) uint8 { return 200 + uint8(s) }

func stateOf(h hops) state {
	if h == 0 {
		return notAdmitted
	}
	return state(h - 200)
}

// newNftables builds a field that filters by nftables and conntrack.
func newNftables(w *world.World, p *policy.Policy) (*field, error) {
	f, err := newField(w, "nftables")
	if err != nil {
		return f, err
	}
	return f, f.router.Run(func() error {
		if err := loadRuleset(p); err != nil {
			return err
		}
		return conntrackDefaults()
	})
}

// conntrackDefaults are the kernel's own, whatever the machine has.
func conntrackDefaults() error {
	for name, value := range map[string]string{
		"nf_conntrack_checksum":               "1",
		"nf_conntrack_tcp_loose":              "1",
		"nf_conntrack_tcp_be_liberal":         "0",
		"nf_conntrack_tcp_ignore_invalid_rst": "0",
	} {
		if err := os.WriteFile("/proc/sys/net/netfilter/"+name, []byte(value), 0); err != nil {
			return fmt.Errorf("settings of conntrack: %w", err)
		}
	}
	return nil
}

// ruleset is a policy in the words of nftables.
type ruleset struct {
	conn  *nftables.Conn
	table *nftables.Table
	chain *nftables.Chain
	sets  int
}

// loadRuleset puts the policy in force in the network namespace of the calling
// thread. It knows members, access rules with prefixes, and Enforced.
func loadRuleset(p *policy.Policy) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "perimeter"})
	drop := nftables.ChainPolicyDrop
	r := &ruleset{conn: conn, table: table, chain: conn.AddChain(&nftables.Chain{
		Name: "forward", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter, Policy: &drop,
	})}
	if err := r.addUngoverned(p); err != nil {
		return err
	}
	for _, known := range []struct {
		bit   uint32
		state state
	}{
		{expr.CtStateBitESTABLISHED, established},
		{expr.CtStateBitRELATED, related},
		{expr.CtStateBitINVALID, invalid},
	} {
		for _, f := range families {
			r.add(f.is(), conntrackState(known.bit), f.tell(known.state))
		}
	}
	for i := range p.Resources {
		resource := &p.Resources[i]
		for _, rule := range rulesOf(p, resource.Name) {
			for _, f := range families {
				if err := r.addRule(f, resource.Addresses, &rule); err != nil {
					return err
				}
			}
		}
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("load the ruleset (nf_tables and conntrack are needed in the kernel): %w", err)
	}
	return nil
}

func (r *ruleset) add(parts ...[]expr.Any) {
	parts = append(parts, []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}})
	r.conn.AddRule(&nftables.Rule{Table: r.table, Chain: r.chain, Exprs: slices.Concat(parts...)})
}

// addUngoverned lets pass what is neither of nor for a member.
func (r *ruleset) addUngoverned(p *policy.Policy) error {
	var members []netip.Prefix
	for i := range p.Resources {
		members = append(members, p.Resources[i].Addresses...)
	}
	for _, f := range families {
		var others [][]expr.Any
		for _, offset := range []uint32{f.source, f.destination} {
			match, err := r.in(f, offset, f.of(members))
			if err != nil {
				return err
			}
			match[len(match)-1].(*expr.Lookup).Invert = true
			others = append(others, match)
		}
		r.add(f.is(), slices.Concat(others...), f.tell(ungoverned))
	}
	return nil
}

// addRule adds what an access rule means for one family: a line for each of its
// ports.
func (r *ruleset) addRule(f family, local []netip.Prefix, rule *policy.AccessRule) error {
	mine, peers := f.of(local), f.of(rule.AddressPrefixes)
	if len(mine) == 0 || len(peers) == 0 {
		return nil
	}
	from, to := peers, mine
	if rule.Direction == policy.Outbound {
		from, to = to, from
	}
	sources, err := r.in(f, f.source, from)
	if err != nil {
		return err
	}
	destinations, err := r.in(f, f.destination, to)
	if err != nil {
		return err
	}
	ports := [][]expr.Any{nil} // of any protocol
	if len(rule.Ports) > 0 {
		ports = nil
	}
	for _, p := range rule.Ports {
		ports = append(ports, f.ports(p))
	}
	for _, match := range ports {
		r.add(f.is(), conntrackState(expr.CtStateBitNEW), sources, destinations, match, f.tell(admitted))
	}
	return nil
}

// in matches addresses by an interval set.
func (r *ruleset) in(f family, offset uint32, prefixes []netip.Prefix) ([]expr.Any, error) {
	r.sets++
	set := &nftables.Set{
		Table: r.table, Name: fmt.Sprintf("set%d", r.sets), ID: uint32(r.sets),
		Interval: true, KeyType: f.keyType,
	}
	if err := r.conn.AddSet(set, intervals(prefixes)); err != nil {
		return nil, fmt.Errorf("add a set of %v: %w", prefixes, err)
	}
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: f.bytes},
		&expr.Lookup{SourceRegister: 1, SetName: set.Name, SetID: set.ID},
	}, nil
}

// family is what nftables needs to know of an address family.
type family struct {
	number              byte
	source, destination uint32 // where the addresses are
	bytes               uint32 // of an address
	keyType             nftables.SetDatatype
	hops                expr.Payload // how the hop limit is written
	icmp                uint8
}

var families = [...]family{
	{
		number: unix.NFPROTO_IPV4, source: 12, destination: 16, bytes: 4, keyType: nftables.TypeIPAddr, icmp: policy.ProtocolICMP,
		hops: expr.Payload{Offset: 8, CsumType: expr.CsumTypeInet, CsumOffset: 10},
	},
	{
		number: unix.NFPROTO_IPV6, source: 8, destination: 24, bytes: 16, keyType: nftables.TypeIP6Addr, icmp: policy.ProtocolICMPv6,
		hops: expr.Payload{Offset: 7},
	},
}

func (f *family) is() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{f.number}},
	}
}

func (f *family) of(prefixes []netip.Prefix) []netip.Prefix {
	var mine []netip.Prefix
	for _, p := range prefixes {
		if p.Addr().BitLen() == int(f.bytes)*8 {
			mine = append(mine, p)
		}
	}
	return mine
}

// tell writes the state where it is read when the packet comes out.
func (f *family) tell(s state) []expr.Any {
	write := f.hops
	write.OperationType, write.SourceRegister = expr.PayloadWrite, 1
	write.Base, write.Len = expr.PayloadBaseNetworkHeader, 1
	return []expr.Any{&expr.Immediate{Register: 1, Data: []byte{hopsOf(s)}}, &write}
}

func (f *family) ports(p policy.Ports) []expr.Any {
	protocol := p.Protocol
	if protocol == policy.ProtocolICMP {
		protocol = f.icmp
	}
	match := []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{protocol}},
	}
	if !policy.HasPorts(protocol) {
		return match
	}
	return append(match,
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Range{
			Op: expr.CmpOpEq, Register: 1,
			FromData: binary.BigEndian.AppendUint16(nil, p.First), ToData: binary.BigEndian.AppendUint16(nil, p.Last),
		})
}

func conntrackState(bit uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binary.NativeEndian.AppendUint32(nil, bit), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

// intervals are the ends of what prefixes of one family cover, in order and
// without overlap, as the kernel wants them.
func intervals(prefixes []netip.Prefix) []nftables.SetElement {
	sorted := slices.SortedFunc(slices.Values(prefixes), netip.Prefix.Compare)
	zero := make([]byte, sorted[0].Addr().BitLen()/8)
	var elements []nftables.SetElement
	open := false
	var last netip.Addr // of the interval that is open
	end := func() {
		if open && last.Next().IsValid() {
			elements = append(elements, nftables.SetElement{Key: last.Next().AsSlice(), IntervalEnd: true})
		}
	}
	for _, p := range sorted {
		first, mine := p.Masked().Addr(), lastOf(p)
		if open && (!last.Next().IsValid() || first.Compare(last.Next()) <= 0) { // nested or adjacent
			if mine.Compare(last) > 0 {
				last = mine
			}
			continue
		}
		end()
		if !open && !bytes.Equal(first.AsSlice(), zero) {
			elements = append(elements, nftables.SetElement{Key: zero, IntervalEnd: true})
		}
		elements = append(elements, nftables.SetElement{Key: first.AsSlice()})
		last, open = mine, true
	}
	end()
	return elements
}
