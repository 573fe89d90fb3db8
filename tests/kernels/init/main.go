// Init is the first and only program of an emulated machine: it loads modules,
// runs the test binary, and turns the machine off. What the tests print goes to
// the second serial port; the first is the kernel's. Init's own lines there start
// with "init: "; the last of them is "init: end: passed", or how else the binary
// ended.
//
// Its arguments, from the initramfs: /modules.list, one file of /modules a
// line, in the order in which they can be loaded; /arguments, one argument of
// the test binary a line.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

func main() {
	// Also after a panic: nobody is there to look at a machine that waits.
	defer powerOff()
	if err := mountAll(); err != nil {
		fmt.Println("init:", err)
		return
	}
	port, err := openPort("/dev/ttyS1")
	if err != nil {
		fmt.Println("init:", err)
		return
	}
	for _, err := range loadModules() {
		fmt.Fprintln(port, "init:", err)
	}
	fmt.Fprintf(port, "\ninit: end: %s\n", test(port))
	// What is still in the port's buffer would be lost with the power.
	if err := unix.IoctlSetInt(int(port.Fd()), unix.TCSBRK, 1); err != nil {
		fmt.Println("init: wait for the port:", err)
	}
}

func mountAll() error {
	for _, m := range []struct{ kind, at string }{
		{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/tmp"}, {"tmpfs", "/run"},
	} {
		if err := os.MkdirAll(m.at, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.at, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	// Otherwise each tunnel module puts a device into every network namespace.
	return os.WriteFile("/proc/sys/net/core/fb_tunnels_only_for_init_net", []byte("1"), 0)
}

// openPort opens a serial port that changes nothing of what passes it.
func openPort(path string) (*os.File, error) {
	port, err := os.OpenFile(path, os.O_WRONLY|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	mode, err := unix.IoctlGetTermios(int(port.Fd()), unix.TCGETS)
	if err != nil {
		return nil, fmt.Errorf("ask for the mode of %s: %w", path, err)
	}
	mode.Oflag &^= unix.OPOST
	if err := unix.IoctlSetTermios(int(port.Fd()), unix.TCSETS, mode); err != nil {
		return nil, fmt.Errorf("set the mode of %s: %w", path, err)
	}
	return port, nil
}

func loadModules() []error {
	list, err := os.ReadFile("/modules.list")
	if err != nil {
		return []error{err}
	}
	var errs []error
	for _, name := range strings.Fields(string(list)) {
		if err := loadModule(filepath.Join("/modules", name)); err != nil {
			errs = append(errs, fmt.Errorf("load the module %s: %w", name, err))
		}
	}
	return errs
}

func loadModule(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	return unix.FinitModule(int(file.Fd()), "", 0)
}

// test runs the test binary and says how it ended.
func test(port *os.File) string {
	arguments, err := os.ReadFile("/arguments")
	if err != nil {
		return err.Error()
	}
	c := exec.Command("/test", strings.Split(strings.TrimSuffix(string(arguments), "\n"), "\n")...)
	c.Stdout, c.Stderr = port, port
	c.Dir = "/pkg/datapath"
	c.Env = []string{"PERIMETERD_TESTS=privileged", "HOME=/tmp", "TMPDIR=/tmp", "PATH=/"}
	if err := c.Run(); err != nil {
		return err.Error()
	}
	return "passed"
}

func powerOff() {
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		panic(err)
	}
}
