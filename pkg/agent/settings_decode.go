package agent

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/perimeterd/perimeterd/pkg/datapath"
	"github.com/perimeterd/perimeterd/pkg/decisionlog"
	"github.com/perimeterd/perimeterd/pkg/links"
	"github.com/perimeterd/perimeterd/pkg/policy"
)

// decode reads the whole file and notes every problem. Keys that are not
// written keep their default.
func (d *settingsDecoder) decode(text []byte) {
	root := d.compose(text)
	if root == nil {
		return
	}
	s := d.settings
	d.mapping(root, "the settings", keys{
		"policy": func(n *yaml.Node) {
			d.path(&s.Policy)(n)
			s.PolicyOptional = false
		},
		"stateDirectory": d.path(&s.StateDirectory),
		"runDirectory":   d.path(&s.RunDirectory),
		"pinDirectory":   d.path(&s.PinDirectory),
		"interfaces":     d.interfaces,
		"failsafe": func(n *yaml.Node) {
			s.Failsafe = []policy.AccessRule{}
			d.each(n, "failsafe", func(item *yaml.Node) { s.Failsafe = append(s.Failsafe, d.failsafe(item)) })
		},
		"log": func(n *yaml.Node) {
			s.Log = []LogSink{}
			d.each(n, "log", func(item *yaml.Node) { s.Log = append(s.Log, d.sink(item)) })
			d.checkSinks(n)
		},
		"denialWindow": d.duration(&s.DenialWindow, time.Second, time.Hour),
		"limits":       d.limits,
		"timeouts":     d.timeouts,
		"hook": func(n *yaml.Node) {
			s.ClsactOnly = d.choice(n, "hook", "auto", "clsact") == "clsact"
		},
		"xdp": func(n *yaml.Node) {
			s.XDP = datapath.XDPMode(d.choice(n, "xdp", "off", "auto", "native", "generic"))
		},
		"metrics": func(n *yaml.Node) {
			d.mapping(n, "metrics", keys{"listen": func(n *yaml.Node) { s.MetricsListen = d.listen(n) }})
		},
		"dns": d.dns,
	})
}

// path reads an absolute path.
func (d *settingsDecoder) path(into *string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		text := d.text(n)
		if text != "" && !filepath.IsAbs(text) {
			d.add(n, fmt.Sprintf("%q is not an absolute path", text), "begin it with a slash")
			return
		}
		*into = filepath.Clean(text)
	}
}

func (d *settingsDecoder) interfaces(n *yaml.Node) {
	patterns := func(into *[]string) func(*yaml.Node) {
		return func(n *yaml.Node) {
			d.each(n, "the list of interfaces", func(item *yaml.Node) {
				text := d.text(item)
				if err := (links.Selection{Uplinks: []string{text}}).Check(); err != nil {
					d.add(item, fmt.Sprintf("%q is not a pattern", text), `write a name or a pattern such as "eth*"`)
				}
				*into = append(*into, text)
			})
		}
	}
	d.mapping(n, "interfaces", keys{
		"uplinks":   patterns(&d.settings.Interfaces.Uplinks),
		"workloads": patterns(&d.settings.Interfaces.Workloads),
	})
}

func (d *settingsDecoder) failsafe(n *yaml.Node) policy.AccessRule {
	var r policy.AccessRule
	d.mapping(n, "a failsafe entry", keys{
		"name": func(n *yaml.Node) {
			r.Name = d.text(n)
			r.At = d.at(n)
		},
		"direction": func(n *yaml.Node) {
			if d.choice(n, "direction", policy.Inbound.String(), policy.Outbound.String()) == policy.Outbound.String() {
				r.Direction = policy.Outbound
			}
		},
		"addressPrefixes": func(n *yaml.Node) {
			d.each(n, "addressPrefixes", func(item *yaml.Node) {
				prefix, err := policy.ParsePrefix(d.text(item))
				d.check(item, err)
				r.AddressPrefixes = append(r.AddressPrefixes, prefix)
			})
		},
		"ports": func(n *yaml.Node) {
			d.each(n, "ports", func(item *yaml.Node) {
				ports, err := policy.ParsePorts(d.text(item))
				d.check(item, err)
				r.Ports = append(r.Ports, ports)
			})
		},
	}, "name", "direction")
	if d.keyOf(n, "ports") == nil && d.keyOf(n, "addressPrefixes") == nil && r.Name != "" {
		d.add(n, fmt.Sprintf("the failsafe entry %q would let everything pass", r.Name), "add ports, addressPrefixes, or both")
	}
	return r
}

// sinkFormats are the words for a sink's format.
func sinkFormats() []string {
	return []string{"auto", decisionlog.FormatNSP.String(), decisionlog.FormatFlat.String(), decisionlog.FormatLine.String()}
}

func (d *settingsDecoder) sink(n *yaml.Node) LogSink {
	var s LogSink
	d.mapping(n, "a log sink", keys{
		"to": func(n *yaml.Node) {
			if text := d.text(n); text == "stdout" {
				s.Stdout = true
			} else {
				d.path(&s.File.Path)(n)
			}
		},
		"format": func(n *yaml.Node) {
			if text := d.choice(n, "format", sinkFormats()...); text == "auto" {
				s.Auto = true
			} else if text != "" {
				var err error
				s.Format, err = decisionlog.ParseFormat(text)
				d.check(n, err)
			}
		},
		"maxMegabytes": func(n *yaml.Node) { s.File.MaxBytes = d.number(n, 1, 1<<20) << 20 },
		"maxFiles":     func(n *yaml.Node) { s.File.MaxFiles = int(d.number(n, 1, 100000)) },
		"maxAge":       d.duration(&s.File.MaxAge, time.Minute, 100*365*24*time.Hour),
		"compress":     func(n *yaml.Node) { s.File.Compress = d.choice(n, "compress", "true", "false") == "true" },
		"sync":         func(n *yaml.Node) { s.File.Sync = d.choice(n, "sync", "true", "false") == "true" },
	}, "to")
	if s.Auto && !s.Stdout {
		d.add(n, "format auto is for stdout", "write nsp, nsp-flat or line")
	}
	s.Auto = s.Auto || s.Stdout && d.keyOf(n, "format") == nil
	if s.Stdout && (s.File.MaxBytes != 0 || s.File.MaxFiles != 0 || s.File.MaxAge != 0 || s.File.Compress || s.File.Sync) {
		d.add(n, "stdout is not rotated", "remove maxMegabytes, maxFiles, maxAge, compress and sync")
	}
	return s
}

func (d *settingsDecoder) checkSinks(n *yaml.Node) {
	seen := map[string]bool{}
	for _, s := range d.settings.Log {
		if to := s.name(); seen[to] {
			d.add(n, fmt.Sprintf("two log sinks write to %s", to), "keep one")
		} else {
			seen[to] = true
		}
	}
}

// name is how counters and problems call a sink.
func (s *LogSink) name() string {
	if s.Stdout {
		return "stdout"
	}
	return s.File.Path
}

func (d *settingsDecoder) limits(n *yaml.Node) {
	l := &d.settings.Limits
	entries := func(into *uint32) func(*yaml.Node) {
		return func(n *yaml.Node) { *into = uint32(d.number(n, 1024, 1<<26)) }
	}
	ring := func(into *uint32) func(*yaml.Node) {
		return func(n *yaml.Node) {
			v := d.number(n, 4096, 1<<30)
			if v&(v-1) != 0 {
				d.add(n, fmt.Sprintf("a ring of %d bytes is not a power of two", v), fmt.Sprintf("write %d", nextPower(v)))
			}
			*into = uint32(v)
		}
	}
	d.mapping(n, "limits", keys{
		"establishedFlows4": entries(&l.EstablishedFlows4),
		"establishedFlows6": entries(&l.EstablishedFlows6),
		"openingFlows4":     entries(&l.OpeningFlows4),
		"openingFlows6":     entries(&l.OpeningFlows6),
		"denials":           entries(&l.Denials),
		"crowds":            entries(&l.Crowds),
		"flowRing":          ring(&l.FlowRing),
		"denialRing":        ring(&l.DenialRing),
		"learntAddresses":   entries(&l.LearntAddresses),
		"answerRing":        ring(&l.AnswerRing),
	})
}

func nextPower(v int64) int64 {
	p := int64(1)
	for p < v {
		p <<= 1
	}
	return p
}

func (d *settingsDecoder) timeouts(n *yaml.Node) {
	var t datapath.Timeouts
	of := keys{}
	for key, into := range map[string]*time.Duration{
		"tcpOpening": &t.TCPOpening, "tcpEstablished": &t.TCPEstablished,
		"tcpClosing": &t.TCPClosing, "tcpClosed": &t.TCPClosed,
		"udpOpening": &t.UDPOpening, "udpEstablished": &t.UDPEstablished,
		"icmp": &t.ICMP, "otherOpening": &t.OtherOpening, "otherEstablished": &t.OtherEstablished,
		"fragment": &t.Fragment,
	} {
		of[key] = d.duration(into, time.Second, 20*24*time.Hour)
	}
	d.mapping(n, "timeouts", of)
	d.settings.Timeouts = t
}

func (d *settingsDecoder) dns(n *yaml.Node) {
	s := &d.settings.DNS
	d.mapping(n, "dns", keys{
		"servers": func(n *yaml.Node) {
			d.each(n, "servers", func(item *yaml.Node) {
				text := d.text(item)
				if a, err := netip.ParseAddr(text); err == nil {
					text = netip.AddrPortFrom(a, 53).String()
				} else if _, err := netip.ParseAddrPort(text); err != nil {
					d.add(item, fmt.Sprintf("%q is not the address of a resolver", text), `write one such as "192.0.2.53" or "[2001:db8::53]:53"`)
				}
				s.Servers = append(s.Servers, text)
			})
		},
		"minimumInterval":  d.duration(&s.Floor, time.Second, 24*time.Hour),
		"maximumInterval":  d.duration(&s.Ceiling, time.Second, 20*24*time.Hour),
		"grace":            d.duration(&s.Grace, 0, 30*24*time.Hour),
		"timeout":          d.duration(&s.QuestionTimeout, 100*time.Millisecond, time.Minute),
		"addressesPerName": func(n *yaml.Node) { s.AddressesPerName = int(d.number(n, 1, 100000)) },
		"strict":           func(n *yaml.Node) { s.Strict = d.choice(n, "strict", "true", "false") == "true" },
		"inline":           func(n *yaml.Node) { s.ByAgent = d.choice(n, "inline", "true", "false") == "false" },
		"trusted":          d.trusted,
	})
	if s.Floor > s.Ceiling {
		d.add(n, fmt.Sprintf("minimumInterval %s is more than maximumInterval %s", s.Floor, s.Ceiling), "make it less")
	}
}

// trustedMax is how many resolvers the data path can tell (bpf/name_maps.h).
const trustedMax = 256

func (d *settingsDecoder) trusted(n *yaml.Node) {
	s := &d.settings.DNS
	d.each(n, "trusted", func(item *yaml.Node) {
		text := d.text(item)
		a, err := netip.ParseAddr(text)
		if err != nil || a.Zone() != "" {
			d.add(item, fmt.Sprintf("%q is not the address of a resolver", text), `write one such as "192.0.2.53" or "2001:db8::53"`)
			return
		}
		s.Trusted = append(s.Trusted, a.Unmap())
	})
	if len(s.Trusted) > trustedMax {
		d.add(n, fmt.Sprintf("%d resolvers are trusted", len(s.Trusted)), fmt.Sprintf("write at most %d", trustedMax))
	}
}

func (d *settingsDecoder) listen(n *yaml.Node) string {
	text := d.text(n)
	host, port, err := net.SplitHostPort(text)
	if err == nil && host != "" {
		_, err = netip.ParseAddr(host)
	}
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		d.add(n, fmt.Sprintf("%q is not an address and port", text), `write one such as "127.0.0.1:9464", or ":9464" for every address`)
	}
	return text
}
