package decisionlog

import (
	"net/netip"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// LineStyle is how AppendLine writes.
type LineStyle struct {
	// Colour adds terminal escapes. Optional, defaults to none.
	Colour bool
	// Location is the zone times are shown in. Optional, defaults to UTC.
	Location *time.Location
}

// The widths of the columns; what is longer pushes the rest to the right.
const (
	markWidth     = len("would-deny")
	memberWidth   = 24
	peerWidth     = 28
	protocolWidth = 6
	shortWidth    = len("perimeter")
)

const colourOff = "\x1b[0m"

// AppendLine appends the record as one line for the eye, without a line end:
// time, what happened, member, direction, peer, protocol, whose rules decided,
// reason and rule, repetitions, and for a flow that ended what it carried.
func (r *Record) AppendLine(dst []byte, style LineStyle) []byte {
	x := &r.Properties.Perimeterd
	location := style.Location
	if location == nil {
		location = time.UTC
	}
	dst = r.Time.In(location).AppendFormat(dst, "15:04:05.000")
	dst = append(dst, "  "...)

	mark, colour := r.mark()
	if style.Colour {
		dst = append(dst, colour...)
	}
	dst = append(dst, mark...)
	if style.Colour {
		dst = append(dst, colourOff...)
	}
	dst = append(dst, spaces(markWidth-len(mark))...)
	dst = append(dst, "  "...)

	inbound := x.Direction == "Inbound"
	peer, arrow := &r.Properties.Destination, "→"
	if inbound {
		peer, arrow = &r.Properties.Source, "←"
	}
	dst = appendColumn(dst, memberWidth, func(dst []byte) []byte { return r.appendLocalEnd(dst, inbound) })
	dst = append(dst, arrow...)
	dst = append(dst, ' ')
	dst = appendColumn(dst, peerWidth, func(dst []byte) []byte {
		if x.PeersNotToldApart {
			return appendCrowd(dst, peer.Port)
		}
		return appendEnd(dst, peer.IPAddress, peer.Port)
	})
	dst = appendColumn(dst, protocolWidth, func(dst []byte) []byte {
		_, transport, _ := strings.Cut(peer.Protocol, ":")
		return appendPrintable(dst, strings.ToLower(transport))
	})
	dst = appendColumn(dst, shortWidth, func(dst []byte) []byte {
		return append(dst, classify(r.Category, x.Reason).short()...)
	})

	dst = appendPrintable(dst, string(x.Reason))
	if rule := r.Properties.MatchedRule.AccessRule; rule != "" {
		dst = append(dst, ' ')
		dst = appendPrintable(dst, rule)
	}
	for _, name := range []string{peer.FullyQualifiedDomainName, x.Question} {
		if name != "" {
			dst = append(dst, " ("...)
			dst = appendPrintable(dst, name)
			dst = append(dst, ')')
		}
	}
	if r.Count > 1 {
		dst = append(dst, " ×"...)
		dst = strconv.AppendUint(dst, uint64(r.Count), 10)
	}
	if x.Flow != (Flow{}) {
		dst = r.appendFlow(dst)
	}
	return dst
}

// mark says what happened, and in which colour.
func (r *Record) mark() (mark, colour string) {
	const green, red, yellow, magenta, faint = "\x1b[32m", "\x1b[1;31m", "\x1b[33m", "\x1b[35m", "\x1b[2m"
	x := &r.Properties.Perimeterd
	switch {
	case r.Operation == OperationFlowEnd:
		return "end", faint
	case r.Operation == OperationFlowCut:
		return "cut", magenta
	case x.Verdict == "deny":
		return "deny", red
	case x.WouldBe == "deny":
		return "would-deny", yellow
	}
	return "allow", green
}

// appendLocalEnd appends the member's name and, inbound, the port that was
// asked for; outbound the local port means nothing.
func (r *Record) appendLocalEnd(dst []byte, inbound bool) []byte {
	p := &r.Properties
	id := p.ServiceResourceID
	switch {
	case id != "":
		dst = appendPrintable(dst, id[strings.LastIndexByte(id, '/')+1:])
	case p.Perimeterd.Local.IPAddress.IsValid():
		local := p.Perimeterd.Local
		if !inbound {
			local.Port = 0
		}
		return appendEnd(dst, local.IPAddress, local.Port)
	case p.Perimeterd.Member != 0:
		dst = append(dst, "member "...)
		dst = strconv.AppendUint(dst, uint64(p.Perimeterd.Member), 10)
	default:
		return append(dst, '?')
	}
	if port := p.Perimeterd.Local.Port; inbound && port != 0 {
		dst = append(dst, ':')
		dst = strconv.AppendUint(dst, uint64(port), 10)
	}
	return dst
}

func (r *Record) appendFlow(dst []byte) []byte {
	f := &r.Properties.Perimeterd.Flow
	dst = append(dst, "  in "...)
	dst = appendSize(dst, f.BytesTowards)
	dst = append(dst, '/')
	dst = strconv.AppendUint(dst, f.PacketsTowards, 10)
	dst = append(dst, " out "...)
	dst = appendSize(dst, f.BytesFrom)
	dst = append(dst, '/')
	dst = strconv.AppendUint(dst, f.PacketsFrom, 10)
	if !f.Started.IsZero() {
		dst = append(dst, ' ')
		dst = append(dst, r.Time.Sub(f.Started).Round(time.Millisecond).String()...)
	}
	if f.Midstream {
		dst = append(dst, " midstream"...)
	}
	return dst
}

func appendEnd(dst []byte, a netip.Addr, port uint16) []byte {
	switch {
	case !a.IsValid():
		return append(dst, '?')
	case port == 0:
		return appendPrintable(dst, a.String())
	}
	return appendPrintable(dst, netip.AddrPortFrom(a, port).String())
}

// appendCrowd appends what there is to say of peers that were not told apart, and
// outbound the port that they were asked for.
func appendCrowd(dst []byte, port uint16) []byte {
	dst = append(dst, "peers not told apart"...)
	if port != 0 {
		dst = append(dst, ':')
		dst = strconv.AppendUint(dst, uint64(port), 10)
	}
	return dst
}

// appendSize appends a number of bytes in the largest unit that leaves at
// least one before the point.
func appendSize(dst []byte, n uint64) []byte {
	if n < 1024 {
		dst = strconv.AppendUint(dst, n, 10)
		return append(dst, 'B')
	}
	const units = "KMGTPE"
	value, unit := float64(n)/1024, 0
	for value >= 1024 {
		value /= 1024
		unit++
	}
	dst = strconv.AppendFloat(dst, value, 'f', 1, 64)
	return append(dst, units[unit], 'i', 'B')
}

// appendColumn appends what write appends, filled up to width characters, and
// a gap.
func appendColumn(dst []byte, width int, write func([]byte) []byte) []byte {
	start := len(dst)
	dst = write(dst)
	dst = append(dst, spaces(width-utf8.RuneCount(dst[start:]))...)
	return append(dst, ' ')
}

func spaces(n int) string {
	return strings.Repeat(" ", max(n, 0))
}

// appendPrintable appends s for a terminal, which control characters in a
// name would otherwise command.
func appendPrintable(dst []byte, s string) []byte {
	for _, c := range s {
		if c < ' ' || 0x7f <= c && c < 0xa0 {
			c = '?'
		}
		dst = utf8.AppendRune(dst, c)
	}
	return dst
}
