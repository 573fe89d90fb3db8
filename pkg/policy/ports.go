package policy

import (
	"cmp"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// protocols are the protocols the policy language has names for. ICMPv6 is not
// among them: icmp stands for both.
var protocols = [...]struct {
	name   string
	number uint8
}{
	{"tcp", ProtocolTCP},
	{"udp", ProtocolUDP},
	{"icmp", ProtocolICMP},
	{"sctp", ProtocolSCTP},
	{"dccp", ProtocolDCCP},
	{"udplite", ProtocolUDPLite},
	{"igmp", ProtocolIGMP},
	{"gre", ProtocolGRE},
	{"esp", ProtocolESP},
	{"ah", ProtocolAH},
}

// ParsePorts reads a protocol and its ports as a policy writes them: tcp,
// tcp/443, udp/1000-2000, icmp, esp, or ip/89 for a protocol without a name.
func ParsePorts(s string) (Ports, error) {
	ports, ok := parsePorts(s)
	if !ok {
		return Ports{}, portsFault(s)
	}
	return ports, nil
}

// parsePorts is ParsePorts without the explanation of what is wrong.
func parsePorts(s string) (ports Ports, ok bool) {
	ports = Ports{First: 0, Last: math.MaxUint16}
	name, rest, hasRest := strings.Cut(s, "/")
	if name == "ip" {
		n, ok := number(rest, math.MaxUint8)
		ports.Protocol = uint8(n)
		return ports, ok && !isExtensionHeader(ports.Protocol) && ports.String() == s
	}
	if ports.Protocol, ok = protocolNumber(name); !ok || !hasRest {
		return ports, ok
	}
	from, to, isRange := strings.Cut(rest, "-")
	if !isRange {
		to = from
	}
	first, ok1 := number(from, math.MaxUint16)
	last, ok2 := number(to, math.MaxUint16)
	ports.First, ports.Last = uint16(first), uint16(last)
	return ports, ok1 && ok2 && first <= last && HasPorts(ports.Protocol)
}

func protocolNumber(name string) (uint8, bool) {
	for _, p := range protocols {
		if p.name == name {
			return p.number, true
		}
	}
	return 0, false
}

// isExtensionHeader reports whether the number stands for something that is
// found on the way to the protocol of an IPv6 packet, never as its protocol.
func isExtensionHeader(protocol uint8) bool {
	switch protocol {
	case 0, 43, 44, 60: // hop-by-hop options, routing, fragment, destination options
		return true
	}
	return false
}

// String returns the form that ParsePorts reads.
func (p Ports) String() string {
	name := ""
	for _, known := range protocols {
		if known.number == p.Protocol {
			name = known.name
		}
	}
	switch {
	case p.Protocol == ProtocolICMPv6:
		return "icmp"
	case name == "":
		return fmt.Sprintf("ip/%d", p.Protocol)
	case p.First == 0 && p.Last == math.MaxUint16:
		return name
	case p.First == p.Last:
		return fmt.Sprintf("%s/%d", name, p.First)
	}
	return fmt.Sprintf("%s/%d-%d", name, p.First, p.Last)
}

func comparePorts(a, b Ports) int {
	return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.First, b.First), cmp.Compare(a.Last, b.Last))
}

// portsFault explains why parsePorts refused s.
func portsFault(s string) error {
	name, rest, hasRest := strings.Cut(s, "/")
	if name == "ip" {
		return protocolNumberFault(s, rest)
	}
	protocol, known := protocolNumber(name)
	switch {
	case !known:
		return protocolFault(s, name, rest)
	case !HasPorts(protocol):
		return &fault{fmt.Sprintf("%s gives a port to %s, which has none", quote(s), name), fmt.Sprintf("write %q", name)}
	}
	from, to, _ := strings.Cut(rest, "-")
	if swapped := name + "/" + to + "-" + from; hasRest && isPorts(swapped) {
		return &fault{quote(s) + " ends before it begins", fmt.Sprintf("write %q", swapped)}
	}
	return &fault{
		quote(s) + " has no valid port",
		fmt.Sprintf(`write a port or a range from 0 to 65535, such as "%s/443" or "%s/1000-2000", one in each element`, name, name),
	}
}

func protocolNumberFault(s, digits string) error {
	n, ok := number(digits, math.MaxUint8)
	switch {
	case !ok:
		return &fault{quote(s) + " has no valid protocol number", `write one from 1 to 255, such as "ip/89"`}
	case isExtensionHeader(uint8(n)):
		return &fault{quote(s) + " is an IPv6 extension header, not a protocol", "write the protocol that follows it"}
	}
	named := Ports{Protocol: uint8(n), First: 0, Last: math.MaxUint16}
	return &fault{quote(s) + " has a name", fmt.Sprintf("write %q", named)}
}

func protocolFault(s, name, rest string) error {
	// 443/tcp and 443 are what other tools write.
	if swapped := rest + "/" + name; isPorts(swapped) {
		return &fault{quote(s) + " has the port before the protocol", fmt.Sprintf("write %q", swapped)}
	}
	if _, ok := number(s, math.MaxUint16); ok {
		return &fault{quote(s) + " has no protocol", fmt.Sprintf(`write "tcp/%s" or "udp/%s"`, s, s)}
	}
	names := make([]string, len(protocols))
	for i, p := range protocols {
		names[i] = p.name
	}
	instead := "write " + oneOf(append(names, "ip/NUMBER"))
	if near := nearest(name, names); near != "" {
		if rest != "" {
			near += "/" + rest
		}
		if isPorts(near) {
			instead = fmt.Sprintf("write %q", near)
		}
	}
	return &fault{quote(s) + " names no known protocol", instead}
}

func isPorts(s string) bool {
	_, ok := parsePorts(s)
	return ok
}

// number reads a decimal number of at most limit. A leading zero is refused,
// since some tools would read it as octal.
func number(s string, limit uint64) (uint64, bool) {
	if len(s) > 1 && s[0] == '0' {
		return 0, false
	}
	n, err := strconv.ParseUint(s, 10, 32)
	return n, err == nil && n <= limit
}
