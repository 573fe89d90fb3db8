package datapath

import (
	"encoding/hex"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/miekg/dns"
)

// FuzzAnswers holds the parser of answers in the kernel against miekg/dns: whatever
// the message, it opens no address that the reference would not, and counts the
// message as exactly one thing. The corpus in testdata/fuzz runs with every test.
func FuzzAnswers(f *testing.F) {
	r := newNamesRig(f, Options{}, namesRule("vault", 443, "vault.example.com"))
	needsInline(f, r.rig)
	for i := range uint64(64) {
		source := rand.New(rand.NewPCG(1, i))
		drawn, _ := drawAnswer(source, ask("vault.example.com", dns.TypeA))
		message := wireAsIs(f, drawn)
		f.Add([]byte(message), false)
		f.Add([]byte(mutate(source, message)), i%2 == 0)
	}
	f.Fuzz(func(t *testing.T, message []byte, six bool) {
		if len(message) > 3000 { // what a test run carries in one page
			return
		}
		e := ask("vault.example.com", dns.TypeA)
		if six {
			e = ask("vault.example.com", dns.TypeAAAA)
		}
		if len(message) > 2 { // or nearly all would be answers to nothing
			copy(message, []byte{byte(e.question.Id >> 8), byte(e.question.Id)})
		}
		got, counted := r.opensBy(t, e, string(message))
		if said := fates(counted); len(said) != 1 {
			t.Errorf("counted as %v: %s", said, hex.EncodeToString(message))
		}
		want := referenceReads(string(message), e)
		if i := slices.IndexFunc(got, func(a netip.Addr) bool { return !want[a] }); i >= 0 {
			t.Errorf("the kernel opens %s, the reference %v: %s", got[i], want, hex.EncodeToString(message))
		}
	})
}
