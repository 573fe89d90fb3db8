package policy

import (
	"fmt"
	"net/netip"
	"strings"
)

// ParsePrefix reads an address or a prefix as a policy writes it. An address is
// its full-length prefix; the result is masked. Host bits, zones and
// IPv4-mapped IPv6 are errors that say what to write instead.
func ParsePrefix(s string) (netip.Prefix, error) {
	var p netip.Prefix
	var err error
	if strings.IndexByte(s, '/') >= 0 {
		p, err = netip.ParsePrefix(s)
	} else {
		var a netip.Addr
		if a, err = netip.ParseAddr(s); err == nil {
			if a.Zone() != "" {
				return netip.Prefix{}, zoned(s)
			}
			p = netip.PrefixFrom(a, a.BitLen())
		}
	}
	switch {
	case err != nil && strings.IndexByte(s, '%') >= 0:
		return netip.Prefix{}, zoned(s)
	case err != nil:
		return netip.Prefix{}, notAPrefix(s)
	case p.Addr().Is4In6() && p.Bits() >= 96:
		four := netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96).Masked()
		return netip.Prefix{}, &fault{
			quote(s) + " is an IPv4-mapped IPv6 address, which no packet carries",
			fmt.Sprintf("write %q", written(four)),
		}
	case p != p.Masked():
		return netip.Prefix{}, &fault{
			quote(s) + " has host bits set",
			fmt.Sprintf("write %q, or %q for the one address", p.Masked(), p.Addr()),
		}
	}
	return p, nil
}

// parseMemberPrefix reads an address or prefix that a resource has.
func parseMemberPrefix(s string) (netip.Prefix, error) {
	p, err := ParsePrefix(s)
	if err != nil {
		return p, err
	}
	a := p.Addr()
	switch {
	case a.IsMulticast() && p.Bits() >= multicastBits(a):
		return p, &fault{
			quote(s) + " is multicast, which no resource can have as its address",
			"write the addresses of the resource itself; multicast to them is judged for them",
		}
	case a.IsUnspecified() && p.IsSingleIP():
		return p, &fault{
			quote(s) + " is the unspecified address, which no resource can have",
			"write the addresses the resource is reached at, or interfaces",
		}
	case p == netip.PrefixFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), 32):
		return p, &fault{
			quote(s) + " is the broadcast address, which no resource can have",
			"write the addresses of the resource itself; broadcast to them is judged for them",
		}
	}
	return p, nil
}

// multicastBits is the length of the prefix that holds all multicast of the
// address's family; a shorter prefix holds other addresses too.
func multicastBits(a netip.Addr) int {
	if a.Is4() {
		return 4
	}
	return 8
}

func zoned(s string) error {
	before, after, _ := strings.Cut(s, "%")
	if i := strings.IndexByte(after, '/'); i >= 0 {
		before += after[i:]
	}
	return &fault{
		quote(s) + " has a zone, which a packet does not carry",
		fmt.Sprintf("write %q", before),
	}
}

func notAPrefix(s string) error {
	if t := strings.TrimSpace(s); t != s {
		if _, err := ParsePrefix(t); err == nil {
			return &fault{quote(s) + " has blanks around it", fmt.Sprintf("write %q", t)}
		}
	}
	return &fault{
		quote(s) + " is neither an address nor a prefix",
		`write one such as "192.0.2.7", "192.0.2.0/24" or "2001:db8::/32"`,
	}
}

// written returns a prefix the way an operator writes it: a host without its
// length.
func written(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}
