package secondopinion_test

import (
	"errors"
	"io/fs"
	"os"
	"testing"

	"github.com/perimeterd/perimeterd/pkg/datapath"
	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/tests/privileged"
	"github.com/perimeterd/perimeterd/tests/world"
)

// opinions are two routers with the same policy.
type opinions struct {
	ours, theirs *field
	datapath     *datapath.Datapath // of ours
	// tracksDCCP: conntrack has a tracker for DCCP, as it had before Linux 6.17.
	// The table says nothing of that.
	tracksDCCP bool
}

// consult builds both routers, has f ask them, and takes them away. It ends the
// test if anything goes wrong but a verdict.
func consult(t *testing.T, at layout, p *policy.Policy, f func(*opinions) error) {
	t.Helper()
	root := privileged.BPFFS(t) + "/perimeterd"
	err := world.Build(func(w *world.World) (err error) {
		o := &opinions{}
		defer func() {
			if o.datapath != nil {
				err = errors.Join(err, o.datapath.Close())
			}
			err = errors.Join(err, o.ours.close(), o.theirs.close())
		}()
		if o.ours, o.datapath, err = newPerimeterd(w, root, at, p); err != nil {
			return err
		}
		if o.theirs, err = newNftables(w, p); err != nil {
			return err
		}
		if o.tracksDCCP, err = tracksDCCP(o.theirs); err != nil {
			return err
		}
		if o.tracksDCCP {
			t.Log("conntrack tracks DCCP here, which Linux 6.17 ended: DCCP is not compared")
		}
		return onOneCPU(func() error { return f(o) })
	})
	if err != nil {
		t.Fatal(err)
	}
}

func tracksDCCP(f *field) (tracks bool, err error) {
	err = f.router.Run(func() error {
		_, err := os.Stat("/proc/sys/net/netfilter/nf_conntrack_dccp_loose")
		tracks = err == nil
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return err
	})
	return tracks, err
}

// play sends the sessions' datagrams through both routers: the first of all
// sessions, then the second of all.
func (o *opinions) play(sessions []*session) error {
	for k, more := 0, true; more; k++ {
		var steps []*step
		var all []sending
		more = false
		for _, s := range sessions {
			more = more || k+1 < len(s.steps)
			if k < len(s.steps) && !s.steps[k].lost {
				steps = append(steps, s.steps[k])
				all = append(all, s.steps[k].sending)
			}
		}
		ours, err := o.ours.try(all)
		if err != nil {
			return err
		}
		theirs, err := o.theirs.try(all)
		if err != nil {
			return err
		}
		for i, st := range steps {
			st.played, st.ours, st.theirs = true, ours[i] != 0, stateOf(theirs[i])
		}
	}
	return nil
}
