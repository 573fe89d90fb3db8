package world

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
)

// Listen opens a listener on the host, such as ("tcp", "10.20.0.5:5432").
// The address must be literal, or empty as in ":5432". The listener is closed
// with the world at the latest; accepted connections are the caller's.
func (h *Host) Listen(network, address string) (net.Listener, error) {
	return open(h, network, address, func() (net.Listener, error) {
		return net.Listen(network, address)
	})
}

// ListenPacket is Listen for packets, such as ("udp", "10.20.0.5:53").
func (h *Host) ListenPacket(network, address string) (net.PacketConn, error) {
	return open(h, network, address, func() (net.PacketConn, error) {
		return net.ListenPacket(network, address)
	})
}

// Dial connects from the host to a literal address. The connection is the
// caller's to close.
func (h *Host) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	return h.DialFrom(ctx, network, "", address)
}

// DialFrom is Dial from a given local address, such as "10.20.0.9:0" or
// "10.20.0.9:4000"; "" leaves the choice to the kernel.
func (h *Host) DialFrom(ctx context.Context, network, from, to string) (net.Conn, error) {
	if err := checkLiteral(to); err != nil {
		return nil, err
	}
	var dialer net.Dialer
	if from != "" {
		local, err := netip.ParseAddrPort(from)
		if err != nil {
			return nil, fmt.Errorf("local address: %w", err)
		}
		switch network {
		case "udp", "udp4", "udp6":
			dialer.LocalAddr = net.UDPAddrFromAddrPort(local)
		default:
			dialer.LocalAddr = net.TCPAddrFromAddrPort(local)
		}
	}
	var conn net.Conn
	err := h.Run(func() (err error) {
		conn, err = dialer.DialContext(ctx, network, to)
		return err
	})
	return conn, err
}

func open[S io.Closer](h *Host, network, address string, listen func() (S, error)) (S, error) {
	var socket S
	if err := checkLiteral(address); err != nil {
		return socket, err
	}
	err := h.Run(func() (err error) {
		socket, err = listen()
		return err
	})
	if err == nil {
		h.mu.Lock()
		h.opened = append(h.opened, socket)
		h.mu.Unlock()
	}
	return socket, err
}

// checkLiteral refuses names: they would be resolved on other threads and so
// with the machine's network.
func checkLiteral(address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	if host != "" {
		if _, err := netip.ParseAddr(host); err != nil {
			return fmt.Errorf("address %q: give an IP address, names are not resolved here: %w", address, err)
		}
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("address %q: give the port as a number: %w", address, err)
	}
	return nil
}
