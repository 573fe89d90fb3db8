package traffic

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
)

// Both protocols are lines: a question, and the same behind "ok ".
const answerPrefix = "ok "

// client asks numbered questions over one connection.
type client struct {
	conn   net.Conn
	reader *bufio.Reader
	unbind func() bool
}

// dial connects a client whose operations end with ctx.
func dial(ctx context.Context, n Network, network, address string) (*client, error) {
	conn, err := n.Dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			_ = conn.Close() // it is the first error that matters
			return nil, err
		}
	}
	return &client{conn: conn, reader: bufio.NewReader(conn), unbind: interrupt(ctx, conn)}, nil
}

// interrupt makes every operation of a connection fail once ctx is done. The
// function it returns undoes it.
func interrupt(ctx context.Context, conn net.Conn) func() bool {
	return context.AfterFunc(ctx, func() {
		_ = conn.SetDeadline(time.Unix(1, 0)) // fails only if closed, and then all is well
	})
}

// ask sends a question and waits for its answer. Answers to earlier questions
// may still arrive over UDP; they are passed over.
func (c *client) ask(number int) error {
	if _, err := fmt.Fprintf(c.conn, "%d\n", number); err != nil {
		return fmt.Errorf("ask question %d: %w", number, err)
	}
	for {
		line, err := c.reader.ReadString('\n')
		if err != nil {
			return fmt.Errorf("wait for answer %d: %w", number, err)
		}
		got, err := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(line, answerPrefix)))
		switch {
		case err != nil || got > number || !strings.HasPrefix(line, answerPrefix):
			return fmt.Errorf("wait for answer %d: got %q", number, line)
		case got == number:
			return nil
		}
	}
}

func (c *client) close() error {
	c.unbind()
	return c.conn.Close()
}
