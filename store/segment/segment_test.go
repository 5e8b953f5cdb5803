package segment_test

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/seedtest"
	"github.com/parleymq/parley/store/segment"
	"github.com/parleymq/parley/store/words"
)

// message is what a segment is made of.
type message struct {
	seq    int64
	sender chat.ID
	at     time.Time
	text   string
}

var vocabulary = strings.Fields("apple apples Äpfel pear pearl peer plum 東京 京都 🍐 a an ant don't e-mail x")

func messages(rnd *rand.Rand, first int64, n int) []message {
	senders := []chat.ID{{1}, {2}, {3: 255}}
	at := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	all := make([]message, n)
	for i := range all {
		switch rnd.IntN(20) {
		case 0:
			at = at.Add(time.Duration(rnd.IntN(100)) * 24 * time.Hour)
		case 1, 2, 3, 4, 5, 6, 7, 8, 9, 10:
			at = at.Add(time.Duration(rnd.IntN(10_000)) * time.Millisecond)
		}
		text := make([]string, rnd.IntN(8))
		for j := range text {
			text[j] = vocabulary[rnd.IntN(len(vocabulary))]
		}
		all[i] = message{first + int64(i), senders[rnd.IntN(3)], at, strings.Join(text, " ")}
	}
	return all
}

func build(first int64, all []message) *segment.Builder {
	b := segment.NewBuilder(first)
	for _, m := range all {
		b.Add(m.seq, m.sender, m.at, m.text)
	}
	return b
}

func data(blocks []segment.Block) [][]byte {
	var all [][]byte
	for _, b := range blocks {
		all = append(all, b.Data)
	}
	return all
}

// read returns the blocks that may have terms of r, as a search reads them.
func read(blocks []segment.Block, r segment.Range) [][]byte {
	from := 0
	for i, b := range blocks {
		if string(b.First) <= r.From {
			from = i
		}
	}
	var all [][]byte
	for _, b := range blocks[from:] {
		if string(b.First) < r.Until {
			all = append(all, b.Data)
		}
	}
	return all
}

// A segment finds what reading the texts finds, with the times and numbers of words; and it is
// the same whether it was made of messages or of segments.
func TestSegments(t *testing.T) {
	t.Parallel()
	rnd := seedtest.New(seedtest.Seed(t), 0)
	for range 60 {
		first := 1 + rnd.Int64N(1<<40)
		all := messages(rnd, first, 1+rnd.IntN(1200))
		b := build(first, all)
		blocks := b.Blocks()
		if len(blocks[0].First) != 0 || !slices.IsSortedFunc(blocks, func(a, b segment.Block) int { return bytes.Compare(a.First, b.First) }) {
			t.Fatalf("the blocks are not in order: %q", blocks)
		}
		merged := segment.NewBuilder(first)
		for rest := all; len(rest) > 0; {
			n := 1 + rnd.IntN(len(rest))
			if err := merged.Merge(rest[0].seq, data(build(rest[0].seq, rest[:n]).Blocks())); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if !slices.EqualFunc(blocks, merged.Blocks(), func(a, b segment.Block) bool { return bytes.Equal(a.First, b.First) && bytes.Equal(a.Data, b.Data) }) || b.Size() != merged.Size() {
			t.Fatal("merged segments differ from one that is made at once")
		}
		for range 20 {
			text := vocabulary[rnd.IntN(len(vocabulary))]
			if rnd.IntN(2) == 0 {
				text += " " + vocabulary[rnd.IntN(len(vocabulary))]
			}
			if rnd.IntN(3) == 0 {
				text = `"` + text + `"`
			}
			q, err := words.ParseQuery(text)
			if err != nil {
				t.Fatal(err)
			}
			sender, by := "", chat.ID{}
			if rnd.IntN(3) == 0 {
				by = all[0].sender
				sender = segment.Sender(by)
			}
			check(t, blocks, first, all, q, text, sender, by, rnd.IntN(2) == 0)
		}
	}
}

func check(t *testing.T, blocks []segment.Block, first int64, all []message, q *words.Query, text, sender string, by chat.ID, ranked bool) {
	t.Helper()
	plan := segment.NewPlan(q, sender, ranked)
	part := plan.Part(first)
	for i, r := range plan.Ranges {
		for _, block := range read(blocks, r) {
			if err := part.Add(i, block); err != nil {
				t.Fatal(err)
			}
		}
	}
	part.Match()
	got, err := part.About(read(blocks, segment.About)[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range all {
		where, count, ok := q.Find(m.text)
		if !ok || !by.IsZero() && m.sender != by {
			continue
		}
		if len(got) == 0 || got[0].Seq != m.seq || !got[0].CreatedAt.Equal(m.at) || got[0].Words != count {
			t.Fatalf("%q: got %+v, want %+v", text, got, m)
		}
		if ranked && !slices.EqualFunc(got[0].At, where, slices.Equal[[]uint32]) {
			t.Fatalf("%q in %q: got %v, want %v", text, m.text, got[0].At, where)
		}
		got = got[1:]
	}
	if len(got) > 0 {
		t.Fatalf("%q: got %+v too", text, got)
	}
}

// A message that is deleted after its words were read is not found, and the others are.
func TestDeletedBetweenBlocks(t *testing.T) {
	t.Parallel()
	all := messages(rand.New(rand.NewPCG(1, 2)), 7, 3)
	for i := range all {
		all[i].text = "apple"
	}
	q, err := words.ParseQuery("apple")
	if err != nil {
		t.Fatal(err)
	}
	plan := segment.NewPlan(q, "", false)
	part := plan.Part(7)
	for _, block := range read(build(7, all).Blocks(), plan.Ranges[0]) {
		if err := part.Add(0, block); err != nil {
			t.Fatal(err)
		}
	}
	if got := part.Match(); len(got) != 3 {
		t.Fatalf("got %+v", got)
	}
	all[1].text = ""
	got, err := part.About(read(build(7, all).Blocks(), segment.About)[0])
	if err != nil || len(got) != 2 || got[0].Seq != 7 || got[1].Seq != 9 || !got[1].CreatedAt.Equal(all[2].at) {
		t.Errorf("got %+v, %v", got, err)
	}
}

// Whatever a block is, reading it ends, with an error or without.
func FuzzBlocks(f *testing.F) {
	for _, b := range build(7, messages(rand.New(rand.NewPCG(1, 2)), 7, 50)).Blocks() {
		f.Add(b.Data)
	}
	f.Add([]byte{0, 1, 'a', 2, 0x02, 1})
	f.Fuzz(func(t *testing.T, block []byte) {
		list, err := segment.Scan(nil, block, 1, segment.Range{From: "", Until: "\xff"}, true)
		for i := range list {
			if err == nil && (list[i].Seq < 1 || !slices.IsSorted(list[i].At)) {
				t.Fatalf("%+v", list[i])
			}
		}
		if b := segment.NewBuilder(1); b.Merge(1, [][]byte{block}) == nil && err != nil {
			t.Fatalf("Scan says %v, and Merge nothing", err)
		}
		q, _ := words.ParseQuery(`a "b c" de`)
		plan := segment.NewPlan(q, segment.Sender(chat.ID{1}), true)
		part := plan.Part(1)
		for i := range plan.Ranges {
			_ = part.Add(i, block)
		}
		part.Match()
		_, _ = part.About(block)
	})
}

func BenchmarkBuild(b *testing.B) {
	all := messages(rand.New(rand.NewPCG(1, 2)), 1, 1024)
	for b.Loop() {
		build(1, all).Blocks()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(all)), "ns/message")
}
