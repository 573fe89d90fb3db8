package policy

import (
	"fmt"
	"path/filepath"
	"slices"

	"go.yaml.in/yaml/v4"
)

// tagFormat is the format of a service tag file.
type tagFormat string

const (
	azureFormat tagFormat = "azure"
	awsFormat   tagFormat = "aws"
	plainFormat tagFormat = "plain"
)

func (f tagFormat) String() string { return string(f) }

// tagFile is an entry of serviceTags.
type tagFile struct {
	path   string
	format tagFormat
	name   string // of the tag, in a plain file
	at     Position
}

// tagUse is a service tag that a rule names.
type tagUse struct {
	name string
	at   Position
}

func (d *decoder) tagFile(n *yaml.Node) {
	f := tagFile{at: d.at(n)}
	before := d.problems.total
	understood := d.mapping(n, "a service tag file",
		field{key: "file", required: true, read: func(v *yaml.Node) {
			f.at = d.at(v)
			if f.path = parsed(d, v, "file", parsePath); f.path != "" && !filepath.IsAbs(f.path) {
				f.path = filepath.Join(filepath.Dir(d.file), f.path)
			}
		}},
		field{key: "format", required: true, read: func(v *yaml.Node) {
			f.format, _ = choice(d, v, "format", azureFormat, awsFormat, plainFormat)
		}},
		field{key: "name", read: func(v *yaml.Node) {
			f.name = parsed(d, v, "name", parseName)
		}},
	)
	if understood {
		name := keyNode(n, "name")
		switch {
		case f.format == plainFormat && name == nil:
			d.add(n, "a plain service tag file has no name", "add the name of the tag")
		case f.format != plainFormat && f.format != "" && name != nil:
			d.add(name, fmt.Sprintf("name cannot be given to a service tag file in format %s, which names its tags itself", f.format), "remove it")
		}
	}
	if d.problems.total > before {
		d.tagsIncomplete = true
		return
	}
	for _, other := range d.tagFiles {
		if other.path == f.path {
			d.add(n, fmt.Sprintf("service tag file %s is already named (%s)", quote(f.path), other.at), "keep one")
			return
		}
	}
	d.tagFiles = append(d.tagFiles, f)
}

func parsePath(s string) (string, error) {
	if s == "" {
		return s, &fault{"the path of the file is empty", "write a path, relative to this file or absolute"}
	}
	return s, nil
}

// useServiceTags notes the service tags that a rule names.
func (d *decoder) useServiceTags(n *yaml.Node) {
	if n.Kind != yaml.SequenceNode {
		return
	}
	for _, item := range n.Content {
		if _, err := parseServiceTagName(item.Value); item.Tag == textTag && err == nil {
			d.tagUses = append(d.tagUses, tagUse{item.Value, d.at(item)})
		}
	}
}

// tagOffer is what all files say about one tag.
type tagOffer struct {
	file, second string // second: another file that has it too
	prefixes     *PrefixSet
}

// readServiceTags reads all service tag files, so that a broken one is found
// before it is needed, and keeps the tags that rules name.
func (d *decoder) readServiceTags(read reader, known *knownFiles) {
	wanted, offers := map[string]bool{}, map[string]*tagOffer{}
	for _, use := range d.tagUses {
		wanted[use.name] = true
	}
	for _, f := range d.tagFiles {
		d.policy.Files = append(d.policy.Files, f.path)
		text, err := read(f.path, maxServiceTagFile)
		if err != nil {
			d.tagsIncomplete = true
			d.problems.add(f.at, fmt.Sprintf("service tag file %s %s", quote(f.path), err), "repair the file, or correct this entry")
			continue
		}
		contents, ok := known.read(f, text, wanted, &d.problems)
		d.tagsIncomplete = d.tagsIncomplete || !ok
		for name, tag := range contents {
			switch o := offers[name]; {
			case o == nil && tag == nil:
				offers[name] = &tagOffer{file: f.path}
			case o == nil:
				offers[name] = &tagOffer{file: f.path, prefixes: tag}
			case o.second == "":
				o.second = f.path
			}
		}
	}
	if d.incomplete || d.tagsIncomplete {
		return
	}

	for _, use := range d.tagUses {
		offer := offers[use.name]
		switch {
		case offer == nil:
			d.problems.add(use.at, fmt.Sprintf("no service tag is named %s", quote(use.name)), d.insteadOfTag(use.name, offers))
			continue
		case offer.second != "":
			d.problems.add(use.at, fmt.Sprintf("service tag %s is in two files, %s and %s", quote(use.name), quote(offer.file), quote(offer.second)), "remove one of the files from serviceTags, or the tag from a file")
			continue
		}
		if d.policy.ServiceTags == nil {
			d.policy.ServiceTags = map[string]*PrefixSet{}
		}
		d.policy.ServiceTags[use.name] = offer.prefixes
	}
}

func (d *decoder) insteadOfTag(name string, offers map[string]*tagOffer) string {
	switch {
	case len(d.tagFiles) == 0:
		return "add the file that holds it to serviceTags"
	case d.problems.full():
		return ""
	}
	known := make([]string, 0, len(offers))
	for k := range offers {
		known = append(known, k)
	}
	slices.Sort(known)
	if near := nearest(name, known); near != "" {
		return "write " + quote(near)
	}
	return fmt.Sprintf("write one of the %d names in the files of serviceTags", len(known))
}
