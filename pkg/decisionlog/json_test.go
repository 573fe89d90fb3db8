package decisionlog

import (
	"encoding/json"
	"math"
	"net/netip"
	"testing"
	"time"
)

func FuzzAppendString(f *testing.F) {
	for _, s := range []string{
		"", "orders-db", `"`, `\`, `\"`, "a\nb\r\t\x00\x1f\x7f", "héß→𝄞", "\xff", "a\xc3", "\xed\xa0\x80", "\u2028", "\ufffd", "</script>",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		line := appendString(nil, s)
		var got string
		if err := json.Unmarshal(line, &got); err != nil {
			t.Fatalf("appendString(%q) = %s: %v", s, line, err)
		}
		if want := string([]rune(s)); got != want { // []rune makes U+FFFD of each wrong byte
			t.Errorf("appendString(%q) = %s, reads back as %q, want %q", s, line, got, want)
		}
		if bytes := appendString(nil, []byte(s)); string(bytes) != string(line) {
			t.Errorf("appendString of bytes %q = %s, of the string %s", s, bytes, line)
		}
		for _, c := range line {
			if c < ' ' {
				t.Fatalf("appendString(%q) = %q, which would break the line", s, line)
			}
		}
	})
}

func TestAppendTime(t *testing.T) {
	berlin := time.FixedZone("CET", 3600)
	for _, c := range []struct {
		in   time.Time
		want string
	}{
		{time.Date(2026, 11, 20, 9, 15, 2, 114_000_000, time.UTC), "2026-11-20T09:15:02.114000Z"},
		{time.Date(2026, 11, 20, 0, 15, 2, 0, berlin), "2026-11-19T23:15:02.000000Z"},
		{time.Date(2024, 2, 29, 23, 59, 59, 999_999_999, time.UTC), "2024-02-29T23:59:59.999999Z"},
		{time.Unix(0, 1000), "1970-01-01T00:00:00.000001Z"},
	} {
		got := string(appendTime(nil, c.in))
		if got != c.want {
			t.Errorf("appendTime(%v) = %s, want %s", c.in, got, c.want)
		}
		back, err := time.Parse(time.RFC3339Nano, got)
		if err != nil || !back.Equal(c.in.Truncate(time.Microsecond)) {
			t.Errorf("%s reads back as %v, %v", got, back, err)
		}
	}
}

func TestAppendMembers(t *testing.T) {
	for _, c := range []struct {
		name string
		got  []byte
		want string
	}{
		{"text", appendText(nil, `"k":`, "v"), `"k":"v",`},
		{"no text", appendText(nil, `"k":`, ""), ``},
		{"empty text that must show", appendAlways(nil, `"k":`, ""), `"k":"",`},
		{"number", appendNumber(nil, `"k":`, math.MaxUint64), `"k":18446744073709551615,`},
		{"port", appendPort(nil, `"k":`, 65535), `"k":"65535",`},
		{"no port", appendPort(nil, `"k":`, 0), ``},
		{"address", appendAddress(nil, `"k":`, netip.MustParseAddr("fd20::5")), `"k":"fd20::5",`},
		{"zone that would break out", appendAddress(nil, `"k":`, netip.MustParseAddr(`fe80::1%a"b`)), `"k":"fe80::1%a\"b",`},
		{"no address", appendAddress(nil, `"k":`, netip.Addr{}), ``},
		{"no time", appendInstant(nil, `"k":`, time.Time{}), ``},
		{"object", closeObject([]byte(`{"k":1,`)), `{"k":1}`},
		{"empty object", closeObject([]byte(`{`)), `{}`},
	} {
		if string(c.got) != c.want {
			t.Errorf("%s: %s, want %s", c.name, c.got, c.want)
		}
	}
}
