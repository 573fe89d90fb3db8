package names

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"time"

	"github.com/perimeterd/perimeterd/pkg/atomicfile"
)

// stateFile is the form on disk.
type stateFile struct {
	Names map[string]map[netip.Addr]time.Time `json:"names"`
}

// load reads what was kept. The map is usable whatever the error.
func load(path string) (map[string]*name, error) {
	out := map[string]*name{}
	if path == "" {
		return out, nil
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return out, nil
	}
	var kept stateFile
	if err == nil {
		err = json.Unmarshal(text, &kept)
	}
	if err != nil {
		return out, fmt.Errorf("read the addresses of names that were kept: %w", err)
	}
	for text, seen := range kept.Names {
		out[text] = &name{seen: seen}
		if seen == nil {
			out[text].seen = map[netip.Addr]time.Time{}
		}
	}
	return out, nil
}

// save replaces the file.
func save(path string, names map[string]*name) error {
	if path == "" {
		return nil
	}
	kept := stateFile{Names: map[string]map[netip.Addr]time.Time{}}
	for text, n := range names {
		if len(n.seen) > 0 {
			kept.Names[text] = n.seen
		}
	}
	text, err := json.Marshal(kept)
	if err != nil {
		return err
	}
	return atomicfile.Write(path, text, 0o600)
}
