package traffic

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
)

// Store starts a TCP server for Upload.
func Store(n Network, address string) (*Server, error) {
	return listen(n, address, func(conn net.Conn) {
		reader := bufio.NewReader(conn)
		var size int64
		if _, err := fmt.Fscanf(reader, "%d\n", &size); err != nil {
			return
		}
		sum := sha256.New()
		if _, err := io.CopyN(sum, reader, size); err != nil {
			return
		}
		_, _ = fmt.Fprintf(conn, "%x\n", sum.Sum(nil)) // the client notices
	})
}

// Upload sends so many bytes to a Store over one connection, and returns an
// error unless the store got all of them, unchanged, before ctx ends.
func Upload(ctx context.Context, n Network, address string, size int64) (err error) {
	c, err := dial(ctx, n, "tcp", address)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	if _, err := fmt.Fprintf(c.conn, "%d\n", size); err != nil {
		return fmt.Errorf("begin the upload: %w", err)
	}
	sum := sha256.New()
	content := rand.NewChaCha8([32]byte{}) // the same for everyone, and no byte foreseeable
	if n, err := io.CopyN(io.MultiWriter(c.conn, sum), content, size); err != nil {
		return fmt.Errorf("upload, after %d of %d bytes: %w", n, size, err)
	}
	var got string
	if _, err := fmt.Fscanln(c.reader, &got); err != nil {
		return fmt.Errorf("wait for the store's checksum: %w", err)
	}
	if want := fmt.Sprintf("%x", sum.Sum(nil)); got != want {
		return fmt.Errorf("the store got other bytes: its checksum is %s, want %s", got, want)
	}
	return nil
}
