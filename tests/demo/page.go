package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// page writes for the eye.
type page struct {
	out    io.Writer
	colour bool
}

func newPage(out io.Writer, colour bool) *page { return &page{out, colour} }

const (
	bold  = "\x1b[1m"
	faint = "\x1b[2m"
	green = "\x1b[32m"
	red   = "\x1b[1;31m"
	blue  = "\x1b[1;34m"
	off   = "\x1b[0m"
)

// width of the text that the page breaks into lines.
const width = 96

func (p *page) paint(colour, text string) string {
	if !p.colour {
		return text
	}
	return colour + text + off
}

// line writes a line. If that fails, the signal that comes with it ends the
// demo.
func (p *page) line(format string, args ...any) {
	fmt.Fprintf(p.out, format+"\n", args...)
}

// title begins a step.
func (p *page) title(number int, text string) {
	rule := strings.Repeat("─", max(width-utf8.RuneCountInString(text)-6, 0))
	p.line("\n%s", p.paint(blue, fmt.Sprintf("%2d  %s %s", number, text, rule)))
}

// story writes text, broken into lines.
func (p *page) story(text string) {
	line := "  "
	for _, word := range strings.Fields(text) {
		if utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width {
			p.line("%s", line)
			line = "  "
		}
		line += " " + word
	}
	p.line("%s\n", line)
}

// typed shows what a user would type.
func (p *page) typed(command string) {
	p.line("   %s", p.paint(bold, "# "+command))
}

// quoted shows what somebody else wrote.
func (p *page) quoted(text string) {
	for line := range strings.Lines(text) {
		p.line("     %s", strings.TrimRight(line, "\n"))
	}
}

// change shows an edit of a file, as the lines that go and those that come.
func (p *page) change(file, before, after string) {
	p.line("   %s", p.paint(bold, file))
	gone, come := strings.Split(before, "\n"), strings.Split(after, "\n")
	for _, line := range gone {
		if !slices.Contains(come, line) {
			p.line("   %s", p.paint(red, "- "+line))
		}
	}
	for _, line := range come {
		if !slices.Contains(gone, line) {
			p.line("   %s", p.paint(green, "+ "+line))
		}
	}
}

// good shows an expectation that was met.
func (p *page) good(text string) {
	p.line("   %s %s", p.paint(green, "✓"), text)
}

func (p *page) summary(text string) {
	p.line("\n%s", p.paint(green, text+". Nothing is left behind."))
}
