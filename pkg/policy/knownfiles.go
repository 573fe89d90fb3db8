package policy

import "hash/maphash"

// knownFiles remembers what service tag files said, by path: those of the policy
// that was read last.
type knownFiles struct {
	seed      maphash.Seed
	last, now map[string]*knownFile
}

// knownFile is a file without problems.
type knownFile struct {
	format   tagFormat
	name     string
	size     int
	digest   uint64 // with a seed that nobody else knows, so that no file can be made to look like another
	contents tagContents
}

// knownTagsMax bounds the names of tags that are kept of a file, wanted or not. Azure's
// has some 3,000.
const knownTagsMax = 100_000

// begin forgets the files that the last policy did not name.
func (k *knownFiles) begin() {
	if k.now == nil {
		k.seed = maphash.MakeSeed()
	}
	k.last, k.now = k.now, map[string]*knownFile{}
}

// read is readTagFile, or what that found when it read the same text for no other
// tags.
func (k *knownFiles) read(f tagFile, text []byte, wanted map[string]bool, problems *collector) (tagContents, bool) {
	file := &knownFile{format: f.format, name: f.name, size: len(text), digest: maphash.Bytes(k.seed, text)}
	if last := k.last[f.path]; last != nil && last.has(file, wanted) {
		k.now[f.path] = last
		return last.contents, true
	}
	before := problems.total
	contents, ok := readTagFile(f, text, wanted, problems)
	if ok && problems.total == before && len(contents) <= knownTagsMax {
		file.contents = contents
		k.now[f.path] = file
	}
	return contents, ok
}

// has reports whether the contents are what would be found in another file.
func (f *knownFile) has(other *knownFile, wanted map[string]bool) bool {
	if f.format != other.format || f.name != other.name || f.size != other.size || f.digest != other.digest {
		return false
	}
	for tag, kept := range f.contents {
		if kept == nil && wanted[tag] {
			return false
		}
	}
	return true
}
