package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/perimeterd/perimeterd/pkg/decisionlog"
)

// ErrNotRunning is in the chain of an error that says that no agent answers at
// the socket.
var ErrNotRunning = errors.New("the agent is not running")

// Client asks the agent.
type Client struct {
	path string
	http *http.Client
}

// NewClient returns a Client for the socket's path. It connects with each
// request.
func NewClient(path string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}
	return &Client{path: path, http: &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}}
}

// Status asks how the agent is.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	return ask[Status](ctx, c, http.MethodGet, "/v1/status", nil, nil)
}

// Explain asks what would happen to a packet.
func (c *Client) Explain(ctx context.Context, q Question) (*Explanation, error) {
	return ask[Explanation](ctx, c, http.MethodPost, "/v1/explain", nil, q)
}

// Rules asks for the rules of the policy in force.
func (c *Client) Rules(ctx context.Context) (*Rules, error) {
	return ask[Rules](ctx, c, http.MethodGet, "/v1/rules", nil, nil)
}

// Names asks for what names have opened.
func (c *Client) Names(ctx context.Context) (*Names, error) {
	return ask[Names](ctx, c, http.MethodGet, "/v1/names", nil, nil)
}

// Flows asks for the allowed flows.
func (c *Client) Flows(ctx context.Context, f FlowFilter) (*Flows, error) {
	query := url.Values{"resource": {f.Resource}, "state": {f.State}, "peer": {peerQuery(f.Peer)}, "limit": {strconv.Itoa(f.Limit)}}
	return ask[Flows](ctx, c, http.MethodGet, "/v1/flows", query, nil)
}

// Disable removes enforcement, until Enable.
func (c *Client) Disable(ctx context.Context) (*Switched, error) {
	return ask[Switched](ctx, c, http.MethodPost, "/v1/disable", nil, nil)
}

// Enable puts enforcement back.
func (c *Client) Enable(ctx context.Context) (*Switched, error) {
	return ask[Switched](ctx, c, http.MethodPost, "/v1/enable", nil, nil)
}

func ask[T any](ctx context.Context, c *Client, method, path string, query url.Values, body any) (*T, error) {
	response, err := c.do(ctx, method, path, query, body)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close() // read only
	out := new(T)
	if err := json.NewDecoder(response.Body).Decode(out); err != nil {
		return nil, fmt.Errorf("read the agent's answer: %w", err)
	}
	return out, nil
}

// do returns the response to a request that succeeded.
func (c *Client) do(ctx context.Context, method, path string, query url.Values, body any) (*http.Response, error) {
	var content io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		content = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://perimeterd"+path+"?"+query.Encode(), content)
	if err != nil {
		return nil, err
	}
	response, err := c.http.Do(request)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ECONNREFUSED):
		return nil, fmt.Errorf("%w: nobody serves %s", ErrNotRunning, c.path)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("open %s: only root may talk to the agent: %w", c.path, fs.ErrPermission)
	case err != nil:
		return nil, fmt.Errorf("ask the agent: %w", err)
	case response.StatusCode == http.StatusOK:
		return response, nil
	}
	defer response.Body.Close() // read only
	var f failure
	if err := json.NewDecoder(io.LimitReader(response.Body, requestMax)).Decode(&f); err != nil || f.Error == "" {
		return nil, fmt.Errorf("the agent answers %s", response.Status)
	}
	switch response.StatusCode {
	case http.StatusBadRequest:
		return nil, &refusal{f.Error, ErrBadRequest}
	case http.StatusConflict:
		return nil, &refusal{f.Error, ErrDisabled}
	}
	return nil, errors.New(f.Error)
}

// BadRequest returns an error with ErrBadRequest in its chain, in the caller's
// words.
func BadRequest(format string, args ...any) error {
	return &refusal{fmt.Sprintf(format, args...), ErrBadRequest}
}

// refusal is an error of the agent, in its own words.
type refusal struct {
	text string
	is   error
}

func (r *refusal) Error() string { return r.text }
func (r *refusal) Unwrap() error { return r.is }

// recordMax bounds one record of a stream.
const recordMax = 1 << 20

// Watch calls each for every record from now on, with its line, and lost where
// records are missing. subscribed, if not nil, is called once it has begun. It
// returns when the context ends (nil), when the agent does (io.EOF), or with the
// error of each.
func (c *Client) Watch(ctx context.Context, f WatchFilter, subscribed func(), each func(line []byte, r *decisionlog.Record) error, lost func(uint64) error) error {
	query := url.Values{"resource": {f.Resource}, "denied": {strconv.FormatBool(f.Denied)}}
	response, err := c.do(ctx, http.MethodGet, "/v1/watch", query, nil)
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return err
	}
	defer response.Body.Close() // read only
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, recordMax)
	for lines.Scan() {
		if subscribed != nil {
			subscribed()
			subscribed = nil
		}
		line := lines.Bytes()
		if len(line) == 0 {
			continue
		}
		if bytes.HasPrefix(line, []byte(`{"lost":`)) {
			var notice lossNotice
			err = json.Unmarshal(line, &notice)
			if err == nil {
				err = lost(notice.Lost)
			}
		} else {
			var record decisionlog.Record
			err = json.Unmarshal(line, &record)
			if err == nil {
				err = each(line, &record)
			}
		}
		if err != nil && ctx.Err() != nil {
			return nil // what was cut off in the middle is no record
		}
		if err != nil {
			return fmt.Errorf("watch: %w", err)
		}
	}
	switch {
	case ctx.Err() != nil:
		return nil
	case lines.Err() != nil:
		return fmt.Errorf("watch: %w", lines.Err())
	}
	return io.EOF
}
