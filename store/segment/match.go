package segment

import (
	"cmp"
	"slices"
	"time"

	"github.com/parleymq/parley/store/words"
)

const segmentEvents = 1024 // about how many a segment has

// Plan is how a query is answered from segments: the ranges of terms to read, and what to make
// of them.
type Plan struct {
	Ranges []Range

	places []bool  // for each range, whether the places of its terms are needed
	at     [][]int // for each phrase and word of it: which of Ranges
	sender int     // which of Ranges; -1: anybody's
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

func (p *Plan) add(r Range, places bool) int {
	i := slices.Index(p.Ranges, r)
	if i < 0 {
		i = len(p.Ranges)
		p.Ranges, p.places = append(p.Ranges, r), append(p.places, places)
	}
	p.places[i] = p.places[i] || places
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
	s.postings[which], err = Scan(s.postings[which], block, s.first, s.plan.Ranges[which], s.plan.places[which])
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

// About adds to what Match has returned the times and the numbers of words, from the block of
// the range About.
func (s *Part) About(block []byte) error {
	list, err := Scan(nil, block, s.first, About, true)
	ms, rest := int64(0), s.found
	for _, p := range list {
		words, since, ok := aboutOf(p)
		if !ok {
			return errCorrupt
		}
		if ms += since; len(rest) > 0 && rest[0].Seq == p.Seq {
			rest[0].Words, rest[0].CreatedAt = int(words), time.UnixMilli(ms).UTC()
			rest = rest[1:]
		}
	}
	if err == nil && len(rest) > 0 {
		err = errCorrupt
	}
	return err
}

// union makes one list, in order, of the postings of several terms.
func (s *Part) union(list []Posting) []Posting {
	var where []int32 // for each event, the place in out plus 1
	var out []Posting
	for _, p := range list {
		i := int(p.Seq - s.first)
		if i >= len(where) {
			where = append(where, make([]int32, max(i+1-len(where), segmentEvents))...)
		}
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

// followed returns where the i-th word of a phrase follows: the begins of those in list.
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
