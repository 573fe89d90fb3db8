// Package e2e_test tries the product as a whole: the real binaries, in the
// namespaces of a test world, with real connections.
package e2e_test

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/perimeterd/perimeterd/tests/deployment"
)

// binaries are what TestMain built, for every test.
var binaries deployment.Binaries

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	directory, err := os.MkdirTemp("", "perimeterd-e2e-")
	if err != nil {
		return 0, err
	}
	defer func() {
		if removed := os.RemoveAll(directory); err == nil {
			err = removed
		}
	}()
	if binaries, err = deployment.Build(context.Background(), directory); err != nil {
		return 0, err
	}
	return m.Run(), nil
}
