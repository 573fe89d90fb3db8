package packet

import (
	"fmt"
	"net"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Wire sends and receives whole frames on an interface, past the network stack
// of the host that it is on.
type Wire struct {
	socket *os.File
	room   []byte // for the next frame; also for what segmentation offload leaves whole
}

// OpenWire opens an interface of the network namespace that the calling thread
// is in. The wire hears what the interface receives, not what it sends. The
// kernel takes VLAN tags off before a wire hears a frame.
func OpenWire(interfaceName string) (*Wire, error) {
	itf, err := net.InterfaceByName(interfaceName)
	if err != nil {
		return nil, fmt.Errorf("open the wire of %s: %w", interfaceName, err)
	}
	const everything = unix.ETH_P_ALL>>8 | unix.ETH_P_ALL<<8 // in network order
	// No protocol yet: the socket must not hear other interfaces before it is bound.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open a packet socket (CAP_NET_RAW is needed): %w", err)
	}
	w := &Wire{socket: os.NewFile(uintptr(fd), "wire of "+interfaceName), room: make([]byte, 1<<16)}
	err = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: everything, Ifindex: itf.Index})
	}
	if err != nil {
		_ = w.Close() // the error that matters is the one above
		return nil, fmt.Errorf("open the wire of %s: %w", interfaceName, err)
	}
	return w, nil
}

// Send sends frames.
func (w *Wire) Send(packets ...Packet) error {
	for _, p := range packets {
		if err := w.SendFrame(p.Frame()); err != nil {
			return fmt.Errorf("send %v: %w", p, err)
		}
	}
	return nil
}

// SendFrame sends a frame as it is. It has an Ethernet header at least.
func (w *Wire) SendFrame(frame []byte) error {
	_, err := w.socket.Write(frame)
	return err
}

// Receive returns the next frame, or an error that is os.ErrDeadlineExceeded
// if none comes in time.
func (w *Wire) Receive(deadline time.Time) ([]byte, error) {
	if err := w.socket.SetReadDeadline(deadline); err != nil {
		return nil, err
	}
	n, err := w.socket.Read(w.room)
	if err != nil {
		return nil, err
	}
	return slices.Clone(w.room[:n]), nil
}

// Close closes the wire.
func (w *Wire) Close() error { return w.socket.Close() }
