package capture_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"github.com/perimeterd/perimeterd/pkg/capture"
	"github.com/perimeterd/perimeterd/tests/packet"
)

var (
	noon  = time.Date(2026, 1, 2, 12, 0, 0, 123456789, time.UTC)
	hello = packet.UDP("198.51.100.7", "10.20.0.5", 4000, 53).Payload("hello")
	reply = packet.UDP("10.20.0.5", "198.51.100.7", 53, 4000).Payload("answer")
)

// pcapOf writes a pcap file with times in nanoseconds. Frames follow each other
// by a second.
func pcapOf(t testing.TB, link layers.LinkType, frames ...[]byte) []byte {
	t.Helper()
	var file bytes.Buffer
	w := pcapgo.NewWriterNanos(&file)
	if err := w.WriteFileHeader(1<<16, link); err != nil {
		t.Fatal(err)
	}
	for i, frame := range frames {
		info := gopacket.CaptureInfo{Timestamp: noon.Add(time.Duration(i) * time.Second), CaptureLength: len(frame), Length: len(frame)}
		if err := w.WritePacket(info, frame); err != nil {
			t.Fatal(err)
		}
	}
	return file.Bytes()
}

// readAll reads a capture to its end. Frames have bytes of their own.
func readAll(file []byte) (frames []capture.Frame, err error) {
	r, err := capture.NewReader(bytes.NewReader(file), "test.pcap")
	if err != nil {
		return nil, err
	}
	for {
		f, err := r.Next()
		if errors.Is(err, io.EOF) {
			return frames, nil
		}
		if err != nil {
			if _, again := r.Next(); again != err {
				return frames, errors.New("the error is not given again")
			}
			return frames, err
		}
		f.Data = bytes.Clone(f.Data)
		frames = append(frames, f)
	}
}

func expect(t *testing.T, file []byte, want ...capture.Frame) {
	t.Helper()
	got, err := readAll(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestEthernet(t *testing.T) {
	tagged := hello.Tagged(5).Frame()
	file := pcapOf(t, layers.LinkTypeEthernet, hello.Frame(), tagged, reply.Frame()[:20], nil)
	expect(t, file,
		capture.Frame{Number: 1, Time: noon, Data: hello.Frame(), Length: len(hello.Frame())},
		capture.Frame{Number: 2, Time: noon.Add(time.Second), Data: tagged, Length: len(tagged)},
		capture.Frame{Number: 3, Time: noon.Add(2 * time.Second), Data: reply.Frame()[:20], Length: 20},
		capture.Frame{Number: 4, Time: noon.Add(3 * time.Second), Data: []byte{}, Length: 0},
	)
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	if _, err := w.Write(file); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	plain, err := readAll(file)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, packed.Bytes(), plain...)
}

// TestLinks: what other links carry comes as the same Ethernet frame.
func TestLinks(t *testing.T) {
	four, six := hello, packet.TCP("2001:db8:100::7", "fd20::5", 4000, 5432, packet.SYN)
	bigEndian32 := func(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }
	littleEndian32 := func(v uint32) []byte { return binary.LittleEndian.AppendUint32(nil, v) }
	// Of 802.1Q in a cooked frame, libpcap has the tag where Ethernet would.
	tagged := func(p packet.Packet) []byte { return p.Tagged(5).Frame()[14:] }
	for _, test := range []struct {
		name   string
		link   layers.LinkType
		header []byte
		body   []byte
		want   []byte // from the ethertype on
		way    capture.Way
	}{
		{"raw, IPv4", layers.LinkTypeRaw, nil, four.Datagram(), four.Frame()[12:], capture.WayUnknown},
		{"raw, IPv6", layers.LinkTypeRaw, nil, six.Datagram(), six.Frame()[12:], capture.WayUnknown},
		{"raw of a BSD", 12, nil, six.Datagram(), six.Frame()[12:], capture.WayUnknown},
		{"raw of OpenBSD", 14, nil, four.Datagram(), four.Frame()[12:], capture.WayUnknown},
		{"raw, neither", layers.LinkTypeRaw, nil, []byte{0x50, 1}, []byte{0, 0, 0x50, 1}, capture.WayUnknown},
		{"raw, nothing", layers.LinkTypeRaw, nil, nil, []byte{0, 0}, capture.WayUnknown},
		{"IPv4", layers.LinkTypeIPv4, nil, four.Datagram(), four.Frame()[12:], capture.WayUnknown},
		{"IPv6", layers.LinkTypeIPv6, nil, six.Datagram(), six.Frame()[12:], capture.WayUnknown},
		{"IPv6 that is none", layers.LinkTypeIPv6, nil, four.Datagram(), append([]byte{0x86, 0xdd}, four.Datagram()...), capture.WayUnknown},
		{"cooked, to us", layers.LinkTypeLinuxSLL, sll(0, 0x0800), four.Datagram(), four.Frame()[12:], capture.Received},
		{"cooked, to another host", layers.LinkTypeLinuxSLL, sll(3, 0x0800), four.Datagram(), four.Frame()[12:], capture.Received},
		{"cooked, by us", layers.LinkTypeLinuxSLL, sll(4, 0x86dd), six.Datagram(), six.Frame()[12:], capture.Sent},
		{"cooked, a type to come", layers.LinkTypeLinuxSLL, sll(9, 0x86dd), six.Datagram(), six.Frame()[12:], capture.WayUnknown},
		{"cooked, tagged", layers.LinkTypeLinuxSLL, sll(0, 0x8100), tagged(four), four.Tagged(5).Frame()[12:], capture.Received},
		{"cooked, 802.2", layers.LinkTypeLinuxSLL, sll(0, 4), []byte{1, 2}, []byte{0, 4, 1, 2}, capture.Received},
		{"cooked 2, to us", layers.LinkTypeLinuxSLL2, sll2(0, 0x0800), four.Datagram(), four.Frame()[12:], capture.Received},
		{"cooked 2, by us", layers.LinkTypeLinuxSLL2, sll2(4, 0x86dd), six.Datagram(), six.Frame()[12:], capture.Sent},
		{"cooked 2, tagged", layers.LinkTypeLinuxSLL2, sll2(1, 0x8100), tagged(six), six.Tagged(5).Frame()[12:], capture.Received},
		{"null, little endian", layers.LinkTypeNull, littleEndian32(2), four.Datagram(), four.Frame()[12:], capture.WayUnknown},
		{"null, big endian", layers.LinkTypeNull, bigEndian32(28), six.Datagram(), six.Frame()[12:], capture.WayUnknown},
		{"null, neither", layers.LinkTypeNull, littleEndian32(7), []byte{1}, []byte{0, 0, 1}, capture.WayUnknown},
		{"loop", layers.LinkTypeLoop, bigEndian32(30), six.Datagram(), six.Frame()[12:], capture.WayUnknown},
	} {
		t.Run(test.name, func(t *testing.T) {
			data := append(make([]byte, 12), test.want...)
			want := capture.Frame{Number: 1, Time: noon, Data: data, Length: len(data), Way: test.way}
			frame := append(bytes.Clone(test.header), test.body...)
			expect(t, pcapOf(t, test.link, frame), want)

			// What is cut inside the link's header ends before the ethertype.
			if len(test.header) > 0 {
				cut := frame[:len(test.header)-1]
				expect(t, pcapOf(t, test.link, cut), capture.Frame{Number: 1, Time: noon, Data: make([]byte, 12), Length: 13})
			}
		})
	}
}

func sll(packetType, protocol uint16) []byte {
	b := binary.BigEndian.AppendUint16(nil, packetType)
	b = append(b, 0, 1, 0, 6, 2, 0, 0, 0, 0, 1, 0, 0)
	return binary.BigEndian.AppendUint16(b, protocol)
}

func sll2(packetType byte, protocol uint16) []byte {
	b := binary.BigEndian.AppendUint16(nil, protocol)
	return append(b, 0, 0, 0, 0, 0, 7, 0, 1, packetType, 6, 2, 0, 0, 0, 0, 1, 0, 0)
}

// TestLengthOnTheWire: what was not captured counts, with the header that the
// frame has now.
func TestLengthOnTheWire(t *testing.T) {
	for _, test := range []struct {
		link   layers.LinkType
		header []byte
		want   int
	}{
		{layers.LinkTypeEthernet, hello.Frame()[:14], 64000},
		{layers.LinkTypeRaw, nil, 64014},
		{layers.LinkTypeLinuxSLL, sll(0, 0x0800), 63998},
		{layers.LinkTypeLinuxSLL2, sll2(0, 0x0800), 63994},
		{layers.LinkTypeNull, []byte{2, 0, 0, 0}, 64010},
	} {
		captured := append(bytes.Clone(test.header), hello.Datagram()...)
		file := pcapOf(t, test.link, captured)
		binary.LittleEndian.PutUint32(file[24+12:], 64000)
		frames, err := readAll(file)
		if err != nil || len(frames) != 1 || frames[0].Length != test.want || len(frames[0].Data) != 14+len(hello.Datagram()) {
			t.Errorf("link type %d: %+v, %v; want a length of %d", test.link, frames, err, test.want)
		}
	}
}

// TestTimes: both resolutions in both byte orders, as other writers have them.
func TestTimes(t *testing.T) {
	for _, test := range []struct {
		name  string
		order binary.ByteOrder
		magic uint32
		part  uint32
	}{
		{"microseconds, little endian", binary.LittleEndian, 0xa1b2c3d4, 123456},
		{"microseconds, big endian", binary.BigEndian, 0xa1b2c3d4, 123456},
		{"nanoseconds, little endian", binary.LittleEndian, 0xa1b23c4d, 123456789},
		{"nanoseconds, big endian", binary.BigEndian, 0xa1b23c4d, 123456789},
	} {
		frame := hello.Frame()
		var file []byte
		for _, word := range []uint32{
			test.magic, 0, 0, 0, 1 << 16, 1, // the file
			uint32(noon.Unix()), test.part, uint32(len(frame)), uint32(len(frame)),
		} {
			b := make([]byte, 4)
			test.order.PutUint32(b, word)
			file = append(file, b...)
		}
		test.order.PutUint16(file[4:], 2)
		test.order.PutUint16(file[6:], 4)
		want := noon
		if test.part == 123456 {
			want = noon.Truncate(time.Microsecond)
		}
		t.Run(test.name, func(t *testing.T) {
			expect(t, append(file, frame...), capture.Frame{Number: 1, Time: want, Data: frame, Length: len(frame)})
		})
	}
}

func TestPcapngHasALinkForEachInterface(t *testing.T) {
	var file bytes.Buffer
	on := func(name string, link layers.LinkType) pcapgo.NgInterface {
		return pcapgo.NgInterface{Name: name, LinkType: link, TimestampResolution: 9}
	}
	w, err := pcapgo.NewNgWriterInterface(&file, on("eth0", layers.LinkTypeEthernet), pcapgo.NgWriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	add := func(name string, link layers.LinkType) {
		if _, err := w.AddInterface(on(name, link)); err != nil {
			t.Fatal(err)
		}
	}
	write := func(index int, after time.Duration, frame []byte) {
		info := gopacket.CaptureInfo{Timestamp: noon.Add(after), CaptureLength: len(frame), Length: len(frame), InterfaceIndex: index}
		if err := w.WritePacket(info, frame); err != nil {
			t.Fatal(err)
		}
	}
	write(0, 0, hello.Frame())
	add("wg0", layers.LinkTypeRaw)
	add("", layers.LinkTypeLinuxSLL2)
	write(1, time.Nanosecond, reply.Datagram())
	write(2, -time.Second, append(sll2(4, 0x0800), reply.Datagram()...))
	add("wlan0", layers.LinkTypeIEEE80211Radio)
	write(3, 0, []byte("not read"))
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	bare := append(make([]byte, 12), reply.Frame()[12:]...)
	frames, err := readAll(file.Bytes())
	want := []capture.Frame{
		{Number: 1, Time: noon, Data: hello.Frame(), Length: len(hello.Frame()), Interface: "eth0"},
		{Number: 2, Time: noon.Add(time.Nanosecond), Data: bare, Length: len(bare), Interface: "wg0"},
		{Number: 3, Time: noon.Add(-time.Second), Data: bare, Length: len(bare), Way: capture.Sent},
	}
	if diff := cmp.Diff(want, frames); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if err == nil || !strings.Contains(err.Error(), "test.pcap: frame 4: link type 127 ") {
		t.Errorf("a frame of Wi-Fi: %v", err)
	}
}

// TestSimplePackets: they have no time, so they have that of the frame before.
func TestSimplePackets(t *testing.T) {
	var file bytes.Buffer
	w, err := pcapgo.NewNgWriter(&file, layers.LinkTypeEthernet)
	if err != nil {
		t.Fatal(err)
	}
	frame := hello.Frame()
	info := gopacket.CaptureInfo{Timestamp: noon, CaptureLength: len(frame), Length: len(frame)}
	if err := errors.Join(w.WritePacket(info, frame), w.Flush()); err != nil {
		t.Fatal(err)
	}
	padded := (len(frame) + 3) / 4 * 4
	block := func(words ...uint32) (b []byte) {
		for _, word := range words {
			b = binary.LittleEndian.AppendUint32(b, word)
		}
		return b
	}
	size := uint32(16 + padded)
	file.Write(block(3, size, uint32(len(frame))))
	file.Write(append(bytes.Clone(frame), make([]byte, padded-len(frame))...))
	file.Write(block(size))
	expect(t, file.Bytes(),
		capture.Frame{Number: 1, Time: noon, Data: frame, Length: len(frame), Interface: "intf0"},
		capture.Frame{Number: 2, Time: noon, Data: frame, Length: len(frame), Interface: "intf0"},
	)
}

// TestErrorsSayWhereAndWhatToDo: each with how many frames are read before it.
func TestErrorsSayWhereAndWhatToDo(t *testing.T) {
	good := pcapOf(t, layers.LinkTypeEthernet, hello.Frame(), reply.Frame())
	second := 24 + 16 + len(hello.Frame())
	claims := func(size uint32) []byte {
		file := bytes.Clone(good)
		binary.LittleEndian.PutUint32(file[second+8:], size)
		binary.LittleEndian.PutUint32(file[second+12:], size)
		return file
	}
	var section bytes.Buffer
	w, err := pcapgo.NewNgWriter(&section, layers.LinkTypeEthernet)
	if err := errors.Join(err, w.Flush()); err != nil {
		t.Fatal(err)
	}
	endless := append(bytes.Clone(section.Bytes()), 0x99, 0, 0, 0, 0xfc, 0xff, 0xff, 0xff)
	for _, test := range []struct {
		name string
		file []byte
		read int
		want string
	}{
		{"nothing", nil, 0, "test.pcap is empty"},
		{"text", []byte("resources:\n"), 0, "test.pcap is neither pcap nor pcapng: write it with `tcpdump -w`"},
		{"three bytes", good[:3], 0, "test.pcap is neither pcap nor pcapng"},
		{"half a header", good[:20], 0, "test.pcap: the file's header: the file ends in the middle"},
		{"a version to come", append([]byte("\xd4\xc3\xb2\xa1\x09\x00"), good[6:]...), 0, "test.pcap: the file's header: "},
		{"Wi-Fi", pcapOf(t, layers.LinkTypeIEEE802_11, nil), 0, "test.pcap: the file's header: link type 105 "},
		{"half a frame's header", good[:second+9], 1, "test.pcap: frame 2: the file ends in the middle"},
		{"a frame's header", good[:second+16], 1, "test.pcap: frame 2: the file ends in the middle"},
		{"half a frame", good[:second+20], 1, "test.pcap: frame 2: the file ends in the middle"},
		{"a frame longer than the file", claims(65000), 1, "test.pcap: frame 2: the file ends in the middle"},
		{"a frame of 4 GiB", claims(1<<32 - 1), 1, "test.pcap: frame 2: "},
		{"pcapng without a frame for long", append(endless, make([]byte, 9<<20)...), 0, "test.pcap: frame 1: more than 4194304 bytes without a frame"},
		{"damaged gzip", []byte("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x00\xff\xff\xff"), 0, "test.pcap: "},
		{"gzip of little", []byte("\x1f\x8b\x08"), 0, "test.pcap: "},
	} {
		t.Run(test.name, func(t *testing.T) {
			frames, err := readAll(test.file)
			if err == nil || !strings.Contains(err.Error(), test.want) || len(frames) != test.read {
				t.Errorf("after %d frames: %v; want %d and %q", len(frames), err, test.read, test.want)
			}
		})
	}
}

// TestHostileFileTakesLittleMemory: a megabyte of gzip that claims to be a frame
// of a gigabyte, and one that says nothing but interfaces.
func TestHostileFileTakesLittleMemory(t *testing.T) {
	frame := pcapOf(t, layers.LinkTypeEthernet)
	binary.LittleEndian.PutUint32(frame[16:], 1<<31-1) // snap length
	frame = append(frame, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0x3f, 0xff, 0xff, 0xff, 0x3f)
	var section bytes.Buffer
	w, err := pcapgo.NewNgWriter(&section, layers.LinkTypeEthernet)
	if err := errors.Join(err, w.Flush()); err != nil {
		t.Fatal(err)
	}
	networkInterface := []byte{1, 0, 0, 0, 20, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 20, 0, 0, 0}
	for _, test := range []struct {
		name        string
		head, again []byte
	}{
		{"a frame", frame, make([]byte, 20)},
		{"interfaces", section.Bytes(), networkInterface},
	} {
		t.Run(test.name, func(t *testing.T) {
			var packed bytes.Buffer
			z := gzip.NewWriter(&packed)
			if _, err := z.Write(test.head); err != nil {
				t.Fatal(err)
			}
			piece := bytes.Repeat(test.again, 1<<16)
			for range 64 << 20 / len(piece) {
				if _, err := z.Write(piece); err != nil {
					t.Fatal(err)
				}
			}
			if err := z.Close(); err != nil {
				t.Fatal(err)
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := readAll(packed.Bytes())
			runtime.ReadMemStats(&after)
			if err == nil || !strings.Contains(err.Error(), "more than 4194304 bytes without a frame") {
				t.Errorf("it was read: %v", err)
			}
			// The sum of all that a growing buffer was; what is held at once is less.
			sum := after.TotalAlloc - before.TotalAlloc
			if most := uint64(400 << 20); sum > most {
				t.Errorf("%d bytes of memory, want at most %d", sum, most)
			}
			t.Logf("%d bytes of file, %d of memory", packed.Len(), sum)
		})
	}
}

func TestOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.pcap")
	if _, err := capture.Open(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
	if err := os.WriteFile(path, []byte("no capture"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := capture.Open(path); err == nil || !strings.Contains(err.Error(), path+" is neither") {
		t.Errorf("a file that is none: %v", err)
	}
	if err := os.WriteFile(path, pcapOf(t, layers.LinkTypeEthernet, hello.Frame()), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := capture.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if f, err := r.Next(); err != nil || f.Number != 1 {
		t.Errorf("%+v, %v", f, err)
	}
	if _, err := r.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("after the last frame: %v", err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

// Whatever a file holds, it is read to its end or to an error that names it, and
// each frame is one that the data path can be asked about.
func FuzzReader(f *testing.F) {
	ethernet := pcapOf(f, layers.LinkTypeEthernet, hello.Frame(), reply.Tagged(5).Frame())
	f.Add(ethernet)
	f.Add(ethernet[:len(ethernet)-1])
	f.Add(pcapOf(f, layers.LinkTypeLinuxSLL, append(sll(4, 0x0800), reply.Datagram()...), []byte{1}))
	f.Add(pcapOf(f, layers.LinkTypeLinuxSLL2, append(sll2(0, 0x8100), reply.Datagram()...), []byte{1}))
	f.Add(pcapOf(f, layers.LinkTypeNull, []byte{2, 0, 0, 0}))
	f.Add(pcapOf(f, layers.LinkTypeRaw, reply.Datagram(), nil))
	var ng bytes.Buffer
	w, err := pcapgo.NewNgWriter(&ng, layers.LinkTypeEthernet)
	if err != nil {
		f.Fatal(err)
	}
	frame := hello.Frame()
	info := gopacket.CaptureInfo{Timestamp: noon, CaptureLength: len(frame), Length: len(frame)}
	if err := errors.Join(w.WritePacket(info, frame), w.WriteInterfaceStats(0, pcapgo.NgInterfaceStatistics{LastUpdate: noon}), w.Flush()); err != nil {
		f.Fatal(err)
	}
	f.Add(ng.Bytes())
	f.Fuzz(func(t *testing.T, file []byte) {
		r, err := capture.NewReader(bytes.NewReader(file), "FILE")
		if err != nil {
			if !strings.Contains(err.Error(), "FILE") {
				t.Errorf("the error does not name the file: %v", err)
			}
			return
		}
		for number := 1; number < 10000; number++ {
			f, err := r.Next()
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				if !strings.Contains(err.Error(), "FILE: frame ") {
					t.Errorf("the error does not say where: %v", err)
				}
				return
			}
			if f.Number != number || len(f.Data) > capture.FrameMax+14 || f.Length < len(f.Data) {
				t.Fatalf("frame %d: number %d, %d bytes of %d", number, f.Number, len(f.Data), f.Length)
			}
		}
	})
}
