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
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perimeterd/perimeterd/pkg/datapath"
)

// disk opens real files and can be full, refuse to open, and count.
type disk struct {
	mu     sync.Mutex
	room   int   // bytes it still takes; negative: no limit
	refuse error // of the next opens
	syncs  int
}

func (d *disk) setRoom(room int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.room = room
}

type diskFile struct {
	*os.File
	disk *disk
}

func (d *disk) open(path string, mode os.FileMode) (handle, error) {
	if d.refuse != nil {
		return nil, d.refuse
	}
	h, err := openHandle(path, mode)
	if err != nil {
		return nil, err
	}
	return diskFile{h.(*os.File), d}, nil
}

func (f diskFile) Write(p []byte) (int, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if f.disk.room < 0 {
		return f.File.Write(p)
	}
	part := p[:min(len(p), f.disk.room)]
	n, err := f.File.Write(part)
	f.disk.room -= n
	if err == nil && n < len(p) {
		err = syscall.ENOSPC
	}
	return n, err
}

func (f diskFile) Sync() error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	f.disk.syncs++
	return f.File.Sync()
}

// openTestFile returns a File on the disk, closed at the end of the test.
func openTestFile(t *testing.T, d *disk, o FileOptions) *File {
	t.Helper()
	f, err := newFile(o, d.open)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mustClose(t, f) })
	synctest.Wait() // the keeper's first round
	return f
}

func mustClose(t *testing.T, f *File) {
	t.Helper()
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}

func mustWrite(t *testing.T, w io.Writer, text string) {
	t.Helper()
	if n, err := io.WriteString(w, text); n != len(text) || err != nil {
		t.Fatalf("write %q: %d, %v", text, n, err)
	}
	synctest.Wait() // what the keeper makes of it
}

// contents returns the directory's files, by name; compressed ones are
// expanded.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string]string)
	for _, entry := range entries {
		out[entry.Name()] = content(t, filepath.Join(dir, entry.Name()))
	}
	return out
}

func content(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var in io.Reader = f
	if strings.HasSuffix(path, ".gz") {
		if in, err = gzip.NewReader(f); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
	}
	text, err := io.ReadAll(in)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return string(text)
}

func wantContents(t *testing.T, dir string, want ...string) {
	t.Helper()
	got := contents(t, dir)
	var flat []string
	for name, text := range got {
		flat = append(flat, name+"="+text)
	}
	slices.Sort(flat)
	slices.Sort(want)
	if !slices.Equal(flat, want) {
		t.Errorf("%s holds\n\t%q, want\n\t%q", dir, flat, want)
	}
}

// In a bubble the clock begins at midnight of the first of January 2000.

func TestFileRotatesBySize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "log", "perimeterd") // is made
		o := FileOptions{Path: filepath.Join(dir, "decisions.json"), MaxBytes: 10, MaxFiles: 2}
		f := openTestFile(t, &disk{room: -1}, o)
		mustWrite(t, f, "one\n")
		mustWrite(t, f, "two\n")
		wantContents(t, dir, "decisions.json=one\ntwo\n")
		mustWrite(t, f, "three\n")
		wantContents(t, dir, "decisions.json=three\n", "decisions-2000-01-01T00-00-00.000000.json=one\ntwo\n")
		mustWrite(t, f, "longer than a whole file\n") // at the same microsecond
		mustWrite(t, f, "four\n")                     // the third: the oldest goes
		wantContents(t, dir, "decisions.json=four\n",
			"decisions-2000-01-01T00-00-00.000001.json=three\n",
			"decisions-2000-01-01T00-00-00.000002.json=longer than a whole file\n")
		mustClose(t, f)

		// The next File goes on where this one ended.
		f = openTestFile(t, &disk{room: -1}, o)
		mustWrite(t, f, "five\n")
		mustWrite(t, f, "six\n")
		wantContents(t, dir, "decisions.json=six\n",
			"decisions-2000-01-01T00-00-00.000002.json=longer than a whole file\n",
			"decisions-2000-01-01T00-00-00.000003.json=four\nfive\n")
	})
}

func TestFileKeepsNeighbours(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		neighbours := []string{
			"decisions-notes.json", "decisions-2000-01-01T00-00-00.000000.txt", "decisions.json.1",
			"decisions-2000-01-01T00-00-00.json", "audit-2000-01-01T00-00-00.000000.json", "decisions-.json.gz.tmp",
		}
		want := []string{"decisions.json=b\n"}
		for _, name := range neighbours {
			if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
			want = append(want, name+"=x")
		}
		if err := os.Mkdir(filepath.Join(dir, "decisions-1999-01-01T00-00-00.000000.json"), 0o700); err != nil {
			t.Fatal(err)
		}
		f := openTestFile(t, &disk{room: -1}, FileOptions{
			Path: filepath.Join(dir, "decisions.json"), MaxBytes: 1, MaxFiles: 1, MaxAge: time.Hour, Compress: true,
		})
		mustWrite(t, f, "a\n")
		time.Sleep(2 * time.Hour)
		mustWrite(t, f, "b\n")
		time.Sleep(2 * time.Hour) // a is too old
		synctest.Wait()
		if err := os.Remove(filepath.Join(dir, "decisions-1999-01-01T00-00-00.000000.json")); err != nil {
			t.Errorf("the directory with a name like ours: %v", err)
		}
		wantContents(t, dir, want...)
	})
}

func TestFileAges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		f := openTestFile(t, &disk{room: -1}, FileOptions{Path: filepath.Join(dir, "d"), MaxBytes: 1, MaxAge: 24 * time.Hour})
		mustWrite(t, f, "a\n")
		mustWrite(t, f, "b\n")
		time.Sleep(20 * time.Hour)
		mustWrite(t, f, "c\n")
		wantContents(t, dir, "d=c\n", "d-2000-01-01T00-00-00.000000=a\n", "d-2000-01-01T20-00-00.000000=b\n")
		time.Sleep(10 * time.Hour) // nothing is rotated any more
		synctest.Wait()
		wantContents(t, dir, "d=c\n", "d-2000-01-01T20-00-00.000000=b\n")
	})
}

func TestFileCompresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		o := FileOptions{Path: filepath.Join(dir, "d.json"), MaxBytes: 1}
		f := openTestFile(t, &disk{room: -1}, o)
		mustWrite(t, f, "a\n")
		mustWrite(t, f, "b\n")
		mustClose(t, f)
		wantContents(t, dir, "d.json=b\n", "d-2000-01-01T00-00-00.000000.json=a\n")

		// What an interrupted compression left, and what was rotated without.
		if err := os.WriteFile(filepath.Join(dir, "d-2000-01-01T00-00-00.000000.json.gz.tmp"), []byte("\x1f\x8b"), 0o600); err != nil {
			t.Fatal(err)
		}
		o.Compress = true
		f = openTestFile(t, &disk{room: -1}, o)
		wantContents(t, dir, "d.json=b\n", "d-2000-01-01T00-00-00.000000.json.gz=a\n")
		time.Sleep(time.Microsecond)
		mustWrite(t, f, "c\n")
		wantContents(t, dir, "d.json=c\n", "d-2000-01-01T00-00-00.000000.json.gz=a\n", "d-2000-01-01T00-00-00.000001.json.gz=b\n")
	})
}

func TestCompressionIsInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		f := openTestFile(t, &disk{room: -1}, FileOptions{Path: filepath.Join(dir, "d"), MaxBytes: 1})
		mustWrite(t, f, "a\n")
		mustWrite(t, f, "b\n")
		mustClose(t, f)
		f.options.Compress = true
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if err := f.keeper.tidy(ended); err == nil {
			t.Error("compression went on although it was to end")
		}
		wantContents(t, dir, "d=b\n", "d-2000-01-01T00-00-00.000000=a\n")
	})
}

func TestFileIsTakenAway(t *testing.T) {
	for _, c := range []struct {
		name string
		take func(path string) error
		left string
	}{
		{"renamed", func(path string) error { return os.Rename(path, path+".1") }, "d.1=a\n"},
		{"removed", os.Remove, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir := t.TempDir()
				path := filepath.Join(dir, "d")
				f := openTestFile(t, &disk{room: -1}, FileOptions{Path: path})
				mustWrite(t, f, "a\n")
				if err := c.take(path); err != nil {
					t.Fatal(err)
				}
				time.Sleep(followEvery)
				mustWrite(t, f, "b\n")
				want := []string{"d=b\n"}
				if c.left != "" {
					want = append(want, c.left)
				}
				wantContents(t, dir, want...)
			})
		})
	}
}

func TestReopen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		path := filepath.Join(dir, "d")
		f := openTestFile(t, &disk{room: -1}, FileOptions{Path: path})
		mustWrite(t, f, "a\n")
		f.Reopen() // for nothing
		mustWrite(t, f, "b\n")
		if err := os.Rename(path, path+".1"); err != nil {
			t.Fatal(err)
		}
		mustWrite(t, f, "c\n") // nobody has told it
		f.Reopen()
		mustWrite(t, f, "d\n")
		wantContents(t, dir, "d=d\n", "d.1=a\nb\nc\n")
	})
}

func TestFileCutByOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		path := filepath.Join(dir, "d")
		f := openTestFile(t, &disk{room: -1}, FileOptions{Path: path, MaxBytes: 8})
		mustWrite(t, f, "aaa\nbbb\n")
		if err := os.Truncate(path, 0); err != nil { // logrotate's copytruncate
			t.Fatal(err)
		}
		time.Sleep(followEvery)
		mustWrite(t, f, "c\n")
		wantContents(t, dir, "d=c\n")
	})
}

func TestFileAfterACrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		path := filepath.Join(dir, "d")
		if err := os.WriteFile(path, []byte("whole\nhal"), 0o600); err != nil {
			t.Fatal(err)
		}
		f := openTestFile(t, &disk{room: -1}, FileOptions{Path: path})
		mustWrite(t, f, "a\n")
		wantContents(t, dir, "d=whole\nhal\na\n")
	})
}

// writeOn writes the rest after errors, as a Log does.
func writeOn(t *testing.T, f *File, text string, refused func(written int, err error)) {
	t.Helper()
	for attempt := 0; text != ""; attempt++ {
		n, err := io.WriteString(f, text)
		text = text[n:]
		if err != nil {
			refused(n, err)
		}
		if attempt > 10 {
			t.Fatalf("%q is refused for ever", text)
		}
	}
	synctest.Wait()
}

func TestFullDiskWithinALine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		d := &disk{room: 6}
		f := openTestFile(t, d, FileOptions{Path: filepath.Join(dir, "d"), MaxBytes: 5})
		writeOn(t, f, "one\ntwo\n", func(n int, err error) {
			if n != 6 || !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("full disk: %d, %v, want 6 and ENOSPC", n, err)
			}
			d.room = -1
		})
		// The line was ended where it was begun, although the file was full.
		wantContents(t, dir, "d=one\ntwo\n")
		mustWrite(t, f, "three\n")
		wantContents(t, dir, "d=three\n", "d-2000-01-01T00-00-00.000000=one\ntwo\n")
	})
}

func TestTakenAwayWithinALine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		path := filepath.Join(dir, "d")
		d := &disk{room: 6}
		f := openTestFile(t, d, FileOptions{Path: path})
		errs := 0
		writeOn(t, f, "one\ntwo\n", func(n int, err error) {
			errs++
			switch errs {
			case 1:
				if err := os.Rename(path, path+".1"); err != nil {
					t.Fatal(err)
				}
				f.Reopen()
				d.room = 1 // not enough even for what is owed
			case 2:
				if n != 0 {
					t.Errorf("%d bytes count as written before the line's beginning was", n)
				}
				d.room = -1
			}
		})
		if errs != 2 {
			t.Errorf("%d errors, want 2", errs)
		}
		wantContents(t, dir, "d=two\n", "d.1=one\ntw")
	})
}

// TestRotationFails has no new file to write to: the old one is written on,
// under its new name, and nobody compresses it.
func TestRotationFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		d := &disk{room: -1}
		f := openTestFile(t, d, FileOptions{Path: filepath.Join(dir, "d"), MaxBytes: 1, Compress: true})
		mustWrite(t, f, "a\n")
		d.refuse = syscall.EMFILE
		for _, text := range []string{"b\n", "c\n"} {
			if n, err := io.WriteString(f, text); n != 2 || !errors.Is(err, syscall.EMFILE) {
				t.Errorf("write without a new file: %d, %v, want all written, and why", n, err)
			}
		}
		time.Sleep(2 * time.Hour) // the keeper looks
		synctest.Wait()
		wantContents(t, dir, "d-2000-01-01T00-00-00.000000=a\nb\nc\n")
		d.refuse = nil
		mustWrite(t, f, "d\n")
		wantContents(t, dir, "d=d\n", "d-2000-01-01T00-00-00.000000.gz=a\nb\nc\n")
	})
}

func TestKeeperTellsItsTrouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		f := openTestFile(t, &disk{room: -1}, FileOptions{Path: filepath.Join(dir, "d"), MaxBytes: 1, Compress: true})
		// Something stands where the compressed file is to be written.
		if err := os.MkdirAll(filepath.Join(dir, "d-2000-01-01T00-00-00.000000.gz.tmp", "x"), 0o700); err != nil {
			t.Fatal(err)
		}
		mustWrite(t, f, "a\n")
		mustWrite(t, f, "b\n")
		if n, err := io.WriteString(f, "c\n"); n != 2 || err == nil || !strings.Contains(err.Error(), "compress") {
			t.Errorf("write after a failed compression: %d, %v, want all written, and the failure", n, err)
		}
		if err := os.RemoveAll(filepath.Join(dir, "d-2000-01-01T00-00-00.000000.gz.tmp")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		io.WriteString(f, "d\n") // may tell of the last failure once more
		mustWrite(t, f, "e\n")
	})
}

func TestSync(t *testing.T) {
	for _, c := range []struct {
		sync bool
		want int
	}{{false, 0}, {true, 3}} {
		synctest.Test(t, func(t *testing.T) {
			d := &disk{room: -1}
			f := openTestFile(t, d, FileOptions{Path: filepath.Join(t.TempDir(), "d"), Sync: c.sync})
			for range 3 {
				mustWrite(t, f, "a\n")
			}
			if d.syncs != c.want {
				t.Errorf("Sync %v: %d syncs for 3 writes, want %d", c.sync, d.syncs, c.want)
			}
			mustClose(t, f)
			if d.syncs != c.want+1 {
				t.Errorf("Sync %v: close did not sync", c.sync)
			}
		})
	}
}

func TestFileOptionsAreChecked(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		name string
		o    FileOptions
		want string
	}{
		{"no path", FileOptions{}, "Path is required"},
		{"negative size", FileOptions{Path: filepath.Join(dir, "d"), MaxBytes: -1}, "must not be negative"},
		{"no file", FileOptions{Path: dir}, "is a directory"},
		{"a device", FileOptions{Path: "/dev/null"}, "not a regular file"},
		{"below a file", FileOptions{Path: "/dev/null/d"}, "not a directory"},
	} {
		f, err := OpenFile(c.o)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
		if f != nil {
			t.Errorf("%s: a file beside the error", c.name)
		}
	}
}

func TestClosedFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := openTestFile(t, &disk{room: -1}, FileOptions{Path: filepath.Join(t.TempDir(), "d")})
		mustClose(t, f)
		mustClose(t, f)
		if _, err := io.WriteString(f, "a\n"); !errors.Is(err, os.ErrClosed) {
			t.Errorf("write to a closed file: %v", err)
		}
	})
}

// TestLogIntoAFullDisk is the whole way: events, a file that rotates, a disk
// that fills within a record, and a file that is taken away meanwhile.
func TestLogIntoAFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		path := filepath.Join(dir, "decisions.json")
		d := &disk{room: 100_000}
		f := openTestFile(t, d, FileOptions{Path: path, MaxBytes: 30_000, MaxFiles: 1000, Compress: true})
		l := start(t, Options{Sinks: []Sink{{Name: "file", To: f}}})
		written := 0
		for i := 0; l.Counters().Sinks[0].Errors == 0; i++ {
			l.Submit(flood(10, datapath.FlowStart))
			l.settled()
			written += 10
		}
		if err := os.Rename(path, filepath.Join(dir, "taken.json")); err != nil {
			t.Fatal(err)
		}
		l.Submit(flood(10, datapath.Denied))
		l.settled()
		d.setRoom(-1)
		time.Sleep(5 * time.Second)
		c := l.settled()
		wantTally(t, "exported", c.Sinks[0].Exported, c.Received)
		if c.Received.Total() != uint64(written+10) || c.Sinks[0].Err != nil {
			t.Errorf("received %d of %d, error %v", c.Received.Total(), written+10, c.Sinks[0].Err)
		}

		all, torn := Tally{}, 0
		for name, text := range contents(t, dir) {
			part, rest := tallyLines(t, text)
			all = sum(all, part)
			if rest != "" {
				torn++
				if name != "taken.json" {
					t.Errorf("%s ends with a piece of a record", name)
				}
			}
		}
		wantTally(t, "in the files", all, c.Received)
		if torn != 1 {
			t.Errorf("%d files end with a piece of a record, want the one that was taken away", torn)
		}
		if err := l.stop(); err != nil {
			t.Error(err)
		}
	})
}

func ExampleFile() {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	f, err := OpenFile(FileOptions{Path: filepath.Join(dir, "decisions.json"), MaxBytes: 1 << 20, Compress: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer f.Close()
	fmt.Fprintln(f, `{"operationName":"Deny"}`)
	text, err := os.ReadFile(filepath.Join(dir, "decisions.json"))
	fmt.Print(string(text), err)
	// Output:
	// {"operationName":"Deny"}
	// <nil>
}
