package decisionlog

import "fmt"

// Format is how a sink's records are written, one a line.
type Format uint8

const (
	FormatNSP    Format = iota // NSP's nested schema, see Record.AppendJSON
	FormatFlat                 // NSPAccessLogs columns, see Record.AppendFlat
	FormatLine                 // for the eye, see Record.AppendLine
	FormatColour               // likewise, with terminal colours
	formats
)

// ParseFormat returns the format of that name.
func ParseFormat(name string) (Format, error) {
	for f := range formats {
		if f.String() == name {
			return f, nil
		}
	}
	return 0, fmt.Errorf("unknown record format %q: write %s, %s, %s or %s", name, FormatNSP, FormatFlat, FormatLine, FormatColour)
}

// String returns the name ParseFormat takes.
func (f Format) String() string {
	return [...]string{"nsp", "nsp-flat", "line", "line-colour"}[f]
}

func (f Format) append(dst []byte, r *Record) []byte {
	switch f {
	case FormatFlat:
		return r.AppendFlat(dst)
	case FormatLine, FormatColour:
		return r.AppendLine(dst, LineStyle{Colour: f == FormatColour})
	}
	return r.AppendJSON(dst)
}
