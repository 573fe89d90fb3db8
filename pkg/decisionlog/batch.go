package decisionlog

// batch is encoded records, one a line, with what each puts into the books.
type batch struct {
	bytes []byte
	marks []mark
	total tally // of all marks
}

// mark is one record of a batch.
type mark struct {
	end   int // of its line in the batch's bytes
	entry entry
}

// close ends the line that was appended to bytes.
func (b *batch) close(e entry) {
	b.bytes = append(b.bytes, '\n')
	b.marks = append(b.marks, mark{end: len(b.bytes), entry: e})
	b.total.enter(e)
}

func (b *batch) append(o *batch) {
	offset := len(b.bytes)
	b.bytes = append(b.bytes, o.bytes...)
	for _, m := range o.marks {
		m.end += offset
		b.marks = append(b.marks, m)
	}
	b.total.add(&o.total)
}

func (b *batch) reset() {
	b.bytes = recycle(b.bytes, 1<<20)
	b.marks = recycle(b.marks, 1<<14)
	b.total = tally{}
}

// recycle empties a buffer for its next use. One that has grown beyond keep and
// is far larger than this use needed is dropped, so that the memory of a flood
// does not stay.
func recycle[T any](buffer []T, keep int) []T {
	if cap(buffer) > keep && len(buffer) < cap(buffer)/16 {
		return nil
	}
	return buffer[:0]
}
