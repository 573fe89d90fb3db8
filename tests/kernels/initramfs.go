package main

import (
	"bufio"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// archive writes a cpio archive in the form that the kernel unpacks at boot
// (Documentation/driver-api/early-userspace/buffer-format.rst: "newc"). It is
// not compressed: an emulated processor takes longer to undo that than to read.
type archive struct {
	w     *bufio.Writer
	inode int
	made  map[string]bool // directories
}

func newArchive(w io.Writer) *archive {
	return &archive{w: bufio.NewWriter(w), made: map[string]bool{".": true}}
}

// add adds a file, and the directories it is in. The path has no leading slash.
func (a *archive) add(path string, mode fs.FileMode, content []byte) error {
	if err := a.directory(filepath.Dir(path)); err != nil {
		return err
	}
	const regular = 0o100000
	return a.entry(path, regular|uint32(mode.Perm()), content)
}

func (a *archive) directory(path string) error {
	if a.made[path] {
		return nil
	}
	a.made[path] = true
	if err := a.directory(filepath.Dir(path)); err != nil {
		return err
	}
	const directory = 0o040000
	return a.entry(path, directory|0o755, nil)
}

// addTree adds all files below a directory, under another path.
func (a *archive) addTree(path, from string) error {
	return filepath.WalkDir(from, func(file string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		below, err := filepath.Rel(from, file)
		if err != nil {
			return err
		}
		return a.add(filepath.Join(path, below), 0o644, content)
	})
}

// close writes the end. Nothing may be added after it.
func (a *archive) close() error {
	if err := a.entry("TRAILER!!!", 0, nil); err != nil {
		return err
	}
	return a.w.Flush()
}

func (a *archive) entry(path string, mode uint32, content []byte) error {
	a.inode++
	const links, owner, modified, device, checksum = 1, 0, 0, 0, 0
	header := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		a.inode, mode, owner, owner, links, modified, len(content), device, device, device, device, len(path)+1, checksum, path)
	for _, part := range [][]byte{[]byte(header), content} {
		a.w.Write(part)
		a.w.Write(make([]byte, (4-len(part)%4)%4))
	}
	// The writer remembers its first error, and returns it from now on.
	_, err := a.w.Write(nil)
	return err
}
