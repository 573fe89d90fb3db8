package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/perimeterd/perimeterd/pkg/atomicfile"
	"github.com/perimeterd/perimeterd/pkg/compile"
)

// legends keeps what the numbers of generations stand for, on disk, for as long
// as a flow, an event or a counted denial may name them. A few are in memory.
type legends struct {
	dir string

	mu       sync.Mutex
	kept     map[uint32]*keptLegend
	memory   []*compile.Legend // the last used at the end
	newest   uint32            // never deleted
	drains   uint64
	readFail error // the last legend that could not be read
}

type keptLegend struct {
	// supersededAt is the number of drains when the generation was replaced.
	supersededAt uint64
}

// legendsInMemory bounds what is read again and again: the generation in force,
// and those of flows that have not met a packet since.
const legendsInMemory = 8

// drainsToForget is how many drains of counted denials a generation's legend
// outlives it: one may be under way while the generation is replaced.
const drainsToForget = 2

func openLegends(dir string) (*legends, error) {
	l := &legends{dir: dir, kept: map[uint32]*keptLegend{}}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("keep the names of generations: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list the names of generations: %w", err)
	}
	for _, entry := range entries {
		text, ok := strings.CutSuffix(entry.Name(), ".json")
		number, err := strconv.ParseUint(text, 10, 32)
		if !ok || err != nil {
			continue // not ours, or left half-written
		}
		l.kept[uint32(number)] = &keptLegend{}
		l.newest = max(l.newest, uint32(number))
	}
	return l, nil
}

func (l *legends) path(generation uint32) string {
	return filepath.Join(l.dir, strconv.FormatUint(uint64(generation), 10)+".json")
}

// last is the highest generation that was kept, 0 if there is none.
func (l *legends) last() uint32 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.newest
}

// keep stores a legend before its generation is in force.
func (l *legends) keep(legend *compile.Legend) error {
	text, err := json.Marshal(legend)
	if err != nil {
		return err
	}
	if err := atomicfile.Write(l.path(legend.Generation), text, 0o600); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if before := l.kept[l.newest]; before != nil {
		before.supersededAt = l.drains
	}
	l.kept[legend.Generation] = &keptLegend{}
	l.newest = max(l.newest, legend.Generation)
	l.remember(legend)
	return nil
}

// of returns the legend of a generation, nil if it is not known.
func (l *legends) of(generation uint32) *compile.Legend {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, legend := range l.memory {
		if legend.Generation == generation {
			return legend
		}
	}
	if l.kept[generation] == nil {
		return nil
	}
	legend := new(compile.Legend)
	text, err := os.ReadFile(l.path(generation))
	if err == nil {
		err = json.Unmarshal(text, legend)
	}
	if err != nil {
		// Its decisions are told by number from now on.
		delete(l.kept, generation)
		l.readFail = fmt.Errorf("read the names of generation %d: %w", generation, err)
		return nil
	}
	l.remember(legend)
	return legend
}

func (l *legends) remember(legend *compile.Legend) {
	// The number of a generation that did not come in force is given again.
	l.memory = slices.DeleteFunc(l.memory, func(m *compile.Legend) bool { return m.Generation == legend.Generation })
	l.memory = append(l.memory, legend)
	if len(l.memory) > legendsInMemory {
		l.memory = slices.Delete(l.memory, 0, 1)
	}
}

// trouble is why the last legend that could not be read could not.
func (l *legends) trouble() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.readFail
}

// drained notes that all denials counted before have been told.
func (l *legends) drained() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.drains++
}

// forget deletes the legends that nothing can name any more: neither a flow nor
// the policy in force is of their generation, which named tells, and the denials
// counted under it have been told.
func (l *legends) forget(named func(generation uint32) bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	for generation, kept := range l.kept {
		if generation == l.newest || named(generation) || l.drains < kept.supersededAt+drainsToForget {
			continue
		}
		if err := os.Remove(l.path(generation)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
			continue
		}
		delete(l.kept, generation)
		l.memory = slices.DeleteFunc(l.memory, func(m *compile.Legend) bool { return m.Generation == generation })
	}
	return errors.Join(errs...)
}
