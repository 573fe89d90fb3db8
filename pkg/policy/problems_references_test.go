package policy

import (
	"testing"
)

func TestProblemsWithAssociations(t *testing.T) {
	testProblems(t, []problemCase{
		{"missing fields", perimeter(`name: p, associations: [{}]`), []string{
			`P:2:26: an association has no "name": add it`,
			`P:2:26: an association has no "resource": add it`,
			`P:2:26: an association has no "profile": add it`,
		}},
		{"unknown resource and profile", `
resources: [{name: orders, addresses: [10.0.0.1]}]
perimeters:
  - name: p
    profiles: [{name: data}]
    associations:
      - {name: a, resource: order, profile: dta}
      - {name: b, resource: Orders, profile: nothing-alike}
`, []string{
			`P:6:29: no resource is named "order": write "orders"`,
			`P:6:45: no profile of this perimeter is named "dta": write "data"`,
			`P:7:29: no resource is named "Orders": write "orders"`,
			`P:7:46: no profile of this perimeter is named "nothing-alike": define it, or write "data"`,
		}},
		{"none to associate", perimeter(`name: p, associations: [{name: a, resource: a, profile: b}]`), []string{
			`P:2:46: no resource is named "a": define it; there is no other`,
			`P:2:58: no profile of this perimeter is named "b": define it; there is no other`,
		}},
		{"two perimeters", `
resources: [{name: a, addresses: [10.0.0.1]}]
perimeters:
  - {name: p, profiles: [{name: d}], associations: [{name: a, resource: a, profile: d}]}
  - {name: q, profiles: [{name: d}], associations: [{name: a, resource: a, profile: d}]}
`, []string{
			`P:4:73: resource "a" is already associated (P:3:73): keep one association; a resource is in at most one perimeter, with one profile`,
		}},
		{"access mode", `
resources: [{name: a, addresses: [10.0.0.1]}]
perimeters:
  - {name: p, profiles: [{name: d}], associations: [{name: a, resource: a, profile: d, accessMode: enforce}]}
`, []string{
			`P:3:100: "enforce" is no accessMode: write "Enforced"`,
		}},
	})
}

func TestProblemsWithLinks(t *testing.T) {
	testProblems(t, []problemCase{
		{"missing fields", perimeter(`name: p, links: [{}], linkReferences: [{}]`), []string{
			`P:2:19: a link has no "name": add it`,
			`P:2:19: a link has no "remotePerimeter": add it`,
			`P:2:19: a link has no "localInboundProfiles": add it`,
			`P:2:41: a link reference has no "name": add it`,
			`P:2:41: a link reference has no "remotePerimeter": add it`,
			`P:2:41: a link reference has no "localInboundProfiles": add it`,
		}},
		{"itself", perimeter(`name: p, links: [{name: l, remotePerimeter: p, localInboundProfiles: []}]`), []string{
			`P:2:46: perimeter "p" is linked to itself: name another perimeter; members of one perimeter need no link`,
		}},
		{"unknown perimeter", perimeter(`name: p, links: [{name: l, remotePerimeter: q, localInboundProfiles: []}], linkReferences: [{name: l, remotePerimeter: zzz, localInboundProfiles: []}]`), []string{
			`P:2:46: no perimeter is named "q": define it; there is no other`,
			`P:2:121: no perimeter is named "zzz": define it; there is no other`,
		}},
		{"unknown profile", `
perimeters:
  - name: q
  - name: p
    profiles: [{name: data}]
    links: [{name: l, remotePerimeter: q, localInboundProfiles: [date]}]
`, []string{
			`P:5:66: no profile of this perimeter is named "date": write "data"`,
		}},
		{"all and some", `
perimeters:
  - name: q
  - name: p
    profiles: [{name: data}]
    links: [{name: l, remotePerimeter: q, localInboundProfiles: [data, "*"]}]
`, []string{
			`P:5:72: "*" stands for every profile: write ["*"] alone, or only names`,
		}},
		{"two links to one perimeter", `
perimeters:
  - name: q
  - name: p
    links:
      - {name: l, remotePerimeter: q, localInboundProfiles: []}
      - {name: m, remotePerimeter: q, localInboundProfiles: []}
    linkReferences:
      - {name: l, remotePerimeter: q, localInboundProfiles: []}
      - {name: m, remotePerimeter: q, localInboundProfiles: []}
`, []string{
			`P:6:36: perimeter "q" is named as remotePerimeter twice (first in line 5): keep one`,
			`P:9:36: perimeter "q" is named as remotePerimeter twice (first in line 8): keep one`,
		}},
		{"status", `
perimeters:
  - name: q
  - name: p
    linkReferences: [{name: l, remotePerimeter: q, localInboundProfiles: [], status: Aproved}]
`, []string{
			`P:4:86: "Aproved" is no status: write "Approved"`,
		}},
	})
}

func TestProblemsWithServiceTags(t *testing.T) {
	testProblems(t, []problemCase{
		{"missing fields", `serviceTags: [{}]`, []string{
			`P:1:15: a service tag file has no "file": add it`,
			`P:1:15: a service tag file has no "format": add it`,
		}},
		{"empty path", `serviceTags: [{file: "", format: azure}]`, []string{
			`P:1:22: the path of the file is empty: write a path, relative to this file or absolute`,
		}},
		{"plain without a name", `serviceTags: [{file: plain-list.txt, format: plain}]`, []string{
			`P:1:15: a plain service tag file has no name: add the name of the tag`,
		}},
		{"name for the others", `serviceTags: [{file: azure-service-tags.json, format: azure, name: a}]`, []string{
			`P:1:62: name cannot be given to a service tag file in format azure, which names its tags itself: remove it`,
		}},
		{"format", `serviceTags: [{file: a, format: csv}]`, []string{
			`P:1:33: "csv" is no format: write azure, aws or plain`,
		}},
		{"no such file", `serviceTags: [{file: nothing.txt, format: plain, name: a}]`, []string{
			`P:1:22: service tag file "testdata/nothing.txt" cannot be read: no such file or directory: repair the file, or correct this entry`,
		}},
		{"a directory", `serviceTags: [{file: ., format: plain, name: a}]`, []string{
			`P:1:22: service tag file "testdata" is not a regular file: repair the file, or correct this entry`,
		}},
		{"file twice", `
serviceTags:
  - {file: plain-list.txt, format: plain, name: a}
  - {file: ./plain-list.txt, format: plain, name: b}
`, []string{
			`P:3:5: service tag file "testdata/plain-list.txt" is already named (P:2:12): keep one`,
		}},
		{"wrong format", `
serviceTags:
  - {file: plain-list.txt, format: azure}
  - {file: azure-service-tags.json, format: aws}
`, []string{
			`testdata/azure-service-tags.json:1871:2: not a service tag file in format aws: there is no "prefixes" or "ipv6_prefixes": repair the file, or correct its entry (P:3:12)`,
			`testdata/plain-list.txt:1:1: not a service tag file in format azure: invalid character '#' looking for beginning of value: repair the file, or correct its entry (P:2:12)`,
		}},
		{"unknown tag", `
serviceTags:
  - {file: azure-service-tags.json, format: azure}
resources:
  - name: a
    addresses: [10.0.0.1]
    firewall:
      - {name: r, direction: Inbound, serviceTags: [Storage.WestEuorpe]}
      - {name: s, direction: Inbound, serviceTags: [storage.westeurope]}
      - {name: t, direction: Inbound, serviceTags: [SomethingElse]}
`, []string{
			`P:7:53: no service tag is named "Storage.WestEuorpe": write "Storage.WestEurope"`,
			`P:8:53: no service tag is named "storage.westeurope": write "Storage.WestEurope"`,
			`P:9:53: no service tag is named "SomethingElse": write one of the 8 names in the files of serviceTags`,
		}},
		{"no tags at all", firewall(`name: r, direction: Inbound, serviceTags: [Storage]`), []string{
			`P:2:45: no service tag is named "Storage": add the file that holds it to serviceTags`,
		}},
		{"tag in two files", `
serviceTags:
  - {file: plain-list.txt, format: plain, name: S3}
  - {file: aws-ip-ranges.json, format: aws}
resources:
  - name: a
    addresses: [10.0.0.1]
    firewall:
      - {name: r, direction: Inbound, serviceTags: [S3]}
      - {name: s, direction: Inbound, serviceTags: [EC2]}
`, []string{
			`P:8:53: service tag "S3" is in two files, "testdata/plain-list.txt" and "testdata/aws-ip-ranges.json": remove one of the files from serviceTags, or the tag from a file`,
		}},
		{"bad lines", `serviceTags: [{file: bad-list.txt, format: plain, name: a}]`, []string{
			`testdata/bad-list.txt:3:3: "10.0.0.1/8" has host bits set: write "10.0.0.0/8", or "10.0.0.1" for the one address`,
			`testdata/bad-list.txt:4:1: "10.0.0.1-10.0.0.9" is neither an address nor a prefix: write one such as "192.0.2.7", "192.0.2.0/24" or "2001:db8::/32"`,
			`testdata/bad-list.txt:6:1: "::ffff:192.0.2.1" is an IPv4-mapped IPv6 address, which no packet carries: write "192.0.2.1"`,
		}},
		{"bad prefix of a used tag", `
serviceTags: [{file: bad-azure.json, format: azure}]
resources:
  - name: a
    addresses: [10.0.0.1]
    firewall:
      - {name: r, direction: Inbound, serviceTags: [Good, Bad]}
`, []string{
			`testdata/bad-azure.json:6:5: "10.0.0.1/8" has host bits set: write "10.0.0.0/8", or "10.0.0.1" for the one address`,
		}},
		{"bad prefix in AWS", `
serviceTags: [{file: bad-aws.json, format: aws}]
resources:
  - name: a
    addresses: [10.0.0.1]
    firewall:
      - {name: r, direction: Inbound, serviceTags: [EC2.eu-west-1]}
`, []string{
			`testdata/bad-aws.json:5:19: "fd00::1/16" has host bits set: write "fd00::/16", or "fd00::1" for the one address`,
		}},
		{"syntax error", `serviceTags: [{file: broken.json, format: azure}]`, []string{
			`testdata/broken.json:3:67: not a service tag file in format azure: invalid character '}' after array element: repair the file, or correct its entry (P:1:22)`,
		}},
	})
}

func TestProblemsWithAttribution(t *testing.T) {
	testProblems(t, []problemCase{
		{"both without services", `
resources:
  - {name: a, addresses: [10.0.0.1]}
  - {name: b, addresses: [10.0.0.1]}
`, []string{
			`P:3:5: inbound traffic to 10.0.0.1 cannot be attributed: resources "a" (P:2:5) and "b" both have it in 10.0.0.1/32 and no services: give at least one of them services, or different addresses`,
		}},
		{"same service", `
resources:
  - {name: b, addresses: [10.0.0.1], services: [tcp/80-90]}
  - {name: a, addresses: [10.0.0.1], services: [udp/85, tcp/85-99]}
`, []string{
			`P:3:5: inbound traffic to 10.0.0.1 cannot be attributed: resources "b" (P:2:5) and "a" both have it in 10.0.0.1/32 and the service tcp/85-90: give them different services, or different addresses`,
		}},
		{"different perimeters", `
resources:
  - {name: a, addresses: [10.0.0.1], services: [tcp/80]}
  - {name: b, addresses: [10.0.0.0/24]}
perimeters:
  - {name: p, profiles: [{name: d}], associations: [{name: a, resource: a, profile: d}]}
  - {name: q, profiles: [{name: d}], associations: [{name: b, resource: b, profile: d}]}
`, []string{
			`P:3:5: outbound traffic of 10.0.0.1 cannot be attributed: resources "a" (P:2:5) and "b" both have it and differ in perimeter (p, q): make it the same for both, or give them different addresses`,
		}},
		{"one is not a member", `
resources:
  - {name: a, addresses: [10.0.0.1], services: [tcp/80]}
  - {name: b, addresses: [10.0.0.0/24]}
perimeters:
  - {name: p, profiles: [{name: d}], associations: [{name: a, resource: a, profile: d}]}
`, []string{
			`P:3:5: outbound traffic of 10.0.0.1 cannot be attributed: resources "a" (P:2:5) and "b" both have it and differ in association (only one is a member of a perimeter): make it the same for both, or give them different addresses`,
		}},
		{"different profiles", `
resources:
  - {name: a, addresses: [10.0.0.1], services: [tcp/80]}
  - {name: b, addresses: [10.0.0.1], services: [tcp/81]}
perimeters:
  - {name: p, profiles: [{name: d}, {name: e}], associations: [{name: a, resource: a, profile: d}, {name: b, resource: b, profile: e}]}
`, []string{
			`P:3:5: outbound traffic of 10.0.0.1 cannot be attributed: resources "a" (P:2:5) and "b" both have it and differ in profile (d, e): make it the same for both, or give them different addresses`,
		}},
		{"different modes", `
resources:
  - {name: a, addresses: [10.0.0.1], services: [tcp/80]}
  - {name: b, addresses: [10.0.0.1], services: [tcp/81]}
perimeters:
  - {name: p, profiles: [{name: d}], associations: [{name: a, resource: a, profile: d}, {name: b, resource: b, profile: d, accessMode: Audit}]}
`, []string{
			`P:3:5: outbound traffic of 10.0.0.1 cannot be attributed: resources "a" (P:2:5) and "b" both have it and differ in accessMode (Learning, Audit): make it the same for both, or give them different addresses`,
		}},
		{"different publicNetworkAccess", `
resources:
  - {name: a, addresses: [10.0.0.1], services: [tcp/80]}
  - {name: b, addresses: [10.0.0.1], services: [tcp/81], publicNetworkAccess: Disabled}
`, []string{
			`P:3:5: outbound traffic of 10.0.0.1 cannot be attributed: resources "a" (P:2:5) and "b" both have it and differ in publicNetworkAccess (Enabled, Disabled): make it the same for both, or give them different addresses`,
		}},
		{"different outbound firewall", `
resources:
  - {name: a, addresses: [10.0.0.1], services: [tcp/80], firewall: [{name: r, direction: Outbound, addressPrefixes: [10.0.0.0/8]}]}
  - {name: b, addresses: [10.0.0.1], services: [tcp/81], firewall: [{name: r, direction: Outbound, addressPrefixes: [10.0.0.0/9]}]}
`, []string{
			`P:3:5: outbound traffic of 10.0.0.1 cannot be attributed: resources "a" (P:2:5) and "b" both have it and differ in outbound firewall rules: make it the same for both, or give them different addresses`,
		}},
	})
}
