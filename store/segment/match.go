package segment

import (
	"cmp"
	"slices"
	"time"

	"github.com/parleymq/parley/store/words"
)

// Plan is how a query is answered from segments: the ranges of terms to read, and what to make
// of them.
type Plan struct {
	Ranges []Range

	positions []bool  // for each range, whether the positions of its terms are needed
	at        [][]int // for each phrase and word of it: which of Ranges
	sender    int     // which of Ranges; -1: anybody's
}

// Match is a message that a query finds.
type Match struct {
	Seq       int64
	At        [][]uint32 // for each phrase, where it begins, as words.Query.Find says; nil unless ranked
	CreatedAt time.Time  // set by Part.About
	Words     int        // how many it has; likewise
}

// NewPlan returns the plan of a query for the messages of a sender, "" for anybody's, by the
// term that Sender returns. ranked says whether Match.At is wanted.
func NewPlan(q *words.Query, sender string, ranked bool) *Plan {
	p := &Plan{sender: -1}
	for _, phrase := range q.Phrases {
		at := make([]int, len(phrase))
		for i, term := range phrase {
			at[i] = p.add(RangeOf(term), ranked || len(phrase) > 1)
		}
		p.at = append(p.at, at)
	}
	if sender != "" {
		p.sender = p.add(One(sender), false)
	}
	return p
}

func (p *Plan) add(r Range, positions bool) int {
	i := slices.Index(p.Ranges, r)
	if i < 0 {
		i = len(p.Ranges)
		p.Ranges, p.positions = append(p.Ranges, r), append(p.positions, positions)
	}
	p.positions[i] = p.positions[i] || positions
	return i
}

// Part is what was read of a segment: the postings of the terms in each of a plan's ranges.
type Part struct {
	plan     *Plan
	first    int64
	postings [][]Posting
	found    []Match
}

// Part returns an empty part of a segment whose first event is first.
func (p *Plan) Part(first int64) *Part {
	return &Part{plan: p, first: first, postings: make([][]Posting, len(p.Ranges))}
}

// Add adds a block that was read for a range. An error says that it is corrupt.
func (s *Part) Add(which int, block []byte) (err error) {
	s.postings[which], err = Scan(s.postings[which], block, s.first, s.plan.Ranges[which], s.plan.positions[which])
	return err
}

// Match returns the messages of the segment that the query finds, in order, once all blocks
// were added, those of a range in their order.
func (s *Part) Match() []Match {
	p := s.plan
	for i, r := range p.Ranges {
		if r != One(r.From) {
			s.postings[i] = s.union(s.postings[i])
		}
	}
	var found []Match
	for n, at := range p.at {
		list := s.postings[at[0]]
		for i := 1; i < len(at); i++ {
			list = followed(list, s.postings[at[i]], uint32(i))
		}
		found = both(found, list, n)
	}
	if p.sender >= 0 {
		found = both(found, s.postings[p.sender], -1)
	}
	s.found = found
	return found
}

// About returns what Match has returned with the times and the numbers of words, from the block
// of the range About. A message that the block does not have was deleted since the others were read, and is left out.
func (s *Part) About(block []byte) ([]Match, error) {
	list, err := Scan(nil, block, s.first, About, true)
	if err != nil {
		return nil, err
	}
	ms, rest, found := int64(0), s.found, s.found[:0]
	for _, p := range list {
		words, since, ok := aboutOf(p)
		if !ok {
			return nil, errCorrupt
		}
		ms += since
		for len(rest) > 0 && rest[0].Seq < p.Seq {
			rest = rest[1:]
		}
		if len(rest) > 0 && rest[0].Seq == p.Seq {
			m := rest[0]
			m.Words, m.CreatedAt = int(words), time.UnixMilli(ms).UTC()
			found = append(found, m)
		}
	}
	return found, nil
}

// union makes one list, in order, of the postings of several terms.
func (s *Part) union(list []Posting) []Posting {
	events := int64(0)
	for _, p := range list {
		events = max(events, p.Seq-s.first+1)
	}
	where := make([]int32, events) // for each event, its index in out plus 1
	var out []Posting
	for _, p := range list {
		i := p.Seq - s.first
		if n := where[i]; n > 0 {
			at := append(out[n-1].At, p.At...) // has no room, so it is copied
			slices.Sort(at)
			out[n-1].At = slices.Clip(at)
			continue
		}
		out = append(out, p)
		where[i] = int32(len(out))
	}
	slices.SortFunc(out, func(a, b Posting) int { return cmp.Compare(a.Seq, b.Seq) })
	return out
}

// followed returns the postings of list, whose positions are those of a phrase's first word, after
// which the phrase's i-th word, of which next are the postings, follows.
func followed(list, next []Posting, i uint32) []Posting {
	var out []Posting
	for _, p := range list {
		q, ok := find(next, p.Seq)
		if !ok {
			continue
		}
		var at []uint32
		for _, n := range p.At {
			if _, ok := slices.BinarySearch(q.At, n+i); ok {
				at = append(at, n)
			}
		}
		if len(at) > 0 {
			out = append(out, Posting{p.Seq, at})
		}
	}
	return out
}

// both returns what is in found, which has n phrases, and also in list. With n of -1, list is
// no phrase.
func both(found []Match, list []Posting, n int) []Match {
	if n == 0 {
		found = make([]Match, len(list))
		for i, p := range list {
			found[i] = Match{Seq: p.Seq}
			if p.At != nil {
				found[i].At = [][]uint32{p.At}
			}
		}
		return found
	}
	out := found[:0]
	for _, m := range found {
		for len(list) > 0 && list[0].Seq < m.Seq {
			list = list[1:]
		}
		if len(list) == 0 {
			break
		}
		if p := list[0]; p.Seq == m.Seq {
			if n > 0 && p.At != nil {
				m.At = append(m.At, p.At)
			}
			out = append(out, m)
		}
	}
	return out
}

func find(list []Posting, seq int64) (Posting, bool) {
	i, ok := slices.BinarySearchFunc(list, seq, func(p Posting, seq int64) int { return cmp.Compare(p.Seq, seq) })
	if !ok {
		return Posting{}, false
	}
	return list[i], true
}
