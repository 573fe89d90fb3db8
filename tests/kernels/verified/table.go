// Package verified is the record of what each program costs each kernel's
// verifier: a committed table, which tests compare with and which a run of all
// kernels writes anew.
package verified

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
)

// Counts are the instructions that a verifier processed, by program.
type Counts map[string]int

// Table has the counts of several kernels.
type Table map[Series]Counts

const (
	comment = "# Instructions that each kernel's verifier processes for each program; `make kernels` writes this."
	corner  = "program"
	absent  = "-" // a program that this kernel does not load
)

// ReadFile reads a file that Write wrote.
func ReadFile(path string) (Table, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	table, err := Read(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return table, nil
}

// Read reads what Write wrote.
func Read(r io.Reader) (Table, error) {
	table := Table{}
	var columns []Series
	lines := bufio.NewScanner(r)
	for number := 1; lines.Scan(); number++ {
		line := lines.Text()
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		fields := strings.Split(line, "\t")
		if columns == nil {
			for _, field := range fields[1:] {
				series, err := ParseSeries(field)
				if err != nil {
					return nil, fmt.Errorf("line %d: %w", number, err)
				}
				columns = append(columns, series)
				table[series] = Counts{}
			}
			continue
		}
		if len(fields) != len(columns)+1 {
			return nil, fmt.Errorf("line %d has %d columns, and the first line has %d", number, len(fields), len(columns)+1)
		}
		for i, field := range fields[1:] {
			if field == absent {
				continue
			}
			count, err := strconv.Atoi(field)
			if err != nil {
				return nil, fmt.Errorf("line %d: %q is not a number of instructions", number, field)
			}
			table[columns[i]][fields[0]] = count
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if len(columns) == 0 {
		return nil, errors.New("the table names no kernel")
	}
	return table, nil
}

// Write writes a line for each program and a column for each kernel, the oldest
// first.
func (t Table) Write(w io.Writer) error {
	columns := slices.SortedFunc(maps.Keys(t), Series.Compare)
	programs := map[string]bool{}
	head := []string{corner}
	for _, series := range columns {
		head = append(head, series.String())
		for program := range t[series] {
			programs[program] = true
		}
	}
	lines := []string{comment, strings.Join(head, "\t")}
	for _, program := range slices.Sorted(maps.Keys(programs)) {
		fields := []string{program}
		for _, series := range columns {
			field := absent
			if count, ok := t[series][program]; ok {
				field = strconv.Itoa(count)
			}
			fields = append(fields, field)
		}
		lines = append(lines, strings.Join(fields, "\t"))
	}
	_, err := io.WriteString(w, strings.Join(lines, "\n")+"\n")
	return err
}

// Change says in words how a count compares with what is recorded for the
// program on this kernel or, if that is of no recorded series, on the newest
// one that is older.
func (t Table) Change(kernel Series, program string, count int) string {
	older := slices.DeleteFunc(slices.Collect(maps.Keys(t)), func(s Series) bool { return s.Compare(kernel) > 0 })
	if len(older) == 0 {
		return fmt.Sprintf("%s: %d instructions verified, nothing recorded for Linux %v", program, count, kernel)
	}
	nearest := slices.MaxFunc(older, Series.Compare)
	recorded, ok := t[nearest][program]
	switch {
	case !ok:
		return fmt.Sprintf("%s: %d instructions verified, not recorded for Linux %v", program, count, nearest)
	case recorded == count:
		return fmt.Sprintf("%s: %d instructions verified, as recorded for Linux %v", program, count, nearest)
	default:
		return fmt.Sprintf("%s: %d instructions verified, %+d against %d recorded for Linux %v", program, count, count-recorded, recorded, nearest)
	}
}

const attribute = "verified."

// Attribute is the key under which a test tells a program's count (testing.T's
// Attr) to those who run it in other kernels.
func Attribute(program string) string { return attribute + program }

// ProgramOf is the program of such a key, if it is one.
func ProgramOf(key string) (program string, ok bool) {
	return strings.CutPrefix(key, attribute)
}
