package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
)

// maxTagPrefixes bounds what one service tag file adds to a policy, so that a
// file from elsewhere cannot fill the memory: every one of them takes some 100
// bytes while the policy is read.
const maxTagPrefixes = 4_000_000

// errTooManyPrefixes is the error about a file with more.
var errTooManyPrefixes = fmt.Errorf("it holds more than %d prefixes", maxTagPrefixes)

// tagContents is what a service tag file says: its tags by name, nil those that no
// rule wants.
type tagContents map[string]*PrefixSet

// tagReader reads one service tag file and keeps the prefixes of the wanted tags.
type tagReader struct {
	problems *collector
	wanted   map[string]bool
	tags     map[string]*tagPrefixes // nil: nobody wants it
	kept     int                     // prefixes
}

// tagPrefixes is the prefixes of a tag as they come.
type tagPrefixes struct{ prefixes []netip.Prefix }

// readTagFile reads a file and reports whether all its tags are known then. Bad
// prefixes are problems, but hide no tags. Of a plain file that is worth it, plain is
// what its next version can be read by.
func readTagFile(f tagFile, text []byte, wanted map[string]bool, problems *collector) (contents tagContents, plain *plainFile, ok bool) {
	t := tagReader{problems: problems, wanted: wanted, tags: map[string]*tagPrefixes{}}
	var err error
	switch f.format {
	case azureFormat:
		err = t.azure(f.path, text)
	case awsFormat:
		err = t.aws(f.path, text)
	case plainFormat:
		err = t.plain(f, text)
	}
	if err != nil {
		t.explain(f, text, err)
		return nil, nil, false
	}
	contents = tagContents{}
	for name, tag := range t.tags {
		contents[name] = nil
		if tag == nil {
			continue
		}
		contents[name] = NewPrefixSet(tag.prefixes)
		if f.format == plainFormat {
			plain = newPlainFile(text, tag.prefixes, contents[name])
		}
	}
	return contents, plain, true
}

// explain tells why a file cannot be read.
func (t *tagReader) explain(f tagFile, text []byte, err error) {
	at := Position{File: f.path, Line: 1, Column: 1}
	wrong := err.Error()
	if e, ok := err.(*jsonError); ok {
		at.Line, at.Column = lineAndColumn(text, int(e.offset))
		wrong = e.cause.Error()
	}
	t.problems.add(at, fmt.Sprintf("not a service tag file in format %s: %s", f.format, wrong), fmt.Sprintf("repair the file, or correct its entry (%s)", f.at))
}

// has notes that the file has a tag and returns where its prefixes go, nil if no
// rule wants them.
func (t *tagReader) has(tag string) *tagPrefixes {
	if _, known := t.tags[tag]; !known {
		t.tags[tag] = nil
		if t.wanted[tag] {
			t.tags[tag] = &tagPrefixes{}
		}
	}
	return t.tags[tag]
}

// keep adds a prefix to a tag.
func (t *tagReader) keep(tag *tagPrefixes, p netip.Prefix) error {
	if t.kept++; t.kept > maxTagPrefixes {
		return errTooManyPrefixes
	}
	tag.prefixes = append(tag.prefixes, p)
	return nil
}

// prefixTexts is a list of texts that is refused before it takes more memory
// than the prefixes would.
type prefixTexts []string

func (l *prefixTexts) UnmarshalJSON(text []byte) error {
	if bytes.Count(text, []byte(",")) >= maxTagPrefixes {
		return errTooManyPrefixes
	}
	return json.Unmarshal(text, (*[]string)(l))
}

// azure reads the ServiceTags file of Azure. Tags have the names they have
// there.
func (t *tagReader) azure(file string, text []byte) error {
	var entry struct {
		Name       string `json:"name"`
		Properties struct {
			AddressPrefixes prefixTexts `json:"addressPrefixes"`
		} `json:"properties"`
	}
	return eachElement(text, []string{"values"}, func(element *json.Decoder) error {
		start := element.InputOffset()
		entry.Name, entry.Properties.AddressPrefixes = "", entry.Properties.AddressPrefixes[:0]
		if err := element.Decode(&entry); err != nil {
			return err
		}
		if entry.Name == "" {
			return errors.New(`an element of "values" has no name`)
		}
		tag := t.has(entry.Name)
		if tag == nil {
			return nil
		}
		for _, s := range entry.Properties.AddressPrefixes {
			p, ok := t.prefix(file, text, start, s)
			if !ok {
				continue
			}
			if err := t.keep(tag, p); err != nil {
				return err
			}
		}
		return nil
	})
}

// aws reads the ip-ranges file of AWS. Every service is a tag, and so is every
// service in one region: S3 and S3.eu-west-1.
func (t *tagReader) aws(file string, text []byte) error {
	var entry struct {
		IPv4    string `json:"ip_prefix"`
		IPv6    string `json:"ipv6_prefix"`
		Region  string `json:"region"`
		Service string `json:"service"`
	}
	return eachElement(text, []string{"prefixes", "ipv6_prefixes"}, func(element *json.Decoder) error {
		start := element.InputOffset()
		entry.IPv4, entry.IPv6, entry.Region, entry.Service = "", "", "", ""
		if err := element.Decode(&entry); err != nil {
			return err
		}
		if entry.Service == "" || entry.Region == "" {
			return errors.New("a prefix has no service or no region")
		}
		everywhere := t.has(entry.Service)
		regional := t.has(entry.Service + "." + entry.Region)
		if everywhere == nil && regional == nil {
			return nil
		}
		p, ok := t.prefix(file, text, start, entry.IPv4+entry.IPv6)
		for _, tag := range []*tagPrefixes{everywhere, regional} {
			if !ok || tag == nil {
				continue
			}
			if err := t.keep(tag, p); err != nil {
				return err
			}
		}
		return nil
	})
}

// plain reads a list with an address or a prefix on each line.
func (t *tagReader) plain(f tagFile, text []byte) error {
	tag := t.has(f.name)
	if tag == nil {
		tag = &tagPrefixes{} // checked all the same
	}
	rest := strings.TrimPrefix(string(text), byteOrderMark)
	for number := 1; rest != ""; number++ {
		var line string
		line, rest, _ = strings.Cut(rest, "\n")
		s := plainLine(line)
		if s == "" {
			continue
		}
		p, err := ParsePrefix(s)
		if err != nil {
			column := 1 + len(line) - len(strings.TrimLeft(line, " \t\r"))
			t.problems.addFault(Position{File: f.path, Line: number, Column: column}, err)
			continue
		}
		if err := t.keep(tag, p); err != nil {
			return err
		}
	}
	return nil
}

// prefix parses a prefix of a JSON file, in an element that starts at an offset.
func (t *tagReader) prefix(file string, text []byte, start int64, s string) (netip.Prefix, bool) {
	p, err := ParsePrefix(s)
	if err != nil {
		offset := int(start)
		if i := bytes.Index(text[start:], []byte(`"`+s+`"`)); i >= 0 {
			offset += i
		}
		at := Position{File: file}
		at.Line, at.Column = lineAndColumn(text, offset)
		t.problems.addFault(at, err)
	}
	return p, err == nil
}

// jsonError is what is wrong with a JSON file, and where.
type jsonError struct {
	cause  error
	offset int64
}

func (e *jsonError) Error() string { return e.cause.Error() }

// eachElement calls read with the decoder before every element of the lists
// that the object in text has under these keys. At least one of the lists must
// be there. Elements are decoded one by one, so that the whole tree is never in
// memory. The error is a *jsonError.
func eachElement(text []byte, lists []string, read func(*json.Decoder) error) error {
	decoder := json.NewDecoder(bytes.NewReader(text))
	err := walkElements(decoder, lists, read)
	if err == nil {
		return nil
	}
	e := &jsonError{err, decoder.InputOffset()}
	// The decoder counts from where it began to scan, Unmarshal from the start,
	// the bad byte included.
	var syntax *json.SyntaxError
	if errors.As(json.Unmarshal(text, new(json.RawMessage)), &syntax) {
		e.cause, e.offset = syntax, syntax.Offset-1
	}
	var mistyped *json.UnmarshalTypeError
	switch {
	case errors.As(err, &mistyped):
		// Its own words are about Go types.
		e.cause = fmt.Errorf("a %s stands where none can be", mistyped.Value)
	case errors.Is(err, io.EOF):
		e.cause = io.ErrUnexpectedEOF
	}
	return e
}

func walkElements(decoder *json.Decoder, lists []string, read func(*json.Decoder) error) error {
	if err := expect(decoder, json.Delim('{')); err != nil {
		return err
	}
	found := false
	for decoder.More() {
		key, err := decoder.Token()
		if err != nil {
			return err
		}
		if name, ok := key.(string); !ok || !slices.Contains(lists, name) {
			var skipped json.RawMessage
			if err := decoder.Decode(&skipped); err != nil {
				return err
			}
			continue
		}
		found = true
		if err := expect(decoder, json.Delim('[')); err != nil {
			return err
		}
		for decoder.More() {
			if err := read(decoder); err != nil {
				return err
			}
		}
		if err := expect(decoder, json.Delim(']')); err != nil {
			return err
		}
	}
	if err := expect(decoder, json.Delim('}')); err != nil {
		return err
	}
	if !found {
		return fmt.Errorf("there is no %s", oneOf(quoted(lists)))
	}
	if _, err := decoder.Token(); err != io.EOF {
		return errors.New("there is something after the end of the object")
	}
	return nil
}

func expect(decoder *json.Decoder, want json.Delim) error {
	token, err := decoder.Token()
	if err != nil {
		return err
	}
	if token != want {
		return fmt.Errorf("%q is missing", want.String())
	}
	return nil
}
