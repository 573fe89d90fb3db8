package policy

import (
	"errors"
	"os"
	"testing"
)

// Whatever a file holds, the answer is a policy or the problems with it.
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
	} {
		f.Add(text, "192.0.2.0/24 # a\n::1\n", `{"values": [{"name": "a", "properties": {"addressPrefixes": ["10.0.0.0/8"]}}]}`)
	}
	f.Fuzz(func(t *testing.T, text, list, object string) {
		p, err := parseAll([]string{"p.yaml"}, inMemory(map[string]string{
			"p.yaml": text, "list": list, "azure": object, "aws": object,
			"service-tags/azure.json": object, "service-tags/aws.json": object, "service-tags/partners.txt": list,
		}))
		if (p == nil) == (err == nil) {
			t.Fatalf("policy %v and error %v, want one of them", p, err)
		}
		if err == nil {
			return
		}
		var problems Problems
		if !errors.As(err, &problems) || len(problems) == 0 {
			t.Fatalf("error is %T %v, want Problems", err, err)
		}
		for _, problem := range problems {
			if problem.Wrong == "" || problem.At.File == "" && problem.Instead != "" {
				t.Errorf("problem %+v says too little", problem)
			}
		}
	})
}
