package policy

import (
	"strings"
	"testing"
)

func TestProblemsWithAddresses(t *testing.T) {
	testProblems(t, []problemCase{
		{"not an address", resource(`name: a, addresses: [db.example.com]`), []string{
			`P:2:23: "db.example.com" is neither an address nor a prefix: write one such as "192.0.2.7", "192.0.2.0/24" or "2001:db8::/32"`,
		}},
		{"blanks", resource(`name: a, addresses: [" 10.0.0.1"]`), []string{
			`P:2:23: " 10.0.0.1" has blanks around it: write "10.0.0.1"`,
		}},
		{"leading zero", resource(`name: a, addresses: [10.0.0.01]`), []string{
			`P:2:23: "10.0.0.01" is neither an address nor a prefix: write one such as "192.0.2.7", "192.0.2.0/24" or "2001:db8::/32"`,
		}},
		{"host bits", resource(`name: a, addresses: [10.0.0.1/24]`), []string{
			`P:2:23: "10.0.0.1/24" has host bits set: write "10.0.0.0/24", or "10.0.0.1" for the one address`,
		}},
		{"host bits, v6", resource(`name: a, addresses: ["fd00::1/64"]`), []string{
			`P:2:23: "fd00::1/64" has host bits set: write "fd00::/64", or "fd00::1" for the one address`,
		}},
		{"mapped", resource(`name: a, addresses: ["::ffff:10.0.0.1"]`), []string{
			`P:2:23: "::ffff:10.0.0.1" is an IPv4-mapped IPv6 address, which no packet carries: write "10.0.0.1"`,
		}},
		{"mapped prefix", resource(`name: a, addresses: ["::ffff:10.0.0.0/104"]`), []string{
			`P:2:23: "::ffff:10.0.0.0/104" is an IPv4-mapped IPv6 address, which no packet carries: write "10.0.0.0/8"`,
		}},
		{"zone", resource(`name: a, addresses: ["fe80::1%eth0"]`), []string{
			`P:2:23: "fe80::1%eth0" has a zone, which a packet does not carry: write "fe80::1"`,
		}},
		{"zone with length", resource(`name: a, addresses: ["fe80::1%eth0/128"]`), []string{
			`P:2:23: "fe80::1%eth0/128" has a zone, which a packet does not carry: write "fe80::1/128"`,
		}},
		{"multicast", resource(`name: a, addresses: [224.0.0.1, "ff02::/16"]`), []string{
			`P:2:23: "224.0.0.1" is multicast, which no resource can have as its address: write the addresses of the resource itself; multicast to them is judged for them`,
			`P:2:34: "ff02::/16" is multicast, which no resource can have as its address: write the addresses of the resource itself; multicast to them is judged for them`,
		}},
		{"unspecified", resource(`name: a, addresses: [0.0.0.0, "::"]`), []string{
			`P:2:23: "0.0.0.0" is the unspecified address, which no resource can have: write the addresses the resource is reached at, or interfaces`,
			`P:2:32: "::" is the unspecified address, which no resource can have: write the addresses the resource is reached at, or interfaces`,
		}},
		{"broadcast", resource(`name: a, addresses: [255.255.255.255]`), []string{
			`P:2:23: "255.255.255.255" is the broadcast address, which no resource can have: write the addresses of the resource itself; broadcast to them is judged for them`,
		}},
		{"twice", resource(`name: a, addresses: [10.0.0.1, 10.0.0.1/32]`), []string{
			`P:2:33: "10.0.0.1/32" stands twice in addresses (first in line 2): keep one`,
		}},
		{"number", resource(`name: a, addresses: [10]`), []string{
			`P:2:23: "10" is neither an address nor a prefix: write one such as "192.0.2.7", "192.0.2.0/24" or "2001:db8::/32"`,
		}},
		{"empty", resource(`name: a, addresses: []`), []string{
			`P:2:22: addresses is empty: list the addresses of the resource`,
		}},
	})
}

func TestProblemsWithResources(t *testing.T) {
	testProblems(t, []problemCase{
		{"nowhere", resource(`name: a`), []string{
			`P:2:1: a resource has neither addresses nor interfaces: add one of them`,
		}},
		{"addresses and interfaces", resource(`name: a, interfaces: [eth0], addresses: [10.0.0.1]`), []string{
			`P:2:31: a resource has both addresses and interfaces: keep one, or write two resources`,
		}},
		{"host without interfaces", resource(`name: a, addresses: [10.0.0.1], host: db1`), []string{
			`P:2:34: host has a meaning only with interfaces: remove it; addresses are the same on every host`,
		}},
		{"host pattern", resource(`name: a, interfaces: [eth0], host: "db[1"`), []string{
			`P:2:37: "db[1" is not a valid pattern: write a name, in which "*" stands for any text, "?" for one character and "[ab]" for a choice`,
		}},
		{"interface name", resource(`name: a, interfaces: [eth0/1, "eth[", averyveryverylongname, ""]`), []string{
			`P:2:24: "eth0/1" cannot be the name of an interface: write a name or a pattern, such as "eth0" or "wg*"`,
			`P:2:32: "eth[" is not a valid pattern: write a name, in which "*" stands for any text, "?" for one character and "[ab]" for a choice`,
			`P:2:40: "averyveryverylongname" is longer than any interface name: write at most 15 characters`,
			`P:2:63: "" cannot be the name of an interface: write a name or a pattern, such as "eth0" or "wg*"`,
		}},
		{"publicNetworkAccess", resource(`name: a, addresses: [10.0.0.1], publicNetworkAccess: enabled`), []string{
			`P:2:55: "enabled" is no publicNetworkAccess: write "Enabled"`,
		}},
		{"publicNetworkAccess, none near", resource(`name: a, addresses: [10.0.0.1], publicNetworkAccess: on-tuesdays`), []string{
			`P:2:55: "on-tuesdays" is no publicNetworkAccess: write Enabled, Disabled or SecuredByPerimeter`,
		}},
		{"empty services", resource(`name: a, addresses: [10.0.0.1], services: []`), []string{
			`P:2:44: services is empty: list the services, or remove the key to protect all ports`,
		}},
		{"empty firewall", resource(`name: a, addresses: [10.0.0.1], firewall: `), []string{
			`P:2:44: firewall is empty: list the resource's own rules, or remove the key if it has none`,
		}},
		{"subscription in two spellings", `
resources:
  - {name: a, addresses: [10.0.0.1], subscription: prod}
  - {name: b, addresses: [10.0.0.2], subscription: Prod}
`, []string{
			`P:3:52: subscription "Prod" is spelled "prod" elsewhere (P:2:52): write "prod"`,
		}},
	})
}

func TestProblemsWithPorts(t *testing.T) {
	testProblems(t, []problemCase{
		{"unknown protocol", rule(`name: r, direction: Inbound, addressPrefixes: [10.0.0.0/8], ports: [quic/443]`), []string{
			`P:2:70: "quic/443" names no known protocol: write tcp, udp, icmp, sctp, dccp, udplite, igmp, gre, esp, ah or ip/NUMBER`,
		}},
		{"upper case", rule(`name: r, direction: Inbound, addressPrefixes: [10.0.0.0/8], ports: [TCP/443]`), []string{
			`P:2:70: "TCP/443" names no known protocol: write "tcp/443"`,
		}},
		{"icmpv6", rule(`name: r, direction: Inbound, addressPrefixes: [10.0.0.0/8], ports: [icmpv6]`), []string{
			`P:2:70: "icmpv6" names no known protocol: write "icmp"`,
		}},
		{"port first", rule(`name: r, direction: Inbound, addressPrefixes: [10.0.0.0/8], ports: [443/tcp]`), []string{
			`P:2:70: "443/tcp" has the port before the protocol: write "tcp/443"`,
		}},
		{"no protocol", rule(`name: r, direction: Inbound, addressPrefixes: [10.0.0.0/8], ports: ["443"]`), []string{
			`P:2:70: "443" has no protocol: write "tcp/443" or "udp/443"`,
		}},
		{"number", rule(`name: r, direction: Inbound, addressPrefixes: [10.0.0.0/8], ports: [443]`), []string{
			`P:2:70: "443" has no protocol: write "tcp/443" or "udp/443"`,
		}},
		{"port of icmp", rule(`name: r, direction: Inbound, addressPrefixes: [10.0.0.0/8], ports: [icmp/8]`), []string{
			`P:2:70: "icmp/8" gives a port to icmp, which has none: write "icmp"`,
		}},
		{"port too large", rule(`name: r, direction: Inbound, addressPrefixes: [10.0.0.0/8], ports: [tcp/65536]`), []string{
			`P:2:70: "tcp/65536" has no valid port: write a port or a range from 0 to 65535, such as "tcp/443" or "tcp/1000-2000", one in each element`,
		}},
		{"two ports", rule(`name: r, direction: Inbound, addressPrefixes: [10.0.0.0/8], ports: ["tcp/80,443"]`), []string{
			`P:2:70: "tcp/80,443" has no valid port: write a port or a range from 0 to 65535, such as "tcp/443" or "tcp/1000-2000", one in each element`,
		}},
		{"leading zero", rule(`name: r, direction: Inbound, addressPrefixes: [10.0.0.0/8], ports: [tcp/080]`), []string{
			`P:2:70: "tcp/080" has no valid port: write a port or a range from 0 to 65535, such as "tcp/443" or "tcp/1000-2000", one in each element`,
		}},
		{"open range", rule(`name: r, direction: Inbound, addressPrefixes: [10.0.0.0/8], ports: [tcp/80-]`), []string{
			`P:2:70: "tcp/80-" has no valid port: write a port or a range from 0 to 65535, such as "tcp/443" or "tcp/1000-2000", one in each element`,
		}},
		{"backward range", rule(`name: r, direction: Inbound, addressPrefixes: [10.0.0.0/8], ports: [tcp/90-80]`), []string{
			`P:2:70: "tcp/90-80" ends before it begins: write "tcp/80-90"`,
		}},
		{"protocol number with a name", rule(`name: r, direction: Inbound, addressPrefixes: [10.0.0.0/8], ports: [ip/6, ip/58]`), []string{
			`P:2:70: "ip/6" has a name: write "tcp"`,
			`P:2:76: "ip/58" has a name: write "icmp"`,
		}},
		{"protocol number too large", rule(`name: r, direction: Inbound, addressPrefixes: [10.0.0.0/8], ports: [ip/256]`), []string{
			`P:2:70: "ip/256" has no valid protocol number: write one from 1 to 255, such as "ip/89"`,
		}},
		{"extension header", rule(`name: r, direction: Inbound, addressPrefixes: [10.0.0.0/8], ports: [ip/44]`), []string{
			`P:2:70: "ip/44" is an IPv6 extension header, not a protocol: write the protocol that follows it`,
		}},
		{"twice", rule(`name: r, direction: Inbound, addressPrefixes: [10.0.0.0/8], ports: [tcp, tcp/0-65535]`), []string{
			`P:2:75: "tcp/0-65535" stands twice in ports (first in line 2): keep one`,
		}},
		{"empty", rule(`name: r, direction: Inbound, addressPrefixes: [10.0.0.0/8], ports: []`), []string{
			`P:2:69: ports is empty: list the ports, or remove the key to allow every protocol and port`,
		}},
	})
}

func TestProblemsWithRules(t *testing.T) {
	testProblems(t, []problemCase{
		{"no direction", rule(`name: r, addressPrefixes: [10.0.0.0/8]`), []string{
			`P:2:1: an access rule has no "direction": add it`,
		}},
		{"bad direction", rule(`name: r, direction: in, addressPrefixes: [10.0.0.0/8]`), []string{
			`P:2:22: "in" is no direction: write Inbound or Outbound`,
		}},
		{"no selector", rule(`name: r, direction: Inbound`), []string{
			`P:2:1: an access rule selects no peer: add addressPrefixes, subscriptions, fullyQualifiedDomainNames or serviceTags`,
		}},
		{"empty selector", rule(`name: r, direction: Inbound, addressPrefixes: []`), []string{
			`P:2:48: addressPrefixes is empty: list at least one`,
		}},
		{"two selectors", rule(`name: r, direction: Inbound, addressPrefixes: [10.0.0.0/8], serviceTags: []`), []string{
			`P:2:62: an access rule has two kinds of selector, addressPrefixes and serviceTags: write a rule for each`,
			`P:2:75: serviceTags is empty: list at least one`,
		}},
		{"names inbound", rule(`name: r, direction: Inbound, fullyQualifiedDomainNames: [a.example.com]`), []string{
			`P:2:31: an inbound rule cannot name fullyQualifiedDomainNames, since a packet does not tell the name of its sender: write addressPrefixes, serviceTags or subscriptions`,
		}},
		{"subscriptions outbound", rule(`name: r, direction: Outbound, subscriptions: [prod]`), []string{
			`P:2:32: an outbound rule cannot name subscriptions: write addressPrefixes, fullyQualifiedDomainNames or serviceTags`,
			`P:2:48: no subscription is named "prod": define it; there is no other`,
		}},
		{"subscriptions in a firewall", firewall(`name: r, direction: Inbound, subscriptions: [prod]`), []string{
			`P:2:31: a firewall rule cannot name subscriptions: write addressPrefixes, or an access rule in a profile`,
		}},
		{"subscriptions are no list", rule(`name: r, direction: Inbound, subscriptions: prod`), []string{
			`P:2:46: subscriptions is text: write it as a list, [A, B] or a "- " line for each element`,
		}},
		{"direction is no text", rule(`name: r, direction: [Inbound], addressPrefixes: [10.0.0.0/8]`), []string{
			`P:2:22: direction must be text, not a list: write text, without brackets and dashes`,
		}},
		{"service tag name", firewall(`name: r, direction: Inbound, serviceTags: [a b, ""]`), []string{
			`P:2:45: "a b" is not the name of a service tag: write one such as "Storage.WestEurope" or "S3.eu-west-1"`,
			`P:2:50: "" is not the name of a service tag: write one such as "Storage.WestEurope" or "S3.eu-west-1"`,
		}},
		{"service tags are no list", firewall(`name: r, direction: Inbound, serviceTags: S3`), []string{
			`P:2:44: serviceTags is text: write it as a list, [A, B] or a "- " line for each element`,
		}},
		{"unknown subscription", `
resources: [{name: a, addresses: [10.0.0.1], subscription: prod}]
perimeters:
  - name: p
    profiles:
      - name: d
        accessRules:
          - {name: r, direction: Inbound, subscriptions: [prd]}
          - {name: s, direction: Inbound, subscriptions: [test-systems]}
          - {name: t, direction: Inbound, subscriptions: [Prod]}
`, []string{
			`P:7:59: no subscription is named "prd": write "prod"`,
			`P:8:59: no subscription is named "test-systems": define it, or write "prod"`,
			`P:9:59: no subscription is named "Prod": write "prod"`,
		}},
		{"subscription of nobody", rule(`name: r, direction: Inbound, subscriptions: [prod]`), []string{
			`P:2:47: no subscription is named "prod": define it; there is no other`,
		}},
		{"expires", rule(`name: r, direction: Inbound, addressPrefixes: [10.0.0.0/8], expires: 2027-01-31`), []string{
			`P:2:71: "2027-01-31" is not a time: write one in RFC 3339, such as "2027-01-31T18:00:00Z" or "2027-01-31T18:00:00+01:00"`,
		}},
		{"expires before time", rule(`name: r, direction: Inbound, addressPrefixes: [10.0.0.0/8], expires: 0001-01-01T00:00:00Z`), []string{
			`P:2:71: "0001-01-01T00:00:00Z" is before 1970: write when the rule ends, or remove the key if it does not`,
		}},
		{"description too long", rule("name: r, direction: Inbound, addressPrefixes: [10.0.0.0/8], description: " + strings.Repeat("é", 141)), []string{
			`P:2:75: the text has 141 characters: write at most 140`,
		}},
		{"description on two lines", rule(`name: r, direction: Inbound, addressPrefixes: [10.0.0.0/8], description: "a\nb"`), []string{
			`P:2:75: the text holds the control character '\n': write plain text on one line`,
		}},
	})
}

func TestProblemsWithDomainNames(t *testing.T) {
	testProblems(t, []problemCase{
		{"every name", rule(`name: r, direction: Outbound, fullyQualifiedDomainNames: ["*", "*."]`), []string{
			`P:2:60: "*" stands for every name there is: write names, or wildcards such as "*.example.com"; to allow all addresses, write addressPrefixes`,
			`P:2:65: "*." stands for every name there is: write names, or wildcards such as "*.example.com"; to allow all addresses, write addressPrefixes`,
		}},
		{"wildcards elsewhere", rule(`name: r, direction: Outbound, fullyQualifiedDomainNames: [a.*.example.net, "*a.example.net", "*.*.example.net", "**.example.net", example.*]`), []string{
			`P:2:60: "a.*.example.net" has a "*" that is not a label of its own in front: write "*." in front of the names it stands for, such as "*.blob.example.net", or write each name exactly`,
			`P:2:77: "*a.example.net" has a "*" that is not a label of its own in front: write "*." in front of the names it stands for, such as "*.blob.example.net", or write each name exactly`,
			`P:2:95: "*.*.example.net" has a "*" that is not a label of its own in front: write "*." in front of the names it stands for, such as "*.blob.example.net", or write each name exactly`,
			`P:2:114: "**.example.net" has a "*" that is not a label of its own in front: write "*." in front of the names it stands for, such as "*.blob.example.net", or write each name exactly`,
			`P:2:132: "example.*" has a "*" that is not a label of its own in front: write "*." in front of the names it stands for, such as "*.blob.example.net", or write each name exactly`,
		}},
		{"wildcard with a U-label", rule(`name: r, direction: Outbound, fullyQualifiedDomainNames: ["*.bücher.example"]`), []string{
			`P:2:60: "*.bücher.example" holds characters that are not sent in DNS: write the name in its ASCII form, with labels that begin with "xn--"`,
		}},
		{"wildcard twice", rule(`name: r, direction: Outbound, fullyQualifiedDomainNames: ["*.a.example", "*.A.example."]`), []string{
			`P:2:75: "*.A.example." stands twice in fullyQualifiedDomainNames (first in line 2): keep one`,
		}},
		{"wildcard of an address", rule(`name: r, direction: Outbound, fullyQualifiedDomainNames: ["*.0.0.1"]`), []string{
			`P:2:60: "*.0.0.1" ends in a label of digits only, which no domain name does: write a name, or an address in addressPrefixes`,
		}},
		{"address", rule(`name: r, direction: Outbound, fullyQualifiedDomainNames: [10.0.0.1]`), []string{
			`P:2:60: "10.0.0.1" is an address, not a name: write it in addressPrefixes`,
		}},
		{"digits last", rule(`name: r, direction: Outbound, fullyQualifiedDomainNames: [10.0.0.0.1]`), []string{
			`P:2:60: "10.0.0.0.1" ends in a label of digits only, which no domain name does: write a name, or an address in addressPrefixes`,
		}},
		{"U-label", rule(`name: r, direction: Outbound, fullyQualifiedDomainNames: [bücher.example]`), []string{
			`P:2:60: "bücher.example" holds characters that are not sent in DNS: write the name in its ASCII form, with labels that begin with "xn--"`,
		}},
		{"one label", rule(`name: r, direction: Outbound, fullyQualifiedDomainNames: [vault]`), []string{
			`P:2:60: "vault" is not fully qualified: write the whole name, such as "vault.example.com"`,
		}},
		{"URL", rule(`name: r, direction: Outbound, fullyQualifiedDomainNames: ["https://vault.example.com/"]`), []string{
			`P:2:60: "https://vault.example.com/" is not a domain name: write labels of 1 to 63 letters, digits, "-" and "_" with dots between them, such as "vault.example.com"; no scheme, port or path`,
		}},
		{"label too long", rule("name: r, direction: Outbound, fullyQualifiedDomainNames: [" + strings.Repeat("a", 64) + ".example]"), []string{
			`P:2:60: "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.example" is not a domain name: write labels of 1 to 63 letters, digits, "-" and "_" with dots between them, such as "vault.example.com"; no scheme, port or path`,
		}},
		{"too long", rule("name: r, direction: Outbound, fullyQualifiedDomainNames: [" + strings.Repeat("a.", 130) + "example]"), []string{
			`P:2:60: name "a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.…" has 267 characters: write at most 253`,
		}},
		{"hyphen first", rule(`name: r, direction: Outbound, fullyQualifiedDomainNames: [-a.example, a-.example, a..example]`), []string{
			`P:2:60: "-a.example" is not a domain name: write labels of 1 to 63 letters, digits, "-" and "_" with dots between them, such as "vault.example.com"; no scheme, port or path`,
			`P:2:72: "a-.example" is not a domain name: write labels of 1 to 63 letters, digits, "-" and "_" with dots between them, such as "vault.example.com"; no scheme, port or path`,
			`P:2:84: "a..example" is not a domain name: write labels of 1 to 63 letters, digits, "-" and "_" with dots between them, such as "vault.example.com"; no scheme, port or path`,
		}},
		{"twice", rule(`name: r, direction: Outbound, fullyQualifiedDomainNames: [vault.example.com, VAULT.example.com.]`), []string{
			`P:2:79: "VAULT.example.com." stands twice in fullyQualifiedDomainNames (first in line 2): keep one`,
		}},
		{"root", rule(`name: r, direction: Outbound, fullyQualifiedDomainNames: [.]`), []string{
			`P:2:60: "." is not a domain name: write labels of 1 to 63 letters, digits, "-" and "_" with dots between them, such as "vault.example.com"; no scheme, port or path`,
		}},
	})
}

func TestProblemsWithPrivateEndpoints(t *testing.T) {
	testProblems(t, []problemCase{
		{"missing", `privateEndpoints: [{name: a}]`, []string{
			`P:1:20: a private endpoint has neither interfaces nor addressPrefixes: add one of them`,
		}},
		{"unknown key", `privateEndpoints: [{name: a, interface: [wg0]}]`, []string{
			`P:1:30: a private endpoint has no key "interface": write "interfaces"`,
		}},
		{"both", `privateEndpoints: [{name: a, addressPrefixes: [10.0.0.0/8], interfaces: [wg0]}]`, []string{
			`P:1:61: a private endpoint has both interfaces and addressPrefixes: write two private endpoints`,
		}},
		{"empty", `privateEndpoints: [{name: a, interfaces: []}]`, []string{
			`P:1:42: interfaces is empty: list the interfaces of the private path`,
		}},
	})
}
