package world

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

// newNamespace makes a network namespace and returns a file that holds it.
func newNamespace() (*os.File, error) {
	var namespace *os.File
	err := onOwnGoroutine(func() error {
		return elsewhere(func() (err error) {
			if err = unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("make a network namespace (root is needed): %w", err)
			}
			namespace, err = currentNamespace()
			return err
		})
	})
	return namespace, err
}

// inside runs f on the calling goroutine with its thread in the namespace.
func inside(namespace *os.File, f func() error) error {
	return elsewhere(func() error {
		if err := unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter the network namespace: %w", err)
		}
		return f()
	})
}

// elsewhere runs f, which may change its thread's network namespace. A thread
// that finds no way back stays locked and so ends with its goroutine, which is
// why the goroutine must have no other work.
func elsewhere(f func() error) error {
	runtime.LockOSThread()
	origin, err := currentNamespace()
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer func() {
		if unix.Setns(int(origin.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		_ = origin.Close() // only a handle; nothing was written through it
	}()
	return f()
}

func currentNamespace() (*os.File, error) {
	return os.Open("/proc/thread-self/ns/net")
}

// onOwnGoroutine runs f on a new goroutine and waits for it. A panic of f and
// a runtime.Goexit of f, such as a test's FailNow, go on in the caller.
func onOwnGoroutine(f func() error) error {
	var (
		err      error
		returned bool
		panicked any
		stack    []byte
	)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if panicked = recover(); panicked != nil {
				stack = debug.Stack()
			}
		}()
		err = f()
		returned = true
	}()
	<-done
	switch {
	case panicked != nil:
		panic(fmt.Sprintf("%v\n\n%s", panicked, stack))
	case !returned:
		runtime.Goexit()
	}
	return err
}
