package agent

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
)

// policyWatcher tells when the policy's files may have changed. It is a task.
//
// It watches directories and not files, because editors and the kubelet replace
// files: the policy directory itself or the one its file is in, those above
// while it is missing, those of service tag files, and where links lead. Some file
// systems tell nothing and some hosts have no watches left, so it also looks for
// itself now and then.
type policyWatcher struct {
	path    string
	ready   chan struct{}
	changed chan struct{}
	again   chan struct{} // the set of files changed
	open    func() (*fsnotify.Watcher, error)

	mu    sync.Mutex
	files []string // of the policy last read
}

const (
	policySettle    = 100 * time.Millisecond // an editor's save is several events
	policySettleMax = 2 * time.Second
	policyLook      = 10 * time.Second
)

func newPolicyWatcher(path string) *policyWatcher {
	return &policyWatcher{
		path: path, ready: make(chan struct{}), changed: make(chan struct{}, 1), again: make(chan struct{}, 1),
		open: fsnotify.NewWatcher,
	}
}

func (w *policyWatcher) Ready() <-chan struct{} { return w.ready }
func (w *policyWatcher) String() string         { return "policy watcher of " + w.path }

// follow sets which files the policy was read from.
func (w *policyWatcher) follow(files []string) {
	w.mu.Lock()
	same := slices.Equal(w.files, files)
	w.files = slices.Clone(files)
	w.mu.Unlock()
	if !same {
		signal(w.again)
	}
}

// Run watches until the context ends, then returns nil.
func (w *policyWatcher) Run(ctx context.Context) error {
	var events <-chan fsnotify.Event
	var failures <-chan error
	watcher, err := w.open()
	if err != nil {
		watcher = nil // then looking has to do
	} else {
		defer watcher.Close()
		events, failures = watcher.Events, watcher.Errors
		w.sync(watcher)
	}
	looks := time.NewTicker(policyLook)
	defer looks.Stop()
	seen := w.fingerprint()
	close(w.ready)

	var settled, limit <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.again:
			w.sync(watcher)
			continue
		case event, ok := <-events:
			if !ok {
				return fmt.Errorf("watch the policy: the watch ended")
			}
			if event.Op == fsnotify.Chmod || !w.concerns(event.Name) {
				continue
			}
			settled = time.After(policySettle)
			if limit == nil {
				limit = time.After(policySettleMax)
			}
			continue
		case _, ok := <-failures:
			if !ok {
				return fmt.Errorf("watch the policy: the watch ended")
			}
			// Events were lost: look for ourselves.
			settled = time.After(policySettle)
			continue
		case <-settled:
		case <-limit:
		case <-looks.C:
			if w.fingerprint() == seen {
				continue
			}
		}
		settled, limit = nil, nil
		seen = w.fingerprint()
		w.sync(watcher)
		signal(w.changed)
	}
}

// sync makes the watched directories what they should be. A directory that
// cannot be watched is missing, and then the one above it is watched.
func (w *policyWatcher) sync(watcher *fsnotify.Watcher) {
	if watcher == nil {
		return
	}
	wanted := w.directories()
	for _, watched := range watcher.WatchList() {
		if !slices.Contains(wanted, watched) {
			_ = watcher.Remove(watched) // it may be gone, which is as good
		}
	}
	for _, directory := range wanted {
		_ = watcher.Add(directory) // it may have gone since; the one above tells
	}
}

// fingerprint is different after a change of the files.
func (w *policyWatcher) fingerprint() string {
	var text strings.Builder
	look := func(path string) {
		if info, err := os.Stat(path); err == nil {
			fmt.Fprintf(&text, "%s %d %d %s\n", path, info.Size(), info.ModTime().UnixNano(), info.Mode())
		}
	}
	w.mu.Lock()
	paths := append([]string{w.path}, w.files...)
	w.mu.Unlock()
	for _, path := range paths {
		look(path)
	}
	entries, err := os.ReadDir(w.path)
	if err == nil { // else it is a file, or missing
		for _, entry := range entries {
			look(filepath.Join(w.path, entry.Name()))
		}
	}
	return text.String()
}

// directories are all directories in which a change may change the policy.
func (w *policyWatcher) directories() []string {
	w.mu.Lock()
	paths := append([]string{w.path}, w.files...)
	w.mu.Unlock()
	set := map[string]bool{}
	add := func(path string) {
		for directory := filepath.Dir(path); ; directory = filepath.Dir(directory) {
			if info, err := os.Stat(directory); err == nil && info.IsDir() {
				set[directory] = true
				return
			}
			if directory == filepath.Dir(directory) {
				return
			}
		}
	}
	for _, path := range paths {
		add(path)
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			set[path] = true
		}
		// Where a link leads, another name may be written.
		if real, err := filepath.EvalSymlinks(path); err == nil && real != path {
			add(real)
			if info, err := os.Stat(real); err == nil && info.IsDir() {
				set[real] = true
			}
		}
	}
	return sortedKeys(set)
}

// concerns reports whether a change of a path may change the policy. In the
// directory above the policy's, and in those of service tags, other files may
// come and go.
func (w *policyWatcher) concerns(changed string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	within := func(path, directory string) bool {
		return path == directory || strings.HasPrefix(path, strings.TrimSuffix(directory, "/")+"/")
	}
	roots := append([]string{w.path}, w.files...)
	for _, path := range roots {
		if within(changed, path) || within(path, changed) {
			return true
		}
		if real, err := filepath.EvalSymlinks(path); err == nil && (within(changed, real) || within(real, changed)) {
			return true
		}
	}
	return filepath.Base(changed) == "..data"
}

// signal leaves a value in a channel of one, for whoever receives next.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
