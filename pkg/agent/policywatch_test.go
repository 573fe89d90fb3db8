package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fsnotify/fsnotify"
)

// watching is a policyWatcher over a directory of the test's own.
type watching struct {
	t       *testing.T
	root    string
	watcher *policyWatcher
}

func watch(t *testing.T, policy string, prepare func(w *watching)) *watching {
	t.Helper()
	w := &watching{t: t, root: t.TempDir()}
	if prepare != nil {
		prepare(w)
	}
	w.watcher = newPolicyWatcher(w.path(policy))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.watcher.Run(ctx) }()
	<-w.watcher.Ready()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return w
}

func (w *watching) path(name string) string { return filepath.Join(w.root, name) }

func (w *watching) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *watching) write(name string) {
	w.t.Helper()
	w.must(os.MkdirAll(filepath.Dir(w.path(name)), 0o755))
	w.must(os.WriteFile(w.path(name), []byte(name), 0o600))
}

func (w *watching) expectChange() {
	w.t.Helper()
	select {
	case <-w.watcher.changed:
	case <-time.After(patience):
		w.t.Fatal("the change was not noticed")
	}
}

func TestWatchesADirectory(t *testing.T) {
	t.Parallel()
	w := watch(t, "policy", func(w *watching) { w.write("policy/a.yaml") })
	w.write("policy/a.yaml")
	w.expectChange()
	w.write("policy/b.yaml")
	w.expectChange()
	w.must(os.Remove(w.path("policy/b.yaml")))
	w.expectChange()
}

func TestWatchesAFileThatIsReplaced(t *testing.T) {
	t.Parallel()
	w := watch(t, "policy.yaml", func(w *watching) { w.write("policy.yaml") })
	for range 2 { // the second time the first file is gone
		w.write("policy.yaml.new")
		w.must(os.Rename(w.path("policy.yaml.new"), w.path("policy.yaml")))
		w.expectChange()
	}
}

func TestWatchesWhatDoesNotExistYet(t *testing.T) {
	t.Parallel()
	w := watch(t, "etc/perimeterd/policy", nil)
	w.must(os.MkdirAll(w.path("etc"), 0o755))
	w.expectChange()
	w.must(os.MkdirAll(w.path("etc/perimeterd/policy"), 0o755))
	w.expectChange()
	w.write("etc/perimeterd/policy/a.yaml")
	w.expectChange()
	w.must(os.RemoveAll(w.path("etc/perimeterd")))
	w.expectChange()
	w.write("etc/perimeterd/policy/a.yaml")
	w.expectChange()
}

// TestWatchesAConfigMap replaces a mounted ConfigMap as the kubelet does: all
// files are links into ..data, which is a link that is swapped.
func TestWatchesAConfigMap(t *testing.T) {
	t.Parallel()
	version := func(w *watching, name string) {
		w.write("policy/" + name + "/a.yaml")
		w.must(os.Symlink(name, w.path("policy/..data_tmp")))
		w.must(os.Rename(w.path("policy/..data_tmp"), w.path("policy/..data")))
	}
	w := watch(t, "policy", func(w *watching) {
		version(w, "..one")
		w.must(os.Symlink("..data/a.yaml", w.path("policy/a.yaml")))
	})
	version(w, "..two")
	w.expectChange()
	version(w, "..three")
	w.expectChange()
}

func TestWatchesServiceTagFilesElsewhere(t *testing.T) {
	t.Parallel()
	w := watch(t, "policy", func(w *watching) {
		w.write("policy/a.yaml")
		w.write("tags/azure.json")
	})
	w.watcher.follow([]string{w.path("policy/a.yaml"), w.path("tags/azure.json")})
	w.write("tags/azure.json.new")
	// The new set is taken up in its own time; a file that is replaced until it is
	// noticed shows that it was.
	deadline := time.After(patience)
	ticks := time.NewTicker(50 * time.Millisecond)
	defer ticks.Stop()
	for {
		select {
		case <-w.watcher.changed:
			return
		case <-ticks.C:
			w.write("tags/azure.json")
		case <-deadline:
			t.Fatal("the change was not noticed")
		}
	}
}

func TestLooksForItselfWithoutWatches(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := &watching{t: t, root: t.TempDir()}
		w.watcher = newPolicyWatcher(w.path("policy"))
		w.watcher.open = func() (*fsnotify.Watcher, error) { return nil, errors.New("no watches left") }
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- w.watcher.Run(ctx) }()
		<-w.watcher.Ready()
		w.write("policy/a.yaml")
		w.expectChange()
		time.Sleep(10 * policyLook) // of fake time
		select {
		case <-w.watcher.changed:
			t.Error("a change is told where there is none")
		default:
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestFingerprint(t *testing.T) {
	t.Parallel()
	w := &watching{t: t, root: t.TempDir()}
	w.watcher = newPolicyWatcher(w.path("policy"))
	seen := map[string]string{}
	differs := func(step string) {
		t.Helper()
		now := w.watcher.fingerprint()
		if before, ok := seen[now]; ok {
			t.Errorf("%s: as after %s", step, before)
		}
		seen[now] = step
	}
	differs("nothing")
	w.write("policy/a.yaml")
	differs("a file")
	w.write("policy/longer.yaml")
	differs("another")
	w.must(os.Chtimes(w.path("policy/a.yaml"), time.Time{}, time.Unix(1, 0)))
	differs("another time")
	w.write("tags/azure.json")
	w.watcher.follow([]string{w.path("tags/azure.json")})
	differs("a service tag file")
	w.must(os.RemoveAll(w.path("policy")))
	differs("nothing again, but the tags")
	if _, ok := seen[w.watcher.fingerprint()]; !ok {
		t.Error("it differs without a change")
	}
}

func TestConcerns(t *testing.T) {
	t.Parallel()
	w := newPolicyWatcher("/etc/perimeterd/policy")
	w.follow([]string{"/etc/perimeterd/policy/a.yaml", "/var/tags/azure.json"})
	for path, want := range map[string]bool{
		"/etc/perimeterd/policy":        true,
		"/etc/perimeterd/policy/b.yaml": true,
		"/etc/perimeterd":               true,
		"/etc/perimeterd/..data":        true,
		"/etc/perimeterd/perimeterd":    false,
		"/etc/perimeterd/policy2":       false,
		"/etc/passwd":                   false,
		"/var/tags/azure.json":          true,
		"/var/tags/azure.json.new":      false,
	} {
		if got := w.concerns(path); got != want {
			t.Errorf("%s: %v, want %v", path, got, want)
		}
	}
}
