// Package segment is the format of the search index. A segment holds the words of consecutive
// events of one log: for each term, in which messages it is, and at which positions. It
// is an inverted index of the usual kind (terms sorted, with their common beginnings left out;
// postings as differences, in as few bytes as they need), cut into blocks of about blockBytes,
// so that a search reads a block or two of a segment however large it is.
//
// Beside the terms of its text, a message is found by its sender (Sender); and its time and the
// number of its words are kept (About). The same messages always give the same blocks, whether they
// were added one by one or merged from other segments.
package segment

import (
	"bytes"
	"encoding/binary"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/store/words"
)

const (
	// blockBytes is where a block ends. A row of it stays in the page of its table, four to a page.
	blockBytes = 1800

	// maxEvents is more than a segment ever has.
	maxEvents = 1 << 16
)

// about is the term of all messages with words, which has a block of its own. Its three positions
// are the number of the words and, added to it, the time since the message before, in
// milliseconds, in two parts.
const about = "\x02"

// About is the range of terms whose block Part.About wants.
var About = One(about)

const timeBits = 20 // of the second part

// Sender is the term of a sender's messages. No word begins as these terms do.
func Sender(id chat.ID) string { return "\x01" + string(id[:]) }

// Block is a part of a segment.
type Block struct {
	First []byte // the least term that may be in it; that of the first block is empty
	Data  []byte
}

// Posting is a message that has a term.
type Posting struct {
	Seq int64
	At  []uint32 // positions of the term among the words of the message, rising; words count from 1. nil: not asked for
}

// errCorrupt says that a block is not what a Builder makes.
var errCorrupt = errors.New("segment: corrupt block")

// Builder makes a segment. The zero Builder is not usable: see NewBuilder.
type Builder struct {
	first   int64
	at      int64 // time of the last message in milliseconds
	terms   map[string]*list
	message []string // terms of the message that is being added
	size    int      // bytes of all terms and postings
}

// list is the postings of one term.
type list struct {
	data []byte
	last int64 // seq of the last message in data
	at   []uint32
}

// NewBuilder returns a builder of a segment whose first event is first.
func NewBuilder(first int64) *Builder {
	return &Builder{first: first, terms: map[string]*list{}}
}

// Add adds a message, which follows all that were added before, and is not older than they
// are. One without words, as a deleted message is, adds nothing.
func (b *Builder) Add(seq int64, sender chat.ID, at time.Time, text string) {
	n := uint32(0)
	for w := range words.Of(text) {
		n++
		b.note(w.Term, n)
	}
	if n == 0 {
		return
	}
	b.note(Sender(sender), 1)
	since := max(at.UnixMilli()-b.at, 0)
	b.at += since
	b.note(about, n)
	b.note(about, n+1+uint32(since>>timeBits))
	b.note(about, n+2+uint32(since>>timeBits)+uint32(since&(1<<timeBits-1)))
	for _, term := range b.message {
		l := b.terms[term]
		b.post(l, seq, l.at)
		l.at = l.at[:0]
	}
	b.message = b.message[:0]
}

func (b *Builder) note(term string, at uint32) {
	l := b.list(term)
	if len(l.at) == 0 {
		b.message = append(b.message, term)
	}
	l.at = append(l.at, at)
}

func (b *Builder) list(term string) *list {
	l := b.terms[term]
	if l == nil {
		l = &list{last: b.first - 1}
		b.terms[term] = l
		b.size += len(term)
	}
	return l
}

// post appends a posting: how far its message is from the one before, and one bit for whether
// there are several positions; then their number, if so, and the positions.
func (b *Builder) post(l *list, seq int64, at []uint32) {
	before := len(l.data)
	defer func() { b.size += len(l.data) - before }()
	head := uint64(seq-l.last) << 1
	l.last = seq
	if len(at) == 1 {
		l.data = binary.AppendUvarint(binary.AppendUvarint(l.data, head), uint64(at[0]))
		return
	}
	l.data = binary.AppendUvarint(binary.AppendUvarint(l.data, head|1), uint64(len(at)))
	position := uint32(0)
	for _, n := range at {
		l.data = binary.AppendUvarint(l.data, uint64(n-position))
		position = n
	}
}

// Size is about how many bytes the segment has so far.
func (b *Builder) Size() int { return b.size }

// Merge adds a segment, whose first event is first, and all of which follows what was added
// before. An error says that a block is corrupt.
func (b *Builder) Merge(first int64, blocks [][]byte) error {
	at := int64(0) // time of its last message
	for _, data := range blocks {
		err := entries(data, func(term, postings []byte) error {
			l := b.list(string(term))
			list, err := decode(nil, postings, first, true)
			if err != nil {
				return err
			}
			for _, p := range list {
				if string(term) != about {
					b.post(l, p.Seq, p.At)
				} else if !b.merge(l, p, &at) {
					return errCorrupt
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// merge adds a posting of about, whose time is since at, in terms of the message before it
// here. It reports whether it is one.
func (b *Builder) merge(l *list, p Posting, at *int64) bool {
	words, since, ok := aboutOf(p)
	if !ok {
		return false
	}
	*at += since
	since = max(*at-b.at, 0)
	b.at += since
	hi := words + 1 + uint32(since>>timeBits)
	b.post(l, p.Seq, []uint32{words, hi, hi + 1 + uint32(since&(1<<timeBits-1))})
	return true
}

func aboutOf(p Posting) (words uint32, since int64, ok bool) {
	if len(p.At) != 3 || p.At[0] == 0 || p.At[1] <= p.At[0] || p.At[2] <= p.At[1] || p.At[2]-p.At[1] > 1<<timeBits {
		return 0, 0, false
	}
	return p.At[0], int64(p.At[1]-p.At[0]-1)<<timeBits + int64(p.At[2]-p.At[1]-1), true
}

// Blocks returns the blocks of the segment, of which there is at least one.
func (b *Builder) Blocks() []Block {
	all := []Block{{First: []byte{}, Data: []byte{}}}
	at := &all[0]
	before := ""
	for _, term := range slices.Sorted(maps.Keys(b.terms)) {
		if len(at.Data) >= blockBytes || term == about || before == about {
			all = append(all, Block{First: []byte(term)})
			at, before = &all[len(all)-1], ""
		}
		shared := 0
		for shared < min(len(before), len(term)) && before[shared] == term[shared] {
			shared++
		}
		postings := b.terms[term].data
		at.Data = binary.AppendUvarint(at.Data, uint64(shared))
		at.Data = binary.AppendUvarint(at.Data, uint64(len(term)-shared))
		at.Data = append(at.Data, term[shared:]...)
		at.Data = binary.AppendUvarint(at.Data, uint64(len(postings)))
		at.Data = append(at.Data, postings...)
		before = term
	}
	return all
}

// entries calls f with the terms of a block, in order, and their postings. What it gives is
// valid until f returns.
func entries(data []byte, f func(term, postings []byte) error) error {
	var term []byte
	for len(data) > 0 {
		shared, ok := uvarint(&data)
		if !ok || shared > uint64(len(term)) {
			return errCorrupt
		}
		suffix, ok := field(&data)
		if !ok {
			return errCorrupt
		}
		term = append(term[:shared], suffix...)
		postings, ok := field(&data)
		if !ok {
			return errCorrupt
		}
		if err := f(term, postings); err != nil {
			return err
		}
	}
	return nil
}

// decode appends the postings of a term to list.
func decode(list []Posting, data []byte, first int64, positions bool) ([]Posting, error) {
	var all []uint32
	if positions {
		all = make([]uint32, 0, len(data)) // at least a byte each
	}
	seq := first - 1
	for len(data) > 0 {
		head, ok := uvarint(&data)
		n := uint64(1)
		if ok && head&1 == 1 {
			n, ok = uvarint(&data)
		}
		if !ok || head>>1 == 0 || head>>1 > maxEvents || n > uint64(len(data)) {
			return nil, errCorrupt
		}
		if seq += int64(head >> 1); seq-first >= maxEvents {
			return nil, errCorrupt
		}
		from, position := len(all), uint64(0)
		for range n {
			d, ok := uvarint(&data)
			if position += d; !ok || d > 1<<32-1 || position > 1<<32-1 {
				return nil, errCorrupt
			}
			if positions {
				all = append(all, uint32(position))
			}
		}
		list = append(list, Posting{seq, all[from:len(all):len(all)]})
	}
	return list, nil
}

func uvarint(data *[]byte) (uint64, bool) {
	v, n := binary.Uvarint(*data)
	if n <= 0 {
		return 0, false
	}
	*data = (*data)[n:]
	return v, true
}

func field(data *[]byte) ([]byte, bool) {
	n, ok := uvarint(data)
	if !ok || n > uint64(len(*data)) {
		return nil, false
	}
	f := (*data)[:n]
	*data = (*data)[n:]
	return f, true
}

// Range is the terms from From up to, and without, Until.
type Range struct{ From, Until string }

// RangeOf is the terms that a word of a query asks for.
func RangeOf(t words.Term) Range {
	if !t.Prefix {
		return One(t.Text)
	}
	b := []byte(t.Text)
	b[len(b)-1]++ // UTF-8, so it is not 0xff
	return Range{t.Text, string(b)}
}

// One is a single term.
func One(term string) Range { return Range{term, term + "\x00"} }

// Scan appends the postings of the terms within r that are in a block to list, with their
// positions or without. An error says that the block is corrupt.
func Scan(list []Posting, block []byte, first int64, r Range, positions bool) ([]Posting, error) {
	from, until := []byte(r.From), []byte(r.Until)
	err := entries(block, func(term, postings []byte) (err error) {
		switch {
		case bytes.Compare(term, from) < 0:
			return nil
		case bytes.Compare(term, until) >= 0:
			return errEnd
		}
		list, err = decode(list, postings, first, positions)
		return err
	})
	if errors.Is(err, errEnd) {
		err = nil
	}
	return list, err
}

// errEnd ends a scan.
var errEnd = errors.New("segment: no more")
