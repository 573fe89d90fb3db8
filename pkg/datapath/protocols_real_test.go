package datapath

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/perimeterd/perimeterd/pkg/policy"
	"github.com/perimeterd/perimeterd/tests/world"
)

// protocol is one that a rule can be about, and how two hosts speak it.
type protocol struct {
	ports    string // as a rule says it
	number   int
	kind     int // of its sockets
	exchange func(c call) error
}

// call is one try to speak it: from the partner to a port of the member.
type call struct {
	protocol
	w        *wired
	family   int // index of the addresses
	port     int
	patience time.Duration
}

var protocols = []protocol{
	{"udplite/5432", unix.IPPROTO_UDPLITE, unix.SOCK_DGRAM, call.datagrams},
	{"sctp/5432", unix.IPPROTO_SCTP, unix.SOCK_STREAM, call.stream},
	{"dccp/5432", unix.IPPROTO_DCCP, unix.SOCK_DCCP, call.stream},
	{"icmp", unix.IPPROTO_ICMP, unix.SOCK_RAW, call.echo},
	{"gre", unix.IPPROTO_GRE, unix.SOCK_RAW, call.datagrams},
	{"esp", unix.IPPROTO_ESP, unix.SOCK_RAW, call.datagrams},
	{"ip/253", 253, unix.SOCK_RAW, call.datagrams}, // for experiments; no kernel knows it
}

// TestProtocols: of all protocols that sockets can speak, those get through that a
// rule names, on the port it names, and no others.
func TestProtocols(t *testing.T) {
	w := newWired(t)
	w.join(t, w.memberVeth, w.partnerVeth)
	var known []protocol
	for _, p := range protocols {
		err := errors.Join(call{p, w, 0, 5432, enough}.try(), call{p, w, 1, 5432, enough}.try())
		if isAbsent(err) { // kernels lose some, too
			t.Logf("%s is not tried, this kernel does not speak it: %v", p.ports, err)
			continue
		}
		if err != nil {
			t.Fatalf("%s without a filter: %v", p.ports, err)
		}
		known = append(known, p)
	}
	w.govern(t, Options{}, memberPolicy(policy.Enforced), w.memberVeth)
	for _, admitted := range known {
		rule := partnersOn5432()
		ports, err := policy.ParsePorts(admitted.ports)
		if err != nil {
			t.Fatal(err)
		}
		rule.Ports = []policy.Ports{ports}
		tables, legend := compiled(t, memberPolicy(policy.Enforced, rule), hereFacts())
		if _, err := w.Apply(tables, legend, nil, nil); err != nil {
			t.Fatal(err)
		}
		var calls sync.WaitGroup
		for _, p := range known {
			for family := range 2 {
				for _, port := range []int{5432, 5433} {
					hasPorts := policy.HasPorts(uint8(p.number))
					if port == 5433 && !hasPorts {
						continue
					}
					c := call{p, w, family, port, shortly}
					passes := p.ports == admitted.ports && port == 5432
					if passes {
						c.patience = enough
					}
					calls.Go(func() {
						if err := c.try(); (err == nil) != passes {
							t.Errorf("a rule for %s, and %s on port %d, family %d: %v", admitted.ports, p.ports, port, family, err)
						}
					})
				}
			}
		}
		calls.Wait()
	}
	counted := w.counted(t)
	t.Log(describe(counted))
	expectUnderstood(t, counted)
}

// try speaks the protocol once; nil if both hear each other.
func (c call) try() error {
	if err := c.exchange(c); err != nil {
		return fmt.Errorf("protocol %d: %w", c.number, err)
	}
	return nil
}

func (c call) addresses() (member, partner netip.Addr) {
	members, partners := bothFamilies.addresses()
	return netip.MustParseAddr(members[c.family]), netip.MustParseAddr(partners[c.family])
}

// socket opens a socket of the protocol and binds it to an address of the host.
func (c call) socket(host *world.Host, to netip.Addr, port int) (fd int, err error) {
	number := c.number
	if c.family == 1 && number == unix.IPPROTO_ICMP {
		number = unix.IPPROTO_ICMPV6
	}
	err = host.Run(func() error {
		fd, err = unix.Socket([]int{unix.AF_INET, unix.AF_INET6}[c.family], c.kind|unix.SOCK_CLOEXEC, number)
		return err
	})
	if err != nil {
		return -1, err
	}
	limit := unix.NsecToTimeval(c.patience.Nanoseconds())
	err = errors.Join(
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit),
	)
	if err == nil && c.kind == unix.SOCK_DCCP {
		const serviceCode, any = 2, 1 // DCCP_SOCKOPT_SERVICE
		err = unix.SetsockoptInt(fd, unix.SOL_DCCP, serviceCode, any)
	}
	if err == nil {
		err = unix.Bind(fd, sockaddr(to, port))
	}
	if err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

func sockaddr(a netip.Addr, port int) unix.Sockaddr {
	if a.Is4() {
		return &unix.SockaddrInet4{Addr: a.As4(), Port: port}
	}
	return &unix.SockaddrInet6{Addr: a.As16(), Port: port}
}

// rawPort is the port that raw sockets have.
func (c call) rawPort() int {
	if c.kind == unix.SOCK_RAW {
		return 0
	}
	return c.port
}

// datagrams asks and is answered, each with one datagram.
func (c call) datagrams() (err error) {
	member, partner := c.addresses()
	server, err := c.socket(c.w.member, member, c.rawPort())
	if err != nil {
		return err
	}
	defer unix.Close(server)
	client, err := c.socket(c.w.partner, partner, 0)
	if err != nil {
		return err
	}
	defer unix.Close(client)
	buffer := make([]byte, 2000)
	question, answer := []byte("a question"), []byte("its answer")
	if err := unix.Sendto(client, question, 0, sockaddr(member, c.rawPort())); err != nil {
		return err
	}
	n, asker, err := unix.Recvfrom(server, buffer, 0)
	if err != nil || !bytes.HasSuffix(buffer[:n], question) {
		return fmt.Errorf("the member hears %q: %w", buffer[:max(n, 0)], orOther(err))
	}
	if err := unix.Sendto(server, answer, 0, asker); err != nil {
		return err
	}
	n, _, err = unix.Recvfrom(client, buffer, 0)
	if err != nil || !bytes.HasSuffix(buffer[:n], answer) {
		return fmt.Errorf("the partner hears %q: %w", buffer[:max(n, 0)], orOther(err))
	}
	return nil
}

var errOther = errors.New("it is not what was said")

func orOther(err error) error {
	if err == nil {
		return errOther
	}
	return err
}

// stream connects, asks and is answered.
func (c call) stream() error {
	member, partner := c.addresses()
	listener, err := c.socket(c.w.member, member, c.port)
	if err != nil {
		return err
	}
	defer unix.Close(listener)
	if err := unix.Listen(listener, 1); err != nil {
		return err
	}
	client, err := c.socket(c.w.partner, partner, 0)
	if err != nil {
		return err
	}
	defer unix.Close(client)
	if err := unix.Connect(client, sockaddr(member, c.port)); err != nil {
		return err
	}
	server, _, err := unix.Accept(listener)
	if err != nil {
		return err
	}
	defer unix.Close(server)
	limit := unix.NsecToTimeval(c.patience.Nanoseconds())
	if err := unix.SetsockoptTimeval(server, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		return err
	}
	buffer := make([]byte, 100)
	for _, way := range []struct {
		from, to int
		text     string
	}{{client, server, "a question"}, {server, client, "its answer"}} {
		if err := unix.Sendto(way.from, []byte(way.text), 0, nil); err != nil {
			return err
		}
		n, _, err := unix.Recvfrom(way.to, buffer, 0)
		if err != nil || string(buffer[:n]) != way.text {
			return fmt.Errorf("heard %q: %w", buffer[:max(n, 0)], orOther(err))
		}
	}
	return nil
}

// echo asks the member's kernel.
func (c call) echo() error {
	member, partner := c.addresses()
	fd, err := c.socket(c.w.partner, partner, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	request := []byte{8, 0, 0, 0, 0, 7, 0, byte(c.family)}
	reply := byte(0)
	if c.family == 1 {
		request[0], reply = 128, 129 // the kernel adds the checksum
	} else {
		request[2], request[3] = 0xf7, 0xf8
	}
	if err := unix.Sendto(fd, request, 0, sockaddr(member, 0)); err != nil {
		return err
	}
	buffer := make([]byte, 2000)
	for {
		n, _, err := unix.Recvfrom(fd, buffer, 0)
		if err != nil {
			return err
		}
		message := buffer[:n]
		if c.family == 0 {
			message = message[20:]
		}
		if len(message) == len(request) && message[0] == reply && bytes.Equal(message[4:], request[4:]) {
			return nil
		}
	}
}
