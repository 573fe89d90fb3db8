package crafted

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
)

// Wire is what there is at the two ends of a wire: a sender, and a host with
// sockets. Everything but Shared and Joined is required; addresses are of both
// families where there are lists.
type Wire struct {
	SenderMAC, HostMAC net.HardwareAddr
	// Partner is whom the host's policy may admit, Stranger somebody else.
	Partner, Stranger Ends
	// Host has the host's own addresses, the first of each family its main one.
	Host []netip.Addr
	// Shared are addresses of several hosts at once that the host hears: the
	// groups that it has joined and its broadcast addresses.
	Shared []netip.Addr
	// Open is the port to which the policy may admit the partner, Closed are
	// others that sockets listen on.
	Open   uint16
	Closed []uint16
	// MTU bounds the IP packets. From 5000 on, some are larger than a page.
	MTU int
}

// Ends is one party's address in each family.
type Ends struct{ V4, V6 netip.Addr }

func (e Ends) of(v6 bool) netip.Addr {
	if v6 {
		return e.V6
	}
	return e.V4
}

// Case is one attempt to reach a socket.
type Case struct {
	Number uint32
	// Classes says what kind of packet it is and what was done to it.
	Classes []Class
	// Frames are to be sent in this order.
	Frames [][]byte
	// Honest says that the case is what Partner may send to port Open by TCP or
	// UDP, and that nothing was done to it that a filter might not follow: where
	// a kernel delivers it, so must a filter that admits the partner.
	Honest bool
	// Large says that a frame is longer than an interface of 1500 bytes takes.
	Large bool
}

// Has reports whether the case is of a class.
func (c *Case) Has(class Class) bool { return slices.Contains(c.Classes, class) }

// Draw draws the case of this number.
func (w *Wire) Draw(seed uint64, number uint32) Case {
	d := &draft{Rand: rand.New(rand.NewPCG(seed, uint64(number))), wire: w, number: number, honest: true}
	d.aim()
	if d.chance(15) {
		d.sequence()
	} else {
		d.single()
	}
	c := Case{Number: number, Classes: d.classes, Honest: d.honest}
	for _, p := range d.pieces {
		frame := d.frame(p)
		c.Frames = append(c.Frames, frame)
		c.Large = c.Large || len(frame) > 1500+14
	}
	if len(d.altered) == 0 {
		c.Classes = append(c.Classes, Plain)
	}
	c.Classes = append(c.Classes, d.altered...)
	return c
}

// tokenMark begins the token that payloads repeat. It has no digit, so that two
// tokens cannot be read as one.
const tokenMark = "crafted:"

func token(number uint32) string { return fmt.Sprintf("%s%08x ", tokenMark, number) }

// Number finds the case that received bytes are of; false if they do not tell.
func Number(received []byte) (uint32, bool) {
	for {
		at := bytes.Index(received, []byte(tokenMark))
		if at < 0 {
			return 0, false
		}
		received = received[at+len(tokenMark):]
		var number [4]byte
		if len(received) < 8 {
			return 0, false
		}
		if _, err := hex.Decode(number[:], received[:8]); err == nil {
			return uint32(number[0])<<24 | uint32(number[1])<<16 | uint32(number[2])<<8 | uint32(number[3]), true
		}
	}
}
