package bench

import (
	"bytes"
	"fmt"
	"strings"
)

// Faults is what a server did that the contract rules out. It is an error if any number is not 0.
type Faults struct {
	Unacknowledged int64 `json:"unacknowledged"` // messages without an acknowledgement
	Lost           int64 `json:"lost"`           // deliveries of acknowledged messages that did not come
	Duplicates     int64 `json:"duplicates"`     // deliveries that came again, on one connection
	OutOfOrder     int64 `json:"outOfOrder"`     // deliveries before an earlier message of the same sender
	Gaps           int64 `json:"gaps"`           // places where the numbers of a conversation's log skip some
	Disconnected   int64 `json:"disconnected"`   // connections that the server ended
}

// Any reports whether there is a fault.
func (f *Faults) Any() bool { return *f != Faults{} }

// Error names what is not 0.
func (f *Faults) Error() string {
	var parts []string
	for _, p := range []struct {
		n    int64
		what string
	}{
		{f.Unacknowledged, "not acknowledged"},
		{f.Lost, "lost"},
		{f.Duplicates, "delivered twice"},
		{f.OutOfOrder, "out of order"},
		{f.Gaps, "gaps in the log"},
		{f.Disconnected, "connections lost"},
	} {
		if p.n != 0 {
			parts = append(parts, fmt.Sprintf("%d %s", p.n, p.what))
		}
	}
	if parts == nil {
		return "no faults"
	}
	return strings.Join(parts, ", ")
}

func (f *Faults) add(g Faults) {
	f.Unacknowledged += g.Unacknowledged
	f.Lost += g.Lost
	f.Duplicates += g.Duplicates
	f.OutOfOrder += g.OutOfOrder
	f.Gaps += g.Gaps
	f.Disconnected += g.Disconnected
}

// progress is what a connection has received of one sender, whose messages are numbered 0, 1, 2 …
type progress struct {
	next  int64              // all below have come
	ahead map[int64]struct{} // those above that have; nil as long as everything is in order
}

// take counts a delivery and reports whether it is the first of its message.
func (p *progress) take(n int64, f *Faults) bool {
	if _, again := p.ahead[n]; again || n < p.next {
		f.Duplicates++
		return false
	}
	if n > p.next {
		if p.ahead == nil {
			p.ahead = map[int64]struct{}{}
		}
		p.ahead[n] = struct{}{}
		f.OutOfOrder++
		return true
	}
	p.next++
	for len(p.ahead) > 0 {
		if _, here := p.ahead[p.next]; !here {
			break
		}
		delete(p.ahead, p.next)
		p.next++
	}
	return true
}

// received is how many different messages have come.
func (p *progress) received() int64 { return p.next + int64(len(p.ahead)) }

// A mark at the beginning of each text says which load it is of, who sent it, as which of their messages, and
// when it was due, in microseconds since the load began.
type mark struct {
	load   uint32
	sender int
	n      int64
	due    int64
}

const (
	markStart = "T:"
	loadLen   = 6
	senderLen = 5
	countLen  = 8
	dueLen    = 11

	// MarkLen is how many bytes the mark takes of the text of a message, which must be longer.
	MarkLen = len(markStart) + loadLen + senderLen + countLen + dueLen
)

// write puts the mark into b, which has room for it.
func (m mark) write(b []byte) {
	b = b[copy(b, markStart):]
	digits(b[:loadLen], uint64(m.load))
	digits(b[loadLen:loadLen+senderLen], uint64(m.sender))
	digits(b[loadLen+senderLen:loadLen+senderLen+countLen], uint64(m.n))
	digits(b[loadLen+senderLen+countLen:loadLen+senderLen+countLen+dueLen], uint64(m.due))
}

func digits(b []byte, n uint64) {
	for i := len(b) - 1; i >= 0; i-- {
		b[i] = '0' + byte(n%10)
		n /= 10
	}
}

var contentStart = []byte(`"content":"` + markStart)

// readMark finds the mark in a payload: in an event's content, or, from a broker that passes on what was
// published, at the beginning of a text.
func readMark(payload []byte) (m mark, ok bool) {
	b := payload
	if i := bytes.Index(payload, contentStart); i >= 0 {
		b = payload[i+len(contentStart):]
	} else if bytes.HasPrefix(payload, []byte(markStart)) {
		b = payload[len(markStart):]
	} else {
		return m, false
	}
	if len(b) < MarkLen-len(markStart) {
		return m, false
	}
	var fields [4]uint64
	for i, size := range [...]int{loadLen, senderLen, countLen, dueLen} {
		for _, c := range b[:size] {
			if c < '0' || c > '9' {
				return m, false
			}
			fields[i] = 10*fields[i] + uint64(c-'0')
		}
		b = b[size:]
	}
	return mark{uint32(fields[0]), int(fields[1]), int64(fields[2]), int64(fields[3])}, true
}

var seqStart = []byte(`"seq":`)

// readSeq returns the event's number in the log of its conversation, 0 if there is none, as with a broker that
// passes on what was published.
func readSeq(payload []byte) (seq int64) {
	i := bytes.Index(payload, seqStart)
	if i < 0 {
		return 0
	}
	for _, c := range payload[i+len(seqStart):] {
		if c < '0' || c > '9' {
			break
		}
		seq = 10*seq + int64(c-'0')
	}
	return seq
}
