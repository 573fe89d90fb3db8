package decisionlog

import (
	"net/netip"
	"strconv"
	"time"
	"unicode/utf8"
)

// The appenders of JSON members take the member's key with quotes and colon,
// leave out what is empty, and end with a comma, which closeObject replaces.

func appendText(dst []byte, key, value string) []byte {
	if value == "" {
		return dst
	}
	return appendAlways(dst, key, value)
}

func appendAlways(dst []byte, key, value string) []byte {
	dst = append(dst, key...)
	dst = appendString(dst, value)
	return append(dst, ',')
}

func appendNumber(dst []byte, key string, value uint64) []byte {
	dst = append(dst, key...)
	dst = strconv.AppendUint(dst, value, 10)
	return append(dst, ',')
}

func appendInstant(dst []byte, key string, t time.Time) []byte {
	if t.IsZero() {
		return dst
	}
	dst = append(dst, key...)
	dst = append(dst, '"')
	dst = appendTime(dst, t)
	return append(dst, '"', ',')
}

func appendAddress(dst []byte, key string, a netip.Addr) []byte {
	if !a.IsValid() {
		return dst
	}
	if a.Zone() != "" { // may hold anything, so it needs the escapes
		return appendAlways(dst, key, a.String())
	}
	dst = append(dst, key...)
	dst = append(dst, '"')
	dst = a.AppendTo(dst)
	return append(dst, '"', ',')
}

func appendPort(dst []byte, key string, port uint16) []byte {
	if port == 0 {
		return dst
	}
	dst = append(dst, key...)
	dst = append(dst, '"')
	dst = strconv.AppendUint(dst, uint64(port), 10)
	return append(dst, '"', ',')
}

func closeObject(dst []byte) []byte {
	if last := len(dst) - 1; dst[last] == ',' {
		dst[last] = '}'
		return dst
	}
	return append(dst, '}')
}

const hexDigits = "0123456789abcdef"

// appendString appends s as a JSON string. A byte that is not UTF-8 becomes
// U+FFFD, as encoding/json has it, so that the line is always valid.
func appendString[T string | []byte](dst []byte, s T) []byte {
	dst = append(dst, '"')
	done := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= ' ' && c < utf8.RuneSelf && c != '"' && c != '\\' {
			i++
			continue
		}
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRuneInString(string(s[i:min(i+utf8.UTFMax, len(s))]))
			if r != utf8.RuneError || size != 1 {
				i += size
				continue
			}
		}
		dst = append(dst, s[done:i]...)
		switch {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c == '\n':
			dst = append(dst, '\\', 'n')
		case c < ' ':
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		default:
			dst = append(dst, `\ufffd`...)
		}
		i++
		done = i
	}
	dst = append(dst, s[done:]...)
	return append(dst, '"')
}

// appendTime appends t as RFC 3339 in UTC with six decimals, which every
// reader of such times takes and which sort as text.
func appendTime(dst []byte, t time.Time) []byte {
	t = t.UTC()
	year, month, day := t.Date()
	hour, minute, second := t.Clock()
	dst = appendDigits(dst, year, 4)
	dst = append(dst, '-')
	dst = appendDigits(dst, int(month), 2)
	dst = append(dst, '-')
	dst = appendDigits(dst, day, 2)
	dst = append(dst, 'T')
	dst = appendDigits(dst, hour, 2)
	dst = append(dst, ':')
	dst = appendDigits(dst, minute, 2)
	dst = append(dst, ':')
	dst = appendDigits(dst, second, 2)
	dst = append(dst, '.')
	dst = appendDigits(dst, t.Nanosecond()/1000, 6)
	return append(dst, 'Z')
}

// appendDigits appends the last width digits of n, which is not negative.
func appendDigits(dst []byte, n, width int) []byte {
	var digits [8]byte
	for i := width - 1; i >= 0; i-- {
		digits[i] = byte('0' + n%10)
		n /= 10
	}
	return append(dst, digits[:width]...)
}
