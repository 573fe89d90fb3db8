package secondopinion_test

import (
	"errors"
	"time"

	"github.com/perimeterd/perimeterd/pkg/compile"
	"github.com/perimeterd/perimeterd/pkg/datapath"
	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/tests/world"
)

// layout is where and how a router with members behind it is attached.
type layout struct {
	name    string
	roles   map[side]datapath.Role
	options datapath.Options
}

// layouts judge alike: at the peers' side, at the members' side, or at both, in
// which case each packet is judged by one of them.
func layouts() []layout {
	uplink := map[side]datapath.Role{peer: datapath.Uplink}
	workload := map[side]datapath.Role{member: datapath.Workload}
	both := map[side]datapath.Role{peer: datapath.Uplink, member: datapath.Workload}
	return []layout{
		{name: "workload", roles: workload},
		{name: "uplink", roles: uplink},
		{name: "both", roles: both},
		{name: "clsact", roles: uplink, options: datapath.Options{ClsactOnly: true}},
		{name: "XDP", roles: both, options: datapath.Options{XDP: datapath.XDPGeneric}},
	}
}

// newPerimeterd builds a field that filters by perimeterd. What is not nil is the
// caller's to close, also after an error.
func newPerimeterd(w *world.World, root string, at layout, p *policy.Policy) (*field, *datapath.Datapath, error) {
	f, err := newField(w, "perimeterd")
	if err != nil {
		return f, nil, err
	}
	facts := &policy.Facts{Now: time.Now(), Hostname: "router", Interfaces: []policy.Interface{{Name: "members", Workload: true}}}
	tables, legend, err := compile.Compile(p, facts)
	if err != nil {
		return f, nil, err
	}
	var d *datapath.Datapath
	err = f.router.Run(func() (err error) {
		options := at.options
		options.Root = root
		const flows = 1 << 13 // a policy's sessions have fewer
		options.Limits = datapath.Limits{EstablishedFlows4: flows, EstablishedFlows6: flows, OpeningFlows4: flows, OpeningFlows6: flows}
		if d, err = datapath.Open(options); err != nil {
			return err
		}
		for s, role := range at.roles {
			state, err := d.Attach(uint32(f.interfaces[s].Index), role)
			if err == nil && state.XDPProblem != "" {
				err = errors.New(state.XDPProblem)
			}
			if err != nil {
				return err
			}
		}
		_, err = d.Apply(tables, legend, nil, nil)
		return err
	})
	return f, d, err
}
