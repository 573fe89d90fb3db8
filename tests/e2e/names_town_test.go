package e2e_test

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	freshZone    = "fresh.example.net"
	freshNetwork = "198.18.0.0/15" // for benchmarks, RFC 2544: each address there is the stranger's
	freshPort    = 8443
	dnsResolver  = "198.51.100.7" // dnsmasq, at the partner
)

// needsTool fails where a program that the tests need is missing: .ci/run installs
// it.
func needsTool(t *testing.T, program, debianPackage string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Fatalf("%s is missing: apt-get install %s", program, debianPackage)
	}
	return path
}

// freshNames is a zone in which every name exists. Each question about one gets
// an address that no other has had, for one second.
type freshNames struct {
	next   atomic.Uint32
	asked  atomic.Uint64
	many   atomic.Bool // addresses for each name, more than UDP carries without EDNS
	server *dns.Server
	tcp    *dns.Server
}

func (z *freshNames) ServeDNS(w dns.ResponseWriter, question *dns.Msg) {
	z.asked.Add(1)
	m := new(dns.Msg).SetReply(question)
	m.Authoritative = true
	count := 1
	if z.many.Load() {
		count = 60
	}
	for q := question.Question[0]; q.Qtype == dns.TypeA && count > 0; count-- {
		var a [4]byte
		base := netip.MustParsePrefix(freshNetwork).Addr().As4()
		binary.BigEndian.PutUint32(a[:], binary.BigEndian.Uint32(base[:])+1+z.next.Add(1)%(1<<17-2))
		m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}, A: net.IP(a[:])})
	}
	if _, udp := w.LocalAddr().(*net.UDPAddr); udp {
		size := dns.MinMsgSize
		if edns := question.IsEdns0(); edns != nil {
			size = int(edns.UDPSize())
		}
		m.Truncate(size)
	}
	_ = w.WriteMsg(m) // who asked asks again
}

// namesTown is a scene with a real resolver at the partner, and with servers at all
// the addresses of the zone at the stranger.
type namesTown struct {
	*scene
	zone       *freshNames
	resolvConf string
	reached    *atomic.Uint64 // connections to the servers
}

func newNamesTown(t *testing.T, settings string) *namesTown {
	dnsmasq := needsTool(t, "dnsmasq", "dnsmasq-base")
	s := newScene(t, settings, "")
	town := &namesTown{scene: s, zone: &freshNames{}, reached: &atomic.Uint64{}}
	town.serveFresh()
	town.serveZone()
	town.resolvConf = filepath.Join(t.TempDir(), "resolv.conf")
	s.must(os.WriteFile(town.resolvConf, []byte("nameserver "+dnsResolver+"\noptions timeout:2 attempts:1\n"), 0o644))
	town.runDnsmasq(s.partner, dnsmasq, "--server=127.0.0.1#5300", "--listen-address="+dnsResolver)
	return town
}

// serveFresh has the stranger answer at each address of the network.
func (town *namesTown) serveFresh() {
	s := town.scene
	s.router.Route(freshNetwork, s.stranger.addresses[0].String())
	nl := s.stranger.Netlink()
	lo, err := nl.LinkByName("lo")
	s.must(err)
	_, network, err := net.ParseCIDR(freshNetwork)
	s.must(err)
	s.must(nl.RouteAdd(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: network, Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST}))
	listener, err := s.stranger.Listen("tcp", fmt.Sprintf("0.0.0.0:%d", freshPort))
	s.must(err)
	server := &http.Server{
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello\n") }),
		ConnState:         func(_ net.Conn, state http.ConnState) { town.count(state) },
		ReadHeaderTimeout: time.Minute,
	}
	go func() { _ = server.Serve(listener) }() // until it is closed
	s.t.Cleanup(func() { _ = server.Close() })
}

func (town *namesTown) count(state http.ConnState) {
	if state == http.StateNew {
		town.reached.Add(1)
	}
}

// serveZone has the partner know the zone, on its loopback.
func (town *namesTown) serveZone() {
	s := town.scene
	socket, err := s.partner.ListenPacket("udp", "127.0.0.1:5300")
	s.must(err)
	town.zone.server = &dns.Server{PacketConn: socket, Handler: town.zone}
	listener, err := s.partner.Listen("tcp", "127.0.0.1:5300")
	s.must(err)
	town.zone.tcp = &dns.Server{Listener: listener, Handler: town.zone}
	for _, server := range []*dns.Server{town.zone.server, town.zone.tcp} {
		go func() { _ = server.ActivateAndServe() }() // until it is shut down
		s.t.Cleanup(func() { _ = server.Shutdown() })
	}
}

// runDnsmasq runs dnsmasq on a host until the test ends.
func (town *namesTown) runDnsmasq(at *place, dnsmasq string, args ...string) {
	s := town.scene
	cmd := exec.Command(dnsmasq, append([]string{
		"--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--bind-interfaces",
		"--pid-file=", "--user=root", "--cache-size=1000", "--dns-forward-max=1000", "--log-facility=/dev/null",
	}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	s.must(at.Start(cmd))
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	s.t.Cleanup(func() {
		_ = cmd.Process.Kill() // fails only if it has ended
		<-ended
	})
	listen := args[len(args)-1]
	address := listen[strings.LastIndex(listen, "=")+1:]
	question := new(dns.Msg).SetQuestion("ready."+freshZone+".", dns.TypeSOA)
	for until := time.Now().Add(patience); ; {
		err := at.Run(func() error {
			_, _, err := (&dns.Client{Timeout: 200 * time.Millisecond}).Exchange(question, address+":53")
			return err
		})
		if err == nil {
			return
		}
		select {
		case <-ended:
			s.t.Fatalf("dnsmasq has ended")
		default:
		}
		if time.Now().After(until) {
			s.t.Fatalf("dnsmasq does not answer: %v", err)
		}
	}
}

// namesPolicy lets the database reach the zone by name, and whatever else is
// listed.
func namesPolicy(more ...string) string {
	names := append([]string{`"*.` + freshZone + `"`}, more...)
	return policyOf("Enforced", fmt.Sprintf("{name: fresh, direction: Outbound, fullyQualifiedDomainNames: [%s], ports: [tcp/%d]}", strings.Join(names, ", "), freshPort))
}

// inResolving runs a program at the database that resolves by the town's resolver.
func (town *namesTown) inResolving(input string, program string, args ...string) (string, error) {
	mount := `mount --bind "$0" /etc/resolv.conf && exec "$@"`
	cmd := exec.Command("unshare", append([]string{"-m", "sh", "-c", mount, town.resolvConf, program}, args...)...)
	cmd.Stdin = strings.NewReader(input)
	var out strings.Builder
	var mu sync.Mutex
	cmd.Stdout = lockedWriter{&mu, &out}
	cmd.Stderr = cmd.Stdout
	if err := town.db.Start(cmd); err != nil {
		return "", err
	}
	err := cmd.Wait()
	return out.String(), err
}

type lockedWriter struct {
	mu *sync.Mutex
	w  io.Writer
}

func (l lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// synRetransmits is how many SYNs the database has had to send again.
func (town *namesTown) synRetransmits() (count uint64) {
	s := town.scene
	s.must(s.db.Run(func() error {
		text, err := os.ReadFile("/proc/thread-self/net/netstat")
		if err != nil {
			return err
		}
		lines := strings.Split(string(text), "\n")
		for i := 0; i+1 < len(lines); i += 2 {
			keys, values := strings.Fields(lines[i]), strings.Fields(lines[i+1])
			for j, key := range keys {
				if key == "TCPSynRetrans" && j < len(values) {
					count, err = strconv.ParseUint(values[j], 10, 64)
					return err
				}
			}
		}
		return fmt.Errorf("the kernel does not count SYNs that are sent again")
	}))
	return count
}
