package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// machine is an emulated one: a kernel, what it starts with, and where what it
// says goes.
type machine struct {
	release   string
	image     string   // path
	initramfs string   // path
	console   string   // path of a file for what the kernel prints
	absent    []string // modules that the kernel does not have
}

// prepare puts a machine together from an unpacked kernel, in a directory that
// is its own.
func prepare(ctx context.Context, dir, tree string, programs *programs, arguments []string) (*machine, error) {
	// lib is a link to usr/lib in a system, and a directory in older packages.
	found, err := only(filepath.Join(tree, "usr/lib/modules/*/kernel"), filepath.Join(tree, "lib/modules/*/kernel"))
	if err != nil {
		return nil, err
	}
	directory := filepath.Dir(found)
	image, err := only(filepath.Join(tree, "boot/vmlinuz-*"), filepath.Join(directory, "vmlinuz"))
	if err != nil {
		return nil, err
	}
	has, err := openModules(directory)
	if err != nil {
		return nil, err
	}
	modules, absent, err := has.load(ctx, wanted)
	if err != nil {
		return nil, err
	}
	m := &machine{
		release:   filepath.Base(directory),
		image:     image,
		initramfs: filepath.Join(dir, "initramfs"),
		console:   filepath.Join(dir, "console"),
		absent:    absent,
	}
	file, err := os.Create(m.initramfs)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if err := fill(newArchive(file), programs, modules, arguments); err != nil {
		return nil, fmt.Errorf("write the initramfs: %w", err)
	}
	return m, file.Close()
}

// only returns the one path that matches any of the patterns.
func only(patterns ...string) (string, error) {
	var found []string
	for _, pattern := range patterns {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			return "", err
		}
		found = append(found, paths...)
	}
	if len(found) != 1 {
		return "", fmt.Errorf("the kernel's packages have %d of %s, and not one", len(found), strings.Join(patterns, " or "))
	}
	return found[0], nil
}

// fill writes all that tests/kernels/init and the tests find in the machine.
func fill(a *archive, programs *programs, modules []module, arguments []string) error {
	var list strings.Builder
	for _, m := range modules {
		fmt.Fprintln(&list, m.name)
		if err := a.add("modules/"+m.name, 0o644, m.image); err != nil {
			return err
		}
	}
	init, err := os.ReadFile(programs.init)
	if err != nil {
		return err
	}
	test, err := os.ReadFile(programs.test)
	if err != nil {
		return err
	}
	return errors.Join(
		a.add("init", 0o755, init),
		a.add("test", 0o755, test),
		a.add("modules.list", 0o644, []byte(list.String())),
		a.add("arguments", 0o644, []byte(strings.Join(arguments, "\n")+"\n")),
		a.addTree("pkg/datapath/testdata", "pkg/datapath/testdata"),
		a.addTree("pkg/policy/testdata", "pkg/policy/testdata"),
		a.close(),
	)
}

// errDeadline is the cause of a context that has no time left for a kernel.
var errDeadline = errors.New("it did not come to an end in the time given")

// run boots the machine and copies what its second serial port says, until it is
// off. The error tells whether it came to that by itself.
func (m *machine) run(ctx context.Context, limit time.Duration, says io.Writer) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, errDeadline)
	defer cancel()
	c := exec.CommandContext(ctx, "qemu-system-x86_64",
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
		// Emulated wherever it runs, and without the instruction cmpxchg16b: qemu
		// 7.2 spoils the flags with it, and Linux 6.12 ends in a double fault.
		"-machine", "q35", "-accel", "tcg", "-cpu", "qemu64,-cx16", "-smp", "2", "-m", "3072",
		"-kernel", m.image, "-initrd", m.initramfs,
		// What goes wrong in the kernel ends the machine, and so the tests. A timer
		// that ticks late, since this machine is busy, is nothing wrong.
		//
		// Whoever waits until no CPU reads what was replaced (each table of a generation,
		// each namespace that goes) has the CPUs asked at once, and not at their next
		// ticks: it waits for the same, and tests half as long for it.
		"-append", "console=ttyS0 rdinit=/init quiet panic=-1 oops=panic panic_on_warn=1 no_timer_check rcupdate.rcu_expedited=1",
		"-serial", "file:"+m.console, "-serial", "stdio")
	var complaints strings.Builder
	c.Stdout, c.Stderr = says, &complaints
	err := c.Run()
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, exec.ErrNotFound):
		return fmt.Errorf("%w (Debian: apt-get install qemu-system-x86)", err)
	}
	return fmt.Errorf("qemu: %w: %s", err, strings.TrimSpace(complaints.String()))
}

// consoleTail is the end of what the kernel printed.
func (m *machine) consoleTail(lines int) (string, error) {
	text, err := os.ReadFile(m.console)
	if err != nil {
		return "", err
	}
	all := slices.Collect(strings.Lines(strings.ReplaceAll(string(text), "\r", "")))
	return strings.Join(all[max(0, len(all)-lines):], ""), nil
}
