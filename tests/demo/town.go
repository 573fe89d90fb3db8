package main

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"

	"github.com/perimeterd/perimeterd/tests/deployment"
	"github.com/perimeterd/perimeterd/tests/traffic"
	"github.com/perimeterd/perimeterd/tests/world"
)

//go:embed policy/*.yaml
var policyFiles embed.FS

// townMap is the town as build builds it.
const townMap = `
                       ┌ server, with perimeterd ────────────────────┐
  partner  ──┐         │  ┌──────────┐  ┌──────────┐  ┌──────────┐  │
  stranger ──┼─ internet ─┤ database │  │  broker  │  │  vault   │  │   perimeter payments
  batch    ──┤         │  │ tcp/5432 │  │ udp/5672 │  │ tcp/8200 │  │
  cloud    ──┘    │    │  └──────────┘  └──────────┘  └──────────┘  │
                  │    └─────────────────────────────────────────────┘
                  └──── reports, with a perimeterd of its own             perimeter analytics`

// town is the network and who is in it. Database, broker and vault are
// namespaces on one server, as containers are; everybody else is a host.
type town struct {
	database, broker, vault, reports *place
	partner, stranger, batch, cloud  *place

	postgres, queue, secrets *service // of the perimeter payments
	shut                     *service // on the broker, which nobody is let into
	rates                    *service // at the partner
	dropSite                 *service // at the stranger

	server, reporter *guarded
	internet         *world.Host
	cloudUplink      world.Interface
}

// guarded is a host with perimeterd on it.
type guarded struct {
	host *world.Host
	*deployment.Deployment
}

// place is somebody who can reach out, from an address of each family. It is a
// traffic.Network.
type place struct {
	*world.Host
	name      string        // of the resource, if it is one
	addresses [2]netip.Addr // IPv4, IPv6
	guard     *guarded      // nil if nobody judges its traffic
}

// Dial connects from the place's own address: a host may have those of several.
func (p *place) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	from := p.addresses[0]
	if to.Addr().Is6() {
		from = p.addresses[1]
	}
	return p.DialFrom(ctx, network, netip.AddrPortFrom(from, 0).String(), address)
}

// service is what a place offers.
type service struct {
	*place
	network string // tcp, udp or http
	port    uint16
	server  *traffic.Server // on the IPv4 and the IPv6 address
}

func (s *service) String() string {
	protocol := s.network
	if protocol == "http" {
		protocol = "tcp"
	}
	return fmt.Sprintf("%s %s/%d", s.name, protocol, s.port)
}

func (s *service) address(family int) string {
	return netip.AddrPortFrom(s.addresses[family], s.port).String()
}

// build builds the hosts, the links between them, and the servers.
func (d *demo) build(w *world.World) *town {
	t := &town{internet: w.Router("internet"), server: &guarded{host: w.Router("server")}}
	w.Uplink(t.server.host, t.internet, "10.20.0.2/24", "fd20::2/64")
	for _, inside := range []string{"10.20.0.0/16", "fd20::/48"} {
		via := map[bool]string{true: "10.20.0.2", false: "fd20::2"}[inside[0] == '1']
		t.internet.Route(inside, via)
	}
	t.database, _ = settle(w, t.server.host, "database", "10.20.1.5/24", "fd20:0:0:1::5/64")
	t.broker, _ = settle(w, t.server.host, "broker", "10.20.2.6/24", "fd20:0:0:2::6/64")
	t.vault, _ = settle(w, t.server.host, "vault", "10.20.3.7/24", "fd20:0:0:3::7/64")
	t.reports, _ = settle(w, t.internet, "reports", "10.30.0.9/24", "fd30::9/64")
	t.batch, _ = settle(w, t.internet, "batch", "10.40.0.3/24", "fd40::3/64")
	t.partner, _ = settle(w, t.internet, "partner", "198.51.100.7/24", "2001:db8:98::7/64")
	t.stranger, _ = settle(w, t.internet, "stranger", "203.0.113.9/24", "2001:db8:bad::9/64")
	t.cloud, t.cloudUplink = settle(w, t.internet, "cloud", "192.0.2.4/24", "2001:db8:c::4/64")

	t.reporter = &guarded{host: t.reports.Host}
	t.database.guard, t.broker.guard, t.vault.guard = t.server, t.server, t.server
	t.reports.guard = t.reporter

	open := func(at *place, network string, port uint16) *service {
		start := map[string]func(traffic.Network, string) (*traffic.Server, error){
			"tcp": traffic.Database, "udp": traffic.Broker, "http": traffic.Vault,
		}[network]
		server, err := start(at, fmt.Sprintf(":%d", port))
		d.must(err)
		return &service{at, network, port, server}
	}
	t.postgres = open(t.database, "tcp", 5432)
	t.queue = open(t.broker, "udp", 5672)
	t.shut = open(t.broker, "udp", 5673)
	t.secrets = open(t.vault, "http", 8200)
	t.rates = open(t.partner, "http", 8443)
	t.dropSite = open(t.stranger, "tcp", 443)
	d.must(resolveNames(t.partner))
	return t
}

func settle(w *world.World, router *world.Host, name, address4, address6 string) (*place, world.Interface) {
	host := w.Host(name)
	up, _ := w.Uplink(host, router, address4, address6)
	return &place{Host: host, name: name, addresses: [2]netip.Addr{
		netip.MustParsePrefix(address4).Addr(), netip.MustParsePrefix(address6).Addr(),
	}}, up
}

// deploy gives both servers what perimeterd needs there, and one policy. It
// starts nothing.
func (d *demo) deploy(binaries deployment.Binaries) error {
	const common = `
denialWindow: 1s
dns: {servers: ["198.51.100.7"]}
`
	var err error
	d.server.Deployment, err = deployment.New(deployment.Options{
		Binaries: binaries, Host: d.server.host,
		// What comes from these three is from a member: they are like containers.
		Settings: common + "interfaces: {uplinks: [internet], workloads: [database, broker, vault]}\n",
	})
	if err != nil {
		return err
	}
	d.reporter.Deployment, err = deployment.New(deployment.Options{
		Binaries: binaries, Host: d.reporter.host, Settings: common, Policy: d.server.Policy,
	})
	if err != nil {
		return err
	}
	files, err := policyFiles.ReadDir("policy")
	if err != nil {
		return err
	}
	for _, file := range files {
		text, err := policyFiles.ReadFile(filepath.Join("policy", file.Name()))
		if err == nil {
			err = d.server.WritePolicy(file.Name(), string(text))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// servers are the hosts that have a perimeterd by now.
func (d *demo) servers() (out []*guarded) {
	if d.town == nil {
		return nil
	}
	for _, s := range []*guarded{d.server, d.reporter} {
		if s.Deployment != nil {
			out = append(out, s)
		}
	}
	return out
}

// close ends what goes on and removes both deployments.
func (d *demo) close() {
	for _, talk := range d.talks {
		talk.Stop()
	}
	for _, s := range d.servers() {
		d.surprise = errors.Join(d.surprise, s.Close())
	}
}
