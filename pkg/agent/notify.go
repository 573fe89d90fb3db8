package agent

import (
	"fmt"
	"net"
)

// notifyService tells the service manager a state, as sd_notify does: one
// datagram to the socket it named. An empty name means that nobody asked.
func notifyService(socket, state string) error {
	if socket == "" {
		return nil
	}
	if socket[0] == '@' { // an abstract socket
		socket = "\x00" + socket[1:]
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("tell the service manager: %w", err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(state)); err != nil {
		return fmt.Errorf("tell the service manager: %w", err)
	}
	return nil
}
