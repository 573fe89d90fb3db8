package decisionlog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// FileOptions of a File.
type FileOptions struct {
	// Path of the file that is written. Required. Its directory is made when
	// missing.
	Path string
	// MaxBytes is the size beyond which a new file is begun. Optional, defaults to
	// 100 MiB. One write is never split, so a file may exceed it by what was waiting.
	MaxBytes int64
	// MaxFiles is how many rotated files are kept. Optional, defaults to 10.
	MaxFiles int
	// MaxAge is how long rotated files are kept. Optional, defaults to no limit.
	MaxAge time.Duration
	// Compress makes rotated files gzip files.
	Compress bool
	// Sync brings every write to the disk before it counts as done. Without it a
	// power failure loses what the kernel had not written yet (some 30 s); with it
	// each write waits for the disk.
	Sync bool
	// Mode of new files. Optional, defaults to 0640.
	Mode os.FileMode
}

const (
	defaultMaxBytes = 100 << 20
	defaultMaxFiles = 10
	defaultMode     = 0o640

	// followEvery is how often the path is looked at, whether it still is the
	// file that is open.
	followEvery = time.Second
)

// File is a rotated log file, for use as a sink's writer.
//
// Callers write whole lines, or the rest of a line that a failed write cut.
// Every line is then whole in one file: rotation happens between lines, and when
// the file is taken away between two parts of a line, the line is begun again in
// the new one. A file that a crash left without its last line end gets it.
//
// The file may be renamed or removed by others, such as logrotate: File begins
// a new one within a second, or at once after Reopen.
type File struct {
	options FileOptions
	open    func(path string, mode os.FileMode) (handle, error)
	keeper  *keeper

	mu      sync.Mutex // guards what follows
	out     handle     // nil once closed
	size    int64
	looked  time.Time // when the path was last compared with out
	reopen  bool      // compare at the next write, whatever the time
	rotated string    // the name out was given, while a new file could not be opened
	torn    []byte    // the last line, as far as it was written, if it has no end yet
	owed    []byte    // to be written before all else
}

// handle is what File needs of an open file.
type handle interface {
	io.Writer
	io.ReaderAt
	io.Closer
	Stat() (os.FileInfo, error)
	Sync() error
}

func openHandle(path string, mode os.FileMode) (handle, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|os.O_CREATE, mode)
	if err != nil {
		return nil, err
	}
	return f, nil
}

// OpenFile opens or creates the file and begins to look after the rotated ones
// beside it. The caller must close it.
func OpenFile(o FileOptions) (*File, error) {
	return newFile(o, openHandle)
}

func newFile(o FileOptions, open func(string, os.FileMode) (handle, error)) (*File, error) {
	if o.Path == "" {
		return nil, errors.New("log file: Path is required")
	}
	if o.MaxBytes < 0 || o.MaxFiles < 0 || o.MaxAge < 0 {
		return nil, fmt.Errorf("log file %s: MaxBytes, MaxFiles and MaxAge must not be negative", o.Path)
	}
	o.Path = filepath.Clean(o.Path)
	setDefault(&o.MaxBytes, defaultMaxBytes)
	setDefault(&o.MaxFiles, defaultMaxFiles)
	setDefault(&o.Mode, defaultMode)
	if err := os.MkdirAll(filepath.Dir(o.Path), 0o750); err != nil {
		return nil, fmt.Errorf("log file: %w", err)
	}
	f := &File{options: o, open: open}
	if err := f.begin(); err != nil {
		return nil, err
	}
	f.keeper = newKeeper(f)
	return f, nil
}

// Write appends p. An error with n equal to len(p) says that all was written,
// but that something else is wrong: the disk was not reached, or a rotation
// failed and the old file grows on.
func (f *File) Write(p []byte) (n int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.out == nil {
		return 0, fmt.Errorf("log file %s: %w", f.options.Path, os.ErrClosed)
	}
	trouble := []error{f.keeper.trouble(), f.follow(), f.rotate(len(p))}

	if err := f.payOwed(); err != nil {
		return 0, errors.Join(append(trouble, err)...)
	}
	n, err = f.out.Write(p)
	f.size += int64(n)
	f.remember(p[:n])
	trouble = append(trouble, err)
	if err == nil && f.options.Sync {
		trouble = append(trouble, f.out.Sync())
	}
	return n, errors.Join(trouble...)
}

// payOwed writes what the new file needs before anything else.
func (f *File) payOwed() error {
	if len(f.owed) == 0 {
		return nil
	}
	n, err := f.out.Write(f.owed)
	f.size += int64(n)
	f.owed = f.owed[n:]
	return err
}

// remember keeps the beginning of a line that was cut.
func (f *File) remember(written []byte) {
	if end := bytes.LastIndexByte(written, '\n'); end >= 0 {
		f.torn = f.torn[:0]
		written = written[end+1:]
	}
	f.torn = append(f.torn, written...)
}

// follow begins a new file where the path is not the open one any more.
func (f *File) follow() error {
	now := time.Now()
	if !f.reopen && now.Sub(f.looked) < followEvery {
		return nil
	}
	open, err := f.out.Stat()
	if err != nil {
		return err
	}
	named, err := os.Stat(f.options.Path)
	switch {
	case err == nil && os.SameFile(open, named):
		f.size = open.Size() // somebody may have cut it
		f.looked, f.reopen = now, false
		return nil
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return err
	}
	return f.begin()
}

// rotate begins a new file if the open one is full.
func (f *File) rotate(incoming int) error {
	// A line that was cut must end in its own file. While out has been renamed
	// already, follow tries to begin the new file.
	if f.size == 0 || f.size+int64(incoming) <= f.options.MaxBytes || len(f.torn) > 0 || f.rotated != "" {
		return nil
	}
	name, err := f.keeper.nextName()
	if err != nil {
		return err
	}
	if err := os.Rename(f.options.Path, name); err != nil {
		return fmt.Errorf("rotate: %w", err)
	}
	f.rotated = name
	f.reopen = true
	return f.begin()
}

// begin opens the path and leaves the file that was open before, if there was
// one; on failure that one stays.
func (f *File) begin() error {
	out, err := f.open(f.options.Path, f.options.Mode)
	if err != nil {
		return fmt.Errorf("log file: %w", err)
	}
	info, err := out.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("log file %s is not a regular file; write to standard output or a file", f.options.Path)
	}
	var owed []byte
	if err == nil && info.Size() > 0 {
		var last [1]byte
		if _, err = out.ReadAt(last[:], info.Size()-1); last[0] != '\n' {
			owed = append(owed, '\n')
		}
	}
	if err != nil {
		return errors.Join(err, out.Close())
	}
	left := f.out
	f.out, f.size, f.owed = out, info.Size(), append(owed, f.torn...)
	f.looked, f.reopen, f.rotated = time.Now(), false, ""
	if left != nil {
		defer f.keeper.kick()
		return errors.Join(left.Sync(), left.Close())
	}
	return nil
}

// Reopen makes the next write look whether the path still is the open file.
// For a signal such as SIGHUP; without it that takes up to a second.
func (f *File) Reopen() {
	f.mu.Lock()
	f.reopen = true
	f.mu.Unlock()
}

// Close brings all to the disk, closes the file, and ends the compression of
// rotated files, which the next OpenFile takes up again.
func (f *File) Close() error {
	f.mu.Lock()
	out := f.out
	f.out = nil
	f.mu.Unlock()
	if out == nil {
		return nil
	}
	f.keeper.stop()
	return errors.Join(out.Sync(), out.Close(), f.keeper.trouble())
}
