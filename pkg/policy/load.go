package policy

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
)

const (
	// maxPolicyFile bounds one policy file; its tree takes some twenty times as
	// much memory. Longer prefix lists belong into service tag files.
	maxPolicyFile = 64 << 20
	// maxServiceTagFile bounds one service tag file.
	maxServiceTagFile = 256 << 20
)

// Load reads and checks a policy: one file, or all files of a directory whose
// names end in .yaml, .yml or .json and do not begin with a dot, in the order of
// their names. Directories inside it are not entered. A mounted ConfigMap is
// read as one version even if it is replaced meanwhile. A directory without
// such files is the empty policy, which governs nothing.
//
// If the policy is bad the error is Problems, which holds everything that is
// wrong with it. Any other error means that there is nothing to read at path.
func Load(path string) (*Policy, error) {
	return new(Loader).Load(path)
}

// Parse checks the policy that is written in text. The name stands in the
// positions of problems, and the service tag files that the policy names are
// found relative to its directory. If the policy is bad the error is Problems.
func Parse(name string, text []byte) (*Policy, error) {
	return new(Loader).parse([]string{name}, func(path string, limit int64) ([]byte, error) {
		if path == name {
			return text, nil
		}
		return readFile(path, limit)
	})
}

// Loader loads one policy after another. It remembers what service tag files said,
// so that only what has changed there takes the time to be understood. Policies share
// the memory of the prefixes. It is for one goroutine at a time.
type Loader struct {
	known knownFiles
}

// Load is as the function of this name.
func (l *Loader) Load(path string) (*Policy, error) {
	return l.loadWith(path, readFile)
}

func (l *Loader) loadWith(path string, read reader) (*Policy, error) {
	const tries = 10
	for range tries {
		version := configMapVersion(path)
		files, err := policyFiles(path)
		if err != nil {
			return nil, err
		}
		policy, err := l.parse(files, read)
		if configMapVersion(path) == version {
			return policy, err
		}
	}
	return nil, fmt.Errorf("%s: the ConfigMap was replaced %d times while it was read", path, tries)
}

// reader returns the content of a file of at most limit bytes.
type reader func(path string, limit int64) ([]byte, error)

// parse reads all files, then checks what needs to know all of them.
func (l *Loader) parse(files []string, read reader) (*Policy, error) {
	d := newDecoder()
	for _, file := range files {
		d.policy.Files = append(d.policy.Files, file)
		text, err := read(file, maxPolicyFile)
		if err != nil {
			d.incomplete = true
			d.problems.add(Position{File: file}, "the policy file "+err.Error(), "repair or remove it, or split it if it is too large")
			continue
		}
		d.decode(file, text)
	}
	l.known.begin()
	d.readServiceTags(read, &l.known)
	l.known.end()
	if !d.incomplete {
		for _, check := range d.checks {
			check()
		}
		d.checkAttribution()
	}
	if problems := d.problems.sorted(); problems != nil {
		return nil, problems
	}
	return &d.policy, nil
}

// checkAttribution is for what the files alone can tell. The addresses of
// interfaces are known where they are.
func (d *decoder) checkAttribution() {
	prefixes := make([][]netip.Prefix, len(d.policy.Resources))
	for i := range d.policy.Resources {
		if r := &d.policy.Resources[i]; !d.flawed[r.Name] {
			prefixes[i] = r.Addresses
		}
	}
	d.policy.checkAttribution(prefixes, &d.problems)
}

// policyFiles lists the files that together are the policy at path.
func policyFiles(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read policy: %w", err)
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, fmt.Errorf("read policy: %w", err)
	}
	var files []string
	for _, entry := range entries {
		name := entry.Name()
		if name[0] == '.' || !slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(name)) {
			continue
		}
		file := filepath.Join(path, name)
		// A link that leads nowhere is reported when it is read.
		if info, err := os.Stat(file); err == nil && info.IsDir() {
			continue
		}
		files = append(files, file)
	}
	return files, nil
}

// configMapVersion returns what changes whenever the kubelet replaces a mounted
// ConfigMap: its files are links into ..data, which is a link to one version of
// all of them. Elsewhere it is "".
func configMapVersion(path string) string {
	version, err := os.Readlink(filepath.Join(path, "..data"))
	if err != nil {
		return ""
	}
	return version
}

// readFile is the reader of files on disk.
func readFile(path string, limit int64) ([]byte, error) {
	// A pipe would block when it is opened.
	info, err := os.Stat(path)
	if err != nil {
		return nil, cannotRead(err)
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("is not a regular file")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, cannotRead(err)
	}
	defer f.Close()
	content := make([]byte, min(info.Size(), limit)+1)
	n, err := io.ReadFull(f, content)
	if err == nil {
		// It is larger than it said; read on as far as it may go.
		var rest []byte
		rest, err = io.ReadAll(io.LimitReader(f, limit+1-int64(n)))
		content, n = append(content, rest...), n+len(rest)
	}
	switch {
	case err != nil && err != io.EOF && err != io.ErrUnexpectedEOF:
		return nil, cannotRead(err)
	case int64(n) > limit:
		return nil, fmt.Errorf("is larger than %d MiB", limit>>20)
	}
	return content[:n], nil
}

// cannotRead leaves out the path, which the problem names.
func cannotRead(err error) error {
	var e *fs.PathError
	if errors.As(err, &e) {
		err = e.Err
	}
	return fmt.Errorf("cannot be read: %w", err)
}
