package compile_test

import (
	"testing"

	"github.com/perimeterd/perimeterd/pkg/policy"
)

// linked is two linked perimeters. "local" has members a and b with a profile
// each; "remote", which answers the link, has x and y.
func linked(status policy.LinkStatus, local, remote []string) *policy.Policy {
	perimeter := func(name string, members ...string) policy.Perimeter {
		p := policy.Perimeter{Name: name}
		for _, m := range members {
			p.Profiles = append(p.Profiles, policy.Profile{Name: "of-" + m})
			p.Associations = append(p.Associations, associate(m, "of-"+m))
		}
		return p
	}
	p := &policy.Policy{
		Resources: []policy.Resource{
			host("a", "10.1.0.1"), host("b", "10.1.0.2"), host("x", "10.2.0.1"), host("y", "10.2.0.2"), host("stranger", "10.3.0.1"),
		},
		Perimeters: []policy.Perimeter{perimeter("local", "a", "b"), perimeter("remote", "x", "y"), perimeter("third", "stranger")},
	}
	p.Perimeters[0].Links = []policy.Link{{Name: "link", RemotePerimeter: "remote", LocalInboundProfiles: local}}
	p.Perimeters[1].LinkReferences = []policy.LinkReference{{Name: "reference", RemotePerimeter: "local", LocalInboundProfiles: remote, Status: status}}
	return p
}

// TestLinks: both directions, seen from both sides. A link restricts which
// profiles accept inbound traffic; each end says so by its own link's name.
func TestLinks(t *testing.T) {
	const a, b, x, y, stranger = "10.1.0.1", "10.1.0.2", "10.2.0.1", "10.2.0.2", "10.3.0.1"
	all := []string{"*"}
	type ends struct{ from, to string }
	for _, test := range []struct {
		name          string
		status        policy.LinkStatus
		local, remote []string
		passes        []ends
	}{
		{"all profiles", policy.Approved, all, all,
			[]ends{{a, x}, {a, y}, {b, x}, {b, y}, {x, a}, {x, b}, {y, a}, {y, b}}},
		{"one on each side", policy.Approved, []string{"of-a"}, []string{"of-y"},
			[]ends{{a, y}, {b, y}, {x, a}, {y, a}}},
		{"several, and all", policy.Approved, []string{"of-b", "of-a"}, []string{"of-x", "*"},
			[]ends{{a, x}, {a, y}, {b, x}, {b, y}, {x, a}, {x, b}, {y, a}, {y, b}}},
		{"only towards local", policy.Approved, all, nil,
			[]ends{{x, a}, {x, b}, {y, a}, {y, b}}},
		{"no profile at all", policy.Approved, nil, nil, nil},
		{"pending", policy.Pending, all, all, nil},
		{"rejected", policy.Rejected, all, all, nil},
		{"disconnected", policy.Disconnected, all, all, nil},
	} {
		r := read(t, linked(test.status, test.local, test.remote), elsewhere())
		for _, from := range []string{a, b, x, y, stranger} {
			for _, to := range []string{a, b, x, y, stranger} {
				leaves := r.judge(out, packet(out, from, to, 443), now)
				arrives := r.judge(in, packet(in, to, from, 443), now)
				passes := false
				for _, e := range test.passes {
					passes = passes || e == ends{from, to}
				}
				if from[:4] == to[:4] { // of one perimeter
					if leaves.Reason != policy.ReasonSamePerimeter || arrives.Reason != policy.ReasonSamePerimeter {
						t.Errorf("%s: %s to %s: leaves by %s, arrives by %s", test.name, from, to, leaves.Reason, arrives.Reason)
					}
					continue
				}
				nameAt := func(end string) string {
					return map[string]string{"10.1": "link", "10.2": "reference"}[end[:4]]
				}
				check := func(what, end string, verdict policy.Verdict, reason policy.Reason, rule string) {
					want, wantRule := policy.ReasonNoAccessRule, ""
					if passes {
						want, wantRule = policy.ReasonLinkedPerimeter, nameAt(end)
					}
					if reason != want || rule != wantRule || passes != (verdict == policy.Allow) {
						t.Errorf("%s: %s to %s %s: %v by %s %q, want %s %q", test.name, from, to, what, verdict, reason, rule, want, wantRule)
					}
				}
				check("leaves", from, leaves.Verdict, leaves.Reason, leaves.Rule)
				check("arrives", to, arrives.Verdict, arrives.Reason, arrives.Rule)
			}
		}
	}
}

// TestLinkWithoutAnswer: a link or a linkReference alone, or one that is meant
// for another perimeter, links nothing.
func TestLinkWithoutAnswer(t *testing.T) {
	all := []string{"*"}
	for name, change := range map[string]func(p *policy.Policy){
		"no reference":         func(p *policy.Policy) { p.Perimeters[1].LinkReferences = nil },
		"no link":              func(p *policy.Policy) { p.Perimeters[0].Links = nil },
		"reference to a third": func(p *policy.Policy) { p.Perimeters[1].LinkReferences[0].RemotePerimeter = "third" },
		"link to a third":      func(p *policy.Policy) { p.Perimeters[0].Links[0].RemotePerimeter = "third" },
	} {
		p := linked(policy.Approved, all, all)
		change(p)
		r := read(t, p, elsewhere())
		if d := r.judge(out, packet(out, "10.1.0.1", "10.2.0.1", 443), now); d.Verdict != policy.Deny {
			t.Errorf("%s: leaves by %s %q", name, d.Reason, d.Rule)
		}
		if d := r.judge(in, packet(in, "10.2.0.1", "10.1.0.1", 443), now); d.Verdict != policy.Deny {
			t.Errorf("%s: arrives by %s %q", name, d.Reason, d.Rule)
		}
	}
}
