package names

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// family is an address family; a name is asked for each.
type family uint8

const (
	four family = iota
	six
	families
)

var questionTypes = [families]uint16{four: dns.TypeA, six: dns.TypeAAAA}

func familyOf(a netip.Addr) family {
	if a.Is4() {
		return four
	}
	return six
}

// answer is what the resolvers say of one family of a name.
type answer struct {
	addresses []netip.Addr
	ttl       time.Duration
	err       error
}

// rounds is how often all servers are asked before it counts as a failure.
const rounds = 2

// ask asks one server after the other until one knows. That a name does not
// exist is an answer too.
func (r *Resolver) ask(ctx context.Context, servers []string, text string, f family) answer {
	question := new(dns.Msg).SetQuestion(dns.Fqdn(text), questionTypes[f])
	question.SetEdns0(1232, false)
	var errs []error
	for round := range rounds {
		for _, server := range servers {
			response, err := r.exchange(ctx, question, server)
			if err == nil {
				return read(response, question)
			}
			if ctx.Err() != nil {
				return answer{err: ctx.Err()}
			}
			if round == 0 {
				errs = append(errs, fmt.Errorf("%s %s at %s: %w", dns.TypeToString[questionTypes[f]], text, server, err))
			}
		}
	}
	return answer{err: errors.Join(errs...)}
}

// exchange asks one server, over TCP where the answer did not fit into UDP.
func (r *Resolver) exchange(ctx context.Context, question *dns.Msg, server string) (*dns.Msg, error) {
	for _, network := range []string{"udp", "tcp"} {
		limited, cancel := context.WithTimeout(ctx, r.options.Timeout)
		response, err := r.options.Exchange(limited, question, network, server)
		cancel()
		switch {
		case err != nil:
			return nil, err
		case len(response.Question) != 1 || !strings.EqualFold(response.Question[0].Name, question.Question[0].Name) ||
			response.Question[0].Qtype != question.Question[0].Qtype:
			return nil, errors.New("the answer is to another question")
		case response.Truncated && network == "udp":
			continue
		case response.Rcode != dns.RcodeSuccess && response.Rcode != dns.RcodeNameError:
			return nil, fmt.Errorf("the server says %s", dns.RcodeToString[response.Rcode])
		}
		return response, nil
	}
	return nil, errors.New("the answer is truncated, also over TCP")
}

// exchange is the default of Options.Exchange.
func exchange(ctx context.Context, question *dns.Msg, network, server string) (*dns.Msg, error) {
	client := &dns.Client{Net: network}
	response, _, err := client.ExchangeContext(ctx, question, server)
	return response, err
}

// aliasesMax bounds a chain of aliases.
const aliasesMax = 16

// noData is how long it counts that a name has no addresses, if the answer does
// not say.
const noData = time.Minute

// read collects the addresses at the end of the chain of aliases that begins
// with the name that was asked for. Records of other names are passed over: they
// may be anybody's.
func read(response, question *dns.Msg) answer {
	wanted := question.Question[0]
	owner := strings.ToLower(wanted.Name)
	var out answer
	ttl := ^uint32(0)
	for range aliasesMax {
		alias := ""
		for _, record := range response.Answer {
			h := record.Header()
			if strings.ToLower(h.Name) != owner {
				continue
			}
			switch v := record.(type) {
			case *dns.CNAME:
				alias = strings.ToLower(v.Target)
			case *dns.A:
				out.add(v.A, four)
			case *dns.AAAA:
				out.add(v.AAAA, six)
			default:
				continue
			}
			ttl = min(ttl, h.Ttl)
		}
		if alias == "" || len(out.addresses) > 0 {
			break
		}
		owner = alias
	}
	if len(out.addresses) == 0 {
		return answer{ttl: negativeTTL(response)}
	}
	out.ttl = time.Duration(ttl) * time.Second
	return out
}

// add adds an address of the family, unless it is no such address: an AAAA
// record can hold an IPv4 address in disguise, which no packet carries.
func (a *answer) add(ip net.IP, f family) {
	address, ok := netip.AddrFromSlice(ip)
	if f == four {
		address = address.Unmap()
	}
	if ok && !address.Is4In6() && familyOf(address) == f {
		a.addresses = append(a.addresses, address)
	}
}

// negativeTTL is how long it counts that there are no addresses (RFC 2308).
func negativeTTL(response *dns.Msg) time.Duration {
	for _, record := range response.Ns {
		if soa, ok := record.(*dns.SOA); ok {
			return time.Duration(min(soa.Hdr.Ttl, soa.Minttl)) * time.Second
		}
	}
	return noData
}

// ServersOf returns a function for Options.Servers: the servers given, or if
// there are none those of a resolv.conf, read each time.
func ServersOf(configured []string, resolvConf string) func() ([]string, error) {
	return func() ([]string, error) {
		if len(configured) > 0 {
			return configured, nil
		}
		config, err := dns.ClientConfigFromFile(resolvConf)
		if err != nil {
			return nil, fmt.Errorf("find the resolvers: %w", err)
		}
		var out []string
		for _, server := range config.Servers {
			out = append(out, net.JoinHostPort(server, config.Port))
		}
		return out, nil
	}
}
