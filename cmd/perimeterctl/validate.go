package main

import (
	"errors"
	"io/fs"

	"github.com/perimeterd/perimeterd/pkg/agent"
	"github.com/perimeterd/perimeterd/pkg/policy"
)

// validation is the answer for machines.
type validation struct {
	Valid      bool      `json:"valid"`
	Problems   []problem `json:"problems"`
	Notices    []string  `json:"notices,omitempty"`
	Files      []string  `json:"files,omitempty"`
	Resources  int       `json:"resources"`
	Perimeters int       `json:"perimeters"`
}

type problem struct {
	File    string `json:"file,omitempty"`
	Line    int    `json:"line,omitempty"`
	Column  int    `json:"column,omitempty"`
	Wrong   string `json:"wrong"`
	Instead string `json:"instead,omitempty"`
}

func validateCommand() command {
	return command{
		name: "validate", args: "PATH", nargs: 1, summary: "check a policy file or directory",
		help: `Checks all that can be checked without the host: no root, no agent and no kernel
is needed. Prints every problem in a line, as FILE:LINE:COLUMN: what is wrong:
what to write instead. Exit code 0: good. 1: bad. 2: there is nothing to read.

Example:
  perimeterctl validate /etc/perimeterd/policy && git push
`,
		run: func(s *session) (int, error) {
			path := s.args[0]
			p, code, err := s.loadPolicy(path)
			if p == nil {
				return code, err
			}
			v := validation{
				Valid: true, Problems: []problem{}, Notices: agent.UnassociatedNotices(p), Files: p.Files,
				Resources: len(p.Resources), Perimeters: len(p.Perimeters),
			}
			if s.json() {
				return exitGood, s.printJSON(v)
			}
			for _, notice := range v.Notices {
				s.printf("notice: %s\n", notice)
			}
			s.printf("%s is good (resources: %d, perimeters: %d)\n", path, v.Resources, v.Perimeters)
			return exitGood, nil
		},
	}
}

// loadPolicy reads and checks a policy. If it is no good it says so and returns
// nil, with what to exit with.
func (s *session) loadPolicy(path string) (*policy.Policy, int, error) {
	p, err := policy.Load(path)
	var bad policy.Problems
	switch {
	case errors.As(err, &bad):
		return nil, exitBad, s.printProblems(bad)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
		return nil, exitUsage, &usageError{err.Error()}
	case err != nil:
		return nil, exitBad, err
	}
	return p, exitGood, nil
}

func (s *session) printProblems(bad policy.Problems) error {
	if !s.json() {
		s.printf("%s\n", bad.Error())
		return nil
	}
	v := validation{Problems: []problem{}}
	for _, p := range bad {
		v.Problems = append(v.Problems, problem{p.At.File, p.At.Line, p.At.Column, p.Wrong, p.Instead})
	}
	return s.printJSON(v)
}
