// Package capture reads the frames of packet captures: pcap and pcapng files, as
// tcpdump and Wireshark write them, plain or compressed with gzip. Whatever link
// a frame was captured on, it is handed on as Ethernet, which is what the data
// path reads.
//
// A capture is read as a stream, frame by frame. Nothing in a file, which may
// come from anybody, makes the reader hold more than a bounded part of it.
package capture

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
)

// FrameMax is how many bytes of a frame a file may hold, that of libpcap.
const FrameMax = 1 << 18

const (
	// betweenFramesMax bounds what a file may hold from one frame to the next:
	// the frame, and what pcapng says of interfaces, names and the like.
	betweenFramesMax = 4 << 20
	// interfacesMax and namesMax bound what pcapng makes a reader remember.
	interfacesMax = 1 << 16
	namesMax      = 1 << 18
)

// Frame is one frame of a capture.
type Frame struct {
	// Number counts frames from 1, as Wireshark does.
	Number int
	// Time is when it was captured. Where the file does not say (simple packet
	// blocks of pcapng), it is that of the frame before.
	Time time.Time
	// Data is an Ethernet frame, VLAN tags included, as far as it was captured.
	// Of a link without Ethernet headers its MAC addresses are zero. It is valid
	// until the next call of Next.
	Data []byte
	// Length is how many bytes the frame had on the wire, with the same header
	// as Data. It is never less than those of Data.
	Length int
	// Interface is the name of the interface it was captured on, "" if the file
	// does not say.
	Interface string
	// Way is whether the host sent or received it, where the file says.
	Way Way
}

// Way is which way a frame crossed the interface it was captured on.
type Way uint8

const (
	WayUnknown Way = iota
	Received
	Sent
)

// Reader reads the frames of one capture. It is not safe for use by several
// goroutines.
type Reader struct {
	name  string
	meter *meter
	next  func() ([]byte, gopacket.CaptureInfo, error)
	ng    *pcapgo.NgReader // nil for pcap
	link  layers.LinkType  // of all frames, for pcap

	number int
	time   time.Time
	room   []byte // for a frame that gets another header
	err    error  // of the last call; every later one gives it again
	closer io.Closer
}

// Open opens a capture file. The caller closes it.
func Open(path string) (*Reader, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open the capture: %w", err)
	}
	r, err := NewReader(f, path)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	r.closer = f
	return r, nil
}

// NewReader reads a capture from a stream. The name stands in errors.
func NewReader(stream io.Reader, name string) (*Reader, error) {
	unpacked, err := unpack(stream)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	m := &meter{reader: unpacked, left: betweenFramesMax}
	// At least as large as pcapgo's own, which then needs none.
	buffered := bufio.NewReaderSize(m, 1<<16)
	r := &Reader{name: name, meter: m, time: time.Unix(0, 0).UTC()}
	magic, err := buffered.Peek(4)
	switch {
	case errors.Is(err, io.EOF) && len(magic) == 0:
		return nil, fmt.Errorf("%s is empty, and no capture", name)
	case err != nil && !errors.Is(err, io.EOF):
		return nil, fmt.Errorf("%s: %w", name, err)
	case bytes.Equal(magic, []byte("\n\r\r\n")):
		// Sections of a later version are refused: what is skipped is not judged.
		r.ng, err = pcapgo.NewNgReader(buffered, pcapgo.NgReaderOptions{WantMixedLinkType: true})
		if err == nil {
			r.next = r.ng.ZeroCopyReadPacketData
		}
	case isPcap(magic):
		var pcap *pcapgo.Reader
		if pcap, err = pcapgo.NewReader(buffered); err == nil {
			r.next, r.link = pcap.ZeroCopyReadPacketData, pcap.LinkType()
			err = supported(r.link)
		}
	default:
		return nil, fmt.Errorf("%s is neither pcap nor pcapng: write it with `tcpdump -w`, or convert it with `editcap -F pcapng %s OUT`", name, name)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: the file's header: %w", name, r.explain(err))
	}
	return r, nil
}

// unpack returns what a gzip stream holds, or the stream itself.
func unpack(stream io.Reader) (io.Reader, error) {
	buffered := bufio.NewReaderSize(stream, 1<<16)
	if magic, err := buffered.Peek(2); err != nil || magic[0] != 0x1f || magic[1] != 0x8b {
		return buffered, nil // errors come again with the first read
	}
	return gzip.NewReader(buffered)
}

// isPcap tells pcap's magic numbers, with times in microseconds or nanoseconds,
// in either byte order.
func isPcap(magic []byte) bool {
	for _, known := range []string{"\xa1\xb2\xc3\xd4", "\xd4\xc3\xb2\xa1", "\xa1\xb2\x3c\x4d", "\x4d\x3c\xb2\xa1"} {
		if string(magic) == known {
			return true
		}
	}
	return false
}

// Next returns the next frame, and io.EOF after the last. Any other error names
// the file and the frame; no frame can be read after it.
func (r *Reader) Next() (Frame, error) {
	if r.err != nil {
		return Frame{}, r.err
	}
	f, err := r.read()
	switch {
	case errors.Is(err, io.EOF):
		r.err = io.EOF
	case err != nil:
		r.err = fmt.Errorf("%s: frame %d: %w", r.name, r.number+1, r.explain(err))
	default:
		r.number = f.Number
		return f, nil
	}
	return Frame{}, r.err
}

func (r *Reader) read() (Frame, error) {
	r.meter.left = betweenFramesMax
	data, info, err := r.next()
	if errors.Is(err, io.EOF) && info.CaptureLength > 0 {
		err = io.ErrUnexpectedEOF // after the frame's header
	}
	if err != nil {
		return Frame{}, err
	}
	if len(data) > FrameMax {
		return Frame{}, fmt.Errorf("%d bytes are more than a frame can have (%d): the file is damaged here", len(data), FrameMax)
	}
	f := Frame{Number: r.number + 1}
	link := r.link
	if r.ng != nil {
		if r.ng.NInterfaces() > interfacesMax || r.ng.NNames() > namesMax {
			return Frame{}, fmt.Errorf("the file has more than %d interfaces or %d names, as no capture has", interfacesMax, namesMax)
		}
		on, err := r.ng.Interface(info.InterfaceIndex)
		if err != nil {
			return Frame{}, err
		}
		link, f.Interface = on.LinkType, on.Name
	}
	if !info.Timestamp.IsZero() {
		r.time = info.Timestamp
	}
	f.Time = r.time
	// A writer may leave the original length out where it is the same.
	original := max(info.Length, len(data))
	if err := r.asEthernet(&f, link, data, original); err != nil {
		return Frame{}, err
	}
	return f, nil
}

// explain says what to do about an error of reading.
func (r *Reader) explain(err error) error {
	switch {
	case r.meter.exceeded:
		return fmt.Errorf("more than %d bytes without a frame: the file is damaged, or no capture", betweenFramesMax)
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return errors.New("the file ends in the middle: it was cut short, or is still being written; what is before that was read")
	}
	return err
}

// Close closes the file that Open opened.
func (r *Reader) Close() error {
	if r.closer == nil {
		return nil
	}
	return r.closer.Close()
}

// meter bounds how much is read before somebody fills it up again. Lengths in a
// file say how much to read, and gzip makes any amount of little.
type meter struct {
	reader   io.Reader
	left     int
	exceeded bool
}

func (m *meter) Read(p []byte) (int, error) {
	if m.left <= 0 {
		m.exceeded = true
		return 0, errors.New("the limit is reached")
	}
	n, err := m.reader.Read(p[:min(len(p), m.left)])
	m.left -= n
	return n, err
}
