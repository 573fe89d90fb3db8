package policy

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
)

// A file that is not what its entry says: the position is in that file.
func TestBrokenServiceTagFiles(t *testing.T) {
	cases := []struct{ name, format, text, want string }{
		{"empty", "azure", "", "1:1: not a service tag file in format azure: unexpected EOF"},
		{"a list", "azure", "[]", `1:2: not a service tag file in format azure: "{" is missing`},
		{"no values", "azure", `{"prefixes": []}`, `1:17: not a service tag file in format azure: there is no "values"`},
		{"values are an object", "azure", `{"values": {}}`, `1:13: not a service tag file in format azure: "[" is missing`},
		{"truncated", "azure", "{\"values\": [\n{\"name\": \"a\"", "2:12: not a service tag file in format azure: unexpected end of JSON input"},
		{"truncated between elements", "azure", "{\"values\": [\n{\"name\": \"a\"}", "2:13: not a service tag file in format azure: unexpected EOF"},
		{"truncated in what is skipped", "azure", "{\"cloud\": \"Pub", "1:14: not a service tag file in format azure: unexpected end of JSON input"},
		{"two objects", "azure", "{\"values\": []}\n{}", "2:1: not a service tag file in format azure: invalid character '{' after top-level value"},
		{"a tag without a name", "azure", `{"values": [{}]}`, `1:15: not a service tag file in format azure: an element of "values" has no name`},
		{"prefixes that are no text", "azure", `{"values": [{"name": "a", "properties": {"addressPrefixes": [5]}}]}`, "1:66: not a service tag file in format azure: a number stands where none can be"},
		{"no region", "aws", `{"prefixes": [{"ip_prefix": "10.0.0.0/8", "service": "S3"}]}`, "1:59: not a service tag file in format aws: a prefix has no service or no region"},
		{"prefixes of numbers", "aws", `{"ipv6_prefixes": [5]}`, "1:21: not a service tag file in format aws: a number stands where none can be"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := new(Loader).parse([]string{"p.yaml"}, inMemory(map[string]string{
				"p.yaml": fmt.Sprintf("serviceTags: [{file: tags, format: %s}]", c.format),
				"tags":   c.text,
			}))
			want := "tags:" + c.want + ": repair the file, or correct its entry (p.yaml:1:22)"
			if err == nil || err.Error() != want {
				t.Errorf("got\n%v\nwant\n%s", err, want)
			}
		})
	}
}

// A file from elsewhere cannot fill the memory.
func TestServiceTagFilesAreBounded(t *testing.T) {
	const rule = "serviceTags: [{file: tags, format: %s}]\nresources: [{name: a, addresses: [10.0.0.1], firewall: [{name: r, direction: Inbound, serviceTags: [t]}]}]"
	for format, text := range map[string]string{
		"plain, name: t": strings.Repeat("::\n", maxTagPrefixes+1),
		"azure":          `{"values": [{"name": "t", "properties": {"addressPrefixes": ["` + strings.Repeat(`","`, maxTagPrefixes) + `"]}}]}`,
	} {
		_, err := new(Loader).parse([]string{"p.yaml"}, inMemory(map[string]string{"p.yaml": fmt.Sprintf(rule, format), "tags": text}))
		if err == nil || !strings.Contains(err.Error(), "it holds more than 4000000 prefixes") {
			t.Errorf("%s: got %v", format, err)
		}
	}
}

// The cuts of real files, against a decoder that knows nothing of this package.
func TestRealServiceTags(t *testing.T) {
	p, err := Parse("testdata/policy.yaml", []byte(`
serviceTags:
  - {file: azure-service-tags.json, format: azure}
  - {file: aws-ip-ranges.json, format: aws}
  - {file: plain-list.txt, format: plain, name: list}
perimeters:
  - name: p
    profiles:
      - name: d
        accessRules:
          - {name: in, direction: Inbound, serviceTags: [Storage.WestEurope, AzureKeyVault, HDInsight, list]}
          - {name: out, direction: Outbound, serviceTags: [S3, S3.eu-west-1, EC2.eu-north-1, AMAZON, AzureKeyVault]}
`))
	if err != nil {
		t.Fatal(err)
	}

	want := map[string]map[netip.Prefix]bool{}
	add := func(tag, prefix string) {
		if want[tag] == nil {
			want[tag] = map[netip.Prefix]bool{}
		}
		want[tag][netip.MustParsePrefix(prefix)] = true
	}
	for _, v := range decodeJSON(t, "testdata/azure-service-tags.json")["values"].([]any) {
		for _, prefix := range v.(map[string]any)["properties"].(map[string]any)["addressPrefixes"].([]any) {
			add(v.(map[string]any)["name"].(string), prefix.(string))
		}
	}
	aws := decodeJSON(t, "testdata/aws-ip-ranges.json")
	for list, key := range map[string]string{"prefixes": "ip_prefix", "ipv6_prefixes": "ipv6_prefix"} {
		for _, e := range aws[list].([]any) {
			entry := e.(map[string]any)
			add(entry["service"].(string), entry[key].(string))
			add(entry["service"].(string)+"."+entry["region"].(string), entry[key].(string))
		}
	}
	list, err := os.ReadFile("testdata/plain-list.txt")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(list)) {
		if fields := strings.Fields(line); len(fields) > 0 && fields[0] != "#" {
			if !strings.Contains(fields[0], "/") {
				fields[0] += "/32"
			}
			add("list", fields[0])
		}
	}

	if len(p.ServiceTags) != 8 {
		t.Errorf("%d service tags, want the 8 that rules name", len(p.ServiceTags))
	}
	for tag, prefixes := range p.ServiceTags {
		v4, v6 := 0, 0
		for prefix := range prefixes.All() {
			if !want[tag][prefix] {
				t.Errorf("%s has %s, which the file does not have", tag, prefix)
			}
			if prefix.Addr().Is4() {
				v4++
			} else {
				v6++
			}
		}
		if prefixes.Len() != len(want[tag]) || v4 == 0 || v6 == 0 {
			t.Errorf("%s has %d prefixes (%d IPv4, %d IPv6), want %d of both kinds", tag, prefixes.Len(), v4, v6, len(want[tag]))
		}
	}
}

func decodeJSON(t *testing.T, file string) (object map[string]any) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &object); err != nil {
		t.Fatal(err)
	}
	return object
}
