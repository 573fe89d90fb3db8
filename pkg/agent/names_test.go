package agent

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/perimeterd/perimeterd/pkg/compile"
	"github.com/perimeterd/perimeterd/pkg/datapath"
	"github.com/perimeterd/perimeterd/pkg/names"
)

// TestNameBookKeeps: what is open is there after a reboot, with its end; what is
// over is not, and a file that cannot be read is told and written anew.
func TestNameBookKeeps(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "learnt.json")
	now := time.Now()
	open := datapath.Learnt{Set: 1 << 63, Address: netip.MustParseAddr("203.0.113.1"), Name: "vault.example.com", Expires: now.Add(time.Hour), By: datapath.LearntInline}
	over := open
	over.Address, over.Expires = netip.MustParseAddr("2001:db8::1"), now.Add(-time.Second)
	book := newNameBook(path)
	book.save([]datapath.Learnt{open, over})
	if problems := book.problems(); len(problems) > 0 {
		t.Fatal(problems)
	}
	again := newNameBook(path)
	kept := again.takeKept()
	if len(kept) != 1 || kept[0].Set != open.Set || kept[0].Address != open.Address || kept[0].Name != open.Name ||
		!kept[0].Expires.Equal(open.Expires) || kept[0].By != datapath.LearntKept {
		t.Errorf("kept %+v", kept)
	}
	if more := again.takeKept(); len(more) > 0 {
		t.Errorf("taken twice: %+v", more)
	}

	if err := os.WriteFile(path, []byte("[{"), 0o600); err != nil {
		t.Fatal(err)
	}
	bad := newNameBook(path)
	if problems := bad.problems(); len(problems) != 1 || !strings.Contains(problems[0], "read the learnt addresses") {
		t.Errorf("problems: %v", problems)
	}
	bad.save([]datapath.Learnt{open})
	if problems := bad.problems(); len(problems) > 0 || len(newNameBook(path).takeKept()) != 1 {
		t.Errorf("not written anew: %v", problems)
	}
}

// TestLessons: what the resolver knows opens the sets of every owner with the name,
// and of wildcards that cover it.
func TestLessons(t *testing.T) {
	t.Parallel()
	tables := &compile.Tables{Sets: []compile.NameSet{
		{ID: 1, Owner: "profile a/a", Names: []string{"vault.example.com"}},
		{ID: 2, Owner: "profile b/b", Names: []string{"*.example.com"}},
		{ID: 3, Owner: "profile c/c", Names: []string{"www.example.org"}},
	}}
	until := time.Now().Add(time.Minute)
	got := lessons([]names.Open{{Name: "vault.example.com", Address: netip.MustParseAddr("203.0.113.1"), Until: until}}, tables)
	if len(got) != 2 || got[0].Set != 1 || got[1].Set != 2 || got[0].Expires != until || got[1].By != datapath.LearntResolved {
		t.Errorf("lessons %+v", got)
	}
}
