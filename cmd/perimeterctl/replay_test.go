package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
	"golang.org/x/sys/unix"

	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/pkg/reference"
	"github.com/perimeterd/perimeterd/tests/packet"
	"github.com/perimeterd/perimeterd/tests/privileged"
)

// replayPolicy is what the captures of these tests are replayed with.
const replayPolicy = `
resources:
  - {name: orders-db, addresses: [10.20.0.5, "fd20::5"]}
  - {name: orders-api, addresses: [10.20.0.6, "fd20::6"]}
  - {name: seen, addresses: [10.20.0.10]}
  - {name: wiki, addresses: [10.20.0.11], firewall: [{name: office, direction: Inbound, addressPrefixes: [203.0.113.0/28]}]}
perimeters:
  - name: payments
    profiles:
      - name: data
        accessRules:
          - {name: partners, direction: Inbound, addressPrefixes: [198.51.100.0/24, "2001:db8:100::/48"], ports: [tcp/5432, udp/5432]}
          - {name: backup, direction: Outbound, addressPrefixes: [192.0.2.0/24], ports: [udp/53]}
          - {name: nobody, direction: Inbound, addressPrefixes: [192.0.2.99]}
    associations:
      - {name: orders-db, resource: orders-db, profile: data, accessMode: Enforced}
      - {name: orders-api, resource: orders-api, profile: data, accessMode: Enforced}
      - {name: seen, resource: seen, profile: data, accessMode: Audit}
`

// captured is a frame of a capture that a test writes.
type captured struct {
	after  time.Duration // since noon
	packet packet.Packet
	snap   int // bytes kept of the Ethernet frame; 0 = all
}

// pause is longer than any timeout: nothing is remembered after it.
const pause = 6 * 24 * time.Hour

// yesterdays is a capture with a bit of everything.
func yesterdays() []captured {
	const SYN, ACK, FIN, RST = packet.SYN, packet.ACK, packet.FIN, packet.RST
	const db, api, seen, wiki, partner, stranger = "10.20.0.5", "10.20.0.6", "10.20.0.10", "10.20.0.11", "198.51.100.7", "203.0.113.7"
	handshake := func(from, to string, port uint16) []packet.Packet {
		return []packet.Packet{
			packet.TCP(from, to, 4000, port, SYN).Sequence(100, 0),
			packet.TCP(to, from, port, 4000, SYN|ACK).Sequence(500, 101),
			packet.TCP(from, to, 4000, port, ACK).Sequence(101, 501),
			packet.TCP(to, from, port, 4000, ACK).Sequence(501, 101),
		}
	}
	big := packet.TCP(partner, db, 4001, 5432, SYN).Payload(strings.Repeat("x", 65000))
	datagram := packet.UDP(partner, db, 4002, 5432).Payload(strings.Repeat("x", 3000))
	denied := packet.UDP(stranger, db, 4002, 5432).Payload(strings.Repeat("x", 3000))
	asked := packet.UDP(partner, db, 4003, 5432)
	var packets []packet.Packet
	for _, conversation := range [][]packet.Packet{
		handshake(partner, db, 5432),                       // by an access rule
		handshake(api, db, 5432),                           // within the perimeter
		handshake("2001:db8:100::7", "fd20::5", 5432),      // IPv6
		handshake(stranger, seen, 22),                      // in Audit
		handshake(stranger, wiki, 80),                      // by its own rules
		handshake("203.0.113.99", wiki, 80)[:1],            // not by its own rules
		handshake(stranger, db, 5432)[:1],                  // denied,
		handshake(stranger, db, 5432)[:1],                  // and again
		handshake(db, stranger, 443)[:1],                   // and outwards
		handshake(partner, stranger, 443),                  // nobody's
		datagram.Split(1, 1400, 2800),                      // fragments
		denied.Split(2, 1400, 2800),                        // of what is denied
		{datagram.Tagged(5), datagram.ServiceTagged(6, 7)}, // tags
		{big, asked},
		{packet.UDP(db, "192.0.2.53", 9999, 53), packet.UDP("192.0.2.53", db, 53, 9999)},
		{packet.ICMPError("192.0.2.53", packet.PortUnreachable, packet.UDP(db, "192.0.2.53", 9999, 53))},
		{packet.ARP(partner, db), packet.TCP(partner, db, 4000, 5432, RST|ACK).Sequence(101, 501)},
		{packet.TCP(partner, db, 4004, 5432, SYN|FIN), packet.UDP(stranger, "10.20.0.200", 1, 2)},
	} {
		packets = append(packets, conversation...)
	}
	var out []captured
	for i, p := range packets {
		out = append(out, captured{after: time.Duration(i) * time.Millisecond, packet: p})
	}
	out = append(out,
		captured{after: time.Second, packet: big.Sequence(7, 0), snap: 96},
		captured{after: time.Second, packet: datagram, snap: 60},
		// An answer that comes when nobody remembers the question, and the question.
		captured{after: pause, packet: packet.UDP(db, partner, 5432, 4003)},
		captured{after: pause + time.Second, packet: asked},
		captured{after: pause + 2*time.Second, packet: packet.UDP(db, partner, 5432, 4003)},
	)
	return out
}

// writePcap writes a capture of some link type and returns its path.
func writePcap(t *testing.T, link layers.LinkType, header func(packet.Packet) []byte, frames []captured) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "capture.pcap")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w := pcapgo.NewWriterNanos(file)
	if err := w.WriteFileHeader(1<<17, link); err != nil {
		t.Fatal(err)
	}
	for _, f := range frames {
		frame := append(header(f.packet), f.packet.Datagram()...)
		info := gopacket.CaptureInfo{Timestamp: noon.Add(f.after), Length: len(frame)}
		if f.snap > 0 {
			frame = frame[:f.snap]
		}
		info.CaptureLength = len(frame)
		if err := w.WritePacket(info, frame); err != nil {
			t.Fatal(err)
		}
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func ethernet(p packet.Packet) []byte {
	frame := p.Frame()
	return frame[:len(frame)-len(p.Datagram())]
}

func etherType(p packet.Packet) []byte {
	header := ethernet(p)
	return header[len(header)-2:]
}

func raw(packet.Packet) []byte { return nil }

func cooked(p packet.Packet) []byte {
	return append([]byte{0, 0, 0, 1, 0, 6, 2, 0, 0, 0, 0, 1, 0, 0}, etherType(p)...)
}

func cooked2(p packet.Packet) []byte {
	return append(etherType(p), 0, 0, 0, 0, 0, 7, 0, 1, 0, 6, 2, 0, 0, 0, 0, 1, 0, 0)
}

func writeFile(t *testing.T, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// noFailsafe are settings by which the policy alone decides.
func noFailsafe(t *testing.T) string {
	t.Helper()
	return "--settings=" + writeFile(t, "perimeterd.yaml", []byte("failsafe: []\n"))
}

// replayJSON replays a capture and returns an answer for each frame, and the sum.
func replayJSON(t *testing.T, args ...string) (code int, frames []replayedFrame, sum replaySummary) {
	t.Helper()
	code, out, stderr := call(t, append([]string{"replay", "-o", "json"}, args...)...)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	for i, line := range lines {
		var err error
		if i == len(lines)-1 {
			last := struct{ Summary *replaySummary }{&sum}
			err = json.Unmarshal([]byte(line), &last)
		} else {
			var f replayedFrame
			err = json.Unmarshal([]byte(line), &f)
			frames = append(frames, f)
		}
		if err != nil {
			t.Fatalf("line %d: %v: %s; stderr: %s", i+1, err, line, stderr)
		}
	}
	return code, frames, sum
}

// TestReplayAgreesWithReference: each frame is judged as the reference does, on
// whatever link it was captured.
func TestReplayAgreesWithReference(t *testing.T) {
	privileged.Require(t)
	path := writeFile(t, "policy.yaml", []byte(replayPolicy))
	p, err := policy.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	evaluator := reference.New(p, policy.Facts{Now: noon, Hostname: "host", Interfaces: []policy.Interface{{Workload: true}}})
	session := reference.NewSession(evaluator)
	all := yesterdays()
	var want []replayedEnd
	for i, f := range all {
		if i > 0 && f.after-all[i-1].after > pause/2 {
			session = reference.NewSession(evaluator)
		}
		want = append(want, referenceEnd(session, f.packet.Frame()))
	}

	untagged := func(f captured) bool { return !strings.Contains(f.packet.String(), "vlan") }
	for _, link := range []struct {
		name   string
		path   string
		tagged bool
	}{
		{"Ethernet", writePcap(t, layers.LinkTypeEthernet, ethernet, all), true},
		{"cooked", writePcap(t, layers.LinkTypeLinuxSLL, cooked, all), false},
		{"cooked 2", writePcap(t, layers.LinkTypeLinuxSLL2, cooked2, all), false},
		{"raw", writePcap(t, layers.LinkTypeRaw, raw, all), false},
		{"gzip", zip(t, writePcap(t, layers.LinkTypeEthernet, ethernet, all)), true},
	} {
		t.Run(link.name, func(t *testing.T) {
			code, frames, sum := replayJSON(t, "--policy", path, "--pcap", link.path, noFailsafe(t))
			if code != exitBad {
				t.Errorf("exit code %d, though much is denied", code)
			}
			if len(frames) != len(all) {
				t.Fatalf("%d answers to %d frames", len(frames), len(all))
			}
			seen := map[string]int{}
			for i, f := range frames {
				if diff := cmp.Diff(want[i], f.replayedEnd); diff != "" {
					t.Errorf("frame %d, %v (-reference +replay):\n%s", i+1, all[i].packet, diff)
				}
				if f.Frame != i+1 || !f.Time.Equal(noon.Add(all[i].after)) {
					t.Errorf("frame %d is told as %d, of %v", i+1, f.Frame, f.Time)
				}
				if untagged(all[i]) && f.Reason != "not-ip" && (f.Source == "" || f.Destination == "" || f.Protocol == "") {
					t.Errorf("frame %d: nobody knows who talks: %+v", i+1, f)
				}
				seen[f.Verdict]++
			}
			if sum.Frames != len(all) || sum.Allow != seen["allow"] || sum.Deny != seen["deny"] || sum.Pass != seen["pass"] ||
				!sum.FirstTime.Equal(noon) || !sum.LastTime.Equal(noon.Add(all[len(all)-1].after)) || sum.Snapped != 2 || sum.WouldBeDenied != 1 {
				t.Errorf("%v are summed up as %+v", seen, sum)
			}
		})
	}
}

func zip(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return writeFile(t, "capture.pcap.gz", packed.Bytes())
}

// referenceEnd is what the reference says of a frame, of the end that is told.
func referenceEnd(session *reference.Session, frame []byte) replayedEnd {
	from := session.Decide(frame, false, "")
	if from.Verdict == policy.Deny {
		return inWords(from)
	}
	towards := session.Decide(frame, true, "")
	if judged(towards) || !judged(from) {
		return inWords(towards)
	}
	return inWords(from)
}

func judged(d reference.Decision) bool {
	return d.Verdict == policy.Deny || d.Governed || d.Reason == reference.ReasonFragmentFollows
}

func inWords(d reference.Decision) replayedEnd {
	e := replayedEnd{Verdict: verdictPass, Reason: d.Reason, Category: d.Category, Rule: d.Rule}
	if judged(d) {
		e.Verdict, e.Direction = d.Verdict.String(), d.Direction.String()
	}
	flow := d.Reason == reference.ReasonEstablished || d.Reason == reference.ReasonRelated
	if d.WouldBe != d.Verdict && !flow {
		e.WouldBe = d.WouldBe.String()
	}
	if d.Reason == reference.ReasonFragmentFollows {
		e.Member, e.Perimeter, e.Profile, e.AccessMode = "orders-db", "payments", "data", "Enforced" // of all fragments here
	}
	if d.Governed {
		e.Member, e.Perimeter, e.Profile, e.AccessMode = d.Resource, d.Perimeter, d.Profile, d.AccessMode.String()
	}
	return e
}

// TestReplayText: a flow's first decision, a row of denials once, and the sum.
func TestReplayText(t *testing.T) {
	privileged.Require(t)
	path := writeFile(t, "policy.yaml", []byte(replayPolicy))
	const partner, stranger, db = "198.51.100.7", "203.0.113.7", "10.20.0.5"
	file := writePcap(t, layers.LinkTypeEthernet, ethernet, []captured{
		{0, packet.TCP(partner, db, 4000, 5432, packet.SYN), 0},
		{time.Millisecond, packet.TCP(db, partner, 5432, 4000, packet.SYN|packet.ACK), 0},
		{2 * time.Millisecond, packet.TCP(stranger, db, 4000, 5432, packet.SYN), 0},
		{1002 * time.Millisecond, packet.TCP(stranger, db, 4000, 5432, packet.SYN), 0},
		{1003 * time.Millisecond, packet.TCP(stranger, db, 4001, 5432, packet.SYN), 0},
		{1004 * time.Millisecond, packet.TCP(stranger, db, 4001, 22, packet.SYN), 0},
		{time.Minute, packet.UDP(db, "192.0.2.53", 9999, 53), 0},
		{time.Minute, packet.UDP(db, "192.0.2.53", 9999, 443), 0},
		{time.Minute, packet.TCP(stranger, "10.20.0.10", 9999, 443, packet.SYN), 0},
		{time.Minute, packet.ARP(stranger, db), 0},
		{time.Minute, packet.TCP(stranger, db, 9999, 443, packet.SYN), 40},
	})
	at := func(line int) string { return fmt.Sprintf("%s:%d:13", path, line) }
	expect(t, exitBad, `
12:00:00.000  allow       orders-db:5432           ← 198.51.100.7:4000            tcp    perimeter access-rule partners
12:00:00.002  deny        orders-db:5432           ← 203.0.113.7:4000             tcp    perimeter no-access-rule
12:00:01.004  allow       orders-db:22             ← 203.0.113.7:4001             tcp    perimeter failsafe ssh
12:01:00.000  allow       orders-db                → 192.0.2.53:53                udp    perimeter access-rule backup
12:01:00.000  deny        orders-db                → 192.0.2.53:443               udp    perimeter no-access-rule
12:01:00.000  would-deny  seen:443                 ← 203.0.113.7:9999             tcp    perimeter no-access-rule
12:01:00.000  deny        orders-db:443            ← 203.0.113.7:9999             tcp    perimeter truncated-l4

11 frames, from 2026-01-02 12:00:00 to 2026-01-02 12:01:00
allowed 5, denied 5, passed without being judged 1
would be denied, but for Audit: 1
captured only in part: 1

denied most
  3  orders-db port 5432  ← 203.0.113.7          tcp  no-access-rule
  1  orders-db            → 192.0.2.53 port 443  udp  no-access-rule
  1  seen port 443        ← 203.0.113.7          tcp  no-access-rule (would be)
  1  orders-db port 443   ← 203.0.113.7          tcp  truncated-l4

let in by
  backup    outbound  access-rule  payments/data  1 flows  `+at(13)+`
  partners  inbound   access-rule  payments/data  1 flows  `+at(12)+`
  ssh       inbound   failsafe                    1 flows  

rules that let nothing in
  nobody  inbound  access-rule    payments/data    `+at(14)+`
  office  inbound  firewall-rule  wiki             `+strings.Replace(at(6), ":13", ":54", 1)+`
`, "replay", "--policy", path, "--pcap", file)

	var colourful, stderr bytes.Buffer
	run(env{ctx: t.Context(), stdout: &colourful, stderr: &stderr, colour: true, now: time.Now, location: time.UTC},
		[]string{"replay", "--policy", path, "--pcap", file})
	if !strings.Contains(colourful.String(), "\x1b[1;31mdeny\x1b[0m") {
		t.Errorf("no colour: %q, %s", colourful.String(), stderr.String())
	}
}

// TestReplayExitCode: a capture of which nothing is denied, and one of nothing.
func TestReplayExitCode(t *testing.T) {
	privileged.Require(t)
	path := writeFile(t, "policy.yaml", []byte(replayPolicy))
	for _, frames := range [][]captured{{{0, packet.TCP("198.51.100.7", "10.20.0.5", 4000, 5432, packet.SYN), 0}}, nil} {
		code, told, sum := replayJSON(t, "--policy", path, "--pcap", writePcap(t, layers.LinkTypeEthernet, ethernet, frames))
		if code != exitGood || len(told) != len(frames) || sum.Frames != len(frames) || len(sum.UnusedRules)+len(sum.ByRule) != 4 {
			t.Errorf("%d frames: exit code %d, %+v, %+v", len(frames), code, told, sum)
		}
	}
}

// TestReplayNotes: what cannot be known of a capture's world is said, and what
// the flags say is known.
func TestReplayNotes(t *testing.T) {
	privileged.Require(t)
	path := writeFile(t, "policy.yaml", []byte(`
resources:
  - {name: host, interfaces: [eth*], publicNetworkAccess: Disabled}
  - {name: other, interfaces: [eth0], host: "db-*"}
perimeters:
  - name: p
    profiles:
      - name: q
        accessRules:
          - {name: vault, direction: Outbound, fullyQualifiedDomainNames: [vault.example.com]}
          - {name: dns, direction: Outbound, addressPrefixes: [192.0.2.53]}
privateEndpoints:
  - {name: tunnel, interfaces: [wg0]}
`))
	frame := packet.TCP("198.51.100.7", "10.20.0.5", 4000, 5432, packet.SYN)
	file := writePcap(t, layers.LinkTypeEthernet, ethernet, []captured{{packet: frame}})
	_, _, notes := call(t, "replay", "--policy", path, "--pcap", file, "--host", "web-1")
	for _, want := range []string{
		"note: names have no addresses in a replay, so these rules allow nothing: vault of p/q (" + path + ":10:13)\n",
		"note: resource host (" + path + ":3:5) has the addresses of interfaces eth*: ",
		"note: resource other (" + path + ":4:5) has the addresses of interfaces eth0 of hosts db-*, and this is taken for host web-1: ",
		"note: private endpoint tunnel (" + path + ":13:5) is interfaces wg0, ",
	} {
		if !strings.Contains(notes, want) {
			t.Errorf("%q is missing in\n%s", want, notes)
		}
	}

	code, frames, _ := replayJSON(t, "--policy", path, "--pcap", file, "--host", "web-1", "--interface", "eth1=10.20.0.5,fd20::5")
	if code != exitBad || frames[0].Member != "host" || frames[0].Reason != policy.ReasonPublicAccessDisabled {
		t.Errorf("with addresses: %+v", frames)
	}
	code, frames, _ = replayJSON(t, "--policy", path, "--pcap", onInterface(t, "wg0", frame), "--interface", "eth1=10.20.0.5")
	if code != exitGood || frames[0].Reason != policy.ReasonPrivatePath || frames[0].Rule != "tunnel" || frames[0].Interface != "wg0" {
		t.Errorf("over the private endpoint: %+v", frames)
	}
	if _, _, notes := call(t, "replay", "--policy", path, "--pcap", onInterface(t, "eth1", frame), "--host", "db-1", "--interface", "eth0=10.20.0.7"); strings.Contains(notes, "resource") || strings.Contains(notes, "tunnel") {
		t.Errorf("notes about what is known:\n%s", notes)
	}
}

// onInterface writes a frame as pcapng, which names interfaces.
func onInterface(t *testing.T, name string, p packet.Packet) string {
	t.Helper()
	var file bytes.Buffer
	w, err := pcapgo.NewNgWriterInterface(&file, pcapgo.NgInterface{Name: name, LinkType: layers.LinkTypeEthernet, TimestampResolution: 9}, pcapgo.NgWriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	frame := p.Frame()
	err = errors.Join(w.WritePacket(gopacket.CaptureInfo{Timestamp: noon, CaptureLength: len(frame), Length: len(frame)}, frame), w.Flush())
	if err != nil {
		t.Fatal(err)
	}
	return writeFile(t, "capture.pcapng", file.Bytes())
}

// TestReplayOfRulesThatEnd: `expires` is of the capture's time.
func TestReplayOfRulesThatEnd(t *testing.T) {
	privileged.Require(t)
	path := writeFile(t, "policy.yaml", []byte(`
resources: [{name: db, addresses: [10.20.0.5]}]
perimeters:
  - name: p
    profiles: [{name: q, accessRules: [{name: guest, direction: Inbound, addressPrefixes: [203.0.113.7], expires: "2026-01-02T12:10:00Z"}]}]
    associations: [{name: db, resource: db, profile: q, accessMode: Enforced}]
`))
	frame := func(port uint16, flags packet.Flags) packet.Packet {
		return packet.TCP("203.0.113.7", "10.20.0.5", port, 443, flags)
	}
	_, frames, _ := replayJSON(t, "--policy", path, "--pcap", writePcap(t, layers.LinkTypeEthernet, ethernet, []captured{
		{9*time.Minute + 59*time.Second, frame(4000, packet.SYN), 0},
		{10*time.Minute - time.Second/2, frame(4000, packet.ACK), 0},
		{10 * time.Minute, frame(4000, packet.ACK), 0},
		{10*time.Minute + time.Second, frame(4001, packet.SYN), 0},
	}))
	var got []string
	for _, f := range frames {
		got = append(got, f.Verdict+" "+string(f.Reason))
	}
	if diff := cmp.Diff([]string{"allow access-rule", "allow established", "deny no-access-rule", "deny no-access-rule"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestReplayWrongUse(t *testing.T) {
	good := writeFile(t, "policy.yaml", []byte(replayPolicy))
	bad := writeFile(t, "bad.yaml", []byte("resources:\n  - {name: db, adresses: [192.0.2.1]}\n"))
	file := writePcap(t, layers.LinkTypeEthernet, ethernet, nil)
	text := writeFile(t, "text", []byte("no capture"))
	for _, test := range []struct {
		name string
		args []string
		code int
		want string // in what is written
	}{
		{"no policy", []string{"--pcap", file}, exitUsage, "--policy is needed"},
		{"no capture", []string{"--policy", good}, exitUsage, "--pcap is needed"},
		{"a policy that is not there", []string{"--policy", "/nowhere", "--pcap", file}, exitUsage, "no such file"},
		{"a capture that is not there", []string{"--policy", good, "--pcap", "/nowhere"}, exitUsage, "no such file"},
		{"a bad policy", []string{"--policy", bad, "--pcap", file}, exitBad, bad + ":2:16: "},
		{"no capture at all", []string{"--policy", good, "--pcap", text}, exitBad, text + " is neither pcap nor pcapng"},
		{"an interface without addresses", []string{"--policy", good, "--pcap", file, "--interface", "eth0"}, exitUsage, `--interface "eth0": write a name and its addresses`},
		{"an address that is none", []string{"--policy", good, "--pcap", file, "--interface", "eth0=10.0.0.0/8"}, exitUsage, `"10.0.0.0/8" is no address`},
	} {
		t.Run(test.name, func(t *testing.T) {
			code, out, err := call(t, append([]string{"replay"}, test.args...)...)
			if code != test.code || !strings.Contains(out+err, test.want) {
				t.Errorf("exit code %d, %q %q; want %d and %q", code, out, err, test.code, test.want)
			}
		})
	}
}

// TestReplayOfWhatIsClaimedTwice: what only the addresses of interfaces make wrong
// is told like all that is wrong with a policy.
func TestReplayOfWhatIsClaimedTwice(t *testing.T) {
	path := writeFile(t, "policy.yaml", []byte("resources:\n  - {name: a, addresses: [10.20.0.5]}\n  - {name: b, interfaces: [eth0]}\n"))
	file := writePcap(t, layers.LinkTypeEthernet, ethernet, nil)
	code, out, err := call(t, "replay", "--policy", path, "--pcap", file, "--interface", "eth0=10.20.0.5")
	if code != exitBad || !strings.HasPrefix(out, path+":") {
		t.Errorf("exit code %d, %q %q", code, out, err)
	}
}

// TestReplayOfACaptureCutShort: what is there is replayed, and that it was not all
// is said.
func TestReplayOfACaptureCutShort(t *testing.T) {
	privileged.Require(t)
	path := writeFile(t, "policy.yaml", []byte(replayPolicy))
	whole, err := os.ReadFile(writePcap(t, layers.LinkTypeEthernet, ethernet, yesterdays()[:3]))
	if err != nil {
		t.Fatal(err)
	}
	cut := writeFile(t, "cut.pcap", whole[:len(whole)-1])
	code, out, stderr := call(t, "replay", "-o", "json", "--policy", path, "--pcap", cut)
	if code != exitBad || strings.Count(out, "\n") != 3 || !strings.Contains(out, `"frames":2`) || !strings.Contains(stderr, cut+": frame 3: the file ends in the middle") {
		t.Errorf("exit code %d, %s, %s", code, out, stderr)
	}
}

func TestReplayInterrupted(t *testing.T) {
	privileged.Require(t)
	ctx, interrupt := context.WithCancel(t.Context())
	interrupt()
	var out, stderr bytes.Buffer
	code := run(env{ctx: ctx, stdout: &out, stderr: &stderr, now: time.Now, location: time.UTC}, []string{
		"replay", "-o", "json", "--policy", writeFile(t, "policy.yaml", []byte(replayPolicy)),
		"--pcap", writePcap(t, layers.LinkTypeEthernet, ethernet, yesterdays()),
	})
	if code != exitBad || !strings.Contains(out.String(), `{"summary":{"frames":0,`) || !strings.Contains(stderr.String(), "interrupted") {
		t.Errorf("exit code %d, %s, %s", code, out.String(), stderr.String())
	}
}

func TestReplayNeedsRoot(t *testing.T) {
	privileged.Require(t)
	args := []string{"replay", "--policy", writeFile(t, "policy.yaml", []byte(replayPolicy)), "--pcap", writePcap(t, layers.LinkTypeEthernet, ethernet, nil)}
	type outcome struct {
		code int
		text string
	}
	ended := make(chan outcome)
	go func() {
		// Only this thread loses its rights, and it ends with the goroutine.
		runtime.LockOSThread()
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&header, &none[0]); err != nil {
			ended <- outcome{text: err.Error()}
			return
		}
		code, _, stderr := call(t, args...)
		ended <- outcome{code, stderr}
	}()
	if got := <-ended; got.code != exitBad || !strings.Contains(got.text, "this needs root") {
		t.Errorf("without capabilities: %+v", got)
	}
}

// TestReplayLeavesNothingBehind: what it has in the kernel while it replays is
// gone when it ends. Not in parallel: it looks at all that this process has open.
func TestReplayLeavesNothingBehind(t *testing.T) {
	privileged.Require(t)
	before := objectsOf(t)
	during := map[string]bool{}
	peek := writerFunc(func(p []byte) (int, error) {
		for id := range objectsOf(t) {
			during[id] = !before[id]
		}
		return len(p), nil
	})
	var stderr bytes.Buffer
	run(env{ctx: t.Context(), stdout: peek, stderr: &stderr, now: time.Now, location: time.UTC}, []string{
		"replay", "--policy", writeFile(t, "policy.yaml", []byte(replayPolicy)), "--pcap", writePcap(t, layers.LinkTypeEthernet, ethernet, yesterdays()),
	})
	maps, programs := 0, 0
	for id, isNew := range during {
		if !isNew {
			continue
		}
		if strings.HasPrefix(id, "link") {
			t.Errorf("it attached something: %s", id)
		}
		maps += strings.Count(id, "map_id")
		programs += strings.Count(id, "prog_id")
	}
	if maps < 30 || programs != 2 {
		t.Fatalf("%d maps and %d programs while it replays: %s", maps, programs, stderr.String())
	}
	deadline := time.Now().Add(20 * time.Second)
	// Looking at a table of programs keeps it for a moment, so look ever more rarely.
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		runtime.GC() // the memory of variables is unmapped then, which keeps their maps
		left := stillThere(t, during)
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("still there: %s", left)
		}
		time.Sleep(pause)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

var objectID = regexp.MustCompile(`(?m)^(map_id|prog_id|link_id):\s*(\d+)$`)

// objectsOf are the BPF objects that this process has open.
func objectsOf(t *testing.T) map[string]bool {
	t.Helper()
	infos, err := filepath.Glob("/proc/self/fdinfo/*")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]bool{}
	for _, path := range infos {
		info, err := os.ReadFile(path)
		if err != nil {
			continue // closed meanwhile
		}
		for _, found := range objectID.FindAllSubmatch(info, -1) {
			out[fmt.Sprintf("%s %s", found[1], found[2])] = true
		}
	}
	return out
}

// stillThere lists the new ones that the kernel still has.
func stillThere(t *testing.T, during map[string]bool) []string {
	t.Helper()
	var left []string
	for id, isNew := range during {
		var kind string
		var number uint32
		if _, err := fmt.Sscan(id, &kind, &number); err != nil {
			t.Fatal(err)
		}
		var err error
		switch {
		case !isNew:
			continue
		case kind == "map_id":
			var m *ebpf.Map
			if m, err = ebpf.NewMapFromID(ebpf.MapID(number)); err == nil {
				_ = m.Close() // only looked at
			}
		default:
			var p *ebpf.Program
			if p, err = ebpf.NewProgramFromID(ebpf.ProgramID(number)); err == nil {
				_ = p.Close() // only looked at
			}
		}
		if !errors.Is(err, os.ErrNotExist) {
			left = append(left, fmt.Sprintf("%s (%v)", id, err))
		}
	}
	return left
}

// TestReplayOfAScan: a flood of denials of different kinds takes bounded memory.
func TestReplayOfAScan(t *testing.T) {
	s := newReplaySum(&policy.Policy{})
	f := replayedFrame{Time: noon, replayedEnd: replayedEnd{Verdict: "deny", Reason: policy.ReasonNoAccessRule, Direction: "Inbound", Member: "db"}}
	scan := packet.TCP("203.0.113.7", "10.20.0.5", 1, 2, packet.SYN).Frame()
	news := 0
	for i := range uint32(3 * denialsKept) {
		binary.BigEndian.PutUint32(scan[26:], i)
		if s.add(&f, readTalk(scan), true, false, false) {
			news++
		}
	}
	out := s.report()
	if news != denialsKept || out.Deny != 3*denialsKept || len(out.Denied) != denialsShown || out.DeniedKinds != 0 {
		t.Errorf("%d shown, summed up as %d denied of %d kinds, %d listed", news, out.Deny, out.DeniedKinds, len(out.Denied))
	}
}

// TestWhoTalks: addresses, protocol and ports of frames of every form, and of
// those that end anywhere.
func TestWhoTalks(t *testing.T) {
	const four, peer4, six, peer6 = "10.20.0.5", "198.51.100.7", "fd20::5", "2001:db8:100::7"
	udp := packet.UDP(peer6, six, 1, 2)
	for _, test := range []struct {
		packet packet.Packet
		want   string
	}{
		{packet.TCP(peer4, four, 1, 2, packet.SYN), "198.51.100.7:1 > 10.20.0.5:2 tcp"},
		{packet.TCP(peer4, four, 1, 2, packet.SYN).Options(1, 1, 1, 1), "198.51.100.7:1 > 10.20.0.5:2 tcp"},
		{packet.UDP(peer4, four, 1, 2).Tagged(5, 6), "198.51.100.7:1 > 10.20.0.5:2 udp"},
		{packet.UDP(peer4, four, 1, 2).ServiceTagged(5), "198.51.100.7:1 > 10.20.0.5:2 udp"},
		{packet.UDP(peer4, four, 1, 2).Fragment(0, true, 7), "198.51.100.7:1 > 10.20.0.5:2 udp"},
		{packet.UDP(peer4, four, 1, 2).Fragment(8, false, 7), "198.51.100.7 > 10.20.0.5 udp"},
		{packet.ICMPEcho(peer4, four, 7, 1), "198.51.100.7 > 10.20.0.5 icmp"},
		{packet.Protocol(peer4, four, 89), "198.51.100.7 > 10.20.0.5 ip/89"},
		{udp, "[2001:db8:100::7]:1 > [fd20::5]:2 udp"},
		{udp.Extensions(packet.HopByHop, packet.Routing, packet.DestinationOptions, packet.Authentication, packet.Mobility), "[2001:db8:100::7]:1 > [fd20::5]:2 udp"},
		{udp.Fragment(0, true, 7), "[2001:db8:100::7]:1 > [fd20::5]:2 udp"},
		{udp.Fragment(8, false, 7), "2001:db8:100::7 > fd20::5 udp"},
		{packet.DCCP(peer6, six, 1, 2), "[2001:db8:100::7]:1 > [fd20::5]:2 dccp"},
		{packet.ARP(peer4, four), " >  "},
		{packet.EtherType(0x8100), " >  "},
	} {
		words := func(frame []byte) string {
			source, destination, protocol := readTalk(frame).words()
			return source + " > " + destination + " " + protocol
		}
		whole := test.packet.Frame()
		if got := words(whole); got != test.want {
			t.Errorf("%v: %s, want %s", test.packet, got, test.want)
		}
		for n := range whole {
			readTalk(whole[:n])
		}
	}
}
