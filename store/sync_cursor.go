package store

import (
	"encoding/binary"
	"strconv"
	"strings"

	"github.com/parleymq/parley/chat"
)

// A snapshot is a pg_snapshot: which transactions had ended at a moment. It sees those below
// xmin, and of those below xmax all but the running ones.
type snapshot struct {
	xmin, xmax uint64
	running    []uint64 // ascending, of xmin … xmax-1
}

// nothing is a snapshot that sees no transaction.
var nothing = snapshot{xmin: 1, xmax: 1}

// maxRunning is how many transactions may be running in a snapshot: there are at most as
// many as connections to the whole cluster.
const maxRunning = 1024

// parseSnapshot reads the text of a pg_snapshot, such as 10:20:10,14,15, as PostgreSQL
// writes it.
func parseSnapshot(text string) (s snapshot, ok bool) {
	low, rest, _ := strings.Cut(text, ":")
	high, list, _ := strings.Cut(rest, ":")
	s.xmin, _ = parseXID(low)
	s.xmax, _ = parseXID(high)
	for list != "" {
		var one string
		one, list, _ = strings.Cut(list, ",")
		xid, _ := parseXID(one)
		s.running = append(s.running, xid)
	}
	return s, s.valid() && s.String() == text // of anything else the text is another one
}

func parseXID(text string) (uint64, bool) {
	xid, err := strconv.ParseUint(text, 10, 63)
	return xid, err == nil
}

func (s *snapshot) valid() bool {
	if s.xmin < 1 || s.xmax < s.xmin || s.xmax >= 1<<63 || len(s.running) > maxRunning {
		return false
	}
	for i, xid := range s.running {
		if xid < s.xmin || xid >= s.xmax || i > 0 && xid <= s.running[i-1] {
			return false
		}
	}
	return true
}

// String is the text of the pg_snapshot.
func (s *snapshot) String() string {
	b := strconv.AppendUint(nil, s.xmin, 10)
	b = strconv.AppendUint(append(b, ':'), s.xmax, 10)
	b = append(b, ':')
	for i, xid := range s.running {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendUint(b, xid, 10)
	}
	return string(b)
}

// A syncSection is one kind of item in a run.
type syncSection byte

// The sections, in their order.
const (
	syncDone syncSection = iota // the run is over
	syncProfiles
	syncDepartures
	syncConversations
	syncEvents
	syncReads
	syncEnd
)

// A syncCursor is the changes that a client has: those that seen sees, and, within a run to
// until, those before a position. It is encoded as
//
//	bytes 0–15  the origin
//	…           seen: xmin, xmax - xmin, the number of running transactions, the first of
//	            them minus xmin, each other minus the one before; all varints
//	one byte    the section; 0: no run, and nothing follows
//	…           until, like seen
//	…           the position: id; for events, seq (varint); for reads, another id
//
// Each cursor has exactly one encoding.
type syncCursor struct {
	origin  chat.ID
	seen    snapshot
	section syncSection
	until   snapshot
	id      chat.ID // the last user or conversation; zero: none yet
	seq     int64   // events: the last of this conversation
	reader  chat.ID // reads: the last of this conversation
}

func (c *syncCursor) encode() []byte {
	b := append([]byte(nil), c.origin[:]...)
	b = appendSnapshot(b, &c.seen)
	b = append(b, byte(c.section))
	if c.section == syncDone {
		return b
	}
	b = append(appendSnapshot(b, &c.until), c.id[:]...)
	switch c.section {
	case syncEvents:
		b = binary.AppendUvarint(b, uint64(c.seq))
	case syncReads:
		b = append(b, c.reader[:]...)
	}
	return b
}

func appendSnapshot(b []byte, s *snapshot) []byte {
	b = binary.AppendUvarint(b, s.xmin)
	b = binary.AppendUvarint(b, s.xmax-s.xmin)
	b = binary.AppendUvarint(b, uint64(len(s.running)))
	last := s.xmin
	for _, xid := range s.running {
		b = binary.AppendUvarint(b, xid-last)
		last = xid
	}
	return b
}

// parseSyncCursor decodes what encode returns, and refuses everything else.
func parseSyncCursor(b []byte) (c syncCursor, ok bool) {
	if len(b) > chat.MaxSyncCursorBytes {
		return c, false
	}
	r := cursorReader{rest: b}
	c.origin = r.id()
	c.seen = r.snapshot()
	c.section = syncSection(r.byte())
	if c.section != syncDone {
		c.until, c.id = r.snapshot(), r.id()
	}
	switch c.section {
	case syncEvents:
		c.seq = int64(r.uvarint())
	case syncReads:
		c.reader = r.id()
	}
	if r.failed || len(r.rest) > 0 || c.section >= syncEnd || c.seq < 0 {
		return c, false
	}
	return c, string(c.encode()) == string(b) // a varint has longer forms
}

// A cursorReader consumes bytes; failed is set when there are too few.
type cursorReader struct {
	rest   []byte
	failed bool
}

func (r *cursorReader) take(n int) []byte {
	if len(r.rest) < n {
		r.failed, r.rest = true, nil
		return make([]byte, n)
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

func (r *cursorReader) byte() byte  { return r.take(1)[0] }
func (r *cursorReader) id() chat.ID { return chat.ID(r.take(len(chat.ID{}))) }

func (r *cursorReader) uvarint() uint64 {
	v, n := binary.Uvarint(r.rest)
	if n <= 0 {
		r.failed, r.rest = true, nil
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

func (r *cursorReader) snapshot() snapshot {
	s := snapshot{xmin: r.uvarint()}
	s.xmax = s.xmin + r.uvarint()
	n := r.uvarint()
	if n > maxRunning {
		r.failed = true
		return s
	}
	last := s.xmin
	for range n {
		last += r.uvarint()
		s.running = append(s.running, last)
	}
	if !s.valid() {
		r.failed = true
	}
	return s
}
