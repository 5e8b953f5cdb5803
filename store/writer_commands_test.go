package store_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/store"
	"github.com/parleymq/parley/store/storetest"
)

// command is an Append of an edit, delete or reaction that is checked already.
func (r *writerRig) command(kind chat.EventType, sender, message chat.ID, change func(*chat.Event)) *outcome {
	o := r.message(sender, chat.ID{}, "")
	o.Event.Type, o.Event.MessageID = kind, message
	if change != nil {
		change(&o.Event)
	}
	return o
}

func (r *writerRig) edit(sender, message chat.ID, content string) *outcome {
	return r.command(chat.EventEdit, sender, message, func(e *chat.Event) { e.Content = content })
}

func (r *writerRig) delete(sender, message chat.ID) *outcome {
	return r.command(chat.EventDelete, sender, message, nil)
}

func (r *writerRig) react(sender, message chat.ID, op, emoji string) *outcome {
	return r.command(chat.EventReaction, sender, message, func(e *chat.Event) { e.Op, e.Emoji = op, emoji })
}

// sent is a message that is stored.
func (r *writerRig) sent(sender chat.ID, content string) chat.ID {
	r.t.Helper()
	o := r.message(sender, chat.ID{}, content)
	r.append(o)
	r.stored(o)
	return o.Event.ID
}

func (r *writerRig) texts(user, message chat.ID) []string {
	r.t.Helper()
	list, err := r.s.ListEdits(r.t.Context(), user, message, 0, 100)
	if err != nil {
		r.t.Fatal(err)
	}
	var texts []string
	for _, v := range list {
		texts = append(texts, v.Content)
	}
	return texts
}

func (r *writerRig) reactions(user, message chat.ID) map[string]chat.ReactionCount {
	r.t.Helper()
	counts, err := r.s.CountReactions(r.t.Context(), user, []chat.Event{{ConversationID: r.conv, ID: message}})
	if err != nil {
		r.t.Fatal(err)
	}
	by := map[string]chat.ReactionCount{}
	for _, c := range counts[message] {
		by[c.Emoji] = c
	}
	return by
}

func TestWriterEdits(t *testing.T) {
	t.Parallel()
	r := newWriterRig(t, store.WriterOptions{})
	ann, ben := r.members[0], r.members[1]
	id := r.sent(ann, "a cta")
	if got := r.texts(ben, id); !slices.Equal(got, []string{"a cta"}) {
		t.Errorf("an unedited message says %q", got)
	}
	first, second := r.edit(ann, id, "the cat"), r.edit(ann, id, "the cat!")
	release := r.hold() // both in one batch
	r.append(first, second)
	release()
	r.stored(first, second)
	if got := r.texts(ben, id); !slices.Equal(got, []string{"a cta", "the cat", "the cat!"}) {
		t.Errorf("the texts of an edited message are %q", got)
	}
	m, err := r.s.GetMessage(t.Context(), ben, id)
	if err != nil || m.Content != "the cat!" || !m.EditedAt.Equal(second.Event.CreatedAt) {
		t.Errorf("GetMessage = %+v, %v", m, err)
	}
	same := r.edit(ann, id, "the cat!")
	r.append(same)
	if r.stored(same); !same.Repeat || same.Event.Seq != 0 {
		t.Errorf("an edit to what it says already: %+v, want nothing done", same.Append)
	}
	other := r.edit(ben, id, "the dog")
	r.append(other)
	wantCode(t, r.wait(other), chat.Forbidden)
	nowhere := r.edit(ann, chat.NewID(), "x")
	r.append(nowhere)
	wantCode(t, r.wait(nowhere), chat.NotFound)
	r.finish()
}

// What is deleted is gone: from the message, from its edits in the log, and from
// what was kept of it.
func TestWriterDeletes(t *testing.T) {
	t.Parallel()
	r := newWriterRig(t, store.WriterOptions{})
	ann, ben := r.members[0], r.members[1] // ann owns the group
	id := r.sent(ben, "a secret")
	steps := []*outcome{r.edit(ben, id, "a secret, edited"), r.react(ann, id, chat.OpAdd, "👍"), r.delete(ben, id), r.delete(ann, id), r.react(ann, id, chat.OpRemove, "👍")}
	r.append(steps...)
	r.stored(steps...)
	if steps[2].Repeat || !steps[3].Repeat || !steps[4].Repeat {
		t.Error("the first deletion counts, what comes after it finds nothing to do")
	}
	for _, late := range []*outcome{r.edit(ben, id, "x"), r.react(ann, id, chat.OpAdd, "👍")} {
		r.append(late)
		wantCode(t, r.wait(late), chat.Conflict)
	}
	if n := count(t, r.s, `SELECT count(*) FROM events WHERE content LIKE '%secret%'`) + count(t, r.s, `SELECT count(*) FROM message_originals`) + count(t, r.s, `SELECT count(*) FROM reactions`); n != 0 {
		t.Errorf("%d rows still hold something of a deleted message", n)
	}
	if got := r.texts(ann, id); len(got) != 0 {
		t.Errorf("a deleted message says %q", got)
	}
	others := r.sent(ann, "the owner's")
	refused := r.delete(ben, others)
	r.append(refused)
	wantCode(t, r.wait(refused), chat.Forbidden)
	mine := r.sent(ben, "a member's")
	byOwner := r.delete(ann, mine)
	r.append(byOwner)
	r.stored(byOwner)
	r.finish()
}

func TestWriterReactions(t *testing.T) {
	t.Parallel()
	r := newWriterRig(t, store.WriterOptions{})
	ann, ben := r.members[0], r.members[1]
	id := r.sent(ann, "hello")
	again := r.react(ben, id, chat.OpAdd, "👍")
	steps := []*outcome{r.react(ann, id, chat.OpAdd, "👍"), r.react(ben, id, chat.OpAdd, "👍"), again, r.react(ben, id, chat.OpRemove, "🎉")}
	r.append(steps...)
	r.stored(steps...)
	if !again.Repeat || !steps[3].Repeat || steps[1].Repeat {
		t.Error("a reaction counts once, and one that is not there cannot be taken away")
	}
	if got := r.reactions(ben, id)["👍"]; got.Users != 2 || !got.Mine {
		t.Errorf("reactions: %+v", got)
	}
	list, err := r.s.ListReactions(t.Context(), ben, id, chat.Reaction{}, 1)
	if err != nil || len(list) != 1 {
		t.Fatalf("ListReactions = %v, %v", list, err)
	}
	rest, err := r.s.ListReactions(t.Context(), ben, id, list[0], 10)
	if err != nil || len(rest) != 1 || rest[0].UserID == list[0].UserID {
		t.Errorf("the next page is %v, %v, after %v", rest, err, list)
	}
	if _, err := r.s.ListReactions(t.Context(), chat.NewID(), id, chat.Reaction{}, 1); chat.CodeOf(err) != chat.NotFound {
		t.Errorf("a stranger's ListReactions: %v", err)
	}
	var many []*outcome
	for i := range chat.MaxReactionEmojis {
		many = append(many, r.react(ben, id, chat.OpAdd, string(rune(0x1f600+i)))) // one too many: 👍 is there
	}
	r.append(many...)
	for i, o := range many {
		err := r.wait(o)
		if last := i == len(many)-1; last != (err != nil) {
			t.Errorf("emoji %d: %v", i, err)
		} else if last {
			wantCode(t, err, chat.Quota)
		}
	}
	r.finish()
}

// The same key stores a command once, and other content under it is refused.
func TestWriterCommandKeys(t *testing.T) {
	t.Parallel()
	r := newWriterRig(t, store.WriterOptions{})
	ann := r.members[0]
	id, key := r.sent(ann, "one"), chat.NewID()
	keyed := func(content string) *outcome {
		return r.command(chat.EventEdit, ann, id, func(e *chat.Event) { e.Content, e.ClientMsgID = content, key })
	}
	first, then, again, conflict := keyed("two"), r.edit(ann, id, "three"), keyed("two"), keyed("four")
	for _, o := range []*outcome{first, then, again, conflict} {
		r.append(o)
		if err := r.wait(o); o == conflict {
			wantCode(t, err, chat.Conflict)
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if !again.Repeat || again.Event.ID != first.Event.ID || again.Event.Seq != first.Event.Seq {
		t.Errorf("the repeat was answered with %+v, want %+v", again.Event, first.Event)
	}
	if m, err := r.s.GetMessage(t.Context(), ann, id); err != nil || m.Content != "three" {
		t.Errorf("after the repeat the message says %q, %v: the edit was done again", m.Content, err)
	}
	r.finish()
}

// The answer of each step of a transaction with commands is lost once. Each command
// is done once, published once, and its sender hears that it was.
func TestWriterCommandsLostAnswers(t *testing.T) {
	t.Parallel()
	for lost := 1; lost <= 8; lost++ {
		t.Run(fmt.Sprint("answer ", lost), func(t *testing.T) {
			t.Parallel()
			r := newWriterRig(t, store.WriterOptions{})
			ann, ben := r.members[0], r.members[1]
			id, gone := r.sent(ann, "one"), r.sent(ben, "gone soon")
			warm := r.react(ben, id, chat.OpAdd, "🎉") // the statements are known to the connection
			r.append(warm)
			r.stored(warm)
			release := r.hold()
			batch := []*outcome{r.message(ben, chat.ID{}, "two"), r.edit(ann, id, "eins"), r.react(ben, id, chat.OpAdd, "👍"), r.delete(ben, gone), r.message(ann, chat.ID{}, "three")}
			r.append(batch...)
			r.line.loseAnswer(lost + 1) // the one in front is answered first
			release()
			r.stored(batch...)
			r.finish()
			seen := map[chat.ID]int{}
			for _, e := range r.published[r.conv] {
				seen[e.ID]++
			}
			for _, o := range batch {
				if seen[o.Event.ID] != 1 || o.told.Load() != 1 || o.Event.Seq == 0 {
					t.Errorf("%s was published %d times, and told %d times, as %d", o.Event.Type, seen[o.Event.ID], o.told.Load(), o.Event.Seq)
				}
			}
			if got := r.reactions(ben, id); got["👍"].Users != 1 || got["🎉"].Users != 1 {
				t.Errorf("reactions: %v", got)
			}
		})
	}
}

// Commands about a few messages, from everybody at once, with members that change
// and answers that are lost. What the database holds is what its log says
// (storetest.Check), and everybody heard the truth.
func TestWriterCommandsAtRandom(t *testing.T) {
	t.Parallel()
	r := newWriterRig(t, store.WriterOptions{MaxBatch: 40})
	var ids []chat.ID
	for i := range 6 {
		ids = append(ids, r.sent(r.members[i%3], fmt.Sprint("message ", i)))
	}
	emojis := []string{"👍", "🎉", "❤️"}
	var wg sync.WaitGroup
	for sender := range 6 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(sender), 3))
			me := r.members[sender%3]
			for range 25 {
				var os []*outcome
				for range 1 + rnd.IntN(12) {
					id := ids[rnd.IntN(len(ids))]
					var o *outcome
					switch n := rnd.IntN(100); {
					case n < 30:
						o = r.message(me, chat.ID{}, "between")
					case n < 55:
						o = r.edit(me, id, fmt.Sprint("edit ", rnd.IntN(4)))
					case n < 57:
						o = r.delete(me, id)
					default:
						o = r.react(me, id, [2]string{chat.OpAdd, chat.OpRemove}[rnd.IntN(2)], emojis[rnd.IntN(3)])
					}
					o.MembersVersion = int64(1 + rnd.IntN(2)) // some are checked again
					if err := r.w.Append(t.Context(), &o.Append); err != nil {
						t.Error(err)
						return
					}
					os = append(os, o)
				}
				if sender == 0 {
					r.line.loseAnswer(1 + rnd.IntN(10))
				}
				for _, o := range os {
					err := <-o.err
					if err != nil && !errors.Is(err, chat.Forbidden) && !errors.Is(err, chat.Conflict) {
						t.Errorf("%s: %v", o.Event.Type, err)
					}
				}
			}
		})
	}
	wg.Wait()
	r.finish()
	events := log(t, r.s, r.members[0], r.conv)
	if len(events) != len(r.published[r.conv])+1 { // it began before the writer did
		t.Errorf("%d events are stored, %d were published", len(events), len(r.published[r.conv]))
	}
	storetest.Check(t, r.s)
}
