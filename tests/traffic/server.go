package traffic

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
)

// Server is a running server.
type Server struct {
	// Address is where it listens, as host:port.
	Address string

	reached atomic.Int64
	close   func() error
}

// Reached returns how often a client got through to the server: connections
// accepted, or datagrams received.
func (s *Server) Reached() int { return int(s.reached.Load()) }

// Close ends the server and its connections, and returns what went wrong while
// it ran. More calls return the same.
func (s *Server) Close() error { return s.close() }

// start runs serve until stop makes it return.
func (s *Server) start(serve, stop func() error) {
	served := make(chan error, 1)
	go func() { served <- serve() }()
	s.close = sync.OnceValue(func() error {
		err := stop()
		if errors.Is(err, net.ErrClosed) {
			err = nil // its network has closed it already
		}
		if err := errors.Join(err, <-served); err != nil {
			return fmt.Errorf("server on %s: %w", s.Address, err)
		}
		return nil
	})
}

// Database starts a TCP server of persistent connections: every line is a
// question and is answered by a line.
func Database(n Network, address string) (*Server, error) {
	return listen(n, address, func(conn net.Conn) {
		for lines := bufio.NewScanner(conn); lines.Scan(); {
			if _, err := fmt.Fprintf(conn, "%s%s\n", answerPrefix, lines.Text()); err != nil {
				return
			}
		}
	})
}

// listen starts a TCP server that handles each connection on a goroutine.
// A connection that breaks is its client's to notice.
func listen(n Network, address string, handle func(net.Conn)) (*Server, error) {
	listener, err := n.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	s := &Server{Address: listener.Addr().String()}
	var (
		handlers sync.WaitGroup
		mu       sync.Mutex
		open     = map[net.Conn]bool{}
	)
	serve := func() error {
		for {
			conn, err := listener.Accept()
			if errors.Is(err, net.ErrClosed) {
				return nil
			}
			if err != nil {
				return err
			}
			s.reached.Add(1)
			mu.Lock()
			open[conn] = true
			mu.Unlock()
			handlers.Go(func() {
				handle(conn)
				mu.Lock()
				delete(open, conn)
				mu.Unlock()
				_ = conn.Close() // all was sent, or the connection is broken
			})
		}
	}
	s.start(func() error {
		err := serve()
		mu.Lock()
		for conn := range open {
			_ = conn.Close() // to end its handler
		}
		mu.Unlock()
		handlers.Wait()
		return err
	}, listener.Close)
	return s, nil
}

// Broker starts a UDP server that answers every datagram. For a client it is
// like a Database without connections.
func Broker(n Network, address string) (*Server, error) {
	socket, err := n.ListenPacket("udp", address)
	if err != nil {
		return nil, err
	}
	s := &Server{Address: socket.LocalAddr().String()}
	s.start(func() error {
		buffer := make([]byte, 1<<16)
		for {
			size, from, err := socket.ReadFrom(buffer)
			if errors.Is(err, net.ErrClosed) {
				return nil
			}
			if err != nil {
				return err
			}
			s.reached.Add(1)
			answer := append([]byte(answerPrefix), buffer[:size]...)
			if _, err := socket.WriteTo(answer, from); errors.Is(err, net.ErrClosed) {
				return nil
			} // a client that cannot be answered is as good as a lost datagram
		}
	}, socket.Close)
	return s, nil
}

// Vault starts an HTTP server. It answers GET /NAME with SecretOf(NAME);
// Reached counts requests.
func Vault(n Network, address string) (*Server, error) {
	listener, err := n.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	s := &Server{Address: listener.Addr().String()}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{name}", func(w http.ResponseWriter, r *http.Request) {
		s.reached.Add(1)
		_, _ = io.WriteString(w, SecretOf(r.PathValue("name"))) // the client notices
	})
	server := &http.Server{
		Handler:  mux,
		ErrorLog: log.New(io.Discard, "", 0), // of connections that clients broke
	}
	s.start(func() error {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	}, server.Close)
	return s, nil
}

// SecretOf returns what a Vault holds under a name.
func SecretOf(name string) string { return "the secret of " + name }
