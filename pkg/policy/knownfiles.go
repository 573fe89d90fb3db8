package policy

import "hash/maphash"

// knownFiles remembers what service tag files said, by path: those of the policy
// that was read last.
type knownFiles struct {
	seed      maphash.Seed
	last, now map[string]*knownFile // last: only while a policy is read
}

// knownFile is a file without problems.
type knownFile struct {
	format   tagFormat
	name     string
	size     int
	digest   uint64     // with a seed that nobody else knows, so that no file can be made to look like another
	plain    *plainFile // instead of size and digest; nil: not kept
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

// end forgets what the files said before, which may be as much as they say now.
func (k *knownFiles) end() { k.last = nil }

// read is readTagFile, or what that found when it read the same text for no other
// tags, or one that was hardly different.
func (k *knownFiles) read(f tagFile, text []byte, wanted map[string]bool, problems *collector) (tagContents, bool) {
	if known := k.again(f, text, wanted); known != nil {
		k.now[f.path] = known
		return known.contents, true
	}
	before := problems.total
	contents, plain, ok := readTagFile(f, text, wanted, problems)
	if ok && problems.total == before && len(contents) <= knownTagsMax {
		file := &knownFile{format: f.format, name: f.name, plain: plain, contents: contents}
		if plain == nil {
			file.size, file.digest = len(text), maphash.Bytes(k.seed, text)
		}
		k.now[f.path] = file
	}
	return contents, ok
}

// again is what a file says if that is known from the last policy, else nil.
func (k *knownFiles) again(f tagFile, text []byte, wanted map[string]bool) *knownFile {
	last := k.last[f.path]
	switch {
	case last == nil || !last.serves(f, wanted):
	case last.plain == nil:
		if last.size == len(text) && last.digest == maphash.Bytes(k.seed, text) {
			return last
		}
	default:
		if plain, ok := last.plain.edit(text); ok {
			return &knownFile{format: f.format, name: f.name, plain: plain, contents: tagContents{f.name: plain.prefixes}}
		}
	}
	return nil
}

// serves reports whether of the file all is known that would be wanted.
func (f *knownFile) serves(file tagFile, wanted map[string]bool) bool {
	if f.format != file.format || f.name != file.name {
		return false
	}
	for tag, kept := range f.contents {
		if kept == nil && wanted[tag] {
			return false
		}
	}
	return true
}
