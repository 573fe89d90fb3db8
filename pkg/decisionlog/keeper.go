package decisionlog

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// stampLayout is the part of a rotated file's name that says when it was
// rotated, in UTC: decisions.json becomes decisions-2026-11-20T09-15-02.114000.json.
const stampLayout = "2006-01-02T15-04-05.000000"

const (
	compressedSuffix = ".gz"
	unfinishedSuffix = ".gz.tmp"
)

// keeper compresses and removes the rotated files of a File, in a goroutine of
// its own: at the start, after each rotation, and once an hour for those that
// grow too old.
type keeper struct {
	file         *File
	prefix, tail string // of a rotated file's path, around the stamp
	cancel       context.CancelFunc
	wake         chan struct{}
	done         chan struct{}

	mu  sync.Mutex
	err error // of the last round
}

func newKeeper(f *File) *keeper {
	tail := filepath.Ext(f.options.Path)
	ctx, cancel := context.WithCancel(context.Background())
	k := &keeper{
		file:   f,
		prefix: strings.TrimSuffix(f.options.Path, tail) + "-",
		tail:   tail,
		cancel: cancel,
		wake:   make(chan struct{}, 1),
		done:   make(chan struct{}),
	}
	k.kick()
	go k.run(ctx)
	return k
}

func (k *keeper) kick() { signal(k.wake) }

// stop returns once the goroutine has ended.
func (k *keeper) stop() {
	k.cancel()
	<-k.done
}

// trouble returns why the last round failed, once.
func (k *keeper) trouble() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	err := k.err
	k.err = nil
	return err
}

func (k *keeper) run(ctx context.Context) {
	defer close(k.done)
	hourly := time.NewTicker(time.Hour)
	defer hourly.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.wake:
		case <-hourly.C:
		}
		err := k.tidy(ctx)
		if ctx.Err() != nil {
			return // what is unfinished is taken up by the next keeper
		}
		k.mu.Lock()
		k.err = err
		k.mu.Unlock()
	}
}

// rotatedFile is a file that was rotated, and when.
type rotatedFile struct {
	path string
	at   time.Time
}

// tidy removes what is too much or too old, and what a compression that was
// interrupted left behind, then compresses the rest.
func (k *keeper) tidy(ctx context.Context) error {
	k.file.mu.Lock()
	busy := k.file.rotated // still written to
	k.file.mu.Unlock()
	found, unfinished, err := k.list()
	if err != nil {
		return err
	}
	o := &k.file.options
	oldest := time.Now().Add(-o.MaxAge)
	var errs []error
	for _, path := range unfinished {
		errs = append(errs, os.Remove(path))
	}
	for i, r := range found {
		switch {
		case r.path == busy:
		case i >= o.MaxFiles || o.MaxAge > 0 && r.at.Before(oldest):
			errs = append(errs, os.Remove(r.path))
		case o.Compress && !strings.HasSuffix(r.path, compressedSuffix):
			errs = append(errs, k.compress(ctx, r.path))
		}
	}
	return errors.Join(errs...)
}

// list returns the rotated files, newest first, and those that are being
// compressed, or were when that was interrupted.
func (k *keeper) list() (found []rotatedFile, unfinished []string, err error) {
	dir := filepath.Dir(k.file.options.Path)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, nil, err
	}
	for _, entry := range entries {
		if !entry.Type().IsRegular() {
			continue
		}
		path := filepath.Join(dir, entry.Name())
		if name, ok := strings.CutSuffix(path, unfinishedSuffix); ok {
			if _, ours := k.stamp(name); ours {
				unfinished = append(unfinished, path)
			}
			continue
		}
		if at, ours := k.stamp(strings.TrimSuffix(path, compressedSuffix)); ours {
			found = append(found, rotatedFile{path: path, at: at})
		}
	}
	slices.SortFunc(found, func(a, b rotatedFile) int { return b.at.Compare(a.at) })
	return found, unfinished, nil
}

// stamp returns when the file of that name was rotated, false if it is none of
// ours.
func (k *keeper) stamp(path string) (time.Time, bool) {
	rest, ok := strings.CutPrefix(path, k.prefix)
	if !ok {
		return time.Time{}, false
	}
	rest, ok = strings.CutSuffix(rest, k.tail)
	if !ok {
		return time.Time{}, false
	}
	at, err := time.Parse(stampLayout, rest)
	return at, err == nil
}

// nextName returns a name for a file rotated now. Its stamp is later than that
// of any other, even where the clock went back, so that the newest file is never
// taken for the oldest.
func (k *keeper) nextName() (string, error) {
	found, _, err := k.list()
	if err != nil {
		return "", fmt.Errorf("rotate: %w", err)
	}
	at := time.Now().UTC().Truncate(time.Microsecond)
	if len(found) > 0 && !at.After(found[0].at) {
		at = found[0].at.Add(time.Microsecond)
	}
	return k.prefix + at.Format(stampLayout) + k.tail, nil
}

// compress replaces the file by its gzip form. The one or the other is whole at
// every moment.
func (k *keeper) compress(ctx context.Context, path string) error {
	unfinished := path + unfinishedSuffix
	if err := k.squeeze(ctx, path, unfinished); err != nil {
		return errors.Join(fmt.Errorf("compress %s: %w", path, err), os.Remove(unfinished))
	}
	if err := os.Rename(unfinished, path+compressedSuffix); err != nil {
		return err
	}
	return os.Remove(path)
}

// squeeze writes the gzip form of a file to another and brings it to the disk.
func (k *keeper) squeeze(ctx context.Context, from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close() // only read from
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, k.file.options.Mode)
	if err != nil {
		return err
	}
	squeezed := gzip.NewWriter(out)
	_, err = io.Copy(squeezed, interruptible{ctx, in})
	if err == nil {
		err = squeezed.Close()
	}
	if err == nil {
		err = out.Sync()
	}
	return errors.Join(err, out.Close())
}

// interruptible ends a copy when its context ends.
type interruptible struct {
	ctx context.Context
	io.Reader
}

func (r interruptible) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}
