package main

import (
	"context"
	"errors"

	"github.com/perimeterd/perimeterd/pkg/agent"
	"github.com/perimeterd/perimeterd/pkg/api"
	"github.com/perimeterd/perimeterd/pkg/version"
)

func disableCommand() command {
	return command{
		name: "disable", summary: "remove enforcement until it is enabled again",
		help: `Detaches the programs from every interface and removes the policy, flows and
counters from the kernel. From then on everything passes and nothing is logged,
over restarts and reboots, until "perimeterctl enable".
Works without the agent, and where the agent does not answer; root is needed.

Example:
  perimeterctl disable
`,
		run: func(s *session) (int, error) {
			return s.switchTo((*api.Client).Disable, agent.DisableDirectly,
				"enforcement is disabled: everything passes until `perimeterctl enable`", "enforcement was disabled already")
		},
	}
}

func enableCommand() command {
	return command{
		name: "enable", summary: "put enforcement back after disable",
		help: `Has the agent put its policy in force again, now if it runs and else when it is
started.

Example:
  perimeterctl enable
`,
		run: func(s *session) (int, error) {
			return s.switchTo((*api.Client).Enable, agent.EnableDirectly,
				"enforcement is enabled", "enforcement was enabled already")
		},
	}
}

// switchTo asks the agent, and does it directly where there is none.
func (s *session) switchTo(ask func(*api.Client, context.Context) (*api.Switched, error),
	directly func(*agent.Settings) (*api.Switched, error), done, already string) (int, error) {
	client, err := s.client()
	if err != nil {
		return exitBad, err
	}
	switched, err := ask(client, s.ctx)
	without := ""
	if errors.Is(err, api.ErrNotRunning) {
		settings, loadErr := s.agentSettings()
		if loadErr != nil {
			return exitBad, loadErr
		}
		without = " (the agent is not running)"
		switched, err = directly(settings)
	}
	switch {
	case err != nil:
		return exitBad, err
	case s.json():
		return exitGood, s.printJSON(switched)
	case switched.Changed:
		s.printf("%s%s\n", done, without)
	default:
		s.printf("%s%s\n", already, without)
	}
	return exitGood, nil
}

func versionCommand() command {
	return command{
		name: "version", summary: "the version of this command",
		help: "Example:\n  perimeterctl version\n",
		run: func(s *session) (int, error) {
			if s.json() {
				return exitGood, s.printJSON(map[string]string{"version": version.String()})
			}
			s.printf("%s\n", version.String())
			return exitGood, nil
		},
	}
}
