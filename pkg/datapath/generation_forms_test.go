package datapath

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/perimeterd/perimeterd/pkg/compile"
	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/tests/packet"
)

// reopen closes the data path and opens what it left.
func (r *rig) reopen(t *testing.T, root string) {
	t.Helper()
	must(t, r.host.Run(func() error {
		if err := r.Close(); err != nil {
			return err
		}
		d, err := openEthernet(Options{Root: root})
		if err != nil {
			return err
		}
		r.Datapath = d
		return nil
	}))
}

// TestGenerationsOfAllForms takes one host through many generations, whose tables
// have all forms, with failures and restarts between them.
func TestGenerationsOfAllForms(t *testing.T) {
	source := seeded(t)
	r := newRig(t, Options{})
	root := r.options.Root
	kinds := prefixKinds()
	t.Cleanup(func() { r.Close() })
	for step := range 12 {
		var all []netip.Prefix
		k4, k6 := kinds[source.IntN(len(kinds))], kinds[source.IntN(len(kinds))]
		switch source.IntN(6) {
		case 0: // one prefix
			all = prefixes([]string{"0.0.0.0/0", "0.0.0.0/32", "255.255.255.254/31", "::/0", "::1/128", "128.0.0.0/1"}[source.IntN(6)])
		case 1: // one family
			all = k4.make(source)
		default:
			all = append(k4.make(source), k6.make(source)...)
		}
		if source.IntN(3) == 0 && len(all) > 1 {
			all = append(all, prefixes("0.0.0.0/0", "0.0.0.0/32", "255.255.255.252/31", "255.0.0.0/8", "::/0", "::/128", "0.0.0.0/8")...)
			slices.SortFunc(all, netip.Prefix.Compare)
			all = slices.Compact(all)
		}
		rules, lists := dealt(toAny(source), all)
		rules = slices.DeleteFunc(rules, func(a policy.AccessRule) bool { return len(a.AddressPrefixes) == 0 })
		pol := memberPolicy(policy.Enforced, rules...)
		ask := func(what string, legend *compile.Legend) {
			t.Helper()
			for range 800 {
				peer := around(source, all[source.IntN(len(all))])
				switch source.IntN(5) {
				case 0:
					peer = anywhere(source, peer.Is4())
				case 1:
					peer = netip.MustParseAddr([]string{"0.0.0.1", "0.0.0.0", "255.255.255.255", "255.255.255.254", "255.255.255.253", "::", "::1", "fe00::1", "1.0.0.0", "0.255.255.255"}[source.IntN(10)])
				}
				member := member6
				if peer.Is4() {
					member = member4
				}
				got, err := r.Explain(packet.TCP(peer, netip.MustParseAddr(member), 4000, 443, packet.SYN).Frame(), true, 0)
				must(t, err)
				want := best(lists, peer)
				if rule := legend.Outcomes[got.Outcome].Rule; rule != want || (got.Verdict == policy.Allow) != (want != "") {
					t.Fatalf("step %d, %s: %s: the kernel says %v by rule %q, the lists say %q; %d prefixes, %+v", step, what, peer, got.Verdict, rule, want, len(all), [...]perimeterFamilyIndex{r.inForce.index4, r.inForce.index6})
				}
			}
		}
		if source.IntN(3) == 0 { // fails at first
			tables, legend, err := compile.Compile(memberPolicy(policy.Enforced, partnersOn5432()), hereFacts())
			must(t, err)
			if _, err := r.Apply(tables, legend, nil, func(*compile.Legend) error { return errors.New("no") }); err == nil {
				t.Fatal("no error")
			}
		}
		if source.IntN(3) == 0 {
			r.reopen(t, root)
		}
		legend := r.apply(t, pol, hereFacts())
		ask("applied", legend)
		if source.IntN(2) == 0 { // again, sharing
			pol.Resources[0].Addresses = prefixes(member4, member6, "10.99.0.1")
			legend = r.apply(t, pol, hereFacts())
			ask("shared", legend)
		}
		if source.IntN(3) == 0 {
			r.reopen(t, root)
			ask("reopened", legend)
		}
		_, _, err := r.Sweep()
		must(t, err)
	}
}
