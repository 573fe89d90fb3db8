package policy

import (
	"strings"
	"testing"
)

func TestProblemsWithSyntax(t *testing.T) {
	testProblems(t, []problemCase{
		{"open list", "resources: [a,\nperimeters: []\n", []string{
			`P:3:1: not valid YAML: did not find expected ',' or ']' while parsing a flow sequence that begins at 1:12: check quotes, brackets and indentation up to here`,
		}},
		{"open quote", "resources:\n  - name: \"a\n", []string{
			`P:2:11: not valid YAML: found unexpected end of stream while scanning a quoted scalar: check quotes, brackets and indentation up to here`,
		}},
		{"tab", "resources:\n\t- name: a\n", []string{
			`P:2:1: not valid YAML: found character that cannot start any token: indent with spaces, not with tabs`,
		}},
		{"special character", "resources:\n  - name: @a\n", []string{
			`P:2:11: not valid YAML: found character that cannot start any token: put text that begins with a special character in quotes`,
		}},
		{"key in a value", "resources:\n  - name: a: b\n", []string{
			`P:2:12: not valid YAML: mapping values are not allowed in this context: put text that holds ": " in quotes, or begin a new line with the key`,
		}},
		{"control character", "resources:\n  - name: a\x00b\n", []string{
			`P:2:12: not valid YAML: control characters are not allowed (value: 0): save the file as UTF-8 without control characters`,
		}},
		{"not UTF-8", "resources: []\n# caf\xe9\n", []string{
			`P:2:6: not valid YAML: incomplete UTF-8 octet sequence: save the file as UTF-8 without control characters`,
		}},
		{"too deep", strings.Repeat("[", 40), []string{
			`P:1:33: not valid YAML: exceeded max depth of 32: nest at most 32 levels; a policy needs nine`,
		}},
		{"too much", "resources: [" + strings.Repeat("a,", maxNodes/2) + "]", []string{
			`P: the policy file may hold more than 3000000 values: split it, and move long lists of prefixes to service tag files`,
		}},
		{"unquoted star", "perimeters:\n  - name: *.example.com\n", []string{
			`P:2:11: not valid YAML: unknown anchor '.example.com' referenced: put text that begins with "*" in quotes; aliases are not supported`,
		}},
		{"alias and anchor", "resources:\n  - &a {name: a, addresses: [10.0.0.1]}\nperimeters:\n  - *a\n", []string{
			`P:2:5: anchors such as "&a" are not supported: remove it and write the value wherever it is needed`,
			`P:4:5: aliases such as "*a" are not supported: write the value itself, or put text that begins with "*" in quotes`,
		}},
		{"merge key", "resources:\n  - <<: {name: a}\n    addresses: [10.0.0.1]\n", []string{
			`P:2:5: merge keys ("<<") are not supported: write the keys themselves`,
		}},
		{"tag", "resources:\n  - {name: !!str a, addresses: [10.0.0.1]}\n", []string{
			`P:2:12: tags such as "!!str" are not supported: remove it, and put text in quotes where it would be read as something else`,
		}},
		{"non-specific tag", "resources:\n  - {name: ! a, addresses: [10.0.0.1]}\n", []string{
			`P:2:12: tags such as "!" are not supported: remove it, and put text in quotes where it would be read as something else`,
		}},
		{"two documents", "resources: []\n---\nresources: []\n", []string{
			`P:2:1: a second document begins here: write one document in each file and remove this "---"`,
		}},
		{"error in a second document", "resources: []\n---\na: b: c\n", []string{
			`P:3:5: not valid YAML: mapping values are not allowed in this context: put text that holds ": " in quotes, or begin a new line with the key`,
		}},
		{"alias in a list", "resources:\n  - {name: &n a, addresses: [*n]}\n", []string{
			`P:2:12: anchors such as "&n" are not supported: remove it and write the value wherever it is needed`,
			`P:2:30: aliases such as "*n" are not supported: write the value itself, or put text that begins with "*" in quotes`,
		}},
		{"version directive", "%YAML 1.2\n---\nresources: []\n", []string{
			`P:1:1: not valid YAML: found incompatible YAML document: remove the "%YAML" line`,
		}},
		{"JSON", "{\n\t\"resources\": [\n\t\t{\"name\": \"a\", \"adresses\": [\"10.0.0.1\"]}\n\t]\n}\n", []string{
			`P:3:17: a resource has no key "adresses": write "addresses"`,
		}},
	})
}

func TestProblemsWithStructure(t *testing.T) {
	testProblems(t, []problemCase{
		{"policy is a list", `- name: a`, []string{
			`P:1:1: a policy cannot be a list: write it as KEY: VALUE pairs`,
		}},
		{"policy is text", `hello`, []string{
			`P:1:1: a policy cannot be text: write it as KEY: VALUE pairs`,
		}},
		{"list expected", `resources: {name: a}`, []string{
			`P:1:12: resources is a mapping: write it as a list, [A, B] or a "- " line for each element`,
		}},
		{"mapping expected", `resources: [a]`, []string{
			`P:1:13: a resource cannot be text: write it as KEY: VALUE pairs`,
		}},
		{"text expected, number", resource(`name: 5, addresses: [10.0.0.1]`), []string{
			`P:2:8: name must be text, not a number: put it in quotes: "5"`,
		}},
		{"text expected, boolean", resource(`name: true, addresses: [10.0.0.1]`), []string{
			`P:2:8: name must be text, not a boolean: put it in quotes: "true"`,
		}},
		{"text expected, nothing", resource(`name: , addresses: [10.0.0.1]`), []string{
			`P:2:8: name has no value: write text`,
		}},
		{"text expected, list", resource(`name: [a], addresses: [10.0.0.1]`), []string{
			`P:2:8: name must be text, not a list: write text, without brackets and dashes`,
		}},
		{"address ends in a colon", resource(`name: a, addresses: [fd00::]`), []string{
			`P:2:23: an element of addresses must be text, not a mapping: write text, in quotes where it begins with "{" or ends with ":"`,
		}},
		{"unknown key", resource(`name: a, adresses: [10.0.0.1]`), []string{
			`P:2:11: a resource has no key "adresses": write "addresses"`,
		}},
		{"unknown key, none near", resource(`name: a, addresses: [10.0.0.1], colour: red`), []string{
			`P:2:34: a resource has no key "colour": write name, subscription, addresses, interfaces, host, services, publicNetworkAccess or firewall`,
		}},
		{"unknown top-level key", `perimeter: []`, []string{
			`P:1:1: a policy has no key "perimeter": write "perimeters"`,
		}},
		{"key that is no word", `[a]: b`, []string{
			`P:1:1: a policy has a list as a key: write a word`,
		}},
		{"key twice", "resources:\n  - name: a\n    name: b\n    addresses: [10.0.0.1]\n", []string{
			`P:3:5: "name" stands twice in a resource (first in line 2): keep one`,
		}},
		{"missing name", resource(`addresses: [10.0.0.1]`), []string{
			`P:2:1: a resource has no "name": add it`,
		}},
		{"misspelled name is not missing", resource(`nmae: a, addresses: [10.0.0.1]`), []string{
			`P:2:2: a resource has no key "nmae": write "name"`,
		}},
	})
}

func TestProblemsWithNames(t *testing.T) {
	testProblems(t, []problemCase{
		{"pattern", resource(`name: -a, addresses: [10.0.0.1]`), []string{
			`P:2:8: "-a" is not a valid name: write letters, digits, "_", "." and "-"; begin with a letter or digit, end with a letter, digit or "_"`,
		}},
		{"empty", resource(`name: "", addresses: [10.0.0.1]`), []string{
			`P:2:8: "" is not a valid name: write letters, digits, "_", "." and "-"; begin with a letter or digit, end with a letter, digit or "_"`,
		}},
		{"ends in a dot", resource(`name: a., addresses: [10.0.0.1]`), []string{
			`P:2:8: "a." is not a valid name: write letters, digits, "_", "." and "-"; begin with a letter or digit, end with a letter, digit or "_"`,
		}},
		{"too long", resource("name: " + strings.Repeat("a", 81) + ", addresses: [10.0.0.1]"), []string{
			`P:2:8: name "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" has 81 characters: write at most 80`,
		}},
		{"twice", `
resources:
  - {name: a, addresses: [10.0.0.1]}
  - {name: a, addresses: [10.0.0.2]}
`, []string{
			`P:3:12: resource "a" is already defined (P:2:12): choose another name`,
		}},
		{"differ in case", `
resources:
  - {name: a, addresses: [10.0.0.1]}
  - {name: A, addresses: [10.0.0.2]}
`, []string{
			`P:3:12: resource "A" differs only in case from "a" (P:2:12): choose another name`,
		}},
		{"perimeter twice", `
perimeters:
  - name: a
  - name: a
`, []string{
			`P:3:11: perimeter "a" is already defined (P:2:11): choose another name`,
		}},
		{"profile twice", perimeter(`name: p, profiles: [{name: d}, {name: d}]`), []string{
			`P:2:40: profile "d" of this perimeter is already defined (P:2:29): choose another name`,
		}},
		{"rule twice", `
perimeters:
  - name: p
    profiles:
      - name: d
        accessRules:
          - {name: r, direction: Inbound, addressPrefixes: [10.0.0.0/8]}
          - {name: R, direction: Inbound, addressPrefixes: [10.0.0.0/8]}
`, []string{
			`P:7:20: access rule "R" of this profile differs only in case from "r" (P:6:20): choose another name`,
		}},
		{"private endpoint twice", `
privateEndpoints:
  - {name: a, interfaces: [wg0]}
  - {name: a, interfaces: [wg1]}
`, []string{
			`P:3:12: private endpoint "a" is already defined (P:2:12): choose another name`,
		}},
	})
}
