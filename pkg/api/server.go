package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/perimeterd/perimeterd/pkg/decisionlog"
	"github.com/perimeterd/perimeterd/pkg/policy"
)

// Agent is whom the server asks. Its methods are called by many goroutines.
type Agent interface {
	Status(context.Context) (*Status, error)
	Explain(context.Context, Question) (*Explanation, error)
	Rules(context.Context) (*Rules, error)
	Flows(context.Context, FlowFilter) (*Flows, error)
	Names(context.Context) (*Names, error)
	Subscribe(decisionlog.SubscribeOptions) (*decisionlog.Subscription, error)
	Disable(context.Context) (*Switched, error)
	Enable(context.Context) (*Switched, error)
}

// ErrBadRequest is in the chain of an Agent's errors that are the caller's
// mistake, ErrDisabled where there is nothing to ask while disabled.
var (
	ErrBadRequest = errors.New("bad request")
	ErrDisabled   = errors.New("enforcement is disabled")
)

const (
	requestMax     = 1 << 20
	headerTimeout  = 10 * time.Second
	answerTimeout  = 5 * time.Minute // a switch waits for a large policy
	writeTimeout   = 30 * time.Second
	shutdownWithin = 3 * time.Second
	keepAlive      = 15 * time.Second
)

// Server serves an Agent on a unix socket. It is a task.
type Server struct {
	path  string
	agent Agent
	ready chan struct{}
}

// NewServer returns a Server for the socket's path.
func NewServer(path string, agent Agent) *Server {
	return &Server{path: path, agent: agent, ready: make(chan struct{})}
}

// Ready is closed once the socket accepts.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// String names the task.
func (s *Server) String() string { return "API on " + s.path }

// Run serves until the context ends, then removes the socket and returns nil. A
// socket that nobody serves any more is replaced.
func (s *Server) Run(ctx context.Context) error {
	listener, err := s.listen(ctx)
	if err != nil {
		return fmt.Errorf("serve the API: %w", err)
	}
	server := &http.Server{
		Handler:           s.Handler(),
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       headerTimeout,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    1 << 16,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ErrorLog:          log.New(io.Discard, "", 0), // of clients that went away
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	close(s.ready)
	select {
	case err := <-served:
		return fmt.Errorf("serve the API: %w", err)
	case <-ctx.Done():
	}
	// Requests see the end of ctx; those that do not heed it are cut.
	within, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownWithin)
	defer cancel()
	if err = server.Shutdown(within); err != nil {
		err = server.Close()
	}
	<-served // it may not have begun, and then closes the listener itself
	return err
}

func (s *Server) listen(ctx context.Context) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(s.path), 0o755); err != nil {
		return nil, err
	}
	// The caller holds the agent's lock, so whoever made it is gone.
	if err := os.Remove(s.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	// Made out of reach and moved to its place, so that nobody can open it
	// before its mode is set.
	private, err := os.MkdirTemp(filepath.Dir(s.path), ".api")
	if err != nil {
		return nil, err
	}
	defer os.Remove(private)
	made := filepath.Join(private, "s")
	listener, err := new(net.ListenConfig).Listen(ctx, "unix", made)
	if err != nil {
		return nil, err
	}
	listener.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(made, 0o600), os.Rename(made, s.path)); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return &socket{listener, s.path}, nil
}

// socket removes its path when it is closed.
type socket struct {
	net.Listener
	path string
}

func (s *socket) Close() error {
	err := s.Listener.Close()
	if removed := os.Remove(s.path); removed != nil && !errors.Is(removed, os.ErrNotExist) {
		err = errors.Join(err, removed)
	}
	return err
}

// Handler answers requests; for Run and for tests.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", answer(func(r *http.Request) (any, error) {
		return s.agent.Status(r.Context())
	}))
	mux.HandleFunc("POST /v1/explain", answer(func(r *http.Request) (any, error) {
		var q Question
		decoder := json.NewDecoder(r.Body)
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&q); err != nil {
			return nil, BadRequest("the request cannot be read: %v", err)
		}
		return s.agent.Explain(r.Context(), q)
	}))
	mux.HandleFunc("GET /v1/rules", answer(func(r *http.Request) (any, error) {
		return s.agent.Rules(r.Context())
	}))
	mux.HandleFunc("GET /v1/names", answer(func(r *http.Request) (any, error) {
		return s.agent.Names(r.Context())
	}))
	mux.HandleFunc("GET /v1/flows", answer(func(r *http.Request) (any, error) {
		f, err := flowFilter(r)
		if err != nil {
			return nil, err
		}
		return s.agent.Flows(r.Context(), f)
	}))
	mux.HandleFunc("POST /v1/disable", answer(func(r *http.Request) (any, error) {
		return s.agent.Disable(r.Context())
	}))
	mux.HandleFunc("POST /v1/enable", answer(func(r *http.Request) (any, error) {
		return s.agent.Enable(r.Context())
	}))
	mux.HandleFunc("GET /v1/watch", s.watch)
	mux.HandleFunc("/", answer(func(r *http.Request) (any, error) {
		return nil, BadRequest("%s %s is not known: agent and command are of different versions", r.Method, r.URL.Path)
	}))
	return mux
}

func flowFilter(r *http.Request) (FlowFilter, error) {
	query := r.URL.Query()
	f := FlowFilter{Resource: query.Get("resource"), State: query.Get("state")}
	var err error
	if text := query.Get("peer"); text != "" {
		if f.Peer, err = policy.ParsePrefix(text); err != nil {
			return f, BadRequest("peer: %v", err)
		}
	}
	if text := query.Get("limit"); text != "" {
		if f.Limit, err = strconv.Atoi(text); err != nil || f.Limit < 0 {
			return f, BadRequest("limit %q is not a number", text)
		}
	}
	return f, nil
}

// answer writes what ask returns, or why it failed.
func answer(ask func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(answerTimeout))
		r.Body = http.MaxBytesReader(w, r.Body, requestMax)
		body, err := ask(r)
		code := http.StatusOK
		if err != nil {
			body, code = failure{err.Error()}, statusOf(err)
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(body) // the client sees that it is cut
	}
}

func statusOf(err error) int {
	switch {
	case errors.Is(err, ErrBadRequest):
		return http.StatusBadRequest
	case errors.Is(err, ErrDisabled):
		return http.StatusConflict
	}
	return http.StatusInternalServerError
}

// watch streams records until the client goes or the agent ends.
func (s *Server) watch(w http.ResponseWriter, r *http.Request) {
	filter := WatchFilter{Resource: r.URL.Query().Get("resource"), Denied: r.URL.Query().Get("denied") == "true"}
	subscription, err := s.agent.Subscribe(decisionlog.SubscribeOptions{Filter: filter.wants})
	if err != nil {
		answer(func(*http.Request) (any, error) { return nil, err })(w, r)
		return
	}
	defer subscription.Close()
	out := http.NewResponseController(w)
	w.Header().Set("Content-Type", "application/x-ndjson")
	send := func(text []byte) bool {
		// The server's read timeout would end the stream otherwise.
		_ = out.SetReadDeadline(time.Time{})
		_ = out.SetWriteDeadline(time.Now().Add(writeTimeout))
		_, err := w.Write(text)
		return errors.Join(err, out.Flush()) == nil
	}
	if !send([]byte("\n")) { // tells the client that it is subscribed
		return
	}
	for {
		// An empty line now and then finds out whether the client is still there.
		ctx, cancel := context.WithTimeout(r.Context(), keepAlive)
		lines, err := subscription.Next(ctx)
		cancel()
		text := lines.Bytes
		switch {
		case r.Context().Err() != nil:
			return
		case errors.Is(err, context.DeadlineExceeded):
			text = []byte("\n")
		case err != nil:
			return
		case lines.Lost > 0:
			notice, _ := json.Marshal(lossNotice{lines.Lost}) // a number always encodes
			text = append(append(text, notice...), '\n')
		}
		if !send(text) {
			return
		}
	}
}

// wants reports whether a record passes the filter.
func (f *WatchFilter) wants(r *decisionlog.Record) bool {
	x := &r.Properties.Perimeterd
	if f.Denied && x.Verdict == policy.Allow.String() && x.WouldBe == policy.Allow.String() && r.Operation != decisionlog.OperationFlowCut {
		return false
	}
	id := r.Properties.ServiceResourceID
	return f.Resource == "" || strings.EqualFold(id[strings.LastIndexByte(id, '/')+1:], f.Resource)
}

// peerQuery is how a prefix stands in a query.
func peerQuery(p netip.Prefix) string {
	if !p.IsValid() {
		return ""
	}
	return p.String()
}
