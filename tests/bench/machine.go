package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// describeMachine says on what the figures were measured: they are of no other.
func describeMachine() (string, error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return "", fmt.Errorf("ask for the kernel's name: %w", err)
	}
	mitigations, err := mitigations()
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("Linux %s %s, %d CPUs (%s)\nmitigations: %s", unix.ByteSliceToString(name.Release[:]),
		unix.ByteSliceToString(name.Machine[:]), runtime.NumCPU(), processor(), mitigations), nil
}

// processor is the model as Linux calls it, where it tells.
func processor() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "model unknown"
	}
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "model unknown"
}

func mitigations() (string, error) {
	files, err := filepath.Glob("/sys/devices/system/cpu/vulnerabilities/*")
	if err != nil {
		return "", err
	}
	var list []string
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			return "", err
		}
		if what, ok := strings.CutPrefix(strings.TrimSpace(string(text)), "Mitigation: "); ok {
			list = append(list, filepath.Base(f)+" ("+what+")")
		}
	}
	if len(list) == 0 {
		return "none", nil
	}
	slices.Sort(list)
	return strings.Join(list, ", "), nil
}
