package crafted_test

import (
	"bytes"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/perimeterd/perimeterd/tests/crafted"
	"github.com/perimeterd/perimeterd/tests/packet"
)

func wire() *crafted.Wire {
	return &crafted.Wire{
		SenderMAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, HostMAC: net.HardwareAddr{2, 0, 0, 0, 0, 2},
		Partner:  crafted.Ends{V4: netip.MustParseAddr("198.51.100.7"), V6: netip.MustParseAddr("2001:db8:100::7")},
		Stranger: crafted.Ends{V4: netip.MustParseAddr("203.0.113.7"), V6: netip.MustParseAddr("2001:db8:bad::7")},
		Host:     []netip.Addr{netip.MustParseAddr("10.20.0.5"), netip.MustParseAddr("fd20::5"), netip.MustParseAddr("fe80::5")},
		Shared:   []netip.Addr{netip.MustParseAddr("10.20.0.255"), netip.MustParseAddr("ff02::1")},
		Open:     5432, Closed: []uint16{53, 5433}, MTU: 9000,
	}
}

const (
	seed  = 1
	count = 20000
)

// TestEveryClassIsDrawn also holds every case to what all have in common.
func TestEveryClassIsDrawn(t *testing.T) {
	w := wire()
	drawn := map[crafted.Class]int{}
	var frames, honest, tokens, large int
	for n := range uint32(count) {
		c := w.Draw(seed, n)
		if c.Number != n || len(c.Frames) == 0 || len(c.Classes) == 0 {
			t.Fatalf("case %d: %+v", n, c)
		}
		for _, class := range c.Classes {
			drawn[class]++
		}
		frames += len(c.Frames)
		for _, frame := range c.Frames {
			if len(frame) < 14 || len(frame) > w.MTU+14+9*4+60 {
				t.Fatalf("case %d %v: a frame of %d bytes", n, c.Classes, len(frame))
			}
			if at, found := crafted.Number(frame); found {
				tokens++
				if at != n {
					t.Fatalf("case %d says that it is %d: %s", n, at, packet.Describe(frame))
				}
			}
		}
		if c.Honest {
			honest++
		}
		if c.Large {
			large++
		}
	}
	t.Logf("%d cases, %d frames, %d with a token, %d honest, %d large", count, frames, tokens, honest, large)
	for _, class := range crafted.Classes() {
		if drawn[class] < count/2000 {
			t.Errorf("%q was drawn %d times", class, drawn[class])
		}
	}
	if len(drawn) != len(crafted.Classes()) {
		t.Errorf("%d classes were drawn, %d are listed", len(drawn), len(crafted.Classes()))
	}
	for name, n := range map[string]int{"honest": honest, "large": large} {
		if n < count/100 {
			t.Errorf("%d cases are %s: too few to tell anything", n, name)
		}
	}
}

func TestSameSeedSameCase(t *testing.T) {
	w := wire()
	for n := range uint32(1000) {
		a, b, other := w.Draw(seed, n), w.Draw(seed, n), w.Draw(seed+1, n)
		same := func(x, y crafted.Case) bool {
			return slices.EqualFunc(x.Frames, y.Frames, bytes.Equal) && slices.Equal(x.Classes, y.Classes) && x.Honest == y.Honest
		}
		if !same(a, b) {
			t.Fatalf("case %d differs from itself", n)
		}
		if n == 0 && same(a, other) {
			t.Error("another seed gives the same case")
		}
	}
}

func TestHonestIsHonest(t *testing.T) {
	w := wire()
	dishonest := []crafted.Class{crafted.SourceStranger, crafted.SourceOwn, crafted.TagStack, crafted.FragmentTiny, crafted.FlowError, crafted.SCTP, crafted.MACOther}
	for n := range uint32(count) {
		c := w.Draw(seed, n)
		if c.Honest && slices.ContainsFunc(dishonest, c.Has) {
			t.Errorf("case %d %v is called honest", n, c.Classes)
		}
	}
}

func TestNumber(t *testing.T) {
	for _, test := range []struct {
		received string
		want     uint32
		found    bool
	}{
		{"crafted:0000002a crafted:0000002a ", 42, true},
		{"2a crafted:0000002a", 42, true},
		{"crafted:00crafted:0000002a", 42, true},
		{"crafted:0000002", 0, false},
		{"hello", 0, false},
		{"", 0, false},
	} {
		if got, found := crafted.Number([]byte(test.received)); got != test.want || found != test.found {
			t.Errorf("%q: %d, %v; want %d, %v", test.received, got, found, test.want, test.found)
		}
	}
}
