package policy

import (
	"bytes"
	"errors"
	"os"
	"runtime/metrics"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.yaml.in/yaml/v4"
	"net/netip"
)

// FuzzParse: whatever a file holds, the answer is a policy, which can be written
// down and read again as the same, or all problems with it, each with its place.
// Either costs memory in proportion to the file.
func FuzzParse(f *testing.F) {
	reference, err := os.ReadFile("../../deploy/policy-reference.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, text := range []string{
		string(reference),
		"",
		"resources: [{name: a, addresses: [10.0.0.1, \"fd00::/8\"], services: [tcp/1-2]}]",
		"{\"perimeters\": [{\"name\": \"p\", \"links\": [{\"name\": \"l\"}]}]}",
		"a: &a [*a, !!str x]\n<<: *a\n---\n...\n",
		"# comment\n- a # comment\n\n#\n? b\n: |\n  c\n",
		"serviceTags: [{file: list, format: plain, name: l}, {file: azure, format: azure}, {file: aws, format: aws}]",
		// What makes other readers run out of memory, or of stack.
		"a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: [*c,*c,*c,*c,*c,*c,*c,*c]\n",
		"resources: " + strings.Repeat("[", 1000),
		strings.Repeat("- ", 1000),
		strings.Repeat("? ", 30) + "a",
		"resources: [" + strings.Repeat("::,", 1000) + "]",
		"[\"a\" :b, :c, ?d, {e, f}, \"g\":h, ::, - i]",
		"- a\n-\tb\n-\u2028c\n-\u0085d\n-",
		"\xff\xfe-\x00 \x00a\x00\n\x00-\x00\n\x00",
	} {
		f.Add(text, "192.0.2.0/24 # a\n::1\n", `{"values": [{"name": "a", "properties": {"addressPrefixes": ["10.0.0.0/8"]}}]}`)
	}
	f.Fuzz(func(t *testing.T, text, list, object string) {
		files := map[string]string{
			"p.yaml": text, "list": list, "azure": object, "aws": object,
			"service-tags/azure.json": object, "service-tags/aws.json": object, "service-tags/partners.txt": list,
		}
		before := allocated()
		p, err := new(Loader).parse([]string{"p.yaml"}, inMemory(files))
		const each, besides = 16 << 10, 16 << 20 // what is read in chunks, and for each byte
		if took, size := allocated()-before, len(text)+len(list)+2*len(object); took > uint64(besides+each*size) {
			t.Errorf("reading %d bytes took %d bytes of memory", size, took)
		}
		if (p == nil) == (err == nil) {
			t.Fatalf("policy %v and error %v, want one of them", p, err)
		}
		if err == nil {
			checkWritten(t, p)
		} else {
			checkProblems(t, err, files)
		}
		checkNodes(t, text)
	})
}

// checkWritten writes the policy down and reads it again.
func checkWritten(t *testing.T, p *Policy) {
	t.Helper()
	files := writeDown(p)
	again, err := new(Loader).parse([]string{"p.yaml"}, inMemory(files))
	if err != nil {
		t.Fatalf("what was written down is refused: %v\n%s\n%s", err, files["p.yaml"], files["tags"])
	}
	diff := cmp.Diff(p, again, cmpopts.IgnoreTypes(Position{}), cmpopts.IgnoreFields(Policy{}, "Files"),
		cmpopts.EquateComparable(netip.Prefix{}), cmpopts.EquateEmpty())
	if diff != "" {
		t.Fatalf("written down and read again (-first +again)\n%s\n%s", diff, files["p.yaml"])
	}
}

// checkProblems holds the places of problems against the files.
func checkProblems(t *testing.T, err error, files map[string]string) {
	t.Helper()
	var problems Problems
	if !errors.As(err, &problems) || len(problems) == 0 {
		t.Fatalf("error is %T %v, want Problems", err, err)
	}
	for i, problem := range problems {
		isRest := i == maxProblems && problem.At == Position{} // "and more"
		text, known := files[problem.At.File]
		if problem.Wrong == "" || !known && !isRest {
			t.Errorf("problem %+v says too little", problem)
		}
		// YAML has more kinds of line breaks than there are newlines.
		lines := 1 + len(text)
		if problem.At.Line > lines || problem.At.Column > lines || (problem.At.Line > 0) != (problem.At.Column > 0) {
			t.Errorf("problem %+v has a place outside of a file of %d bytes", problem, len(text))
		}
	}
}

// checkNodes holds the bound of a tree against the tree.
func checkNodes(t *testing.T, text string) {
	t.Helper()
	root, _ := newDecoder().compose([]byte(text))
	if root == nil {
		return
	}
	var count func(*yaml.Node) int
	count = func(n *yaml.Node) int {
		nodes := 1
		for _, child := range n.Content {
			nodes += count(child)
		}
		return nodes
	}
	if got, bound := count(root), nodesAtMost([]byte(text)); got > bound {
		t.Errorf("%d nodes in a text that was said to have %d at most", got, bound)
	}
}

// allocated is how much this process has allocated so far.
func allocated() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// TestNodeBoundIsTight has texts in the ways of writing of which a host's policy
// has most, where the bound must not be far above.
func TestNodeBoundIsTight(t *testing.T) {
	for _, c := range []struct {
		text  string
		nodes int // of each repetition
	}{
		{"      - 10.20.0.0/16\n", 1},
		{"      - 2001:db8:1:2::/64\n", 1},
		{"      - \"2001:db8:1:2::/64\"\n", 1},
		{`"10.20.0.0/16", `, 2},
		{"      - {name: a, direction: Inbound, addressPrefixes: [10.0.0.0/8], ports: [tcp/443, udp/1000-2000]}\n", 25},
	} {
		text := []byte(strings.Repeat(c.text, 1000))
		if got := nodesAtMost(text); got > 1000*c.nodes+10 {
			t.Errorf("%q: at most %d nodes, want %d", bytes.TrimSpace([]byte(c.text)), got/1000, c.nodes)
		}
	}
}
