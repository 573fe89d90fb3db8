package policy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
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
// are in the same memory.
func sharesPrefixes(a, b *Policy) bool {
	for tag, of := range a.ServiceTags {
		if also := b.ServiceTags[tag]; also != nil && also.Len() > 0 && of.Origin() == also.Origin() {
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

// TestLoaderEditsPlainFiles: a long list is read by what changed in it, and says what
// a new loader reads, whatever is edited: lines in any order, said twice, with
// comments or bad.
func TestLoaderEditsPlainFiles(t *testing.T) {
	const policy = "resources: [{name: a, addresses: [10.0.0.1], firewall: [{name: r, direction: Inbound, serviceTags: [t]}]}]\n" +
		"serviceTags: [{file: tags, format: plain, name: t}]\n"
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	line := func() string {
		a := netip.AddrFrom4([4]byte{byte(1 + r.IntN(200)), byte(r.IntN(256)), byte(r.IntN(256)), byte(r.IntN(256))})
		if r.IntN(8) == 0 {
			a = netip.AddrFrom16([16]byte{0x20, byte(r.IntN(256)), byte(r.IntN(256)), byte(r.IntN(4))})
		}
		switch p := netip.PrefixFrom(a, min(a.BitLen(), 8+r.IntN(30))).Masked(); r.IntN(10) {
		case 0:
			return ""
		case 1:
			return "# " + p.String()
		case 2:
			return " " + p.String() + "\t# said\r"
		default:
			return p.String()
		}
	}
	var lines []string
	for range 6000 {
		lines = append(lines, line())
	}
	for range 50 {
		lines = append(lines, lines[r.IntN(len(lines))])
	}
	var l Loader
	files := map[string]string{"p.yaml": policy}
	edited, refused := 0, 0
	var before *Policy
	for range 300 {
		for range r.IntN(20) {
			at := r.IntN(len(lines))
			switch r.IntN(5) {
			case 0:
				lines = slices.Delete(lines, at, min(at+1+r.IntN(3), len(lines)))
			case 1:
				lines = slices.Insert(lines, at, line(), line())
			case 2:
				lines[at] = line()
			case 3: // to another place
				moved := lines[at]
				lines = slices.Insert(slices.Delete(lines, at, at+1), r.IntN(len(lines)-1), moved)
			case 4: // once more, or gone once more
				lines[at] = lines[r.IntN(len(lines))]
			}
		}
		text := slices.Clone(lines)
		switch r.IntN(12) {
		case 0:
			text[r.IntN(len(text))] = "10.0.0.1/8"
		case 1:
			r.Shuffle(len(text), func(i, j int) { text[i], text[j] = text[j], text[i] })
		case 2:
			text[0] = byteOrderMark + text[0]
		case 3:
			text = text[:len(text)/2]
		}
		files["tags"] = strings.Join(text, "\n")
		if r.IntN(2) == 0 {
			files["tags"] += "\n"
		}
		got, err := l.parse([]string{"p.yaml"}, inMemory(files))
		want, wantErr := new(Loader).parse([]string{"p.yaml"}, inMemory(files))
		if !reflect.DeepEqual(err, wantErr) {
			t.Fatalf("%v; a new loader finds %v", err, wantErr)
		}
		if err != nil {
			refused++
			continue
		}
		of := got.ServiceTags["t"]
		if !slices.Equal(slices.Collect(of.All()), slices.Collect(want.ServiceTags["t"].All())) || !of.Equal(want.ServiceTags["t"]) {
			t.Fatal("the prefixes are others than a new loader finds")
		}
		if before != nil && of.Origin() == before.ServiceTags["t"].Origin() {
			edited++
		}
		before = got
	}
	if edited < 50 || refused == 0 {
		t.Errorf("%d texts were read by what changed, and %d were bad", edited, refused)
	}
}
