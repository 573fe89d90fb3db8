package datapath

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/perimeterd/perimeterd/tests/packet"
)

// TestPlainFramesAreReadTheSame holds packet_parse_plain against the parser for all
// frames: each is read once as it comes, and once where Linux may have forgotten its
// link header, which only the latter can tell.
func TestPlainFramesAreReadTheSame(t *testing.T) {
	r := newRig(t, Options{}, "eth0")
	source, plain := seeded(t), plainFrames()
	frames := slices.Clone(plain)
	for _, row := range parserRows() {
		frames = append(frames, row.packet.Frame())
	}
	for _, conversation := range conversations() {
		for _, c := range conversation {
			frames = append(frames, c.frame)
		}
	}
	for range 100 * *packetsFlag {
		frames = append(frames, damaged(source, plain[source.IntN(len(plain))]))
	}
	source.Shuffle(len(frames), func(i, j int) { frames[i], frames[j] = frames[j], frames[i] }) // half of them go each way

	understood := 0
	err := r.host.Run(func() (err error) {
		onOneCPU(t, func() { understood, err = r.readBothWays(t, frames) })
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if understood < len(frames)/2 {
		t.Errorf("only %d of %d frames were understood", understood, len(frames))
	}
}

// readBothWays complains of frames that are not read as the same, and counts those that were understood.
func (r *rig) readBothWays(t *testing.T, frames [][]byte) (understood int, err error) {
	program, eth0 := r.objects.ExplainTowards, r.ifindex["eth0"]
	for i, frame := range frames {
		if i == len(frames)/2 {
			program = r.objects.ExplainFrom
		}
		got, err := r.read(program, frame, skbContext{Ifindex: eth0})
		if errors.Is(err, unix.EINVAL) {
			continue // the kernel runs no program on what ends so soon
		}
		if err != nil {
			return 0, err
		}
		want, err := r.read(program, frame, skbContext{Ifindex: eth0, IngressIfindex: eth0})
		if errors.Is(err, unix.EINVAL) {
			t.Skip("this kernel cannot be told where a test packet came in: needs Linux 5.16")
		}
		if err != nil {
			return 0, err
		}
		if got.Parsed != want.Parsed || got.Packet != want.Packet {
			t.Errorf("%s (%x): read as\n%d %+v, and not as\n%d %+v", packet.Describe(frame), frame, got.Parsed, got.Packet, want.Parsed, want.Packet)
		}
		if want.Parsed == uint32(perimeterReasonREASON_NONE) {
			understood++
		}
	}
	return understood, nil
}

// read runs a program that explains, always on the same CPU, and returns what it read.
func (r *rig) read(program *ebpf.Program, frame []byte, context skbContext) (*perimeterQuestion, error) {
	if _, err := program.Run(&ebpf.RunOptions{Data: frame, Context: context}); err != nil {
		return nil, err
	}
	const explain = uint32(1) // QUESTION_EXPLAIN
	var each []perimeterQuestion
	if err := r.objects.Questions.Lookup(explain, &each); err != nil {
		return nil, err
	}
	for i := range each {
		if each[i].Slot == explain {
			return &each[i], nil
		}
	}
	return nil, errors.New("no CPU has read anything")
}

// plainFrames are frames of which damaged ones are made.
func plainFrames() [][]byte {
	var frames [][]byte
	for _, flags := range []packet.Flags{packet.SYN, packet.ACK, packet.FIN | packet.ACK, packet.RST} {
		frames = append(frames,
			packet.TCP(partner4, member4, 4000, 5432, flags).Sequence(1000, 2000).Frame(),
			packet.TCP(partner6, member6, 4000, 5432, flags).Sequence(1000, 2000).Payload("with data").Frame())
	}
	return append(frames,
		packet.UDP(partner4, member4, 4000, 5432).Frame(), packet.UDP(partner4, member4, 4000, 5432).Payload("more than twelve").Frame(),
		packet.UDP(partner6, member6, 4000, 5432).Frame(), packet.UDP(partner6, member6, 4000, 5432).Payload("more than twelve").Frame())
}

// damaged is a frame of which up to two bytes have changed, nearly always those that
// say what the frame is, and which may be longer or shorter than it says.
func damaged(source *rand.Rand, frame []byte) []byte {
	telling := []int{12, 13, 14, 16, 17, 18, 19, 20, 21, 23, 34 + 12, 34 + 13, 54 + 12, 54 + 13} // EtherType, IPv4, IPv6, TCP's header length and flags
	out := slices.Clone(frame)
	for range source.IntN(3) {
		at := source.IntN(len(out))
		if source.IntN(8) > 0 {
			at = min(telling[source.IntN(len(telling))], len(out)-1)
		}
		if source.IntN(2) == 0 {
			out[at] ^= 1 << source.IntN(8)
		} else {
			out[at] = byte(source.IntN(256))
		}
	}
	switch source.IntN(4) {
	case 0:
		out = append(out, make([]byte, source.IntN(30))...)
	case 1:
		out = out[:len(out)-source.IntN(len(out)-14)]
	}
	return out
}
