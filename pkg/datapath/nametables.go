package datapath

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/perimeterd/perimeterd/pkg/compile"
	"github.com/perimeterd/perimeterd/pkg/policy"
)

// nameText is how the kernel has names (struct name_key): from the last character
// on, so that what is below a name begins with it.
type nameText [256]uint8

// nameMax is the longest name, in characters.
const nameMax = 253

// nameKey is the key of a name as rules write it. An exact name is ended by a
// zero, a wildcard by the dot before the labels it stands for.
func nameKey(written string) (perimeterNameKey, error) {
	below, isWildcard := strings.CutPrefix(written, "*.")
	if len(below) == 0 || len(below) > nameMax {
		return perimeterNameKey{}, fmt.Errorf("the name %q has %d characters", written, len(below))
	}
	var key perimeterNameKey
	for i := range len(below) {
		key.Text[i] = below[len(below)-1-i]
	}
	if isWildcard {
		key.Text[len(below)] = '.'
	}
	key.Length = uint32(len(below)+1) * 8
	return key, nil
}

// textOf is a name as it stands in struct learnt: the key's text at the end.
func textOf(name string) (text nameText, err error) {
	if len(name) == 0 || len(name) > nameMax {
		return text, fmt.Errorf("the name %q has %d characters", name, len(name))
	}
	for i := range len(name) {
		text[len(text)-2-i] = name[i]
	}
	return text, nil
}

// nameOf reads such a text. What no host's name has is written as in zone files,
// so that it can be shown to people.
func nameOf(text nameText) string {
	first := 0
	for first < len(text)-1 && text[first] == 0 {
		first++
	}
	var b strings.Builder
	for i := len(text) - 2; i >= first; i-- {
		if c := text[i]; c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, `\%03d`, c)
		}
	}
	return b.String()
}

// buildNames makes the tables of names.
func (d *Datapath) buildNames(g *generation) error {
	t := g.tables
	for _, m := range t.Members {
		if m.Names != (compile.SpanList{}) {
			g.flags |= uint32(perimeterControlFlagCONTROL_NAMES)
		}
	}
	before := d.before().tables
	same := slices.Equal(before.Names, t.Names) && slices.Equal(before.NameMeanings, t.NameMeanings) &&
		slices.Equal(before.NameSets, t.NameSets) && slices.Equal(before.NameRules, t.NameRules)
	if shared, err := d.share(g, same, "name_classes", "name_meanings", "name_sets", "name_rules"); shared || err != nil {
		return err
	}
	keys := make([]perimeterNameKey, len(t.Names))
	classes := make([]uint32, len(t.Names))
	for i, n := range t.Names {
		var err error
		if keys[i], err = nameKey(n.Name); err != nil {
			return err
		}
		classes[i] = n.Class
	}
	meanings := make([]perimeterScopeClass, len(t.NameMeanings))
	sets := make([]perimeterSpanList, len(meanings))
	for i, m := range t.NameMeanings {
		meanings[i], sets[i] = perimeterScopeClass{Scope: m.Scope, Class: m.Class}, spanList(m.Meaning)
	}
	rules := make([]perimeterNameRule, len(t.NameRules))
	for i, r := range t.NameRules {
		rules[i] = perimeterNameRule{Set: r.Set, Outcome: r.Outcome}
	}
	return errors.Join(
		table(d, g, "name_classes", keys, classes),
		table(d, g, "name_meanings", meanings, sets),
		array(d, g, "name_sets", t.NameSets),
		array(d, g, "name_rules", rules),
	)
}

// outcomeNames says which rules with names come before an outcome.
func outcomeNames(reason policy.Reason) uint8 {
	switch reason {
	case policy.ReasonAccessRule:
		return uint8(perimeterOutcomeNamesNAMES_ACCESS_RULE)
	case policy.ReasonResolverAccess:
		return uint8(perimeterOutcomeNamesNAMES_RESOLVER)
	case policy.ReasonFirewallRule:
		return uint8(perimeterOutcomeNamesNAMES_FIREWALL_RULE)
	case policy.ReasonNoAccessRule, policy.ReasonSecuredByPerimeter, policy.ReasonPublicAccessDisabled,
		policy.ReasonNoFirewallRule, policy.ReasonPublicAccessEnabled:
		return uint8(perimeterOutcomeNamesNAMES_DEFAULT)
	}
	return uint8(perimeterOutcomeNamesNAMES_NOT_ASKED)
}
