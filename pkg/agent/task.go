package agent

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"
)

// Task is something long-running.
type Task interface {
	// Run works until the context ends, then returns nil.
	Run(context.Context) error
	// Ready is closed once it works.
	Ready() <-chan struct{}
	// String is for logs and tests.
	String() string
}

// runTasks runs all tasks; if one fails, all stop. ready, if not nil, is called
// once all work.
func runTasks(ctx context.Context, tasks []Task, ready func() error) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, t := range tasks {
		group.Go(func() error {
			if err := t.Run(ctx); err != nil {
				return fmt.Errorf("%s: %w", t, err)
			}
			if ctx.Err() == nil {
				return fmt.Errorf("%s ended by itself", t)
			}
			return nil
		})
	}
	if ready != nil {
		group.Go(func() error {
			for _, t := range tasks {
				select {
				case <-t.Ready():
				case <-ctx.Done():
					return nil
				}
			}
			return ready()
		})
	}
	return group.Wait()
}
