package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// mirror is the Debian mirror that this machine already uses, as far as one of
// our kernels is concerned: apt's state is in a directory of its own, so that
// nothing of what the machine itself installs from changes.
type mirror struct{ dir string }

// A Debian suite, and not its updates, which are in the same place under a name
// with a dash, or its security updates, which are in another.
var configuredSuite = regexp.MustCompile(`(?m)^'([^']+)/dists/[a-z]+/InRelease'`)

// configuredMirror returns the address of the first Debian mirror in apt's own
// configuration.
func configuredMirror(ctx context.Context) (string, error) {
	said, err := output(ctx, "", "apt-get", "--print-uris", "update")
	if err != nil {
		return "", err
	}
	found := configuredSuite.FindStringSubmatch(said)
	if found == nil {
		return "", errors.New("apt is configured with no Debian mirror: `apt-get --print-uris update` names no suite's InRelease")
	}
	return found[1], nil
}

// openMirror makes apt's directories and fetches the lists of some suites.
// Suites count alike: of a package that several have, the newest is taken.
func openMirror(ctx context.Context, uri, dir string, suites []string) (*mirror, error) {
	m := &mirror{dir}
	for _, sub := range []string{filepath.Join(m.lists(), "partial"), filepath.Join(dir, "cache"), m.packages(), m.trees()} {
		if err := os.MkdirAll(sub, 0o755); err != nil {
			return nil, err
		}
	}
	var sources strings.Builder
	for _, suite := range suites {
		fmt.Fprintf(&sources, "deb [arch=amd64 signed-by=%s target=Packages] %s %s main\n", debianKeys, uri, suite)
	}
	for name, text := range map[string]string{
		"sources.list": sources.String(),
		"preferences":  "Package: *\nPin: release *\nPin-Priority: 500\n",
		"status":       "", // nothing is installed
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	if _, err := m.apt(ctx, m.dir, "apt-get", "--quiet", "-o", "APT::Update::Error-Mode=any", "update"); err != nil {
		return nil, fmt.Errorf("fetch the package lists of %s from the Debian mirror that apt is configured with: %w", strings.Join(suites, " and "), err)
	}
	return m, nil
}

// Debian's keys, older and newer than the machine's own release.
const debianKeys = "/usr/share/keyrings/debian-archive-keyring.gpg"

// The packages a kernel consists of: one until 6.18, several since.
var kernelPackage = regexp.MustCompile(`(?m)^linux-(base|image|binary|modules)-[0-9]\S*-cloud-amd64$`)

// unpackKernel fetches the newest kernel of the mirror's suites, unless it is
// here already, and returns the directory it is unpacked in.
func (m *mirror) unpackKernel(ctx context.Context) (string, error) {
	said, err := m.apt(ctx, m.dir, "apt-cache", "depends", "--recurse", "--important", "linux-image-cloud-amd64")
	if err != nil {
		return "", err
	}
	packages := kernelPackage.FindAllString(said, -1)
	slices.Sort(packages)
	packages = slices.Compact(packages)
	if len(packages) == 0 {
		return "", errors.New("the suite has no kernel: linux-image-cloud-amd64 depends on none")
	}
	// Elsewhere than where they are, or it says nothing of those.
	said, err = m.apt(ctx, m.dir, "apt-get", append([]string{"download", "--print-uris"}, packages...)...)
	if err != nil {
		return "", err
	}
	files, err := m.removeSpoilt(said)
	if err != nil {
		return "", err
	}
	if _, err := m.apt(ctx, m.packages(), "apt-get", append([]string{"--quiet", "download"}, packages...)...); err != nil {
		return "", fmt.Errorf("fetch %s: %w", strings.Join(packages, ", "), err)
	}
	return m.unpack(ctx, files)
}

// removeSpoilt removes packages that are here and not what apt's lists say: of
// these, apt would look at the size alone. It returns the names of all that the
// lists name, in the form of --print-uris: 'address' file size SHA256:sum.
func (m *mirror) removeSpoilt(uris string) ([]string, error) {
	var files []string
	for line := range strings.Lines(uris) {
		fields := strings.Fields(line)
		if len(fields) != 4 || !strings.HasPrefix(fields[0], "'") {
			continue
		}
		files = append(files, fields[1])
		path := filepath.Join(m.packages(), fields[1])
		content, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if fields[3] == fmt.Sprintf("SHA256:%x", sha256.Sum256(content)) {
			continue
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	if len(files) == 0 {
		return nil, errors.New("apt names no files for the kernel's packages")
	}
	return files, nil
}

// unpack unpacks packages into one tree, and forgets those of earlier kernels.
func (m *mirror) unpack(ctx context.Context, files []string) (string, error) {
	tree := strings.TrimSuffix(files[0], ".deb") // has the version of all
	if err := removeOthers(m.packages(), files...); err != nil {
		return "", err
	}
	if err := removeOthers(m.trees(), tree); err != nil {
		return "", err
	}
	done := filepath.Join(m.trees(), tree)
	if _, err := os.Stat(done); err == nil {
		return done, nil
	}
	aside, err := os.MkdirTemp(m.trees(), "unpacking")
	if err != nil {
		return "", err
	}
	for _, file := range files {
		if _, err := output(ctx, "", "dpkg-deb", "--extract", filepath.Join(m.packages(), file), aside); err != nil {
			return "", err
		}
	}
	return done, os.Rename(aside, done)
}

func removeOthers(dir string, keep ...string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if slices.Contains(keep, entry.Name()) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, entry.Name())); err != nil {
			return err
		}
	}
	return nil
}

func (m *mirror) lists() string    { return filepath.Join(m.dir, "lists") }
func (m *mirror) packages() string { return filepath.Join(m.dir, "packages") }
func (m *mirror) trees() string    { return filepath.Join(m.dir, "trees") }

// apt runs one of apt's programs on the mirror's own state, in a directory, which
// is where `download` puts packages.
func (m *mirror) apt(ctx context.Context, dir, program string, args ...string) (string, error) {
	options := []string{}
	for key, value := range map[string]string{
		"Dir::Etc::SourceList":  filepath.Join(m.dir, "sources.list"),
		"Dir::Etc::SourceParts": "/dev/null",
		"Dir::Etc::Preferences": filepath.Join(m.dir, "preferences"),
		"Dir::State::lists":     m.lists(),
		"Dir::State::status":    filepath.Join(m.dir, "status"),
		"Dir::Cache":            filepath.Join(m.dir, "cache"),
		"APT::Architecture":     "amd64",
		"Acquire::Languages":    "none",
		"APT::Sandbox::User":    "root", // _apt may not enter the directory
	} {
		options = append(options, "-o", key+"="+value)
	}
	return output(ctx, dir, program, append(options, args...)...)
}

// output runs a program in a directory and returns what it prints; what it says
// of a failure is part of the error.
func output(ctx context.Context, dir, program string, args ...string) (string, error) {
	c := exec.CommandContext(ctx, program, args...)
	c.Dir = dir
	c.Env = append(os.Environ(), "LC_ALL=C")
	var stdout, stderr strings.Builder
	c.Stdout, c.Stderr = &stdout, &stderr
	if err := c.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", program, err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}
