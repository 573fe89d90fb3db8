package agent

import (
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/perimeterd/perimeterd/pkg/atomicfile"
	"github.com/perimeterd/perimeterd/pkg/policy"
)

//go:embed default-policy.yaml
var defaultPolicyText []byte

// defaultPolicy is the policy of a host without one.
func defaultPolicy() (*policy.Policy, error) {
	return policy.Parse("embedded default policy", defaultPolicyText)
}

// errNoPolicy means that there is no policy to read, as opposed to a bad one.
var errNoPolicy = errors.New("there is no policy")

// loadPolicy reads the policy at path. A directory without files counts as no
// policy and not as one that governs nothing: a mount that failed looks the
// same. Whoever wants nothing governed writes a file that says so.
func loadPolicy(loader *policy.Loader, path string) (*policy.Policy, error) {
	p, err := loader.Load(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w: %s does not exist", errNoPolicy, path)
	case err != nil:
		return nil, err
	case len(p.Files) == 0:
		return nil, fmt.Errorf("%w: %s holds no file that ends in .yaml, .yml or .json", errNoPolicy, path)
	}
	return p, nil
}

// lastGoodFormat is the version of the file below; another is not read.
const lastGoodFormat = 1

// lastGood is the policy that was last in force, resolved, so that it stands
// alone whatever becomes of its files.
type lastGood struct {
	Format int            `json:"format"`
	Saved  time.Time      `json:"saved"`
	Path   string         `json:"path"`
	Policy *policy.Policy `json:"policy"`
}

func saveLastGood(file, path string, p *policy.Policy, now time.Time) error {
	text, err := json.Marshal(lastGood{Format: lastGoodFormat, Saved: now, Path: path, Policy: p})
	if err == nil {
		err = atomicfile.Write(file, text, 0o600)
	}
	if err != nil {
		return fmt.Errorf("keep the policy for the next start: %w", err)
	}
	return nil
}

// loadLastGood returns nil if nothing was kept for this path.
func loadLastGood(file, path string) (*lastGood, error) {
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the last good policy: %w", err)
	}
	kept := new(lastGood)
	if err := json.Unmarshal(text, kept); err != nil {
		return nil, fmt.Errorf("read the last good policy %s: %w", file, err)
	}
	if kept.Format != lastGoodFormat || kept.Policy == nil {
		return nil, fmt.Errorf("the last good policy %s was kept by another version of perimeterd and cannot be used", file)
	}
	if kept.Path != path {
		return nil, nil // of other settings
	}
	for tag, set := range kept.Policy.ServiceTags {
		if set == nil { // so earlier versions kept a tag without prefixes
			kept.Policy.ServiceTags[tag] = policy.NewPrefixSet(nil)
		}
	}
	return kept, nil
}
