package datapath

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/perimeterd/perimeterd/pkg/policy"
)

// wireEvent is the record that a kernel would send for an event.
func wireEvent(v *vocabulary, e *Event, boot time.Time) perimeterEvent {
	words := func(a netip.Addr) (out [4]uint32) {
		b := a.AsSlice()
		for i := range len(b) / 4 {
			out[i] = binary.NativeEndian.Uint32(b[4*i:])
		}
		return out
	}
	var out perimeterEvent
	out.Time = uint64(e.Time.Sub(boot))
	out.Packets = [2]uint64{e.PacketsTowards, e.PacketsFrom}
	out.Bytes = [2]uint64{e.BytesTowards, e.BytesFrom}
	out.Local.WordBe, out.Peer.WordBe = words(e.Local), words(e.Peer)
	out.Generation, out.Outcome, out.Member, out.Ifindex = e.Generation, e.Outcome, e.Member, e.Ifindex
	out.LocalPort, out.PeerPort, out.Protocol = e.LocalPort, e.PeerPort, e.Protocol
	out.Kind, out.Direction, out.Verdict, out.WouldBe = uint8(e.Kind), uint8(e.Direction), uint8(e.Verdict), uint8(e.WouldBe)
	out.Reason, out.Category = reasonNumber(v, e.Reason), v.categoryOf[e.Category]
	if !e.Started.IsZero() {
		out.Started = uint64(e.Started.Sub(boot))
	}
	switch {
	case e.Local.Is4():
		out.Family = 4
	case e.Local.Is6():
		out.Family = 6
	}
	if e.Midstream {
		out.FlowFlags = uint8(perimeterFlowFlagFLOW_MIDSTREAM)
	}
	return out
}

// reasonNumber is the number of a reason, also of one that has no name.
func reasonNumber(v *vocabulary, reason policy.Reason) uint8 {
	if number, ok := v.reasonOf[reason]; ok {
		return number
	}
	var number uint8
	if _, err := fmt.Sscanf(string(reason), "reason-%d", &number); err != nil {
		panic(fmt.Sprintf("%q is no reason", reason))
	}
	return number
}

func bytesOf(e *perimeterEvent) []byte {
	return append([]byte(nil), unsafe.Slice((*byte)(unsafe.Pointer(e)), eventSize)...)
}

// FuzzEventDecode reads whatever a ring may hold. A record that is too short is
// refused; of all others, each field is what it was written as, and a number
// that no word belongs to has a defined meaning.
func FuzzEventDecode(f *testing.F) {
	spec, err := loadPerimeter()
	if err != nil {
		f.Fatal(err)
	}
	words, err := readVocabulary(spec.Types)
	if err != nil {
		f.Fatal(err)
	}
	boot := time.Date(2026, 11, 20, 9, 15, 0, 0, time.UTC)
	for _, e := range someEvents(boot) {
		wire := wireEvent(words, &e, boot)
		f.Add(bytesOf(&wire))
		f.Add(append(bytesOf(&wire), 1, 2, 3, 4, 5, 6, 7, 8)) // a later version's record
		f.Add(bytesOf(&wire)[:eventSize-1])
		text, err := textOf("vault.example.com")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(append(bytesOf(&wire), text[:]...)) // struct named_event
		f.Add(append(bytesOf(&wire), text[:len(text)-1]...))
		wire.Kind, wire.Reason, wire.Category, wire.Family, wire.Direction, wire.Verdict = 255, 255, 255, 255, 255, 255
		f.Add(bytesOf(&wire))
	}
	f.Add([]byte{})

	sameAddress := cmpopts.EquateComparable(netip.Addr{})
	f.Fuzz(func(t *testing.T, raw []byte) {
		untouched := Event{Ifindex: 0xabcd}
		got := untouched
		if ok := words.decodeEvent(raw, boot, &got); ok != (len(raw) >= eventSize) {
			t.Fatalf("a record of %d bytes, of which %d are needed: read %t", len(raw), eventSize, ok)
		} else if !ok {
			if diff := cmp.Diff(untouched, got, sameAddress); diff != "" {
				t.Fatalf("what was refused left something behind (-before +after)\n%s", diff)
			}
			return
		}
		checkEvent(t, words, &got, raw)

		wire := wireEvent(words, &got, boot)
		var again Event
		if !words.decodeEvent(append(bytesOf(&wire), raw[eventSize:]...), boot, &again) {
			t.Fatalf("a record of %d bytes was refused", len(raw))
		}
		if diff := cmp.Diff(got, again, sameAddress); diff != "" {
			t.Errorf("written and read again (-first +again)\n%s", diff)
		}
	})
}

// checkEvent holds an event against the bytes it was read from, at the places
// that the one struct in C gives them.
func checkEvent(t *testing.T, words *vocabulary, e *Event, raw []byte) {
	t.Helper()
	var at perimeterEvent
	number := func(offset uintptr) uint8 { return raw[offset] }

	if e.Count != 1 || !e.LastTime.Equal(e.Time) {
		t.Errorf("one record stands for %d decisions, the last at %v and the first at %v", e.Count, e.LastTime, e.Time)
	}
	if e.Direction > policy.Outbound || e.Verdict > policy.Deny || e.WouldBe > policy.Deny {
		t.Errorf("direction %d, verdict %d or would-be verdict %d is none", e.Direction, e.Verdict, e.WouldBe)
	}
	if n := number(unsafe.Offsetof(at.Kind)); e.Kind != EventKind(n) {
		t.Errorf("kind %d was read as %d", n, e.Kind)
	}
	reason := number(unsafe.Offsetof(at.Reason))
	known := int(reason) < len(words.reasons)
	if known && words.reasonOf[e.Reason] != reason || !known && string(e.Reason) != fmt.Sprintf("reason-%d", reason) {
		t.Errorf("reason %d was read as %q", reason, e.Reason)
	}
	if n := number(unsafe.Offsetof(at.Category)); int(n) < len(words.categories) && words.categoryOf[e.Category] != n || int(n) >= len(words.categories) && e.Category != "" {
		t.Errorf("category %d was read as %q", n, e.Category)
	}
	family := number(unsafe.Offsetof(at.Family))
	if (family == 4) != e.Local.Is4() || (family == 6) != e.Local.Is6() || e.Local.IsValid() != e.Peer.IsValid() {
		t.Errorf("family %d has addresses %v and %v", family, e.Local, e.Peer)
	}
	if !policy.HasPorts(e.Protocol) && (e.LocalPort != 0 || e.PeerPort != 0) {
		t.Errorf("protocol %d has ports %d and %d", e.Protocol, e.LocalPort, e.PeerPort)
	}
	if len(raw) < namedEventSize && e.Name != "" {
		t.Errorf("a record of %d bytes has the name %q", len(raw), e.Name)
	}
	if i := strings.IndexFunc(e.Name, func(c rune) bool { return c <= ' ' || c > '~' }); i >= 0 || len(e.Name) > 4*len(nameText{}) {
		t.Errorf("the name %q is none to show to people", e.Name)
	}
	if ends := e.Kind == FlowEnd || e.Kind == FlowCut; !ends && (e.PacketsTowards|e.PacketsFrom|e.BytesTowards|e.BytesFrom != 0 || !e.Started.IsZero()) {
		t.Errorf("kind %d counts a flow's packets: %+v", e.Kind, e)
	}
}

// someEvents has one event of each kind.
func someEvents(boot time.Time) []Event {
	at := boot.Add(90 * time.Minute)
	tcp4 := Event{
		Time: at, LastTime: at, Count: 1, Generation: 7, Member: 3, Outcome: 12, Ifindex: 2,
		Reason: policy.ReasonAccessRule, Category: policy.PublicInboundPerimeterRulesAllowed, Protocol: policy.ProtocolTCP,
		Local: netip.MustParseAddr(member4), Peer: netip.MustParseAddr(partner4), LocalPort: 5432, PeerPort: 40000,
	}
	end := tcp4
	end.Kind, end.Started, end.Midstream = FlowEnd, boot.Add(time.Hour), true
	end.PacketsTowards, end.PacketsFrom, end.BytesTowards, end.BytesFrom = 10, 9, 840, 65000
	cut := end
	cut.Kind, cut.Verdict, cut.WouldBe, cut.Reason = FlowCut, policy.Deny, policy.Deny, policy.ReasonNoAccessRule
	icmp6 := tcp4
	icmp6.Kind, icmp6.Verdict, icmp6.WouldBe, icmp6.Direction = Denied, policy.Deny, policy.Deny, policy.Outbound
	icmp6.Reason, icmp6.Category = policy.ReasonNoAccessRule, policy.PublicOutboundPerimeterRulesDenied
	icmp6.Protocol, icmp6.LocalPort, icmp6.PeerPort = policy.ProtocolICMPv6, 0, 0
	icmp6.Local, icmp6.Peer = netip.MustParseAddr(member6), netip.MustParseAddr(partner6)
	nobody := icmp6
	nobody.Local, nobody.Peer, nobody.Member, nobody.Protocol = netip.Addr{}, netip.Addr{}, 0, 0
	nobody.Reason = "malformed-ip"
	return []Event{tcp4, end, cut, icmp6, nobody}
}

// TestEventsAreReadAsWritten: for what a kernel sends, decoding undoes encoding.
func TestEventsAreReadAsWritten(t *testing.T) {
	spec, err := loadPerimeter()
	if err != nil {
		t.Fatal(err)
	}
	words, err := readVocabulary(spec.Types)
	if err != nil {
		t.Fatal(err)
	}
	boot := time.Date(2026, 11, 20, 9, 15, 0, 0, time.UTC)
	for _, want := range someEvents(boot) {
		wire := wireEvent(words, &want, boot)
		var got Event
		if !words.decodeEvent(bytesOf(&wire), boot, &got) {
			t.Fatalf("refused: %+v", want)
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Errorf("(-written +read)\n%s", diff)
		}
		text, err := textOf("vault.example.com")
		if err != nil {
			t.Fatal(err)
		}
		if !words.decodeEvent(append(bytesOf(&wire), text[:]...), boot, &got) || got.Name != "vault.example.com" {
			t.Errorf("with a name: read %q", got.Name)
		}
	}
}
