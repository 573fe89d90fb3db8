package packet

import (
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Wire sends and receives whole frames on an interface, past the network stack
// of the host that it is on.
type Wire struct{ socket *os.File }

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
	w := &Wire{os.NewFile(uintptr(fd), "wire of "+interfaceName)}
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
		if _, err := w.socket.Write(p.Frame()); err != nil {
			return fmt.Errorf("send %v: %w", p, err)
		}
	}
	return nil
}

// Receive returns the next frame, or an error that is os.ErrDeadlineExceeded
// if none comes in time.
func (w *Wire) Receive(deadline time.Time) ([]byte, error) {
	if err := w.socket.SetReadDeadline(deadline); err != nil {
		return nil, err
	}
	frame := make([]byte, 1<<16) // also what segmentation offload leaves whole
	n, err := w.socket.Read(frame)
	if err != nil {
		return nil, err
	}
	return frame[:n], nil
}

// Close closes the wire.
func (w *Wire) Close() error { return w.socket.Close() }
