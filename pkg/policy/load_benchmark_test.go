package policy

import (
	"fmt"
	"strings"
	"testing"
)

const million = 1_000_000

func millionPrefixes(line string) string {
	var b strings.Builder
	for i := range million {
		fmt.Fprintf(&b, line, fmt.Sprintf("%d.%d.%d.0/24", 1+i>>16, i>>8&255, i&255))
	}
	return b.String()
}

func BenchmarkMillionPrefixes(b *testing.B) {
	rule := "perimeters:\n  - name: p\n    profiles:\n      - name: d\n        accessRules:\n"
	files := map[string]string{
		"rule.yaml":      rule + "          - name: r\n            direction: Inbound\n            addressPrefixes:\n" + millionPrefixes("              - %s\n"),
		"rule.json":      `{"perimeters": [{"name": "p", "profiles": [{"name": "d", "accessRules": [{"name": "r", "direction": "Inbound", "addressPrefixes": [` + strings.TrimSuffix(millionPrefixes("\"%s\", "), ", ") + `]}]}]}]}`,
		"addresses.yaml": "resources:\n  - name: a\n    addresses:\n" + millionPrefixes("      - %s\n"),
		"plain.yaml":     rule + "          - {name: r, direction: Inbound, serviceTags: [list]}\nserviceTags: [{file: list.txt, format: plain, name: list}]\n",
		"list.txt":       millionPrefixes("%s\n"),
		"azure.yaml":     rule + "          - {name: r, direction: Inbound, serviceTags: [a]}\nserviceTags: [{file: azure.json, format: azure}]\n",
		"azure.json":     `{"values": [{"name": "a", "properties": {"addressPrefixes": [` + strings.TrimSuffix(millionPrefixes("\"%s\",\n"), ",\n") + `]}}]}`,
		"bad.yaml":       rule + "          - name: r\n            direction: Inbound\n            addressPrefixes:\n" + strings.ReplaceAll(millionPrefixes("              - %s\n"), ".0/24", ".1/24"),
	}
	for _, file := range []string{"rule.yaml", "rule.json", "addresses.yaml", "plain.yaml", "azure.yaml", "bad.yaml"} {
		b.Run(file, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := new(Loader).parse([]string{file}, inMemory(files)); (err != nil) != (file == "bad.yaml") {
					b.Fatal(err)
				}
			}
		})
	}
}
