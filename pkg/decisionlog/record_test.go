package decisionlog

import (
	"encoding/json"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/perimeterd/perimeterd/pkg/policy"
)

// byTags is a Record that encoding/json writes by its tags.
type byTags Record

// TestAppendJSONFollowsTags holds the hand-written appender and the tags
// together: on records with and without each field.
func TestAppendJSONFollowsTags(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for range 5000 {
		r := randomRecord(random)
		tagged, err := json.Marshal(byTags(r))
		if err != nil {
			t.Fatal(err)
		}
		line := r.AppendJSON(nil)
		var want, got any
		if err := json.Unmarshal(tagged, &want); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(line, &got); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("AppendJSON differs from the tags (-tags +appended):\n%s\n%s", diff, line)
		}

		var back Record
		if err := json.Unmarshal(line, &back); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if diff := cmp.Diff(r, back, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Fatalf("read back (-written +read):\n%s\n%s", diff, line)
		}
		marshalled, err := json.Marshal(r)
		if err != nil || string(marshalled) != string(line) && len(marshalled) <= len(line) { // Marshal escapes < and >
			t.Fatalf("Marshal: %s, %v", marshalled, err)
		}
	}
}

// TestFlatColumns checks every line of the flat format against the columns
// the table has, and the texts in it against the nested format.
func TestFlatColumns(t *testing.T) {
	columns := map[string]bool{}
	for _, name := range []string{
		"TimeGenerated", "TimeGeneratedEndTime", "Count", "_BilledSize", "AccessRuleVersion", "AppId", "Category",
		"DestinationEmailAddress", "DestinationFqdn", "DestinationParameters", "DestinationPhoneNumber", "DestinationPort",
		"DestinationProtocol", "DestinationResourceId", "Location", "MatchedRule", "OperationName", "OperationVersion",
		"Parameters", "Profile", "ResultAction", "ResultDescription", "ResultDirection", "RuleType", "ServiceFqdn",
		"ServiceResourceId", "SourceAppId", "SourceIpAddress", "SourceParameters", "SourcePerimeterGuids", "SourcePort",
		"SourceProtocol", "SourceResourceId", "SourceSystem", "TenantId", "TrafficType", "Type", "_ResourceId",
		"_SubscriptionId", "_IsBillable",
	} {
		columns[name] = true
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for range 5000 {
		r := randomRecord(random)
		line := r.AppendFlat(nil)
		var got map[string]any
		if err := json.Unmarshal(line, &got); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		for name, value := range got {
			if !columns[name] {
				t.Fatalf("%s is no column of NSPAccessLogs: %s", name, line)
			}
			if _, text := value.(string); !text && name != "Count" {
				t.Fatalf("%s is not text: %s", name, line)
			}
		}
		p := &r.Properties
		for name, want := range map[string]any{
			"TimeGenerated":     string(appendTime(nil, r.Time)),
			"Count":             float64(r.Count),
			"_ResourceId":       optional(r.ResourceID),
			"ServiceResourceId": optional(p.ServiceResourceID),
			"Profile":           optional(p.Profile),
			"AccessRuleVersion": optional(p.AccessRulesVersion),
			"Category":          optional(string(r.Category)),
			"ResultDirection":   p.Perimeterd.Direction,
			"SourceProtocol":    optional(p.Source.Protocol),
		} {
			if got[name] != want {
				t.Fatalf("%s = %v, want %v: %s", name, got[name], want, line)
			}
		}
		var extension Extension
		if err := json.Unmarshal([]byte(got["Parameters"].(string)), &extension); err != nil || extension != p.Perimeterd {
			t.Fatalf("Parameters read back as %+v, %v, want %+v", extension, err, p.Perimeterd)
		}
		if text, ok := got["MatchedRule"].(string); ok {
			var rule MatchedRule
			if err := json.Unmarshal([]byte(text), &rule); err != nil || rule != p.MatchedRule {
				t.Fatalf("MatchedRule reads back as %+v, %v, want %+v", rule, err, p.MatchedRule)
			}
		}
	}
}

// optional is a text that is absent when empty.
func optional(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func randomRecord(random *rand.Rand) Record {
	text := func() string {
		return []string{"", "orders-db", `qu"ote\`, "tab\tand\nline", "→ ü"}[random.IntN(5)]
	}
	number := func() uint64 {
		return []uint64{0, 1, 37, 1 << 52}[random.IntN(4)] // what a float64 holds, for the comparison as any
	}
	instant := func() time.Time { // with six decimals that do not end in 0, so that both writers show six
		return time.Date(2026, 11, 20, random.IntN(24), random.IntN(60), random.IntN(60), (random.IntN(99999)*10+1)*1000, time.UTC)
	}
	maybe := func() time.Time {
		if random.IntN(2) == 0 {
			return time.Time{}
		}
		return instant()
	}
	end := func() Endpoint {
		return Endpoint{
			IPAddress: []netip.Addr{{}, netip.MustParseAddr("203.0.113.40"), netip.MustParseAddr("fd20::5")}[random.IntN(3)],
			Port:      []uint16{0, 443, 65535}[random.IntN(3)],
			Protocol:  text(),
		}
	}
	r := Record{
		Time: instant(), EndTime: maybe(), Count: Count(number()),
		ResourceID: text(), Location: text(), Operation: OperationDeny,
		Category: policy.Category(text()),
		Properties: Properties{
			ServiceResourceID: text(), Profile: text(), AccessRulesVersion: text(),
			MatchedRule: MatchedRule{AccessRule: text()},
			Perimeterd: Extension{
				Verdict: "allow", WouldBe: "deny", Reason: policy.Reason(text()), AccessMode: text(),
				Generation: uint32(number()), Interface: text(), Direction: policy.Direction(random.IntN(2)).String(),
				Local: end(), Member: uint32(number()), Outcome: uint32(number()), PeersNotToldApart: random.IntN(2) == 0,
			},
		},
	}
	if random.IntN(2) == 0 {
		r.Properties.Source = end()
	} else {
		r.Properties.Destination = end()
	}
	if random.IntN(2) == 0 {
		r.Properties.Perimeterd.Flow = Flow{
			Started: maybe(), PacketsTowards: number(), BytesTowards: number(),
			PacketsFrom: number(), BytesFrom: number(), Midstream: random.IntN(2) == 0,
		}
	}
	return r
}
