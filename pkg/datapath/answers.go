package datapath

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"
	"unsafe"

	"github.com/cilium/ebpf/ringbuf"
)

// NameAnswer is an answer to a member's question that the data path has left to
// the agent. That the member asked this resolver for just that is known.
type NameAnswer struct {
	Local, Resolver netip.Addr
	Name            string // that was asked for
	Type            uint16 // of records that were
	// Whole is false for a message that was cut, by the resolver or here.
	Whole   bool
	Message []byte
}

const nameAnswerSize = int(unsafe.Sizeof(perimeterNameAnswer{}))

// decodeAnswer reads a record of the ring.
func decodeAnswer(raw []byte) (NameAnswer, error) {
	if len(raw) < nameAnswerSize {
		return NameAnswer{}, fmt.Errorf("an answer of %d bytes, where %d were expected: agent and programs are of different versions", len(raw), nameAnswerSize)
	}
	var a perimeterNameAnswer
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&a)), nameAnswerSize), raw)
	message := raw[nameAnswerSize:]
	if int(a.Length) > len(message) {
		return NameAnswer{}, fmt.Errorf("an answer of which %d of %d bytes are there: agent and programs are of different versions", len(message), a.Length)
	}
	out := NameAnswer{
		Local: address(uint8(a.Family), a.Local.WordBe), Resolver: address(uint8(a.Family), a.Peer.WordBe),
		Name: nameOf(a.Name), Type: uint16(a.Type), Message: append([]byte(nil), message[:a.Length]...),
	}
	why := perimeterNameEvent(a.Why)
	out.Whole = why != perimeterNameEventNAME_LEFT_TRUNCATED && why != perimeterNameEventNAME_LEFT_TOO_LONG
	if why == perimeterNameEventNAME_LEFT_NOT_READ && len(out.Message) > 2 && out.Message[2]&0x02 != 0 {
		out.Whole = false // nobody has looked yet
	}
	return out, nil
}

// ReadAnswers hands the answers that the data path leaves to the agent to sink,
// one by one, until the context ends. Only one may run.
func (d *Datapath) ReadAnswers(ctx context.Context, sink func(NameAnswer)) error {
	reader, err := ringbuf.NewReader(d.objects.NameAnswers)
	if err != nil {
		return fmt.Errorf("read the ring of answers: %w", err)
	}
	defer reader.Close()
	var record ringbuf.Record
	for ctx.Err() == nil {
		reader.SetDeadline(time.Now().Add(100 * time.Millisecond)) // to notice the end
		err := reader.ReadInto(&record)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read the ring of answers: %w", err)
		}
		answer, err := decodeAnswer(record.RawSample)
		if err != nil {
			return err
		}
		sink(answer)
	}
	return nil
}
