package main

import (
	"bytes"
	"context"
	"debug/elf"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// wanted are the modules that tests need: devices of every kind that carries
// packets, what attaches programs to them, and nftables with its connection
// tracking. Nothing loads modules by itself in the emulated machine.
var wanted = []string{
	"veth", "dummy", "bridge", "8021q", "macvlan", "tun", "wireguard", "vxlan", "geneve",
	"ipip", "ip_gre", "ip6_gre", "ip6_tunnel", "sit", "ppp_generic", "ppp_async",
	"sch_ingress", "cls_bpf", "cls_matchall", "act_bpf", "act_gact", "act_mirred", "act_vlan", "act_skbedit",
	"nf_tables", "nf_conntrack", "nft_ct", "nft_counter", "nft_reject_inet", "nft_limit", "nft_log",
	"nft_nat", "nft_masq", "nft_fib_inet", "nft_numgen",
	"sctp",
}

// module is a kernel module as it is loaded.
type module struct {
	name  string
	image []byte
}

// moduleTree finds modules in an unpacked kernel.
type moduleTree struct {
	files   map[string]string // by name, with _ for -
	builtin map[string]bool
}

// openModules looks through the tree's only directory of modules.
func openModules(directory string) (*moduleTree, error) {
	t := &moduleTree{files: map[string]string{}, builtin: map[string]bool{}}
	builtin, err := os.ReadFile(filepath.Join(directory, "modules.builtin"))
	if err != nil {
		return nil, err
	}
	for path := range strings.FieldsSeq(string(builtin)) {
		t.builtin[moduleName(path)] = true
	}
	return t, filepath.WalkDir(directory, func(path string, entry fs.DirEntry, err error) error {
		if name := moduleName(path); name != "" && err == nil && entry.Type().IsRegular() {
			t.files[name] = path
		}
		return err
	})
}

// moduleName is the name of a module's file, "" if it is none. The kernel writes
// _ where file names have either.
func moduleName(path string) string {
	name, suffix, found := strings.Cut(filepath.Base(path), ".ko")
	if !found || suffix != "" && suffix != ".xz" {
		return ""
	}
	return strings.ReplaceAll(name, "-", "_")
}

// load returns modules with all that they depend on, in an order in which they
// can be loaded, and the names of those that the kernel does not have.
func (t *moduleTree) load(ctx context.Context, names []string) (modules []module, absent []string, err error) {
	seen := map[string]bool{}
	for _, name := range names {
		if t.files[name] == "" && !t.builtin[name] {
			absent = append(absent, name)
			continue
		}
		if modules, err = t.add(ctx, modules, seen, name); err != nil {
			return nil, nil, err
		}
	}
	return modules, absent, nil
}

func (t *moduleTree) add(ctx context.Context, modules []module, seen map[string]bool, name string) ([]module, error) {
	if seen[name] || t.builtin[name] {
		return modules, nil
	}
	seen[name] = true
	path, ok := t.files[name]
	if !ok {
		return nil, fmt.Errorf("another module needs %s, which the kernel does not have", name)
	}
	image, err := readModule(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("read the module %s: %w", name, err)
	}
	needed, err := dependencies(image)
	if err != nil {
		return nil, fmt.Errorf("read the module %s: %w", name, err)
	}
	for _, n := range needed {
		if modules, err = t.add(ctx, modules, seen, n); err != nil {
			return nil, err
		}
	}
	return append(modules, module{name, image}), nil
}

func readModule(ctx context.Context, path string) ([]byte, error) {
	if !strings.HasSuffix(path, ".xz") {
		return os.ReadFile(path)
	}
	return exec.CommandContext(ctx, "xz", "--decompress", "--stdout", path).Output()
}

// dependencies reads what a module says of itself. The packages have no
// modules.dep, which is made where they are installed.
func dependencies(image []byte) ([]string, error) {
	file, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return nil, err
	}
	section := file.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("it has no section .modinfo")
	}
	info, err := section.Data()
	if err != nil {
		return nil, err
	}
	for field := range bytes.SplitSeq(info, []byte{0}) {
		if list, ok := strings.CutPrefix(string(field), "depends="); ok {
			return strings.FieldsFunc(strings.ReplaceAll(list, "-", "_"), func(r rune) bool { return r == ',' }), nil
		}
	}
	return nil, nil
}
