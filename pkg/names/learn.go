package names

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// Learnt is what one answer says of a name.
type Learnt struct {
	Addresses []netip.Addr
	TTL       time.Duration // the least of the records that led to them
}

// ReadAnswer reads a message that somebody else was sent as the answer to a
// question: for records of a type, A or AAAA, of a name, in lower case and without
// a trailing dot. It fails if it is not that, or says nothing of it.
func ReadAnswer(message []byte, name string, recordType uint16) (Learnt, error) {
	response := new(dns.Msg)
	if err := response.Unpack(message); err != nil {
		return Learnt{}, fmt.Errorf("read an answer about %s: %w", name, err)
	}
	return learn(response, name, recordType)
}

// Ask asks a resolver itself, over TCP, where the answer that somebody got from it
// over UDP was not whole.
func Ask(ctx context.Context, resolver netip.Addr, name string, recordType uint16) (Learnt, error) {
	question := new(dns.Msg).SetQuestion(dns.Fqdn(name), recordType)
	response, err := exchange(ctx, question, "tcp", netip.AddrPortFrom(resolver, 53).String())
	if err != nil {
		return Learnt{}, fmt.Errorf("ask %s for %s: %w", resolver, name, err)
	}
	return learn(response, name, recordType)
}

func learn(response *dns.Msg, name string, recordType uint16) (Learnt, error) {
	switch {
	case !response.Response || len(response.Question) != 1:
		return Learnt{}, errors.New("the message is no answer to one question")
	case strings.ToLower(response.Question[0].Name) != dns.Fqdn(name) || response.Question[0].Qtype != recordType ||
		response.Question[0].Qclass != dns.ClassINET:
		return Learnt{}, errors.New("the answer is to another question")
	case response.Rcode != dns.RcodeSuccess:
		return Learnt{}, nil
	}
	a := read(response, &dns.Msg{Question: response.Question})
	return Learnt{Addresses: usable(a.addresses), TTL: a.ttl}, nil
}

// usable leaves out what no host has, as the data path does.
func usable(addresses []netip.Addr) []netip.Addr {
	var out []netip.Addr
	for _, a := range addresses {
		if a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() {
			continue
		}
		if a.Is4() && (a.As4()[0] == 0 || a.As4()[0] >= 240) {
			continue
		}
		out = append(out, a)
	}
	return out
}

// Open is an address that a wanted name stands for.
type Open struct {
	Name    string
	Address netip.Addr
	Until   time.Time // some time after the name is asked for again
}

// Open returns what is to be open for the wanted names. An address of which
// nothing new is learnt meanwhile, because this process ended, is so for at least
// Options.Floor from now on.
func (r *Resolver) Open() []Open {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	var out []Open
	for text, n := range r.names {
		if !n.wanted {
			continue
		}
		until := n.next
		if until.Before(now) {
			until = now
		}
		until = until.Add(r.options.Floor)
		for address := range n.seen {
			out = append(out, Open{Name: text, Address: address, Until: until})
		}
	}
	return out
}

// Refreshed gets a value after each round of questions: what Open returns may
// have changed, if only in Until.
func (r *Resolver) Refreshed() <-chan struct{} { return r.refreshed }
