package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// The reference policy is the manual of the language: it must be good, and use
// all of the language.
func TestReferencePolicy(t *testing.T) {
	const file = "../../deploy/policy-reference.yaml"
	p, err := Load(file)
	if err != nil {
		t.Fatalf("the reference policy is bad:\n%v", err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{
		"resources:", "name:", "subscription:", "addresses:", "interfaces:", "host:", "services:", "publicNetworkAccess:", "firewall:",
		"perimeters:", "location:", "profiles:", "accessRules:", "associations:", "resource:", "profile:", "accessMode:", "links:", "linkReferences:",
		"remotePerimeter:", "localInboundProfiles:", "status:", "description:", "direction:", "addressPrefixes:", "subscriptions:",
		"fullyQualifiedDomainNames:", "serviceTags:", "ports:", "expires:", "privateEndpoints:", "file:", "format:",
		"Enabled", "Disabled", "SecuredByPerimeter", "Learning", "Transition", "Enforced", "Audit", "Inbound", "Outbound", "Approved",
		"azure", "aws", "plain",
	} {
		if !strings.Contains(string(text), word) {
			t.Errorf("the reference policy does not show %q", word)
		}
	}
	rule := p.Perimeters[0].Profiles[0].AccessRules[0]
	want := AccessRule{
		Name:            "partners",
		Direction:       Inbound,
		AddressPrefixes: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8:77::/48")},
		Ports:           []Ports{{ProtocolTCP, 5432, 5432}},
		Expires:         time.Date(2035, 12, 31, 22, 0, 0, 0, time.UTC),
		Description:     "contract 4711, until the new interface is there",
		At:              Position{file, 127, 13},
	}
	if diff := cmp.Diff(want, rule, cmp.Comparer(equal[netip.Prefix])); diff != "" {
		t.Errorf("first rule (-want +got):\n%s", diff)
	}
	if got := p.Perimeters[0].Associations[3].AccessMode; got != Learning {
		t.Errorf("Transition is %v, want Learning", got)
	}
	var tags []string
	for name := range p.ServiceTags {
		tags = append(tags, name)
	}
	slices.Sort(tags)
	if diff := cmp.Diff([]string{"S3.eu-west-1", "Storage.WestEurope", "partners"}, tags); diff != "" {
		t.Errorf("service tags (-want +got):\n%s", diff)
	}
}

func equal[T interface{ Compare(T) int }](a, b T) bool { return a.Compare(b) == 0 }

// A policy as a newcomer would write it, without the parts that are only in the
// reference.
func TestSmallPolicy(t *testing.T) {
	p, err := Parse("policy.yaml", []byte(`
resources:
  - name: orders-db
    subscription: prod
    addresses: [10.20.0.5, "fd20::5"]
    services: [tcp/5432]
    publicNetworkAccess: Enabled        # Enabled (default) | Disabled | SecuredByPerimeter
    firewall:                           # the resource's own rules; they count only in Transition
      - {name: office, direction: Inbound, addressPrefixes: [203.0.113.0/24]}
perimeters:
  - name: payments
    profiles:
      - name: data
        accessRules:
          - {name: partners, direction: Inbound, addressPrefixes: [198.51.100.0/24], ports: [tcp/5432]}
          - {name: prod,     direction: Inbound, subscriptions: [prod]}
          - {name: vault,    direction: Outbound, fullyQualifiedDomainNames: [Vault.example.com.]}
    associations:
      - {name: orders-db, resource: orders-db, profile: data, accessMode: Enforced}
    links:
      - {name: to-analytics, remotePerimeter: analytics, localInboundProfiles: ["*"]}
  - name: analytics
privateEndpoints:
  - {name: wg, interfaces: [wg0]}
`))
	if err != nil {
		t.Fatal(err)
	}
	at := func(line, column int) Position { return Position{"policy.yaml", line, column} }
	prefix := netip.MustParsePrefix
	want := &Policy{
		Resources: []Resource{{
			Name:         "orders-db",
			Subscription: "prod",
			Addresses:    []netip.Prefix{prefix("10.20.0.5/32"), prefix("fd20::5/128")},
			Services:     []Ports{{ProtocolTCP, 5432, 5432}},
			Firewall: []AccessRule{
				{Name: "office", Direction: Inbound, AddressPrefixes: []netip.Prefix{prefix("203.0.113.0/24")}, At: at(9, 9)},
			},
			At: at(3, 5),
		}},
		Perimeters: []Perimeter{{
			Name: "payments",
			Profiles: []Profile{{
				Name: "data",
				AccessRules: []AccessRule{
					{Name: "partners", Direction: Inbound, AddressPrefixes: []netip.Prefix{prefix("198.51.100.0/24")}, Ports: []Ports{{ProtocolTCP, 5432, 5432}}, At: at(15, 13)},
					{Name: "prod", Direction: Inbound, Subscriptions: []string{"prod"}, At: at(16, 13)},
					{Name: "vault", Direction: Outbound, FullyQualifiedDomainNames: []string{"vault.example.com"}, At: at(17, 13)},
				},
				At: at(13, 9),
			}},
			Associations: []Association{{Name: "orders-db", Resource: "orders-db", Profile: "data", AccessMode: Enforced, At: at(19, 9)}},
			Links:        []Link{{Name: "to-analytics", RemotePerimeter: "analytics", LocalInboundProfiles: []string{"*"}, At: at(21, 9)}},
			At:           at(11, 5),
		}, {
			Name: "analytics", At: at(22, 5),
		}},
		PrivateEndpoints: []PrivateEndpoint{{Name: "wg", Interfaces: []string{"wg0"}, At: at(24, 5)}},
		Files:            []string{"policy.yaml"},
	}
	if diff := cmp.Diff(want, p, cmp.Comparer(equal[netip.Prefix])); diff != "" {
		t.Errorf("policy (-want +got):\n%s", diff)
	}
}

// What comes close to being an error and is none.
func TestGoodPolicies(t *testing.T) {
	const data = `
resources:
  - {name: a, addresses: [10.0.0.1], services: [tcp/80]}
  - {name: b, addresses: [10.0.0.1], services: [tcp/81, udp/80]}
`
	cases := []struct{ name, text string }{
		{"nothing", ""},
		{"a comment", "# nothing yet\n"},
		{"an empty document", "---\n"},
		{"an empty mapping", "{}"},
		{"keys without values", "resources:\nperimeters:\nprivateEndpoints:\nserviceTags:\n"},
		{"JSON with tabs", "{\n\t\"resources\": [\n\t\t{\"name\": \"a\", \"addresses\": [\"10.0.0.1\"]}\n\t]\n}"},
		{"byte order mark and CRLF", "\ufeffresources:\r\n  - name: a\r\n    addresses: [10.0.0.1]\r\n"},
		{"names at their limits", `resources: [{name: a, addresses: [10.0.0.1]}, {name: a_, addresses: [10.0.0.2]}, {name: ` + strings.Repeat("a", 80) + `, addresses: [10.0.0.3]}]`},
		{"a name like a date", resource(`name: 2027-01-31, addresses: [10.0.0.1]`)},
		{"a quoted number", resource(`name: "5", addresses: [10.0.0.1]`)},
		{"loopback, everything, more than multicast", `resources: [{name: a, addresses: [127.0.0.1, "::1"]}, {name: b, addresses: [0.0.0.0/0]}, {name: c, addresses: [224.0.0.0/3]}, {name: d, addresses: ["::/0"]}]`},
		{"one name in different scopes", "resources: [{name: a, addresses: [10.0.0.1]}]\nperimeters: [{name: a, profiles: [{name: a}]}, {name: b, profiles: [{name: a}]}]"},
		{"equal prefixes, different services", data},
		{"a mode by its other name", data + "perimeters: [{name: p, profiles: [{name: d}], associations: [{name: a, resource: a, profile: d}, {name: b, resource: b, profile: d, accessMode: Transition}]}]"},
		{"an expired rule", rule(`name: r, direction: Inbound, addressPrefixes: [10.0.0.0/8], expires: "2001-01-01T00:00:00Z"`)},
		{"140 characters", rule(`name: r, direction: Inbound, addressPrefixes: [10.0.0.0/8], description: ` + strings.Repeat("é", 140))},
		{"nested prefixes in a rule", rule(`name: r, direction: Inbound, addressPrefixes: [10.0.0.0/8, 10.0.0.0/16, 0.0.0.0/0, "::/0"]`)},
		{"every protocol", rule(`name: r, direction: Inbound, addressPrefixes: [10.0.0.0/8], ports: [tcp, udp/0, sctp/1-2, dccp/65535, udplite, icmp, igmp, gre, esp, ah, ip/89, ip/255]`)},
		{"overlapping ports", rule(`name: r, direction: Inbound, addressPrefixes: [10.0.0.0/8], ports: [tcp, tcp/80, tcp/1-100]`)},
		{"an underscore in a name", rule(`name: r, direction: Outbound, fullyQualifiedDomainNames: [_a.b-c.xn--bcher-kva.example]`)},
		{"wildcard names", rule(`name: r, direction: Outbound, fullyQualifiedDomainNames: ["*.blob.example.net", "*.Blob.Example.org.", "*.internal", "*.xn--bcher-kva.example"]`)},
		{"a link that nobody answered", "perimeters: [{name: p, links: [{name: l, remotePerimeter: q, localInboundProfiles: []}]}, {name: q}]"},
		{"an answer to no link", "perimeters: [{name: p, linkReferences: [{name: l, remotePerimeter: q, localInboundProfiles: []}]}, {name: q}]"},
		{"links both ways", "perimeters: [{name: p, links: [{name: l, remotePerimeter: q, localInboundProfiles: []}], linkReferences: [{name: l, remotePerimeter: q, localInboundProfiles: []}]}, {name: q}]"},
		{"a tag in two files that no rule names", "serviceTags: [{file: testdata/plain-list.txt, format: plain, name: S3}, {file: testdata/aws-ip-ranges.json, format: aws}]"},
		{"a bad prefix of a tag that no rule names", "serviceTags: [{file: testdata/bad-azure.json, format: azure}]"},
		{"interface patterns", `resources: [{name: a, interfaces: ["eth*", "br-[ab]?", "a-very-long-prefix*"], host: "*"}]`},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if _, err := Parse("policy.yaml", []byte(c.text)); err != nil {
				t.Errorf("%v\nin\n%s", err, c.text)
			}
		})
	}
}

func TestDirectory(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "20-perimeters.json"), `{"perimeters": [{"name": "p", "profiles": [{"name": "d"}], "associations": [{"name": "a", "resource": "a", "profile": "d"}]}]}`)
	write(t, filepath.Join(dir, "10-resources.yaml"), "resources: [{name: a, addresses: [10.0.0.1]}]")
	write(t, filepath.Join(dir, "15-more.yml"), "resources: [{name: b, addresses: [10.0.0.2]}]")
	// None of these are policy files.
	write(t, filepath.Join(dir, ".hidden.yaml"), "no policy")
	write(t, filepath.Join(dir, "README.md"), "no policy")
	write(t, filepath.Join(dir, "old.yaml~"), "no policy")
	write(t, filepath.Join(dir, "sub.yaml", "x.yaml"), "no policy")

	p, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{filepath.Join(dir, "10-resources.yaml"), filepath.Join(dir, "15-more.yml"), filepath.Join(dir, "20-perimeters.json")}
	if diff := cmp.Diff(want, p.Files); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	if len(p.Resources) != 2 || len(p.Perimeters) != 1 {
		t.Errorf("%d resources and %d perimeters, want 2 and 1", len(p.Resources), len(p.Perimeters))
	}

	// The files are one policy: their names must differ.
	write(t, filepath.Join(dir, "30-again.yaml"), "\nresources: [{name: A, addresses: [10.0.0.3]}]")
	_, err = Load(dir)
	wantError := fmt.Sprintf(`%s:2:20: resource "A" differs only in case from "a" (%s:1:20): choose another name`, filepath.Join(dir, "30-again.yaml"), filepath.Join(dir, "10-resources.yaml"))
	if err == nil || err.Error() != wantError {
		t.Errorf("got\n%v\nwant\n%s", err, wantError)
	}
}

// The kubelet mounts a ConfigMap as links into ..data, which it swaps.
func TestConfigMap(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "..2026_01_01", "policy.yaml"), "serviceTags: [{file: list.txt, format: plain, name: l}]\nresources: [{name: a, addresses: [10.0.0.1], firewall: [{name: r, direction: Inbound, serviceTags: [l]}]}]")
	write(t, filepath.Join(dir, "..2026_01_01", "list.txt"), "192.0.2.0/24\n")
	link(t, "..2026_01_01", filepath.Join(dir, "..data"))
	link(t, "..data/policy.yaml", filepath.Join(dir, "policy.yaml"))
	link(t, "..data/list.txt", filepath.Join(dir, "list.txt"))

	p, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(slices.Collect(p.ServiceTags["l"].All())); len(p.ServiceTags) != 1 || got != "[192.0.2.0/24]" {
		t.Errorf("of %d service tags, l is %s", len(p.ServiceTags), got)
	}

	write(t, filepath.Join(dir, "..2026_01_02", "policy.yaml"), "resources: [{name: b, addresses: [10.0.0.1]}]")
	link(t, "..2026_01_02", filepath.Join(dir, "..data_tmp"))
	if err := os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")); err != nil {
		t.Fatal(err)
	}
	if p, err = Load(dir); err != nil || p.Resources[0].Name != "b" {
		t.Errorf("after the swap: %+v, %v", p, err)
	}

	// A link that leads nowhere is a policy file that cannot be read, not one
	// that is not there.
	link(t, "..data/gone.yaml", filepath.Join(dir, "gone.yaml"))
	_, err = Load(dir)
	want := filepath.Join(dir, "gone.yaml") + ": the policy file cannot be read: no such file or directory: repair or remove it, or split it if it is too large"
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}

// A swap while files are read must not give a mixture of two versions.
func TestConfigMapSwappedWhileRead(t *testing.T) {
	dir := t.TempDir()
	for _, version := range []string{"1", "2"} {
		for _, file := range []string{"a", "b"} {
			write(t, filepath.Join(dir, "..v"+version, file+".yaml"), fmt.Sprintf("resources: [{name: %s%s, addresses: [10.0.0.%d]}]", file, version, file[0]))
		}
	}
	link(t, "..v1", filepath.Join(dir, "..data"))
	link(t, "..data/a.yaml", filepath.Join(dir, "a.yaml"))
	link(t, "..data/b.yaml", filepath.Join(dir, "b.yaml"))
	swapped := false
	p, err := new(Loader).loadWith(dir, func(path string, limit int64) ([]byte, error) {
		if filepath.Base(path) == "b.yaml" && !swapped {
			swapped = true
			link(t, "..v2", filepath.Join(dir, "..data_tmp"))
			if err := os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")); err != nil {
				t.Fatal(err)
			}
		}
		return readFile(path, limit)
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := p.Resources[0].Name + " " + p.Resources[1].Name; got != "a2 b2" {
		t.Errorf("read %s, want a2 b2", got)
	}
}

func TestConfigMapThatNeverRests(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "..v", "a.yaml"), "resources: []")
	link(t, "..v", filepath.Join(dir, "..data"))
	link(t, "..data/a.yaml", filepath.Join(dir, "a.yaml"))
	swaps := 0
	_, err := new(Loader).loadWith(dir, func(path string, limit int64) ([]byte, error) {
		swaps++
		version := fmt.Sprintf("..v%d", swaps)
		link(t, "..v", filepath.Join(dir, version))
		link(t, version, filepath.Join(dir, "..data_tmp"))
		if err := os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
		return readFile(path, limit)
	})
	if want := dir + ": the ConfigMap was replaced 10 times while it was read"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestLoadErrors(t *testing.T) {
	dir := t.TempDir()
	if _, err := Load(filepath.Join(dir, "nothing")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no such path: %v", err)
	}
	p, err := Load(dir)
	if err != nil || len(p.Files) != 0 || len(p.Resources) != 0 {
		t.Errorf("an empty directory is %+v, %v; want the empty policy", p, err)
	}
	large := filepath.Join(dir, "large.yaml")
	write(t, large, "#")
	if err := os.Truncate(large, maxPolicyFile+1); err != nil {
		t.Fatal(err)
	}
	_, err = Load(large)
	want := large + ": the policy file is larger than 64 MiB: repair or remove it, or split it if it is too large"
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func link(t *testing.T, target, path string) {
	t.Helper()
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
}
