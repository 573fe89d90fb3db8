package datapath

import (
	"cmp"
	"errors"
	"io"
	"io/fs"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/perimeterd/perimeterd/pkg/capture"
	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/pkg/reference"
)

const capturesFolder = "testdata/captures"

// TestCaptures runs every capture in testdata/captures, see the README there.
func TestCaptures(t *testing.T) {
	files := captureFiles(t)
	if len(files) == 0 {
		t.Fatalf("there is no capture in %s", capturesFolder)
	}
	// Tables in which the flows of a round never lack room.
	const round, room = 10_000, 1 << 16
	both := newPair(t, room)
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			frames := readCapture(t, file)
			p, facts := policyFor(frames)
			both.put(t, p, facts)
			reasons := map[policy.Reason]int{}
			for some := range slices.Chunk(frames, round) {
				for reason, n := range both.play(t, bothWays(some)) {
					reasons[reason] += n
				}
			}
			for _, reason := range slices.Sorted(maps.Keys(reasons)) {
				t.Logf("%6d %s", reasons[reason], reason)
			}
		})
	}
}

// captureFiles lists the captures.
func captureFiles(t *testing.T) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(capturesFolder, func(path string, entry fs.DirEntry, err error) error {
		name := strings.TrimSuffix(path, ".gz")
		if err == nil && !entry.IsDir() && slices.Contains([]string{".pcap", ".pcapng", ".cap"}, filepath.Ext(name)) {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// readCapture returns the frames of a capture, as far as a test run takes them.
// Of longer ones both judges see no more.
func readCapture(t *testing.T, file string) [][]byte {
	t.Helper()
	r, err := capture.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var frames [][]byte
	cut := 0
	for {
		f, err := r.Next()
		if errors.Is(err, io.EOF) {
			t.Logf("%d frames, %d of them cut to %d bytes", len(frames), cut, testRunMax)
			return frames
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(f.Data) > testRunMax {
			f.Data = f.Data[:testRunMax]
			cut++
		}
		frames = append(frames, slices.Clone(f.Data))
	}
}

// bothWays sends each frame towards a member and then from one.
func bothWays(frames [][]byte) []crossing {
	var out []crossing
	for _, frame := range frames {
		out = append(out, crossing{frame: frame, towards: true}, crossing{frame: frame})
	}
	return out
}

// policyFor has the busiest address of each family as one member, Enforced, that
// admits every second of its peers and may call every third.
func policyFor(frames [][]byte) (*policy.Policy, *policy.Facts) {
	busy := map[netip.Addr]int{}
	peers := map[netip.Addr]map[netip.Addr]bool{}
	for _, frame := range frames {
		f := reference.ReadFrame(frame, true)
		for _, ends := range [][2]netip.Addr{{f.Packet.Local, f.Packet.Peer}, {f.Packet.Peer, f.Packet.Local}} {
			if addr := ends[0]; addr.IsValid() && !addr.IsMulticast() && !addr.IsUnspecified() && addr != netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
				busy[addr]++
				if peers[addr] == nil {
					peers[addr] = map[netip.Addr]bool{}
				}
				peers[addr][ends[1]] = true
			}
		}
	}
	members := []netip.Addr{netip.MustParseAddr(member4), netip.MustParseAddr(member6)} // of captures without IP
	for i, is4 := range []bool{true, false} {
		for _, addr := range slices.SortedFunc(maps.Keys(busy), netip.Addr.Compare) {
			if addr.Is4() == is4 && busy[addr] > busy[members[i]] {
				members[i] = addr
			}
		}
	}
	host := func(addr netip.Addr) netip.Prefix { return netip.PrefixFrom(addr, addr.BitLen()) }
	admitted := policy.AccessRule{Name: "admitted", Direction: policy.Inbound, AddressPrefixes: prefixes(partner4)}
	called := policy.AccessRule{Name: "called", Direction: policy.Outbound, AddressPrefixes: prefixes(partner4)}
	for _, member := range members {
		for i, peer := range slices.SortedFunc(maps.Keys(peers[member]), netip.Addr.Compare) {
			if i%2 == 0 {
				admitted.AddressPrefixes = append(admitted.AddressPrefixes, host(peer))
			}
			if i%3 == 0 {
				called.AddressPrefixes = append(called.AddressPrefixes, host(peer))
			}
		}
	}
	for _, rule := range []*policy.AccessRule{&admitted, &called} {
		slices.SortFunc(rule.AddressPrefixes, func(a, b netip.Prefix) int {
			return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
		})
		rule.AddressPrefixes = slices.Compact(rule.AddressPrefixes)
	}
	p := memberPolicy(policy.Enforced, admitted, called)
	p.Resources[0].Addresses = []netip.Prefix{host(members[0]), host(members[1])}
	return p, &policy.Facts{Now: time.Now(), Hostname: "host", Interfaces: []policy.Interface{{Name: "eth0", Addresses: members}}}
}
