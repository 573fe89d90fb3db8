package policy

import (
	"fmt"
	"net/netip"
	"path"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	maxName        = 80
	maxDescription = 140
)

// parseName checks a name against NSP's pattern,
// (^[a-zA-Z0-9]+[a-zA-Z0-9_.-]*[a-zA-Z0-9_]+$)|(^[a-zA-Z0-9]$).
func parseName(s string) (string, error) {
	if len(s) > maxName {
		return s, &fault{
			fmt.Sprintf("name %s has %d characters", quote(s), utf8.RuneCountInString(s)),
			fmt.Sprintf("write at most %d", maxName),
		}
	}
	valid := s != ""
	for i := range len(s) {
		c := s[i]
		switch {
		case isAlphanumeric(c):
		case c == '_' && i > 0:
		case (c == '.' || c == '-') && i > 0 && i < len(s)-1:
		default:
			valid = false
		}
	}
	if !valid {
		return s, &fault{
			quote(s) + " is not a valid name",
			`write letters, digits, "_", "." and "-"; begin with a letter or digit, end with a letter, digit or "_"`,
		}
	}
	return s, nil
}

func isAlphanumeric(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

// parseDescription checks a text for people: short, and on one line, since it
// is copied into records and terminals.
func parseDescription(s string) (string, error) {
	if n := utf8.RuneCountInString(s); n > maxDescription {
		return s, &fault{
			fmt.Sprintf("the text has %d characters", n),
			fmt.Sprintf("write at most %d", maxDescription),
		}
	}
	for _, r := range s {
		if unicode.IsControl(r) {
			return s, &fault{fmt.Sprintf("the text holds the control character %q", r), "write plain text on one line"}
		}
	}
	return s, nil
}

// parseServiceTagName checks what a rule may call a service tag. The files that
// define tags choose the names, so only what cannot be one is refused.
func parseServiceTagName(s string) (string, error) {
	if s == "" || strings.ContainsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }) {
		return s, &fault{
			quote(s) + " is not the name of a service tag",
			`write one such as "Storage.WestEurope" or "S3.eu-west-1"`,
		}
	}
	return s, nil
}

// parseInterfacePattern checks a glob pattern of interface names.
func parseInterfacePattern(s string) (string, error) {
	// The kernel's own rule for names (dev_valid_name), so that a pattern that
	// can match nothing is found here.
	const maxInterfaceName = 15
	glob := strings.ContainsAny(s, `*?[\`)
	switch {
	case s == "" || s == "." || s == ".." || strings.ContainsAny(s, "/: \t\r\n"):
		return s, &fault{
			quote(s) + " cannot be the name of an interface",
			`write a name or a pattern, such as "eth0" or "wg*"`,
		}
	case !glob && len(s) > maxInterfaceName:
		return s, &fault{
			quote(s) + " is longer than any interface name",
			fmt.Sprintf("write at most %d characters", maxInterfaceName),
		}
	}
	return parsePattern(s)
}

// parsePattern checks the syntax of a glob pattern.
func parsePattern(s string) (string, error) {
	if _, err := path.Match(s, ""); err != nil || s == "" {
		return s, &fault{
			quote(s) + " is not a valid pattern",
			`write a name, in which "*" stands for any text, "?" for one character and "[ab]" for a choice`,
		}
	}
	return s, nil
}

// wildcard is what a wildcard name begins with. It stands for one label or more.
const wildcard = "*."

// parseDomainName checks a fully qualified domain name, or a wildcard for all
// names below one, and returns it in lower case, without the trailing dot.
func parseDomainName(s string) (string, error) {
	name := strings.ToLower(strings.TrimSuffix(s, "."))
	below, isWildcard := strings.CutPrefix(name, wildcard)
	labels := strings.Split(below, ".")
	last := labels[len(labels)-1]
	switch {
	case name == "*":
		return s, &fault{
			quote(s) + " stands for every name there is",
			`write names, or wildcards such as "*.example.com"; to allow all addresses, write addressPrefixes`,
		}
	case strings.Contains(below, "*"):
		return s, &fault{
			quote(s) + ` has a "*" that is not a label of its own in front`,
			`write "*." in front of the names it stands for, such as "*.blob.example.net", or write each name exactly`,
		}
	case isAddress(s):
		return s, &fault{quote(s) + " is an address, not a name", "write it in addressPrefixes"}
	case strings.ContainsFunc(name, func(r rune) bool { return r >= utf8.RuneSelf }):
		return s, &fault{
			quote(s) + " holds characters that are not sent in DNS",
			`write the name in its ASCII form, with labels that begin with "xn--"`,
		}
	case len(name) > 253:
		return s, &fault{fmt.Sprintf("name %s has %d characters", quote(s), len(name)), "write at most 253"}
	case len(labels) < 2 && name != "" && !isWildcard:
		return s, &fault{
			quote(s) + " is not fully qualified",
			`write the whole name, such as "vault.example.com"`,
		}
	}
	for _, label := range labels {
		if !isLabel(label) {
			return s, &fault{
				quote(s) + " is not a domain name",
				`write labels of 1 to 63 letters, digits, "-" and "_" with dots between them, such as "vault.example.com"; no scheme, port or path`,
			}
		}
	}
	if strings.Trim(last, "0123456789") == "" {
		return s, &fault{
			quote(s) + " ends in a label of digits only, which no domain name does",
			"write a name, or an address in addressPrefixes",
		}
	}
	return name, nil
}

// NameCovers reports whether a name of a rule, as Load returns it, covers the
// name that somebody asks for: in lower case, without a trailing dot. An exact
// name covers only itself, a wildcard only names below it.
func NameCovers(written, asked string) bool {
	below, isWildcard := strings.CutPrefix(written, wildcard)
	if !isWildcard {
		return written == asked
	}
	front, found := strings.CutSuffix(asked, "."+below)
	return found && front != ""
}

func isAddress(s string) bool {
	if _, err := netip.ParseAddr(s); err == nil {
		return true
	}
	_, err := netip.ParsePrefix(s)
	return err == nil
}

// isLabel accepts the underscore, which host names do not have but names in DNS
// do.
func isLabel(s string) bool {
	if len(s) < 1 || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !isAlphanumeric(c) && c != '-' && c != '_' {
			return false
		}
	}
	return true
}
