package datapath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/tests/packet"
)

// opensBy returns the addresses that a message opens, in a question's flow.
func (r *namesRig) opensBy(t testing.TB, e exchange, message string) ([]netip.Addr, map[string]uint64) {
	t.Helper()
	r.forgetNames(t)
	r.forgetQuestions(t)
	counted := r.counted(t, func() {
		for _, p := range []struct {
			packet  packet.Packet
			towards bool
		}{
			{packet.UDP(e.local, e.resolver, e.port, 53).Payload(wireOf(t, e.question)), false},
			{packet.UDP(e.resolver, e.local, 53, e.port).Payload(message), true},
		} {
			if verdict, err := r.run(p.packet.Frame(), p.towards, 0); err != nil || verdict != policy.Allow {
				t.Fatalf("%v, %v", verdict, err)
			}
		}
	})
	all, err := r.Learnt()
	if err != nil {
		t.Fatal(err)
	}
	var out []netip.Addr
	for _, l := range all {
		out = append(out, l.Address)
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out), counted
}

// fates are the counters of which each answer adds to exactly one.
func fates(counted map[string]uint64) (out []string) {
	for word, n := range counted {
		if strings.HasPrefix(word, "address-") || word == "questions" || word == "lost" {
			continue
		}
		for range n {
			out = append(out, word)
		}
	}
	return out
}

// TestAnswersWithinLimits: EDNS, mixed case, aliases, and as many addresses as an
// answer holds are read; what is beyond is left to the agent, and opens nothing.
func TestAnswersWithinLimits(t *testing.T) {
	r := newNamesRig(t, Options{}, namesRule("vault", 443, "vault.example.com"))
	needsInline(t, r.rig)
	chain := func(n int) (records []string) {
		owner := "vault.example.com."
		for i := range n {
			next := fmt.Sprintf("alias-%d.cdn.example.org.", i)
			records = append(records, fmt.Sprintf("%s 300 IN CNAME %s", owner, next))
			owner = next
		}
		return append(records, owner+" 300 IN A 203.0.113.1")
	}
	addresses := func(n int) (records []string) {
		for i := range n {
			records = append(records, fmt.Sprintf("vault.example.com. 300 IN A 203.0.%d.%d", 112+i/250, i%250+1))
		}
		return records
	}
	for _, row := range []struct {
		name  string
		build func(e exchange) string
		opens int
		fate  string
	}{
		{"8 aliases", func(e exchange) string { return wireOf(t, e.reply(t, chain(8)...)) }, 1, "answers"},
		{"16 aliases", func(e exchange) string { return wireOf(t, e.reply(t, chain(16)...)) }, 1, "answers"},
		{"17 aliases", func(e exchange) string { return wireOf(t, e.reply(t, chain(17)...)) }, 0, "left-too-deep"},
		{"64 addresses", func(e exchange) string { return wireOf(t, e.reply(t, addresses(64)...)) }, 64, "answers"},
		{"200 addresses", func(e exchange) string { return wireOf(t, e.reply(t, addresses(200)...)) }, 200, "answers"},
		{"truncated", func(e exchange) string {
			m := e.reply(t, addresses(1)...)
			m.Truncated = true
			return wireOf(t, m)
		}, 0, "left-truncated"},
		{"EDNS with a cookie", func(e exchange) string {
			m := e.reply(t, addresses(3)...)
			m.SetEdns0(4096, true)
			m.IsEdns0().Option = append(m.IsEdns0().Option, &dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0123456789abcdef"})
			return wireOf(t, m)
		}, 3, "answers"},
		{"mixed case", func(e exchange) string {
			m := e.reply(t, "VAULT.example.COM. 300 IN CNAME Alias.Example.Org.", "aLIAS.eXAMPLE.oRG. 300 IN A 203.0.113.1")
			m.Question[0].Name = "vAuLt.eXaMpLe.cOm."
			return wireOf(t, m)
		}, 1, "answers"},
		{"without compression", func(e exchange) string {
			m := e.reply(t, addresses(20)...)
			bytes, err := m.Pack()
			if err != nil {
				t.Fatal(err)
			}
			return string(bytes)
		}, 20, "answers"},
		{"other records between them", func(e exchange) string {
			return wireOf(t, e.reply(t, "vault.example.com. 300 IN CNAME a.example.org.", `a.example.org. 300 IN TXT "hello"`, "a.example.org. 300 IN AAAA 2001:db8::1", "a.example.org. 300 IN A 203.0.113.1"))
		}, 2, "answers"},
		{"an alias to a name with odd characters", func(e exchange) string {
			return wireOf(t, e.reply(t, `vault.example.com. 300 IN CNAME a\046b.example.org.`, "a.b.example.org. 300 IN A 203.0.113.1"))
		}, 0, "opened-nothing"},
	} {
		t.Run(row.name, func(t *testing.T) {
			e := ask("vault.example.com", dns.TypeA)
			got, counted := r.opensBy(t, e, row.build(e))
			if len(got) != row.opens || !slices.Equal(fates(counted), []string{row.fate}) {
				t.Errorf("opened %d, counted %v; want %d, %s", len(got), counted, row.opens, row.fate)
			}
		})
	}
}

// TestMalformedAnswers: what contradicts itself opens nothing, whatever else is in it.
func TestMalformedAnswers(t *testing.T) {
	r := newNamesRig(t, Options{}, namesRule("vault", 443, "vault.example.com"))
	needsInline(t, r.rig)
	e := ask("vault.example.com", dns.TypeA)
	good := wireOf(t, e.reply(t, vaultRecord))
	const question = 12 + 19 + 4 // where the answer begins
	change := func(at int, bytes ...byte) string {
		m := []byte(good)
		copy(m[at:], bytes)
		return string(m)
	}
	for _, row := range []struct{ name, message, fate string }{
		{"as it should be", good, "answers"},
		{"no bytes", "", "malformed-header"},
		{"11 bytes", good[:11], "malformed-header"},
		{"no question", change(4, 0, 0), "malformed-header"},
		{"ends in the question", good[:20], "malformed-name"},
		{"ends before the type", good[:question-3], "malformed-record"},
		{"ends before the record", good[:question], "malformed-record"},
		{"ends in the record", good[:len(good)-1], "malformed-record"},
		{"a pointer to itself", change(question, 0xc0, question), "malformed-pointer"},
		{"a pointer ahead", change(question, 0xc0, question+4), "malformed-pointer"},
		{"a pointer into the header", change(question, 0xc0, 4), "malformed-pointer"},
		{"a label of a type that is not known", change(question, 0x80), "malformed-name"},
		{"a label beyond the end", change(question, 63), "malformed-name"},
		{"an address of 3 bytes", change(question+10, 0, 3), "malformed-record"},
		{"an address of 5 bytes", change(question+10, 0, 5) + "\x00", "malformed-record"},
		{"a record beyond the end", change(question+10, 0xff, 0xff), "malformed-record"},
		{"more records than are there", change(6, 0, 2), "malformed-record"},
		{"a question with a pointer", "\x12\x34\x81\x80\x00\x01\x00\x01\x00\x00\x00\x00\xc0\x0c\x00\x01\x00\x01", "malformed-pointer"},
	} {
		t.Run(row.name, func(t *testing.T) {
			got, counted := r.opensBy(t, e, row.message)
			if !slices.Equal(fates(counted), []string{row.fate}) || (len(got) != 0) != (row.fate == "answers") {
				t.Errorf("opened %v, counted %v; want %s", got, counted, row.fate)
			}
		})
	}
}

// drawAnswer draws an answer, mostly one that makes sense. inOrder: each alias
// stands before what it leads to, and leads to something new.
func drawAnswer(r *rand.Rand, e exchange) (m *dns.Msg, inOrder bool) {
	m, inOrder = new(dns.Msg).SetReply(e.question), true
	m.Compress = r.IntN(4) > 0
	owner := e.question.Question[0].Name
	met := []string{owner}
	mixed := func(name string) string {
		b := []byte(name)
		for i := range b {
			if r.IntN(3) == 0 {
				b[i] = strings.ToUpper(string(b[i]))[0]
			}
		}
		return string(b)
	}
	header := func(name string, recordType uint16) dns.RR_Header {
		return dns.RR_Header{Name: mixed(name), Rrtype: recordType, Class: dns.ClassINET, Ttl: uint32(r.IntN(600))}
	}
	someone := func() string {
		return []string{"cdn.example.org.", "www.example.com.", "a.b.c.d.e.f.example.net.", "x.", "vault.example.com.", "EXAMPLE.com.", `o\046dd.example.com.`}[r.IntN(7)]
	}
	for range r.IntN(5) {
		next := someone()
		inOrder = inOrder && !slices.Contains(met, strings.ToLower(next)) && !strings.Contains(next, `\`) // no policy's name has such
		met = append(met, strings.ToLower(next))
		m.Answer = append(m.Answer, &dns.CNAME{Hdr: header(owner, dns.TypeCNAME), Target: mixed(next)})
		owner = next
	}
	for range r.IntN(8) {
		of := owner
		if r.IntN(6) == 0 {
			of = someone()
			inOrder = inOrder && !slices.Contains(met, strings.ToLower(of))
		}
		switch r.IntN(6) {
		case 0:
			m.Answer = append(m.Answer, &dns.TXT{Hdr: header(of, dns.TypeTXT), Txt: []string{"text"}})
		case 1:
			m.Answer = append(m.Answer, &dns.AAAA{Hdr: header(of, dns.TypeAAAA), AAAA: net.IP(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 15: byte(r.IntN(256))}).AsSlice())})
		default:
			m.Answer = append(m.Answer, &dns.A{Hdr: header(of, dns.TypeA), A: net.IPv4(203, 0, 113, byte(r.IntN(256)))})
		}
	}
	if r.IntN(4) == 0 {
		inOrder = false
		r.Shuffle(len(m.Answer), func(i, j int) { m.Answer[i], m.Answer[j] = m.Answer[j], m.Answer[i] })
	}
	if r.IntN(3) == 0 {
		m.SetEdns0(1232, false)
	}
	return m, inOrder
}

// mutate changes some bytes of a message, or cuts it.
func mutate(r *rand.Rand, message string) string {
	b := []byte(message)
	for range 1 + r.IntN(3) {
		switch at := r.IntN(len(b)); r.IntN(5) {
		case 0:
			b = b[:at+1]
		case 1:
			b[at] = byte(r.IntN(256))
		case 2:
			b[at] ^= 1 << r.IntN(8)
		case 3:
			b = append(b, byte(r.IntN(256)))
		default:
			if at+1 < len(b) {
				b[at], b[at+1] = 0xc0, byte(r.IntN(len(b)))
			}
		}
	}
	return string(b)
}

// TestAnswersAgreeWithReference holds the parser in the kernel against miekg/dns,
// on random and mutated messages: it opens nothing that
// these would not, all that they would where a message is as it should be, and
// counts each once.
func TestAnswersAgreeWithReference(t *testing.T) {
	r := newNamesRig(t, Options{}, namesRule("vault", 443, "vault.example.com"))
	needsInline(t, r.rig)
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("seed %d: run again with -seed=%d", seed, seed)
	var opened, whole int
	count := *packetsFlag * 5
	sum := map[string]int{}
	for i := range count {
		source := rand.New(rand.NewPCG(seed, uint64(i)))
		e := ask("vault.example.com", []uint16{dns.TypeA, dns.TypeAAAA}[source.IntN(2)])
		drawn, intact := drawAnswer(source, e)
		message := wireAsIs(t, drawn)
		if source.IntN(2) == 0 {
			intact = false
			message = mutate(source, message)
		}
		got, counted := r.opensBy(t, e, message)
		said := fates(counted)
		if len(said) != 1 {
			t.Fatalf("seed %d message %d: counted %v: %x", seed, i, counted, message)
		}
		sum[said[0]]++
		want := referenceReads(message, e)
		for _, a := range got {
			if !want[a] {
				t.Fatalf("seed %d message %d: the kernel opens %s, the reference %v: %x", seed, i, a, want, message)
			}
		}
		if len(got) > 0 {
			opened++
		}
		if intact {
			whole++
			if len(got) != len(want) {
				t.Fatalf("seed %d message %d: the kernel opens %v, the reference %v: %x", seed, i, got, want, message)
			}
		}
	}
	t.Logf("%d messages, %d of them as they should be: %d opened addresses; %v", count, whole, opened, sum)
	if opened < count/20 || whole < count/20 {
		t.Error("too one-sided to tell anything")
	}
}

func wireAsIs(t testing.TB, m *dns.Msg) string {
	t.Helper()
	bytes, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return string(bytes)
}

// referenceReads returns what may be opened by the answer section of a message, as
// miekg/dns reads it: the addresses of the question's name and of all that aliases
// lead to, in whatever order they stand; nothing if anything of it is malformed.
// What is in other sections, and in records of other types, is nobody's business:
// clients do not read it either.
func referenceReads(message string, e exchange) map[netip.Addr]bool {
	out := map[netip.Addr]bool{}
	m, asked := []byte(message), e.question.Question[0]
	if len(m) < 12 {
		return out
	}
	word := func(at int) uint16 { return binary.BigEndian.Uint16(m[at:]) }
	flags := word(2)
	if word(0) != e.question.Id || flags>>11 != 1<<4 || flags&0x020f != 0 || word(4) != 1 {
		return out // not an answer to a query, cut, an error, or to several questions
	}
	name, at, err := dns.UnpackDomainName(m, 12)
	if err != nil || at+4 > len(m) || !strings.EqualFold(name, asked.Name) || word(at) != asked.Qtype || word(at+2) != dns.ClassINET {
		return out
	}
	records, err := answerSection(m, at+4, int(word(6)))
	if err != nil {
		return out
	}
	reached := map[string]bool{strings.ToLower(asked.Name): true}
	for range records { // each round may reach one more
		for _, record := range records {
			if alias, ok := record.(*dns.CNAME); ok && reached[strings.ToLower(alias.Hdr.Name)] {
				reached[strings.ToLower(alias.Target)] = true
			}
		}
	}
	for _, record := range records {
		if !reached[strings.ToLower(record.Header().Name)] {
			continue
		}
		switch v := record.(type) {
		case *dns.A:
			if a, ok := netip.AddrFromSlice(v.A.To4()); ok {
				out[a] = true
			}
		case *dns.AAAA:
			if a, ok := netip.AddrFromSlice(v.AAAA.To16()); ok {
				out[a] = true
			}
		}
	}
	return out
}

// answerSection reads the records of the types that matter.
func answerSection(m []byte, at, count int) (records []dns.RR, err error) {
	for range count {
		name, next, err := dns.UnpackDomainName(m, at)
		if err != nil {
			return nil, err
		}
		if next+10 > len(m) {
			return nil, errors.New("cut")
		}
		h := dns.RR_Header{
			Name: name, Rrtype: binary.BigEndian.Uint16(m[next:]), Class: binary.BigEndian.Uint16(m[next+2:]),
			Ttl: binary.BigEndian.Uint32(m[next+4:]), Rdlength: binary.BigEndian.Uint16(m[next+8:]),
		}
		at = next + 10 + int(h.Rdlength)
		if at > len(m) {
			return nil, errors.New("cut")
		}
		if h.Class != dns.ClassINET || !slices.Contains([]uint16{dns.TypeA, dns.TypeAAAA, dns.TypeCNAME}, h.Rrtype) {
			continue
		}
		record, end, err := dns.UnpackRRWithHeader(h, m[:at], next+10)
		if err != nil || end != at {
			return nil, fmt.Errorf("record of %s: %w", name, err)
		}
		records = append(records, record)
	}
	return records, nil
}
