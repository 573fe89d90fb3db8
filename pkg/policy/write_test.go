package policy

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// writeDown writes a policy, as files by name, so that reading them gives the
// same policy. Positions and the names of files are others.
func writeDown(p *Policy) map[string]string {
	text := mapping("resources", list(p.Resources, writeResource), "perimeters", list(p.Perimeters, writePerimeter),
		"privateEndpoints", list(p.PrivateEndpoints, func(e PrivateEndpoint) string {
			return mapping("name", inQuotes(e.Name), "interfaces", list(e.Interfaces, inQuotes), "addressPrefixes", list(e.AddressPrefixes, prefix))
		}))
	files := map[string]string{}
	if len(p.ServiceTags) > 0 {
		text = strings.TrimSuffix(text, "}") + `, serviceTags: [{file: tags, format: azure}]}`
		files["tags"] = writeTags(p.ServiceTags)
	}
	files["p.yaml"] = text
	return files
}

func writeResource(r Resource) string {
	return mapping(
		"name", inQuotes(r.Name), "subscription", optional(r.Subscription), "addresses", list(r.Addresses, prefix),
		"interfaces", list(r.Interfaces, inQuotes), "host", optional(r.Host), "services", list(r.Services, Ports.String),
		"publicNetworkAccess", r.PublicNetworkAccess.String(), "firewall", list(r.Firewall, writeRule))
}

func writeRule(r AccessRule) string {
	expires := ""
	if !r.Expires.IsZero() {
		expires = r.Expires.Format(time.RFC3339Nano)
	}
	return mapping(
		"name", inQuotes(r.Name), "direction", r.Direction.String(), "addressPrefixes", list(r.AddressPrefixes, prefix),
		"subscriptions", list(r.Subscriptions, inQuotes), "fullyQualifiedDomainNames", list(r.FullyQualifiedDomainNames, inQuotes),
		"serviceTags", list(r.ServiceTags, inQuotes), "ports", list(r.Ports, Ports.String), "expires", optional(expires),
		"description", optional(r.Description))
}

func writePerimeter(p Perimeter) string {
	return mapping(
		"name", inQuotes(p.Name), "location", optional(p.Location),
		"profiles", list(p.Profiles, func(f Profile) string {
			return mapping("name", inQuotes(f.Name), "accessRules", list(f.AccessRules, writeRule))
		}),
		"associations", list(p.Associations, func(a Association) string {
			return mapping("name", inQuotes(a.Name), "resource", inQuotes(a.Resource), "profile", inQuotes(a.Profile), "accessMode", a.AccessMode.String())
		}),
		"links", list(p.Links, func(l Link) string {
			return mapping("name", inQuotes(l.Name), "remotePerimeter", inQuotes(l.RemotePerimeter),
				"localInboundProfiles", profiles(l.LocalInboundProfiles), "description", optional(l.Description))
		}),
		"linkReferences", list(p.LinkReferences, func(l LinkReference) string {
			return mapping("name", inQuotes(l.Name), "remotePerimeter", inQuotes(l.RemotePerimeter), "status", l.Status.String(),
				"localInboundProfiles", profiles(l.LocalInboundProfiles), "description", optional(l.Description))
		}))
}

func writeTags(tags map[string]*PrefixSet) string {
	type value struct {
		Name       string                                   `json:"name"`
		Properties struct{ AddressPrefixes []netip.Prefix } `json:"properties"`
	}
	var values []value
	for name, prefixes := range tags {
		v := value{Name: name}
		v.Properties.AddressPrefixes = slices.Collect(prefixes.All())
		values = append(values, v)
	}
	text, err := json.Marshal(map[string]any{"values": values})
	if err != nil {
		panic(fmt.Sprintf("write %v: %v", tags, err))
	}
	return string(text)
}

// mapping writes keys and their values, in turn, without those that are empty.
func mapping(pairs ...string) string {
	var out []string
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			out = append(out, pairs[i]+": "+pairs[i+1])
		}
	}
	return "{" + strings.Join(out, ", ") + "}"
}

func list[T any](values []T, element func(T) string) string {
	if len(values) == 0 {
		return ""
	}
	var out []string
	for _, v := range values {
		out = append(out, element(v))
	}
	return "[" + strings.Join(out, ", ") + "]"
}

// inQuotes writes text in the escapes that Go and YAML have in common.
func inQuotes(s string) string { return strconv.QuoteToASCII(s) }

func optional(s string) string {
	if s == "" {
		return ""
	}
	return inQuotes(s)
}

func prefix(p netip.Prefix) string { return `"` + p.String() + `"` }

// profiles is a list that must be there even if it is empty.
func profiles(names []string) string {
	if len(names) == 0 {
		return "[]"
	}
	return list(names, inQuotes)
}
