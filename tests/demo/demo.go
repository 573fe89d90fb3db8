package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/perimeterd/perimeterd/tests/deployment"
	"github.com/perimeterd/perimeterd/tests/traffic"
)

// demo is the show while it goes on. Its methods end the show when something is
// not as it should be: they do not return then.
type demo struct {
	*page
	*town
	ctx      context.Context
	surprise error // what ended the show
	steps    int
	met      int
	live     sessions
	talks    []*traffic.Conversation
}

// patience bounds every wait for what has to happen; it is met only by surprise.
const patience = 15 * time.Second

// step begins a step of the story.
func (d *demo) step(title, story string) {
	d.steps++
	d.title(d.steps, title)
	d.story(story)
}

// expect counts an expectation that is met, and shows it unless the text is "".
func (d *demo) expect(met bool, text, otherwise string) {
	if !met {
		d.fail(errors.New(otherwise))
	}
	d.met++
	if text != "" {
		d.good(text)
	}
}

// must ends the show if there is an error.
func (d *demo) must(err error) {
	if err != nil {
		d.fail(err)
	}
}

// fail ends the show, as a test's FailNow ends a test.
func (d *demo) fail(err error) {
	var said strings.Builder
	for _, s := range d.servers() {
		messages := s.Messages.After(max(s.Messages.Len()-10, 0))
		if len(messages) > 0 {
			fmt.Fprintf(&said, "\nThe last that perimeterd on %s said:\n  %s\n", s.host.Name, strings.Join(messages, "\n  "))
		}
	}
	d.surprise = fmt.Errorf("a surprise in step %d: %w\n%s", d.steps, err, said.String())
	runtime.Goexit()
}

// within returns a context for something that has to happen soon.
func (d *demo) within() context.Context {
	ctx, cancel := context.WithTimeout(d.ctx, patience)
	context.AfterFunc(ctx, cancel) // the caller has no more to do with it
	return ctx
}

// edit changes a policy file, which both servers share, shows the change, and
// returns when both have it in force.
func (d *demo) edit(file, before, after string) {
	text, changed := d.replaced(file, before, after)
	d.change("policy/"+file, before, after)
	d.apply(file, text)
	if !changed {
		d.fail(fmt.Errorf("%s has no line to change: %s", file, before))
	}
}

func (d *demo) replaced(file, before, after string) (text string, changed bool) {
	old, err := os.ReadFile(filepath.Join(d.server.Policy, file))
	d.must(err)
	text = strings.ReplaceAll(string(old), before, after)
	return text, text != string(old)
}

// apply writes a policy file and returns when both servers have it in force.
func (d *demo) apply(file, text string) {
	marks := map[*guarded]int{}
	for _, s := range d.servers() {
		marks[s] = s.Messages.Len()
	}
	d.must(d.server.WritePolicy(file, text))
	for _, s := range d.servers() {
		d.must(s.AwaitInForce(d.within(), marks[s]))
		last := s.Messages.After(marks[s])
		d.line("   %s", d.paint(faint, fmt.Sprintf("%s: %s", s.host.Name, d.elided(last[len(last)-1]))))
	}
	d.line("")
}

// ctl runs perimeterctl on a server, shows what a user sees, and returns it.
func (d *demo) ctl(on *guarded, wantCode int, args ...string) deployment.Result {
	d.typed("perimeterctl " + strings.Join(args, " "))
	result, err := on.Ctl(d.within(), args...)
	d.must(err)
	d.quoted(strings.TrimSpace(d.elided(result.Stdout + result.Stderr)))
	d.expect(result.Code == wantCode, "", fmt.Sprintf("perimeterctl %s ended with %d, not %d", strings.Join(args, " "), result.Code, wantCode))
	d.line("")
	return result
}

// elided leaves out the directories that the demo chose.
func (d *demo) elided(text string) string {
	return strings.ReplaceAll(text, filepath.Dir(d.server.Settings)+"/", "")
}
