package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/perimeterd/perimeterd/pkg/datapath"
	"github.com/perimeterd/perimeterd/pkg/decisionlog"
	"github.com/perimeterd/perimeterd/pkg/links"
	"github.com/perimeterd/perimeterd/pkg/policy"
)

// DefaultSettingsPath is where the settings are when nobody says otherwise.
const DefaultSettingsPath = "/etc/perimeterd/perimeterd.yaml"

// Settings are what is not policy: where things are, and how the agent runs.
// They are read once, at start. A *Settings that LoadSettings returned has
// passed every check.
type Settings struct {
	Policy string // file or directory
	// PolicyOptional is true unless somebody named the policy: if there is none,
	// the embedded default is in force.
	PolicyOptional bool
	StateDirectory string
	RunDirectory   string
	PinDirectory   string // in a bpffs

	Interfaces links.Selection
	// Failsafe is the operator's list, as in policy.Facts.
	Failsafe []policy.AccessRule

	Log           []LogSink
	DenialWindow  time.Duration // how long repetitions of a denial are gathered
	Limits        datapath.Limits
	Timeouts      datapath.Timeouts
	ClsactOnly    bool
	XDP           datapath.XDPMode
	MetricsListen string // address of /metrics, /healthz and /readyz; "" = none
	DNS           DNS

	// File is where the settings were read from; "" = the defaults.
	File string
}

// LogSink is one destination of decisions.
type LogSink struct {
	Stdout bool
	// Auto writes coloured lines for the eye where standard output is a terminal,
	// and NSP records elsewhere; Format does not count then.
	Auto   bool
	Format decisionlog.Format
	File   decisionlog.FileOptions // unless Stdout
}

// DNS says how names of rules are resolved.
type DNS struct {
	Servers           []string // host:port; empty = those of /etc/resolv.conf
	Floor, Ceiling    time.Duration
	Grace             time.Duration
	AddressesPerName  int
	QuestionTimeout   time.Duration
	ResolverConfigure string // path of resolv.conf

	Trusted []netip.Addr // whose answers are believed; empty = of all whom policy lets a member ask
	Strict  bool         // members with names may ask for these only
	ByAgent bool         // answers are not read in the data path
}

// Socket is where the API is served.
func (s *Settings) Socket() string { return filepath.Join(s.RunDirectory, "api.sock") }

func (s *Settings) disabledMarker() string { return filepath.Join(s.StateDirectory, "disabled") }
func (s *Settings) lockFile() string       { return filepath.Join(s.StateDirectory, "lock") }
func (s *Settings) lastGoodFile() string   { return filepath.Join(s.StateDirectory, "last-good.json") }
func (s *Settings) namesFile() string      { return filepath.Join(s.StateDirectory, "names.json") }
func (s *Settings) learntFile() string     { return filepath.Join(s.StateDirectory, "learnt.json") }
func (s *Settings) legendsDir() string     { return filepath.Join(s.StateDirectory, "legends") }

// DefaultSettings returns the settings without a file.
func DefaultSettings() *Settings {
	return &Settings{
		Policy:         "/etc/perimeterd/policy",
		PolicyOptional: true,
		StateDirectory: "/var/lib/perimeterd",
		RunDirectory:   "/run/perimeterd",
		PinDirectory:   "/sys/fs/bpf/perimeterd",
		Failsafe: []policy.AccessRule{{
			Name: "ssh", Direction: policy.Inbound,
			Ports: []policy.Ports{{Protocol: policy.ProtocolTCP, First: 22, Last: 22}},
		}},
		Log:          []LogSink{{Stdout: true, Auto: true}},
		DenialWindow: 10 * time.Second,
		XDP:          datapath.XDPOff,
		DNS: DNS{
			Floor: time.Minute, Ceiling: 24 * time.Hour, Grace: 10 * time.Minute,
			AddressesPerName: 1000, QuestionTimeout: 3 * time.Second, ResolverConfigure: "/etc/resolv.conf",
		},
	}
}

// LoadSettings reads and checks a settings file. If the file is bad the error is
// policy.Problems, which holds everything that is wrong with it. A path that is
// the default and does not exist gives the default settings.
func LoadSettings(path string) (*Settings, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && path == DefaultSettingsPath {
		return DefaultSettings(), nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the settings: %w", err)
	}
	return ParseSettings(path, text)
}

// ParseSettings is LoadSettings of a text. The name stands in positions.
func ParseSettings(name string, text []byte) (*Settings, error) {
	d := settingsDecoder{file: name, settings: DefaultSettings()}
	d.settings.File = name
	d.decode(text)
	if len(d.problems) > 0 {
		return nil, d.problems
	}
	return d.settings, nil
}
