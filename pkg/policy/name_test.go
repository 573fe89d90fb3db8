package policy

import "testing"

func TestNameCovers(t *testing.T) {
	for _, c := range []struct {
		written, asked string
		want           bool
	}{
		{"ubuntu.com", "ubuntu.com", true},
		{"ubuntu.com", "xubuntu.com", false},
		{"ubuntu.com", "a.ubuntu.com", false},
		{"ubuntu.com", "ubuntu.com.example", false},
		{"ubuntu.com", "", false},
		{"*.ubuntu.com", "a.ubuntu.com", true},
		{"*.ubuntu.com", "a.b.ubuntu.com", true},
		{"*.ubuntu.com", "ubuntu.com", false},
		{"*.ubuntu.com", "xubuntu.com", false},
		{"*.ubuntu.com", "a.xubuntu.com", false},
		{"*.ubuntu.com", ".ubuntu.com", false},
		{"*.internal", "a.internal", true},
		{"*.internal", "internal", false},
	} {
		if got := NameCovers(c.written, c.asked); got != c.want {
			t.Errorf("%q covers %q: %v, want %v", c.written, c.asked, got, c.want)
		}
	}
}
