package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/pflag"

	"github.com/perimeterd/perimeterd/pkg/api"
	"github.com/perimeterd/perimeterd/pkg/decisionlog"
)

func watchCommand() command {
	return command{
		name: "watch", summary: "decisions as they are made",
		help: `Shows every decision from now on, one a line, until interrupted. Where the
terminal is too slow decisions are left out, and how many is said; the log has
them. With -o json each line is a record in NSP's schema, or {"lost": N}.
Exit code 0: interrupted. 1: the agent ended.

Example:
  perimeterctl watch --denied --resource orders-db
`,
		flags: func(set *pflag.FlagSet, o *options) {
			set.StringVar(&o.resource, "resource", "", "only decisions about this `resource`")
			set.BoolVar(&o.denied, "denied", false, "only what was denied, would be denied, or was cut")
		},
		run: func(s *session) (int, error) {
			client, err := s.client()
			if err != nil {
				return exitBad, err
			}
			style := decisionlog.LineStyle{Colour: s.colour, Location: s.location}
			var text []byte
			show := func(line []byte, r *decisionlog.Record) error {
				text = text[:0]
				if s.json() {
					text = append(text, line...)
				} else {
					text = r.AppendLine(text, style)
				}
				text = append(text, '\n')
				_, err := s.stdout.Write(text)
				return err
			}
			lost := func(n uint64) error {
				format := "… %d decisions are not shown\n"
				if s.json() {
					format = "{\"lost\":%d}\n"
				}
				_, err := fmt.Fprintf(s.stdout, format, n)
				return err
			}
			// On stderr, so that a script knows from when on nothing is missed.
			watching := func() { fmt.Fprintln(s.stderr, "watching; Ctrl-C ends it") }
			err = client.Watch(s.ctx, api.WatchFilter{Resource: s.resource, Denied: s.denied}, watching, show, lost)
			if errors.Is(err, io.EOF) {
				err = errors.New("the agent ended")
			}
			return exitGood, err
		},
	}
}
