package secondopinion_test

import (
	"encoding/binary"
	"hash/crc32"
	"math/rand/v2"

	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/tests/packet"
)

// chunk is a type of SCTP chunk, RFC 9260.
type chunk uint8

const (
	sctpData chunk = iota
	sctpInit
	sctpInitAck
	sctpSack
	sctpHeartbeat
	sctpHeartbeatAck
	sctpAbort
	sctpShutdown
	sctpShutdownAck
	sctpError
	sctpCookieEcho
	sctpCookieAck
	sctpShutdownComplete chunk = 14
)

// tags are what each side wants to be called by. A packet has the receiver's.
var tags = [2]uint32{peer: 0x11111111, member: 0x22222222}

// chunk appends an SCTP packet of one chunk, with the tag it should have, or
// another.
func (s *session) chunk(from side, c chunk, rightTag bool) *step {
	source, destination, sourcePort, destinationPort := s.addressed(from)
	tag := tags[from.other()]
	if c == sctpInit {
		tag = 0
	}
	if !rightTag {
		tag += 5
	}
	body := binary.BigEndian.AppendUint16(nil, sourcePort)
	body = binary.BigEndian.AppendUint16(body, destinationPort)
	body = binary.BigEndian.AppendUint32(body, tag)
	body = append(body, 0, 0, 0, 0, byte(c), 0, 0, 20) // no checksum yet; the chunk has 20 bytes
	body = binary.BigEndian.AppendUint32(body, tags[from])
	body = append(body, 0, 0, 0xff, 0xff, 0, 1, 0, 1, 0, 0, 0, 1)
	binary.LittleEndian.PutUint32(body[8:], crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)))
	st := s.add(from, packet.Protocol(source, destination, policy.ProtocolSCTP).Payload(string(body)))
	st.chunk = c
	return st
}

// randomSCTP draws the life of an association, with chunks in between that do
// not belong there.
func randomSCTP(r *rand.Rand, s *session) {
	opener := side(r.IntN(2))
	if !s.allowed[opener] && s.allowed[opener.other()] && chance(r, 60) {
		opener = opener.other()
	}
	for _, honest := range []struct {
		by    side
		chunk chunk
	}{
		{opener, sctpInit}, {opener.other(), sctpInitAck}, {opener, sctpCookieEcho}, {opener.other(), sctpCookieAck},
		{opener, sctpData}, {opener.other(), sctpSack}, {opener.other(), sctpHeartbeat}, {opener, sctpHeartbeatAck},
		{opener, sctpShutdown}, {opener.other(), sctpShutdownAck}, {opener, sctpShutdownComplete},
	} {
		if !chance(r, 10) {
			s.chunk(honest.by, honest.chunk, true)
		}
		for chance(r, 15) {
			s.chunk(side(r.IntN(2)), chunk(r.IntN(int(sctpShutdownComplete)+1)), chance(r, 70))
		}
		if chance(r, 8) {
			return
		}
	}
}
