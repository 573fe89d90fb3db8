package secondopinion_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/perimeterd/perimeterd/tests/packet"
)

// capture is what came out of one side of a field in one batch.
type capture struct {
	came   map[string]hops    // by canonical form
	frames map[string][]byte  // likewise: as heard
	pieces map[group][]*piece // fragments that are not yet a whole
}

// group is what fragments of one datagram have in common.
type group struct {
	source, destination netip.Addr
	id                  uint32
}

type piece struct {
	offset  int
	more    bool
	payload []byte
	whole   []byte // the headers, as they would be without fragmentation
	hops    hops
}

const linkHeader = 14

// listen hears a wire until the marker comes.
func listen(wire *packet.Wire, marker string) (*capture, error) {
	c := &capture{came: map[string]hops{}, frames: map[string][]byte{}, pieces: map[group][]*piece{}}
	deadline := time.Now().Add(patience)
	for {
		frame, err := wire.Receive(deadline)
		if err != nil {
			return nil, fmt.Errorf("wait for the marker: %w", err)
		}
		if len(frame) < linkHeader+20 {
			continue
		}
		datagram := bytes.Clone(frame[linkHeader:])
		key := canonical(datagram)
		if key == marker {
			return c, nil
		}
		c.came[key] = hopLimit(datagram)
		c.frames[key] = frame
		if g, p := fragmentOf(datagram); p != nil {
			c.pieces[g] = append(c.pieces[g], p)
			c.reassemble(c.pieces[g])
		}
	}
}

// outcome tells whether a datagram came out: as it was sent, or as a whole that
// was put together and perhaps cut anew.
func (c *capture) outcome(s *sending) hops {
	if h := c.came[canonical(s.whole.Datagram())]; h != 0 {
		return h
	}
	var h hops
	for _, p := range s.frames() {
		if h = c.came[canonical(p.Datagram())]; h == 0 {
			return 0
		}
	}
	return h
}

// stranger returns a frame that is nothing of what is expected, nor a fragment
// of it, nor the router's own.
func (c *capture) stranger(expected map[string]bool) []byte {
	for key, frame := range c.frames {
		datagram := frame[linkHeader:]
		source, _ := endsOf(datagram)
		_, p := fragmentOf(datagram)
		router := source.IsLinkLocalUnicast() || netip.MustParsePrefix("192.0.2.0/24").Contains(source) ||
			netip.MustParsePrefix("2001:db8:ffff::/47").Contains(source) || source.IsUnspecified()
		if !expected[key] && p == nil && !router {
			return frame
		}
	}
	return nil
}

// reassemble notes the whole datagram once all its bytes are there.
func (c *capture) reassemble(pieces []*piece) {
	sorted := slices.SortedFunc(slices.Values(pieces), func(a, b *piece) int { return a.offset - b.offset })
	var body []byte
	for i, p := range sorted {
		if p.offset > len(body) {
			return
		}
		body = append(body[:p.offset], p.payload...)
		if i == len(sorted)-1 && p.more {
			return
		}
	}
	whole := append(bytes.Clone(sorted[0].whole), body...)
	if isIPv4(whole) {
		binary.BigEndian.PutUint16(whole[2:], uint16(len(whole)))
	} else {
		binary.BigEndian.PutUint16(whole[4:], uint16(len(whole)-40))
	}
	c.came[canonical(whole)] = sorted[0].hops
}

// fragmentOf reads a fragment; nil if it is none.
func fragmentOf(datagram []byte) (group, *piece) {
	source, destination := endsOf(datagram)
	if isIPv4(datagram) {
		place := binary.BigEndian.Uint16(datagram[6:])
		header, total := int(datagram[0]&0xf)*4, int(binary.BigEndian.Uint16(datagram[2:]))
		if place&0x3fff == 0 || header > total || total > len(datagram) {
			return group{}, nil
		}
		whole := bytes.Clone(datagram[:header])
		clear(whole[4:8]) // identity, flags and offset
		return group{source, destination, uint32(binary.BigEndian.Uint16(datagram[4:]))}, &piece{
			offset: int(place&0x1fff) * 8, more: place&0x2000 != 0,
			payload: datagram[header:total], whole: whole, hops: hopLimit(datagram),
		}
	}
	const fragmentHeader = 44
	total := 40 + int(binary.BigEndian.Uint16(datagram[4:]))
	if len(datagram) < 48 || datagram[6] != fragmentHeader || total < 48 || total > len(datagram) {
		return group{}, nil
	}
	place := binary.BigEndian.Uint16(datagram[42:])
	whole := bytes.Clone(datagram[:40])
	whole[6] = datagram[40]
	return group{source, destination, binary.BigEndian.Uint32(datagram[44:])}, &piece{
		offset: int(place &^ 7), more: place&1 != 0,
		payload: datagram[48:total], whole: whole, hops: hopLimit(datagram),
	}
}

// canonical is the datagram without what a router changes.
func canonical(datagram []byte) string {
	b := bytes.Clone(datagram)
	switch {
	case len(b) < 20:
	case isIPv4(b):
		b[8] = 0        // time to live
		clear(b[10:12]) // header checksum
	case len(b) >= 40:
		b[7] = 0 // hop limit
	}
	return string(b)
}

func hopLimit(datagram []byte) hops {
	if isIPv4(datagram) {
		return hops(datagram[8])
	}
	return hops(datagram[7])
}

func endsOf(datagram []byte) (source, destination netip.Addr) {
	if isIPv4(datagram) {
		return netip.AddrFrom4([4]byte(datagram[12:16])), netip.AddrFrom4([4]byte(datagram[16:20]))
	}
	if len(datagram) < 40 {
		return netip.IPv6Unspecified(), netip.IPv6Unspecified()
	}
	return netip.AddrFrom16([16]byte(datagram[8:24])), netip.AddrFrom16([16]byte(datagram[24:40]))
}

func isIPv4(datagram []byte) bool { return datagram[0]>>4 == 4 }
