package reference

// numbers are what is known of TCP's sequence numbers of one side: those of the
// bytes it sends. Both 0: nothing is known yet.
type numbers struct {
	next         uint32 // of its next new byte
	acknowledged uint32 // the other side has everything before it
}

func (n numbers) known() bool { return n != numbers{} }

const (
	// believedAhead is how far ahead of all before it a segment of the peer is
	// believed to be what the peer sent.
	believedAhead = 1 << 24
	// overtaking is how far ahead a FIN is believed; a receiver takes no reset ahead.
	overtaking = 1 << 16
)

// after is how far a is ahead of b, for numbers that wrap around (RFC 1982).
func after(a, b uint32) int32 { return int32(a - b) }

// end is the number after the segment's last byte. SYN and FIN count as one.
func (p Packet) end() uint32 {
	end := p.Sequence + p.PayloadLength
	if p.TCPFlags&SYN != 0 {
		end++
	}
	if p.TCPFlags&FIN != 0 {
		end++
	}
	return end
}

// follow takes note of a segment's numbers. The member's are true; a segment of
// the peer may be anybody's, so it must fit those before it.
func (f *flow) follow(pkt Packet) {
	sender, receiver := &f.local, &f.peer
	if pkt.Towards {
		sender, receiver = receiver, sender
	}
	forged := pkt.Towards // perhaps

	if !forged && pkt.TCPFlags&SYN != 0 {
		*sender, *receiver = numbers{}, numbers{}
	}
	switch ahead := after(pkt.end(), sender.next); {
	case !sender.known():
		*sender = numbers{next: pkt.end(), acknowledged: pkt.Sequence}
	case ahead <= 0, forged && ahead > believedAhead:
	default:
		sender.next = pkt.end()
	}

	if pkt.TCPFlags&ACK == 0 {
		return
	}
	switch neverSent := after(pkt.Acknowledgement, receiver.next) > 0; {
	case !receiver.known():
		*receiver = numbers{next: pkt.Acknowledgement, acknowledged: pkt.Acknowledgement}
		return
	case neverSent && forged:
		return
	case neverSent: // it was, and was not seen here
		receiver.next = pkt.Acknowledgement
	}
	if after(pkt.Acknowledgement, receiver.acknowledged) > 0 {
		receiver.acknowledged = pkt.Acknowledgement
	}
}

// isReset reports whether the receiver of the packet takes it for a reset: its
// number is what the receiver waits for, or the packet is the first that comes
// back and acknowledges the opening.
func (f *flow) isReset(pkt Packet) bool {
	sender, receiver := f.local, f.peer
	if pkt.Towards {
		sender, receiver = receiver, sender
	}
	if pkt.TCPFlags&RST == 0 {
		return false
	}
	if !sender.known() {
		return pkt.TCPFlags&ACK != 0 &&
			after(pkt.Acknowledgement, receiver.acknowledged) > 0 && after(pkt.Acknowledgement, receiver.next) <= 0
	}
	return after(pkt.Sequence, sender.acknowledged) >= 0 && after(pkt.Sequence, sender.next) <= 0
}

// isFIN reports whether the resource takes its peer's FIN for one: without ACK it
// takes nothing, and what it waits for is no news to it and not far ahead.
func (f *flow) isFIN(pkt Packet) bool {
	if !f.peer.known() {
		return true
	}
	return pkt.TCPFlags&ACK != 0 &&
		after(pkt.end(), f.peer.acknowledged) > 0 && after(pkt.Sequence, f.peer.next) <= overtaking
}
