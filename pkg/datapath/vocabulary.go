package datapath

import (
	"fmt"
	"strings"

	"github.com/cilium/ebpf/btf"

	"github.com/perimeterd/perimeterd/pkg/policy"
)

// vocabulary holds the names of reasons and categories, read from the compiled
// object: the C enums are the only list there is.
type vocabulary struct {
	reasons    []policy.Reason   // by number
	categories []policy.Category // by number; 0 is ""
	reasonOf   map[policy.Reason]uint8
	categoryOf map[policy.Category]uint8
	nameEvents []string // by number
}

func readVocabulary(types *btf.Spec) (*vocabulary, error) {
	v := &vocabulary{reasonOf: map[policy.Reason]uint8{}, categoryOf: map[policy.Category]uint8{}}
	err := enumNames(types, "reason", func(number uint8, name string) {
		reason := policy.Reason(strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(name, "REASON_")), "_", "-"))
		v.reasons = append(v.reasons, reason)
		v.reasonOf[reason] = number
	})
	if err != nil {
		return nil, err
	}
	err = enumNames(types, "category", func(number uint8, name string) {
		category := policy.Category(name)
		if number == uint8(perimeterCategoryNspNone) {
			category = ""
		}
		v.categories = append(v.categories, category)
		v.categoryOf[category] = number
	})
	if err != nil {
		return nil, err
	}
	err = enumNames(types, "name_event", func(_ uint8, name string) {
		v.nameEvents = append(v.nameEvents, strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(name, "NAME_")), "_", "-"))
	})
	return v, err
}

// enumNames calls yield for each enumerator but the count at the end, which
// must be numbered from 0 on without a gap.
func enumNames(types *btf.Spec, enum string, yield func(number uint8, name string)) error {
	var e *btf.Enum
	if err := types.TypeByName(enum, &e); err != nil {
		return fmt.Errorf("enum %s of the compiled object: %w", enum, err)
	}
	for i, value := range e.Values[:len(e.Values)-1] {
		if value.Value != uint64(i) {
			return fmt.Errorf("enum %s of the compiled object: %s is %d, not %d", enum, value.Name, value.Value, i)
		}
		yield(uint8(i), value.Name)
	}
	return nil
}

func (v *vocabulary) reason(number uint8) policy.Reason {
	if int(number) >= len(v.reasons) {
		return policy.Reason(fmt.Sprintf("reason-%d", number))
	}
	return v.reasons[number]
}

func (v *vocabulary) category(number uint8) policy.Category {
	if int(number) >= len(v.categories) {
		return ""
	}
	return v.categories[number]
}
