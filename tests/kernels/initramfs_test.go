package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// list reads an archive as the kernel does, by the lengths in its headers: mode,
// path and content of each entry.
func list(t *testing.T, archive []byte) []string {
	t.Helper()
	aligned := func(n int) int { return (n + 3) / 4 * 4 }
	var entries []string
	for at := 0; at < len(archive); {
		header := archive[at:]
		field := func(n int) int {
			v, err := strconv.ParseUint(string(header[6+8*n:14+8*n]), 16, 32)
			if err != nil {
				t.Fatalf("at %d: %v", at, err)
			}
			return int(v)
		}
		if !bytes.HasPrefix(header, []byte("070701")) {
			t.Fatalf("no header at %d", at)
		}
		const length = 110
		mode, size, name := field(1), field(6), field(11)
		path := string(header[length : length+name-1])
		content := header[aligned(length+name):][:size]
		entries = append(entries, fmt.Sprintf("%o %s %q", mode, path, content))
		at += aligned(length+name) + aligned(size)
	}
	return entries
}

func TestArchive(t *testing.T) {
	var out bytes.Buffer
	a := newArchive(&out)
	for _, file := range []struct {
		path    string
		mode    fs.FileMode
		content string
	}{
		{"init", 0o755, "12345"},
		{"modules/veth", 0o644, "1234"},
		{"modules/tun", 0o644, ""},
		{"pkg/datapath/testdata/a", 0o600, "123"},
	} {
		if err := a.add(file.path, file.mode, []byte(file.content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.close(); err != nil {
		t.Fatal(err)
	}
	want := []string{
		`100755 init "12345"`,
		`40755 modules ""`,
		`100644 modules/veth "1234"`,
		`100644 modules/tun ""`,
		`40755 pkg ""`,
		`40755 pkg/datapath ""`,
		`40755 pkg/datapath/testdata ""`,
		`100600 pkg/datapath/testdata/a "123"`,
		`0 TRAILER!!! ""`,
	}
	if diff := cmp.Diff(want, list(t, out.Bytes())); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
