package servicetags

import (
	"net/netip"
	"testing"
)

func TestTags(t *testing.T) {
	tags, err := read("../../pkg/policy/testdata/azure-service-tags.json")
	if err != nil {
		t.Fatal(err)
	}
	for address, want := range map[string]string{
		"20.53.1.67":             "",
		"20.53.1.68":             "ActionGroup", // before ActionGroup.AustraliaCentral, which has it too
		"20.53.1.71":             "ActionGroup",
		"20.53.1.72":             "",
		"2603:1010:304::10f":     "ActionGroup",
		"2603:1010:304:402::177": "",
	} {
		if got := tags.Best(netip.MustParseAddr(address)); got != want {
			t.Errorf("%s is of %q, want %q", address, got, want)
		}
	}
	n, err := tags.Neighbours()
	if err != nil {
		t.Fatal(err)
	}
	for family, inside := range n.Inside {
		beside := n.Beside[family]
		if tags.Best(inside) != n.Tag || tags.Best(beside) != "" || inside.Next() != beside || inside.Is4() != (family == 0) {
			t.Errorf("neighbours %s and %s at tag %s", inside, beside, n.Tag)
		}
	}
	if edges := tags.Edges(10); len(edges) < 30 {
		t.Errorf("edges %v", edges)
	}
}
