package policy

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
)

// TestLoaderRemembers: whatever a loader has read before, it finds what a new one
// does, and understands what has not changed only once.
func TestLoaderRemembers(t *testing.T) {
	const (
		rule   = "resources: [{name: a, addresses: [10.0.0.1], firewall: [{name: r, direction: Inbound, serviceTags: ["
		plain  = rule + "t]}]}]\nserviceTags: [{file: tags, format: plain, name: t}]\n"
		azure  = rule + "A]}]}]\nserviceTags: [{file: tags, format: azure}]\n"
		other  = rule + "B]}]}]\nserviceTags: [{file: tags, format: azure}]\n"
		both   = rule + "A, B]}]}]\nserviceTags: [{file: tags, format: azure}]\n"
		absent = rule + "C]}]}]\nserviceTags: [{file: tags, format: azure}]\n"
		twice  = rule + "t]}]}]\nserviceTags: [{file: tags, format: plain, name: t}, {file: more, format: plain, name: t}]\n"
		tags   = `{"values": [{"name": "A", "properties": {"addressPrefixes": ["192.0.2.0/24"]}}, {"name": "B", "properties": {"addressPrefixes": ["2001:db8::/32"]}}]}`
	)
	var l Loader
	var before *Policy
	for _, step := range []struct {
		what, policy, tags string
		same               bool // the slice of the step before
	}{
		{"at first", plain, "192.0.2.0/24\n10.1.0.0/16\n", false},
		{"again", plain, "192.0.2.0/24\n10.1.0.0/16\n", true},
		{"with another policy", plain + "# other\n", "192.0.2.0/24\n10.1.0.0/16\n", true},
		{"of the same size", plain, "192.0.3.0/24\n10.1.0.0/16\n", false},
		{"another name", rule + "u]}]}]\nserviceTags: [{file: tags, format: plain, name: u}]\n", "192.0.3.0/24\n10.1.0.0/16\n", false},
		{"bad", plain, "192.0.3.0/24\n10.1.0.0/8\n", false},
		{"still bad", plain, "192.0.3.0/24\n10.1.0.0/8\n", false},
		{"good again", plain, "192.0.3.0/24\n10.1.0.0/16\n", false},
		{"in two files", twice, "192.0.3.0/24\n10.1.0.0/16\n", false},
		{"in one again", plain, "192.0.3.0/24\n10.1.0.0/16\n", false},
		{"of another format", azure, tags, false},
		{"the same tag", azure, tags, true},
		{"a tag that nobody wanted", other, tags, false},
		{"both", both, tags, false},
		{"one of them", azure, tags, true},
		{"no such tag", absent, tags, false},
		{"not in the format", azure, tags[1:], false},
		{"none", "{}", tags, false},
	} {
		files := map[string]string{"p.yaml": step.policy, "tags": step.tags, "more": "10.9.0.0/16"}
		got, err := l.parse([]string{"p.yaml"}, inMemory(files))
		want, wantErr := new(Loader).parse([]string{"p.yaml"}, inMemory(files))
		if !reflect.DeepEqual(got, want) || !reflect.DeepEqual(err, wantErr) {
			t.Fatalf("%s: %+v, %v; a new loader finds %+v, %v", step.what, got, err, want, wantErr)
		}
		if before != nil && got != nil && step.same != sharesPrefixes(before, got) {
			t.Errorf("%s: the prefixes are those of the step before: %t", step.what, !step.same)
		}
		before = got
	}
}

// sharesPrefixes reports whether two policies have a tag in common whose prefixes
// are the same slice.
func sharesPrefixes(a, b *Policy) bool {
	for tag, of := range a.ServiceTags {
		if also := b.ServiceTags[tag]; len(also) > 0 && &of[0] == &also[0] {
			return true
		}
	}
	return false
}

// TestLoaderForgetsManyTags: a file from elsewhere cannot keep the memory filled with
// the names of tags that nobody wants.
func TestLoaderForgetsManyTags(t *testing.T) {
	var b strings.Builder
	b.WriteString(`{"values": [`)
	for i := range knownTagsMax + 1 {
		fmt.Fprintf(&b, `{"name": "t%d"},`, i)
	}
	files := map[string]string{
		"p.yaml": "serviceTags: [{file: many, format: azure}, {file: few, format: azure}]",
		"many":   strings.TrimSuffix(b.String(), ",") + "]}",
		"few":    `{"values": [{"name": "t"}]}`,
	}
	var l Loader
	if _, err := l.parse([]string{"p.yaml"}, inMemory(files)); err != nil {
		t.Fatal(err)
	}
	if len(l.known.now) != 1 || l.known.now["few"] == nil {
		t.Errorf("%d files are remembered, want the one with few tags", len(l.known.now))
	}
}
