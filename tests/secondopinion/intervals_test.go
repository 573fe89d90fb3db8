package secondopinion_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/nftables"
)

// TestIntervals: a set's intervals neither overlap nor touch, whatever prefixes
// it is made of.
func TestIntervals(t *testing.T) {
	for _, test := range []struct{ prefixes, want string }{
		{"10.0.0.0/8", "!0.0.0.0 10.0.0.0 !11.0.0.0"},
		{"10.0.0.0/9 10.128.0.0/9 10.1.0.0/16", "!0.0.0.0 10.0.0.0 !11.0.0.0"},
		{"10.0.0.1/32 10.0.0.3/32", "!0.0.0.0 10.0.0.1 !10.0.0.2 10.0.0.3 !10.0.0.4"},
		{"0.0.0.0/0 10.0.0.0/8", "0.0.0.0"},
		{"0.0.0.0/1", "0.0.0.0 !128.0.0.0"},
		{"255.0.0.0/8 254.0.0.0/8", "!0.0.0.0 254.0.0.0"},
		{"ff00::/8 2001:db8::/128", "!:: 2001:db8:: !2001:db8::1 ff00::"},
	} {
		if got := spelled(intervals(prefixesOf(test.prefixes))); got != test.want {
			t.Errorf("%s: %s, want %s", test.prefixes, got, test.want)
		}
	}
}

func prefixesOf(text string) []netip.Prefix {
	var prefixes []netip.Prefix
	for _, word := range strings.Fields(text) {
		prefixes = append(prefixes, netip.MustParsePrefix(word))
	}
	return prefixes
}

// spelled writes where intervals begin, and with ! where they end.
func spelled(elements []nftables.SetElement) string {
	var words []string
	for _, e := range elements {
		addr, _ := netip.AddrFromSlice(e.Key)
		word := addr.String()
		if e.IntervalEnd {
			word = "!" + word
		}
		words = append(words, word)
	}
	return strings.Join(words, " ")
}
