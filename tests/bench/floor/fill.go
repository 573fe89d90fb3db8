package floor

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"reflect"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// rows are entries of a size that is known at run time only, one after the other
// as the kernel takes them in a batch.
type rows struct{ slice reflect.Value }

func newRows(size uint32, count int) rows {
	array := reflect.ArrayOf(int(size), reflect.TypeFor[byte]())
	return rows{reflect.MakeSlice(reflect.SliceOf(array), count, count)}
}

func (r rows) row(i int) []byte { return r.slice.Index(i).Bytes() }

// fill enters all rows with one call.
func fill(m *ebpf.Map, keys, values rows) error {
	if keys.slice.Len() == 0 {
		return nil
	}
	if n, err := m.BatchUpdate(keys.slice.Interface(), values.slice.Interface(), nil); err != nil {
		return fmt.Errorf("fill %s with %d entries, %d of which it took: %w", m, keys.slice.Len(), n, err)
	}
	return nil
}

// SetTuples enters tuples from an index on.
func (s *Set) SetTuples(first int, tuples []Tuple) error {
	keys, values := newRows(4, len(tuples)), newRows(tupleBytes[s.options.Family], len(tuples))
	for i, t := range tuples {
		binary.NativeEndian.PutUint32(keys.row(i), uint32(first+i))
		v := values.row(i)
		binary.BigEndian.PutUint16(v, t.SourcePort)
		binary.BigEndian.PutUint16(v[2:], t.DestinationPort)
		n := copy(v[4:], t.Source.AsSlice())
		copy(v[4+n:], t.Destination.AsSlice())
	}
	return fill(s.maps["tuples"], keys, values)
}

// SetPrefixes enters these prefixes into the trie of trie_lookup.
func (s *Set) SetPrefixes(prefixes []netip.Prefix) error {
	return NewTrieBatch(s.maps["trie_table"], prefixes).Fill()
}

// NewTrie makes a trie for prefixes of a family, with values of 4 bytes, as
// trie_lookup has.
func NewTrie(family, size int) (*ebpf.Map, error) {
	return ebpf.NewMap(&ebpf.MapSpec{
		Type: ebpf.LPMTrie, KeySize: trieBytes[family], ValueSize: 4, MaxEntries: uint32(max(size, 1)), Flags: unix.BPF_F_NO_PREALLOC,
	})
}

// TrieBatch is prefixes as the kernel takes them in one call.
type TrieBatch struct {
	trie         *ebpf.Map
	keys, values rows
}

// NewTrieBatch prepares prefixes of one family, each with the value 1, for a trie
// with values of 4 bytes.
func NewTrieBatch(trie *ebpf.Map, prefixes []netip.Prefix) *TrieBatch {
	b := &TrieBatch{trie, newRows(trie.KeySize(), len(prefixes)), newRows(trie.ValueSize(), len(prefixes))}
	for i, p := range prefixes {
		binary.NativeEndian.PutUint32(b.keys.row(i), uint32(p.Bits()))
		copy(b.keys.row(i)[4:], p.Addr().AsSlice())
		binary.NativeEndian.PutUint32(b.values.row(i), 1)
	}
	return b
}

// Fill enters them, by one call.
func (b *TrieBatch) Fill() error { return fill(b.trie, b.keys, b.values) }
