package main

import (
	"net"

	"github.com/miekg/dns"
)

// ratesName is the name that the partner's service has.
const ratesName = "rates.partner.example"

// resolveNames starts a name server at the partner that knows one name.
func resolveNames(at *place) error {
	socket, err := at.ListenPacket("udp", net.JoinHostPort(at.addresses[0].String(), "53"))
	if err != nil {
		return err
	}
	answer := func(w dns.ResponseWriter, question *dns.Msg) {
		response := new(dns.Msg).SetReply(question)
		q := question.Question[0]
		head := dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: 300}
		switch {
		case q.Name != dns.Fqdn(ratesName):
			response.Rcode = dns.RcodeNameError
		case q.Qtype == dns.TypeA:
			response.Answer = []dns.RR{&dns.A{Hdr: head, A: at.addresses[0].AsSlice()}}
		case q.Qtype == dns.TypeAAAA:
			response.Answer = []dns.RR{&dns.AAAA{Hdr: head, AAAA: at.addresses[1].AsSlice()}}
		}
		_ = w.WriteMsg(response) // who does not get it asks again
	}
	server := &dns.Server{PacketConn: socket, Handler: dns.HandlerFunc(answer)}
	go func() { _ = server.ActivateAndServe() }() // until the world closes its socket
	return nil
}
