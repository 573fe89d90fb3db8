package compile

import (
	"encoding/binary"
)

// spanTable collects span lists; equal ones are stored once.
type spanTable struct {
	spans []Span
	known map[string]SpanList
	key   []byte
}

func newSpanTable() *spanTable {
	return &spanTable{known: map[string]SpanList{}}
}

// add stores a list that begins at point 0, and returns where it is.
func (t *spanTable) add(spans []Span) SpanList {
	joined := spans[:1]
	for _, s := range spans[1:] {
		if s.Value != joined[len(joined)-1].Value {
			joined = append(joined, s)
		}
	}
	if len(joined) == 1 {
		return SpanList{First: joined[0].Value}
	}
	t.key = t.key[:0]
	for _, s := range joined {
		t.key = binary.LittleEndian.AppendUint32(t.key, s.From)
		t.key = binary.LittleEndian.AppendUint32(t.key, s.Value)
	}
	if list, ok := t.known[string(t.key)]; ok {
		return list
	}
	list := SpanList{First: uint32(len(t.spans)), Count: uint32(len(joined))}
	t.spans = append(t.spans, joined...)
	t.known[string(t.key)] = list
	return list
}

// outcomeTable numbers outcomes from 1; equal ones have one number.
type outcomeTable struct {
	outcomes []Outcome
	known    map[Outcome]uint32
}

func newOutcomeTable() *outcomeTable {
	return &outcomeTable{outcomes: []Outcome{{}}, known: map[Outcome]uint32{}}
}

// chain numbers the first of outcomes that follow each other as they expire.
func (t *outcomeTable) chain(chain []*Outcome) uint32 {
	var after uint32
	for i := len(chain) - 1; i >= 0; i-- {
		if chain[i] == notServed {
			return 0
		}
		o := *chain[i]
		o.After = after
		o.Expires = o.Expires.Round(0).UTC() // comparable
		after = t.number(o)
	}
	return after
}

func (t *outcomeTable) number(o Outcome) uint32 {
	if n, ok := t.known[o]; ok {
		return n
	}
	n := uint32(len(t.outcomes))
	t.outcomes = append(t.outcomes, o)
	t.known[o] = n
	return n
}
