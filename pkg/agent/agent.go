package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"time"

	"github.com/perimeterd/perimeterd/pkg/api"
	"github.com/perimeterd/perimeterd/pkg/compile"
	"github.com/perimeterd/perimeterd/pkg/decisionlog"
	"github.com/perimeterd/perimeterd/pkg/links"
	"github.com/perimeterd/perimeterd/pkg/metrics"
	"github.com/perimeterd/perimeterd/pkg/names"
)

// Options of an Agent.
type Options struct {
	Settings *Settings // required
	Version  string
	Hostname string // for policies that several hosts share
	// Stdout is where decisions go that are to be written there. Required.
	Stdout io.Writer
	// Terminal says that Stdout is one, for people.
	Terminal bool
	// Logger gets what the operator has to know at once. Required.
	Logger *log.Logger
	// Reload has the policy read again and log files opened anew. Optional.
	Reload <-chan os.Signal
	// NotifySocket is the service manager's ($NOTIFY_SOCKET); "" = none.
	NotifySocket string
}

// Agent is perimeterd. New makes it, Run runs it, once.
type Agent struct {
	options  Options
	settings *Settings
	logger   *log.Logger
	started  time.Time

	lock       *os.File
	legends    *legends
	hits       *hits
	log        *decisionlog.Log
	files      []*decisionlog.File
	links      *links.Watcher
	names      *names.Resolver
	book       *nameBook
	answers    *answerStats
	known      knownNames
	policies   *policyWatcher
	reconciler *reconciler
	swept      *sweepResult
	losses     lossMemory
}

// New takes the state directory and opens what is on disk. It does not touch the
// network or the kernel. If it returns an Agent, Run must be called.
func New(o Options) (*Agent, error) {
	a := &Agent{options: o, settings: o.Settings, logger: o.Logger, started: time.Now(), swept: new(sweepResult)}
	var err error
	if a.lock, err = lockState(o.Settings); err != nil {
		return nil, err
	}
	if err := a.open(); err != nil {
		return nil, errors.Join(err, a.close())
	}
	return a, nil
}

func (a *Agent) open() error {
	s := a.settings
	var err error
	if a.legends, err = openLegends(s.legendsDir()); err != nil {
		return err
	}
	a.hits = newHits(a.legends.of)
	a.links = links.NewWatcher()
	if a.names, err = newResolver(a); err != nil {
		return err
	}
	a.book, a.answers = newNameBook(s.learntFile()), &answerStats{}
	if a.log, err = a.openLog(); err != nil {
		return err
	}
	a.policies = newPolicyWatcher(s.Policy)
	a.reconciler = newReconciler(a)
	return nil
}

func newResolver(a *Agent) (*names.Resolver, error) {
	d := a.settings.DNS
	return names.New(names.Options{
		Servers: names.ServersOf(d.Servers, d.ResolverConfigure),
		InUse:   a.peersInUse,
		State:   a.settings.namesFile(),
		Floor:   d.Floor, Ceiling: d.Ceiling, Grace: d.Grace,
		Timeout: d.QuestionTimeout, Limit: d.AddressesPerName,
	})
}

func (a *Agent) openLog() (*decisionlog.Log, error) {
	o := decisionlog.Options{
		Legend:    func(generation uint32) *compile.Legend { return a.legends.of(generation) },
		Interface: a.links.Name,
		Name:      a.nameOf,
	}
	for _, sink := range a.settings.Log {
		to := decisionlog.Sink{Name: sink.name(), Format: sink.Format, To: a.options.Stdout}
		if sink.Auto && a.options.Terminal {
			to.Format = decisionlog.FormatColour
		}
		if !sink.Stdout {
			file, err := decisionlog.OpenFile(sink.File)
			if err != nil {
				return nil, err
			}
			a.files = append(a.files, file)
			to.To = file
		}
		o.Sinks = append(o.Sinks, to)
	}
	return decisionlog.New(o)
}

func (a *Agent) close() error {
	var errs []error
	for _, f := range a.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(append(errs, a.lock.Close())...)
}

// tasks are what an agent does, but for the decision log, which ends after all
// of them.
func (a *Agent) tasks() []Task {
	tasks := []Task{a.links, a.policies, a.names, a.reconciler, api.NewServer(a.settings.Socket(), a)}
	if listen := a.settings.MetricsListen; listen != "" {
		tasks = append(tasks, metrics.NewServer(listen, a))
	}
	return tasks
}

// Run does all that an agent does until the context ends. Then it stops: reading
// decisions first, writing them last. What is in force stays in force.
func (a *Agent) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	logging, stopLogging := context.WithCancel(context.WithoutCancel(ctx))
	defer stopLogging()
	logged := make(chan error, 1)
	go func() {
		err := a.log.Run(logging)
		if logging.Err() == nil {
			cancel() // nothing is to be decided that nobody writes down
		}
		logged <- err
	}()

	err := runTasks(ctx, a.tasks(), func() error {
		return notifyService(a.options.NotifySocket, "READY=1")
	})
	// A manager that cannot be told is none to wait for.
	_ = notifyService(a.options.NotifySocket, "STOPPING=1")
	err = errors.Join(err, a.reconciler.close())
	stopLogging()
	if e := <-logged; e != nil {
		err = errors.Join(err, fmt.Errorf("decision log: %w", e))
	}
	return errors.Join(err, a.close())
}

// reload opens log files anew; the reconciler reads the policy.
func (a *Agent) reload() {
	for _, f := range a.files {
		f.Reopen()
	}
}
