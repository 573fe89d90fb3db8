package datapath

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/perimeterd/perimeterd/tests/packet"
	"github.com/perimeterd/perimeterd/tests/world"
)

// TestLongDatagrams: datagrams that the kernel itself cuts arrive whole where they
// are allowed, in both directions, and not a byte beside it.
func TestLongDatagrams(t *testing.T) {
	w := newEnforced(t)
	inbox, closed := openBox(t, w.member, "5432"), openBox(t, w.member, "5433")
	outbox, beyond := openBox(t, w.partner, "443"), openBox(t, w.partner, "444")
	members, partners := bothFamilies.addresses()
	for i := range members {
		for _, way := range []struct {
			from            *world.Host
			to              string
			allowed, beside *box
			ports           [2]string
		}{
			{w.partner, members[i], inbox, closed, [2]string{"5433", "5432"}},
			{w.member, partners[i], outbox, beyond, [2]string{"444", "443"}},
		} {
			for _, size := range []int{1473, 8000, 60_000} {
				text := strings.Repeat("x", size)
				for _, port := range way.ports { // the allowed one last
					conn, err := way.from.Dial(t.Context(), "udp", net.JoinHostPort(way.to, port))
					if err != nil {
						t.Fatal(err)
					}
					// The egress hook's drop of a fragment may be told to the sender.
					if _, err := conn.Write([]byte(text)); err != nil && !errors.Is(err, unix.ENOBUFS) {
						t.Fatal(err)
					}
					conn.Close()
				}
				if got := way.allowed.collect(t, 1, enough); len(got) != 1 || got[0] != text {
					t.Errorf("%d bytes to %s did not arrive whole", size, way.to)
				}
			}
		}
	}
	for _, b := range []*box{closed, beyond} {
		if got := b.collect(t, 1, shortly); len(got) > 0 {
			t.Errorf("%d bytes got past", len(got[0]))
		}
	}
	counted := w.counted(t)
	t.Log(describe(counted))
	expectUnderstood(t, counted)
	if counted["fragment-follows"] == 0 || counted["fragment-denied"] == 0 {
		t.Error("nothing was cut")
	}
}

// pieces are a datagram from the partner to the member, cut in three; its text is
// what it is.
func (w *wired) pieces(family, id int, port uint16, text string) []packet.Packet {
	members, partners := bothFamilies.addresses()
	p := packet.UDP(partners[family], members[family], 4000, port).Payload(fmt.Sprintf("%-40s", text))
	return p.Ethernet(w.partnerVeth.MAC, w.memberVeth.MAC).Split(uint32(id), 16, 32)
}

// TestOrderOfFragments: whatever the order in which fragments come, a datagram
// arrives at most where it is allowed. One whose later part comes first is lost,
// which is counted, and comes through when it is sent again.
func TestOrderOfFragments(t *testing.T) {
	const allowed, denied = 5432, 5433
	w := newEnforced(t)
	inbox, closed := openBox(t, w.member, "5432"), openBox(t, w.member, "5433")
	wire := openWire(t, w.partnerVeth)
	for family := range 2 {
		for i, test := range []struct {
			name    string
			send    func(a, b, c []packet.Packet) []packet.Packet // two to the allowed port, one to the denied
			arrives []string
			unknown uint64
		}{
			{"in order", func(a, _, c []packet.Packet) []packet.Packet { return slices.Concat(a, c) }, []string{"a"}, 0},
			{"each twice", func(a, _, c []packet.Packet) []packet.Packet {
				return []packet.Packet{a[0], a[0], c[0], c[0], a[1], c[1], a[1], a[2], c[2]}
			}, []string{"a"}, 0},
			{"two at a time", func(a, b, c []packet.Packet) []packet.Packet {
				return []packet.Packet{a[0], c[0], b[0], b[1], c[1], a[1], a[2], b[2], c[2]}
			}, []string{"a", "b"}, 0},
			{"the last before the second", func(a, _, c []packet.Packet) []packet.Packet {
				return []packet.Packet{a[0], a[2], a[1], c[0], c[2], c[1]}
			}, []string{"a"}, 0},
			{"the first last", func(a, _, c []packet.Packet) []packet.Packet {
				return []packet.Packet{a[2], a[1], a[0], c[2], c[1], c[0]}
			}, nil, 4},
			{"the last first, and all of it again", func(a, _, _ []packet.Packet) []packet.Packet {
				return slices.Concat([]packet.Packet{a[2], a[0], a[1]}, a)
			}, []string{"a"}, 1},
			{"only later ones", func(a, _, c []packet.Packet) []packet.Packet { return slices.Concat(a[1:], c[1:]) }, nil, 4},
		} {
			t.Run(fmt.Sprintf("%s, IPv%d", test.name, []int{4, 6}[family]), func(t *testing.T) {
				id := 100 * (i + 1)
				a, b, c := w.pieces(family, id, allowed, "a"), w.pieces(family, id+1, allowed, "b"), w.pieces(family, id+2, denied, "c")
				before := w.counted(t)
				frames := test.send(a, b, c)
				if err := wire.Send(frames...); err != nil {
					t.Fatal(err)
				}
				// And one that is whole, to know when all of them have come.
				last := w.pieces(family, id+3, allowed, "last")
				if err := wire.Send(last...); err != nil {
					t.Fatal(err)
				}
				want := []string{fmt.Sprintf("%-40s", "last")}
				for _, text := range test.arrives {
					want = append(want, fmt.Sprintf("%-40s", text))
				}
				slices.Sort(want)
				if got := inbox.collect(t, len(want), enough); !slices.Equal(got, want) {
					t.Errorf("got %q, want %q", got, want)
				}
				after := w.counted(t)
				if n := after["fragment-unknown"] - before["fragment-unknown"]; n != test.unknown {
					t.Errorf("%d were counted as fragment-unknown, want %d", n, test.unknown)
				}
			})
		}
	}
	if got := slices.Concat(inbox.collect(t, 1, shortly), closed.collect(t, 1, shortly)); len(got) > 0 {
		t.Errorf("got past: %q", got)
	}
}

// TestFragmentsUnderPressure: with more packets under way in fragments than can be
// remembered, nothing passes that may not, whoever sends them; what is allowed and
// comes in one go arrives; and the table says how full it is.
func TestFragmentsUnderPressure(t *testing.T) {
	w := newEnforced(t)
	inbox, closed := openBox(t, w.member, "5432"), openBox(t, w.member, "5433")
	wire := openWire(t, w.partnerVeth)
	table := int(w.objects.Fragments.MaxEntries())
	flood := 2 * table
	const allowed, denied = 5432, 5433

	early, never := w.pieces(0, 0, allowed, "early"), w.pieces(0, 1, denied, "never")
	if err := wire.Send(early[0], never[0]); err != nil {
		t.Fatal(err)
	}
	// From many addresses, since an identity has only 16 bits in IPv4.
	frame := w.pieces(1, 0, denied, "flood")[0].Frame()
	const source, id = 14 + 8, 14 + 40 + 4
	for n := range flood {
		frame[source+14], frame[source+15] = byte(n>>8), byte(n)
		frame[id] = byte(n)
		if err := wire.SendFrame(frame); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "all were judged", func() bool { return w.counted(t)["no-access-rule"] >= uint64(flood) })
	_, stats, err := w.Sweep()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d of %d remembered after %d first fragments", stats.Fragments, stats.FragmentsMax, flood)
	if stats.FragmentsMax != table || stats.Fragments < table/2 || stats.Fragments > table {
		t.Error("the table does not tell how full it is")
	}
	// What was forgotten does not pass, neither denied nor allowed.
	if err := wire.Send(slices.Concat(early[1:], never[1:])...); err != nil {
		t.Fatal(err)
	}
	for n := range 100 {
		text := fmt.Sprintf("%-40s", fmt.Sprint("live ", n))
		live, dead := w.pieces(0, 1000+n, allowed, text), w.pieces(0, 2000+n, denied, "dead")
		if err := wire.Send(slices.Concat(dead, live)...); err != nil {
			t.Fatal(err)
		}
		if got := inbox.collect(t, 1, enough); len(got) != 1 || got[0] != text {
			t.Fatalf("got %q, want %q", got, text)
		}
	}
	if got := closed.collect(t, 1, shortly); len(got) > 0 {
		t.Errorf("got past: %q", got)
	}
	if n := w.counted(t)["fragment-unknown"]; n != 4 {
		t.Errorf("%d were counted as fragment-unknown, want the 4 that were forgotten", n)
	}
	// After its time an entry counts no more.
	ageFragments(t, w.Datapath, time.Minute)
	if _, stats, err = w.Sweep(); err != nil || stats.Fragments != 0 {
		t.Errorf("%d remembered after a minute, %v", stats.Fragments, err)
	}
}

// ageFragments makes every first fragment look as if it came so long ago.
func ageFragments(t *testing.T, d *Datapath, by time.Duration) {
	t.Helper()
	var key perimeterFragmentKey
	var value perimeterFragment
	all := map[perimeterFragmentKey]perimeterFragment{}
	entries := d.objects.Fragments.Iterate()
	for entries.Next(&key, &value) {
		value.Seen -= uint32(d.clock.jiffiesIn(by))
		all[key] = value
	}
	if err := entries.Err(); err != nil {
		t.Fatal(err)
	}
	for k, v := range all {
		if err := d.objects.Fragments.Put(k, v); err != nil {
			t.Fatal(err)
		}
	}
}
