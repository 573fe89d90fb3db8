package policy

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// problemCase is a policy with something wrong, and all that is said about it.
// "P" in the problems stands for the policy's own file.
type problemCase struct {
	name string
	text string
	want []string
}

func testProblems(t *testing.T, cases []problemCase) {
	t.Helper()
	const file = "testdata/policy.yaml"
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			// Block texts begin on a line of their own in the source.
			policy, err := Parse(file, []byte(strings.TrimPrefix(c.text, "\n")))
			if policy != nil {
				t.Errorf("a bad policy was returned")
			}
			var problems Problems
			if !errors.As(err, &problems) {
				t.Fatalf("error is %T %v, want Problems", err, err)
			}
			got := strings.Split(strings.ReplaceAll(err.Error(), file, "P"), "\n")
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
		})
	}
}

// The wrappers put what they get on line 2, so that columns are easy to count.

func resource(s string) string { return "resources: [\n{" + s + "}]" }

func firewall(s string) string {
	return "resources: [{name: a, addresses: [10.0.0.1], firewall: [\n{" + s + "}]}]"
}

func perimeter(s string) string { return "perimeters: [\n{" + s + "}]" }

func rule(s string) string {
	return "perimeters: [{name: p, profiles: [{name: d, accessRules: [\n{" + s + "}]}]}]"
}

func TestProblemsAreBounded(t *testing.T) {
	var text strings.Builder
	text.WriteString("resources:\n  - name: a\n    addresses:\n")
	for i := range maxProblems + 34 {
		fmt.Fprintf(&text, "      - 10.%d.%d.1/24\n", i/256, i%256)
	}
	_, err := Parse("p.yaml", []byte(text.String()))
	var problems Problems
	if !errors.As(err, &problems) {
		t.Fatalf("error is %v, want Problems", err)
	}
	if len(problems) != maxProblems+1 {
		t.Fatalf("%d problems, want %d and one line about the rest", len(problems), maxProblems)
	}
	lines := strings.Split(err.Error(), "\n")
	if want := `p.yaml:4:9: "10.0.0.1/24" has host bits set: write "10.0.0.0/24", or "10.0.0.1" for the one address`; lines[0] != want {
		t.Errorf("first line %q, want %q", lines[0], want)
	}
	if last := lines[len(lines)-1]; last != "… and 34 more" {
		t.Errorf("last line %q, want %q", last, "… and 34 more")
	}
}

func TestProblemsOfSeveralFilesAreSorted(t *testing.T) {
	files := map[string]string{
		"a.yaml": "resources:\n  - {name: a, addresses: [10.0.0.1/8]}\n  - {name: a., addresses: [10.0.0.2]}\n",
		"b.yaml": "perimeters:\n  - {name: p, associations: [{name: x, resource: nobody, profile: none}]}\n",
	}
	_, err := new(Loader).parse([]string{"a.yaml", "b.yaml"}, inMemory(files))
	want := strings.Join([]string{
		`a.yaml:2:27: "10.0.0.1/8" has host bits set: write "10.0.0.0/8", or "10.0.0.1" for the one address`,
		`a.yaml:3:12: "a." is not a valid name: write letters, digits, "_", "." and "-"; begin with a letter or digit, end with a letter, digit or "_"`,
		`b.yaml:2:50: no resource is named "nobody": define it, or write "a"`,
		`b.yaml:2:67: no profile of this perimeter is named "none": define it; there is no other`,
	}, "\n")
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}

// What looks missing may be in the file that could not be read.
func TestNothingIsMissingFromAnUnreadableFile(t *testing.T) {
	files := map[string]string{
		"a.yaml": "resources: [{name: a\n",
		"b.yaml": "perimeters:\n  - {name: p, profiles: [{name: d}], associations: [{name: a, resource: a, profile: d}]}\n",
	}
	_, err := new(Loader).parse([]string{"a.yaml", "b.yaml", "c.yaml"}, inMemory(files))
	want := strings.Join([]string{
		`a.yaml:2:1: not valid YAML: did not find expected ',' or '}' while parsing a flow mapping that begins at 1:13: check quotes, brackets and indentation up to here`,
		`c.yaml: the policy file cannot be read: file does not exist: repair or remove it, or split it if it is too large`,
	}, "\n")
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}

// Nor is it missing from under a key that was not understood.
func TestNothingIsMissingFromAMisspelledKey(t *testing.T) {
	const perimeters = "perimeters:\n  - {name: p, profiles: [{name: d}], associations: [{name: a, resource: a, profile: d}]}\n"
	testProblems(t, []problemCase{
		{"misspelled", "resource: [{name: a, addresses: [10.0.0.1]}]\n" + perimeters, []string{
			`P:1:1: a policy has no key "resource": write "resources"`,
		}},
		{"no list", "resources: {name: a, addresses: [10.0.0.1]}\n" + perimeters, []string{
			`P:1:12: resources is a mapping: write it as a list, [A, B] or a "- " line for each element`,
		}},
	})
}

// inMemory reads files from a map.
func inMemory(files map[string]string) reader {
	return func(path string, limit int64) ([]byte, error) {
		text, ok := files[path]
		switch {
		case !ok:
			return nil, errors.New("cannot be read: file does not exist")
		case int64(len(text)) > limit:
			return nil, errors.New("is too large")
		}
		return []byte(text), nil
	}
}
