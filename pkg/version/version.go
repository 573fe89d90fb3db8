// Package version knows which version of the project a binary was built from.
package version

import "runtime/debug"

// String returns the version: that of the module where it was installed as one,
// else the commit it was built from.
func String() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	revision, modified := "", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			revision = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			modified = "+changes"
		}
	}
	switch {
	case info.Main.Version != "" && info.Main.Version != "(devel)":
		return info.Main.Version
	case len(revision) >= 12:
		return "devel-" + revision[:12] + modified
	}
	return "devel"
}
