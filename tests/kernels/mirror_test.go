package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestConfiguredSuite(t *testing.T) {
	const lines = `'http://mirror.example/debian-security/dists/bookworm-security/InRelease' mirror.example_InRelease 0
'http://mirror.example/debian/dists/bookworm-updates/InRelease' mirror.example_InRelease 0
'http://mirror.example/debian/dists/bookworm/InRelease' mirror.example_InRelease 0
'http://other.example/debian/dists/sid/InRelease' other.example_InRelease 0
`
	if got := configuredSuite.FindStringSubmatch(lines); got == nil || got[1] != "http://mirror.example/debian" {
		t.Errorf("found %q", got)
	}
}

func TestKernelPackages(t *testing.T) {
	const said = `linux-image-cloud-amd64
  Depends: linux-image-7.3.4+deb13-cloud-amd64
linux-image-7.3.4+deb13-cloud-amd64
  Depends: dracut
  Depends: linux-base-7.3.4+deb13-cloud-amd64
linux-base-cloud-amd64
linux-base
linux-base-7.3.4+deb13-cloud-amd64
linux-modules-7.3.4+deb13-cloud-amd64
linux-binary-7.3.4+deb13-cloud-amd64
linux-binary-unsigned-7.3.4+deb13-cloud-amd64
linux-headers-7.3.4+deb13-cloud-amd64
`
	want := []string{
		"linux-image-7.3.4+deb13-cloud-amd64", "linux-base-7.3.4+deb13-cloud-amd64",
		"linux-modules-7.3.4+deb13-cloud-amd64", "linux-binary-7.3.4+deb13-cloud-amd64",
	}
	if diff := cmp.Diff(want, kernelPackage.FindAllString(said, -1)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestSpoiltPackagesAreFetchedAgain: apt itself looks at their size only.
func TestSpoiltPackagesAreFetchedAgain(t *testing.T) {
	m := &mirror{t.TempDir()}
	if err := os.Mkdir(m.packages(), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"whole.deb": "whole", "spoilt.deb": "spo1lt"} {
		if err := os.WriteFile(filepath.Join(m.packages(), name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	files, err := m.removeSpoilt(`'http://mirror.example/whole.deb' whole.deb 5 SHA256:5d5766cf2d78701614200418ee1450690d9af12c84d52545e4802f001ad53099
'http://mirror.example/spoilt.deb' spoilt.deb 6 SHA256:0000000000000000000000000000000000000000000000000000000000000000
'http://mirror.example/missing.deb' missing.deb 7 SHA256:0000000000000000000000000000000000000000000000000000000000000000
`)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"whole.deb", "spoilt.deb", "missing.deb"}, files); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	left, err := os.ReadDir(m.packages())
	if err != nil {
		t.Fatal(err)
	}
	if len(left) != 1 || left[0].Name() != "whole.deb" {
		t.Errorf("left are %v, want whole.deb", left)
	}
	if files, err := m.removeSpoilt("nothing of that kind\n"); err == nil {
		t.Errorf("files %q of lists that name none", files)
	}
}
