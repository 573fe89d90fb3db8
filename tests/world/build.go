package world

import (
	"fmt"
	"runtime"
)

// Build runs f with a new world and removes the world when f ends, however it
// ends. It is for programs that are no tests. What f cannot build ends f, and
// Build returns why. f runs on a goroutine of its own.
func Build(f func(*World) error) error {
	s := new(script)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer s.cleanup() // runs before a panic of f ends the program
		if err := f(New(s)); err != nil {
			s.fail(err)
		}
	}()
	<-done
	return s.err
}

// script is the Owner for code that is no test.
type script struct {
	cleanups []func()
	err      error // the first failure
}

func (s *script) Helper() {}

func (s *script) Cleanup(f func()) { s.cleanups = append(s.cleanups, f) }

func (s *script) Fatalf(format string, args ...any) {
	s.fail(fmt.Errorf(format, args...))
	runtime.Goexit()
}

func (s *script) fail(err error) {
	if s.err == nil {
		s.err = err
	}
}

// cleanup runs every cleanup, also when one of them ends the goroutine.
func (s *script) cleanup() {
	if len(s.cleanups) == 0 {
		return
	}
	last := len(s.cleanups) - 1
	f := s.cleanups[last]
	s.cleanups = s.cleanups[:last]
	defer s.cleanup()
	f()
}
