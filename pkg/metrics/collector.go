package metrics

import (
	"context"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/perimeterd/perimeterd/pkg/api"
	"github.com/perimeterd/perimeterd/pkg/compile"
	"github.com/perimeterd/perimeterd/pkg/decisionlog"
)

// Source is whom a scrape asks.
type Source interface {
	Status(context.Context) (*api.Status, error)
	Rules(context.Context) (*api.Rules, error)
	Members() []compile.MemberLegend
	LogCounters() decisionlog.Counters
}

// Collector is a prometheus.Collector over a Source.
type Collector struct {
	source Source
}

// NewCollector returns a Collector.
func NewCollector(source Source) *Collector { return &Collector{source} }

// metric is one name with its help and labels.
type metric struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
}

func counter(name, help string, labels ...string) metric {
	return metric{prometheus.NewDesc("perimeterd_"+name, help, labels, nil), prometheus.CounterValue}
}

func gauge(name, help string, labels ...string) metric {
	return metric{prometheus.NewDesc("perimeterd_"+name, help, labels, nil), prometheus.GaugeValue}
}

// Describe sends nothing: which metrics there are depends on the policy.
func (c *Collector) Describe(chan<- *prometheus.Desc) {}

// Collect reads everything from the source.
func (c *Collector) Collect(out chan<- prometheus.Metric) {
	p := page{out}
	status, err := c.source.Status(context.Background())
	if err != nil {
		out <- prometheus.NewInvalidMetric(gauge("state", "").desc, err)
		return
	}
	p.agent(status)
	p.kernel(status)
	p.log(c.source.LogCounters())
	rules, err := c.source.Rules(context.Background())
	if err != nil {
		out <- prometheus.NewInvalidMetric(counter("rule_hits_total", "").desc, err)
		return
	}
	p.rules(rules)
	p.members(c.source.Members())
}

// page writes metrics.
type page struct{ out chan<- prometheus.Metric }

func (p page) put(m metric, value float64, labels ...string) {
	p.out <- prometheus.MustNewConstMetric(m.desc, m.kind, value, labels...)
}

func (p page) agent(s *api.Status) {
	p.put(gauge("build_info", "Is always 1; the label is the version of the agent.", "version"), 1, s.Version)
	state := gauge("state", "Is 1 for the state that the agent is in.", "state")
	for _, word := range []api.State{api.Starting, api.Healthy, api.Degraded, api.Disabled} {
		p.put(state, truth(s.State == word), string(word))
	}
	p.put(gauge("problems", "How many things are wrong that somebody has to repair; perimeterctl status names them."), float64(len(s.Problems)))
	p.put(gauge("generation", "The generation of the policy that packets are judged by; 0 if nothing is in force."), float64(s.Generation))
	source := gauge("policy_source", "Is 1 for where the policy in force comes from.", "source")
	for _, word := range []api.PolicySource{api.FromFiles, api.FromLastGood, api.FromDefault, api.FromNowhere} {
		p.put(source, truth(s.Policy.Source == word), string(word))
	}
	p.put(gauge("policy_problem", "Is 1 while the policy's files are bad or missing, so that an earlier policy, or none, is in force."), truth(s.Policy.Problem != ""))
	if !s.Policy.Since.IsZero() {
		p.put(gauge("policy_since_timestamp_seconds", "When this version of the policy was put in force."), float64(s.Policy.Since.Unix()))
	}
	p.put(gauge("resources", "Resources of the policy in force."), float64(s.Resources.Total))
	p.put(gauge("resources_here", "Resources of the policy in force that may live on this host."), float64(s.Resources.Here))
	attached := gauge("interface_attached", "Is 1 for an interface whose packets are judged, 0 for one that should be attached and is not; others are left out.", "interface", "role", "hook")
	for _, i := range s.Interfaces {
		if i.Attached || i.Failed {
			p.put(attached, truth(i.Attached), i.Name, i.Role, i.Hook)
		}
	}
	addresses := gauge("name_addresses", "Addresses that a name of an outbound rule stands for.", "name")
	events := counter("name_events_total", "Questions, answers and addresses of names by what came of them, since the data path was first loaded; those of the agent (agent-) since its start.", "event")
	for _, e := range s.NameEvents {
		p.put(events, float64(e.Count), e.Event)
	}
	open := gauge("name_open_addresses", "Addresses that names have opened, as of the last sweep, by who learnt them: inline, answer, resolved or kept.", "learnt")
	for _, o := range s.OpenAddresses {
		p.put(open, float64(o.Count), o.Event)
	}
	failing := gauge("name_failing", "Is 1 while a name cannot be resolved and keeps the addresses it had.", "name")
	for _, n := range s.Names {
		p.put(addresses, float64(len(n.Addresses)), n.Name)
		p.put(failing, truth(n.Error != ""), n.Name)
	}
}

func (p page) kernel(s *api.Status) {
	p.put(gauge("flows", "Allowed flows in the kernel's table, as of the last sweep."), float64(s.Flows))
	p.put(gauge("fragments", "Fragmented packets whose first fragment is remembered, as of the last sweep."), float64(s.Fragments.Remembered))
	p.put(gauge("fragments_max", "How many fragmented packets can be remembered; past that, fragments of the oldest count as fragment-unknown."), float64(s.Fragments.Max))
	prefixes := gauge("prefixes", "Prefixes of the policy in the kernel.", "family")
	p.put(prefixes, float64(s.Tables.PrefixesIPv4), "ipv4")
	p.put(prefixes, float64(s.Tables.PrefixesIPv6), "ipv6")
	p.put(gauge("tables_bytes", "Memory of the policy's tables in the kernel, estimated."), float64(s.Tables.Bytes))
	packets := counter("packets_total", "Packets by the reason of their verdict; every packet counts once.", "reason")
	bytes := counter("packet_bytes_total", "Bytes of the packets, beginning with the IP header.", "reason")
	for _, c := range s.Packets {
		p.put(packets, float64(c.Packets), string(c.Reason))
		p.put(bytes, float64(c.Bytes), string(c.Reason))
	}
	decided := counter("decisions_total", "Decisions made in the kernel; the sum of submitted, folded and lost.", "category")
	submitted := counter("decisions_submitted_total", "Decisions handed to the agent one by one.", "category")
	folded := counter("decisions_folded_total", "Decisions counted as repetitions of a denial.", "category")
	crowded := counter("decisions_crowded_total", "Of the folded, denials whose peers were not told apart, because more came in one window than limits.denials has room for.", "category")
	lost := counter("decisions_lost_total", "Decisions that found the kernel's ring full and are in no log.", "category")
	for _, c := range s.Decisions {
		p.put(decided, float64(c.Decided), string(c.Category))
		p.put(submitted, float64(c.Submitted), string(c.Category))
		p.put(folded, float64(c.Folded), string(c.Category))
		p.put(crowded, float64(c.Crowded), string(c.Category))
		p.put(lost, float64(c.Lost), string(c.Category))
	}
}

func (p page) log(c decisionlog.Counters) {
	p.tally(counter("log_received_total", "Decisions handed to the log.", "category"), c.Received)
	p.tally(counter("log_queue_lost_total", "Decisions lost because the log did not keep up.", "category"), c.LostQueue)
	p.put(gauge("log_queued", "Decisions that wait to be encoded."), float64(c.Queued.Total()))
	p.put(gauge("log_subscribers", "Live views of the log, such as perimeterctl watch."), float64(c.Subscribers))
	p.put(counter("log_subscriber_lost_total", "Records that live views were too slow for."), float64(c.SubscriberLost))
	exported := counter("log_exported_total", "Decisions written to a sink.", "sink", "category")
	backlog := counter("log_backlog_lost_total", "Decisions lost because a sink did not keep up.", "sink", "category")
	write := counter("log_write_lost_total", "Decisions given up because a sink still failed when the agent ended.", "sink", "category")
	pending := gauge("log_pending", "Decisions that wait to be written to a sink.", "sink")
	errors := counter("log_write_errors_total", "Writes to a sink that failed; they are tried again.", "sink")
	written := counter("log_written_bytes_total", "Bytes written to a sink.", "sink")
	for _, s := range c.Sinks {
		p.tally(exported, s.Exported, s.Name)
		p.tally(backlog, s.LostBacklog, s.Name)
		p.tally(write, s.LostWrite, s.Name)
		p.put(pending, float64(s.Pending.Total()), s.Name)
		p.put(errors, float64(s.Errors), s.Name)
		p.put(written, float64(s.Bytes), s.Name)
	}
}

// tally puts one row for each category; before is what stands before it.
func (p page) tally(m metric, t decisionlog.Tally, before ...string) {
	for category, n := range t.Decisions {
		p.put(m, float64(n), append(append([]string(nil), before...), string(category))...)
	}
}

func (p page) rules(r *api.Rules) {
	hits := counter("rule_hits_total", "Decisions by a rule since the agent started; rules without any are left out.", "perimeter", "profile", "resource", "direction", "rule")
	for _, rule := range r.Rules {
		if rule.Hits > 0 {
			p.put(hits, float64(rule.Hits), rule.Perimeter, rule.Profile, rule.Resource, rule.Direction, rule.Name)
		}
	}
}

func (p page) members(members []compile.MemberLegend) {
	info := gauge("member_info", "Is always 1; the labels say where a resource belongs and in which mode.", "resource", "perimeter", "profile", "access_mode", "rules_version")
	for _, m := range members {
		version := m.AccessRulesVersion
		if _, err := strconv.Atoi(version); err != nil {
			version = ""
		}
		p.put(info, 1, m.Resource, m.Perimeter, m.Profile, m.AccessMode.String(), version)
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
