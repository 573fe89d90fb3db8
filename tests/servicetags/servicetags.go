// Package servicetags reads Azure's list of service tags a second time, apart
// from the product, and answers from it with another longest prefix match, so
// that verdicts about the list can be held against it.
package servicetags

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/gaissmai/bart"
)

// Tags are the tags of one list.
type Tags struct {
	File  string   // the list
	Names []string // of all tags, in the order of the list

	prefixes []netip.Prefix       // every one once, sorted
	of       bart.Table[[]string] // the tags that have just this prefix
	by       map[string][]netip.Prefix
}

// Load reads the whole list if it lies beside the checkout, else the cut that
// the project ships.
func Load(ctx context.Context) (*Tags, error) {
	module, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return nil, fmt.Errorf("find the module: %w", err)
	}
	root := filepath.Dir(strings.TrimSpace(string(module)))
	file := filepath.Join(filepath.Dir(root), "shared", "data", "azure-service-tags.json")
	if _, err := os.Stat(file); err != nil {
		file = filepath.Join(root, "pkg", "policy", "testdata", "azure-service-tags.json")
	}
	return read(file)
}

func read(file string) (*Tags, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var list struct {
		Values []struct {
			Name       string
			Properties struct{ AddressPrefixes []netip.Prefix }
		}
	}
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	t := &Tags{File: file, by: map[string][]netip.Prefix{}}
	for _, tag := range list.Values {
		t.Names = append(t.Names, tag.Name)
		t.by[tag.Name] = tag.Properties.AddressPrefixes
		for _, p := range tag.Properties.AddressPrefixes {
			t.of.Modify(p, func(names []string, _ bool) ([]string, bool) { return append(names, tag.Name), false })
		}
	}
	for p := range t.of.AllSorted() {
		t.prefixes = append(t.prefixes, p)
	}
	return t, nil
}

// Of returns the different prefixes of a family, 4 or 6, sorted.
func (t *Tags) Of(family int) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range t.prefixes {
		if p.Addr().Is4() == (family == 4) {
			out = append(out, p)
		}
	}
	return out
}

// Prefixes returns how many different prefixes the list has.
func (t *Tags) Prefixes() int { return len(t.prefixes) }

// Best returns the tag that a decision about an address must name if each tag
// is a rule of the same name: of those with the longest prefix around it the
// first by name. It returns "" if no tag has the address.
func (t *Tags) Best(a netip.Addr) string {
	names, ok := t.of.Lookup(a) // not of an invalid address
	if !ok {
		return ""
	}
	return slices.Min(names)
}

// Edges returns the addresses just inside and just outside both ends of so many
// prefixes: half of them from the whole list, the others from those that have no
// other prefix around them or next to them.
func (t *Tags) Edges(prefixes int) []netip.Addr {
	var apart []netip.Prefix
	for _, p := range t.prefixes {
		if t.Best(p.Addr().Prev()) == "" || t.Best(lastOf(p).Next()) == "" {
			apart = append(apart, p)
		}
	}
	var out []netip.Addr
	for _, from := range [][]netip.Prefix{t.prefixes, apart} {
		n := min(prefixes/2, len(from))
		for i := range n {
			p := from[i*len(from)/n] // spread over all
			last := lastOf(p)
			for _, a := range []netip.Addr{p.Addr().Prev(), p.Addr(), last, last.Next()} {
				if a.IsValid() && !a.IsMulticast() {
					out = append(out, a)
				}
			}
		}
	}
	return out
}

// Neighbours are the last address of a prefix of a tag, and the one after it,
// which no tag has: for each family, IPv4 first.
type Neighbours struct {
	Tag            string
	Inside, Beside [2]netip.Addr
}

// Neighbours returns those of the first tag that has some of both families.
func (t *Tags) Neighbours() (Neighbours, error) {
	for _, name := range t.Names {
		n := Neighbours{Tag: name}
		for _, p := range t.by[name] {
			family := 0
			if p.Addr().Is6() {
				family = 1
			}
			inside := lastOf(p)
			if beside := inside.Next(); t.Best(inside) == name && beside.IsValid() && t.Best(beside) == "" {
				n.Inside[family], n.Beside[family] = inside, beside
			}
		}
		if n.Inside[0].IsValid() && n.Inside[1].IsValid() {
			return n, nil
		}
	}
	return Neighbours{}, fmt.Errorf("no tag of %s has prefixes of both families that end where no other begins", t.File)
}

func lastOf(p netip.Prefix) netip.Addr {
	bytes := p.Addr().AsSlice()
	for bit := p.Bits(); bit < p.Addr().BitLen(); bit++ {
		bytes[bit/8] |= 0x80 >> (bit % 8)
	}
	last, _ := netip.AddrFromSlice(bytes) // as long as they came
	return last
}
