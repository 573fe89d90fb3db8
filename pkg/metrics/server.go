package metrics

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sys/unix"

	"github.com/perimeterd/perimeterd/pkg/api"
)

// Server serves /metrics, /healthz and /readyz over TCP. It is a task.
type Server struct {
	listen string
	source Source
	ready  chan struct{}
}

// NewServer returns a Server for an address such as 127.0.0.1:9464.
func NewServer(listen string, source Source) *Server {
	return &Server{listen: listen, source: source, ready: make(chan struct{})}
}

// Ready is closed once the address accepts.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// String names the task.
func (s *Server) String() string { return "metrics on " + s.listen }

const (
	timeout        = 30 * time.Second
	shutdownWithin = 3 * time.Second
)

// Run serves until the context ends, then returns nil.
func (s *Server) Run(ctx context.Context) error {
	listener, err := (&net.ListenConfig{Control: freebind}).Listen(ctx, "tcp", s.listen)
	if err != nil {
		return fmt.Errorf("serve metrics: %w", err)
	}
	server := &http.Server{
		Handler:           s.Handler(),
		ReadHeaderTimeout: timeout, ReadTimeout: timeout, WriteTimeout: timeout, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 1 << 16,
		ErrorLog:       log.New(io.Discard, "", 0), // of clients that went away
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	close(s.ready)
	select {
	case err := <-served:
		return fmt.Errorf("serve metrics: %w", err)
	case <-ctx.Done():
	}
	within, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownWithin)
	defer cancel()
	if err = server.Shutdown(within); err != nil {
		err = server.Close()
	}
	<-served // it may not have begun, and then closes the listener itself
	return err
}

// freebind lets a listener have an address that this host does not have yet: at
// boot the agent starts before the network does.
func freebind(network, _ string, c syscall.RawConn) error {
	level, option := unix.IPPROTO_IP, unix.IP_FREEBIND
	if network == "tcp6" {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_FREEBIND
	}
	var failed error
	err := c.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), level, option, 1) })
	return errors.Join(err, failed)
}

// Handler answers requests; for Run and for tests.
func (s *Server) Handler() http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(NewCollector(s.source), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := s.readiness(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	return mux
}

// readiness is nil if a policy is in force, or enforcement was disabled on
// purpose: that is no reason to keep a rollout waiting.
func (s *Server) readiness(ctx context.Context) error {
	status, err := s.source.Status(ctx)
	if err != nil {
		return err
	}
	if status.Generation == 0 && status.State != api.Disabled {
		return errors.New(strings.Join(append([]string{"no policy is in force"}, status.Problems...), "\n"))
	}
	return nil
}
