package verified

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Series is a line of kernels, such as 5.10: what features and verifiers go by.
type Series struct{ Major, Minor int }

// ParseSeries reads a series off a release such as "6.1.0-50-cloud-amd64", or
// off its own text.
func ParseSeries(release string) (Series, error) {
	majorText, rest, _ := strings.Cut(release, ".")
	minorText := rest
	if end := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' }); end >= 0 {
		minorText = rest[:end]
	}
	major, err := strconv.Atoi(majorText)
	minor, minorErr := strconv.Atoi(minorText)
	if err != nil || minorErr != nil {
		return Series{}, fmt.Errorf("%q is not a kernel's version, such as 5.10", release)
	}
	return Series{major, minor}, nil
}

// Running returns the series of the kernel this process runs on.
func Running() (Series, error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return Series{}, fmt.Errorf("ask for the kernel's version: %w", err)
	}
	return ParseSeries(unix.ByteSliceToString(name.Release[:]))
}

// Compare is negative if s is older than o, positive if it is newer.
func (s Series) Compare(o Series) int {
	return cmp.Or(cmp.Compare(s.Major, o.Major), cmp.Compare(s.Minor, o.Minor))
}

func (s Series) String() string { return fmt.Sprintf("%d.%d", s.Major, s.Minor) }
