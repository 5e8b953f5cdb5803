package rest

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"github.com/parleymq/parley/chat"
)

// What is written by hand is what the document says, and what json.Marshal would write.
func TestMessagePageJSON(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 3, 4, 5, 6, 7, 89_000_000, time.FixedZone("", 3600))
	plain := chat.Event{ConversationID: chat.NewID(), Seq: 7, Type: chat.EventMessage, ID: chat.NewID(), SenderID: chat.NewID(), ClientMsgID: chat.NewID(), CreatedAt: at, Content: "hello"}
	rich := plain
	rich.ID, rich.Content, rich.EditedAt = chat.NewID(), "\"quoted\"\\ <b>&amp;</b>\n\r\t\x00\x1f\x7f é 🇦🇶 𝄞", at.Add(time.Hour)
	rich.ReplyTo, rich.Attachments, rich.Mentions = chat.NewID(), []chat.ID{chat.NewID(), chat.NewID()}, []chat.ID{chat.NewID()}
	deleted := plain
	deleted.ID, deleted.Content, deleted.DeletedAt, deleted.ClientMsgID = chat.NewID(), "", at, chat.ID{}
	reactions := map[chat.ID][]chat.ReactionCount{rich.ID: {{Emoji: "👍", Users: 3, Mine: true}, {Emoji: "❤️", Users: 1}}, plain.ID: {{Emoji: "🎉", Users: 12}}}
	for _, items := range [][]chat.Event{{}, {plain}, {plain, rich, deleted}} {
		for _, next := range []string{"", "AXUx_-"} {
			show := func(e *chat.Event) Message {
				m := messageOf(e)
				m.Reactions = reactionsOf(reactions[e.ID])
				return m
			}
			var want bytes.Buffer
			e := json.NewEncoder(&want)
			e.SetEscapeHTML(false)
			if err := e.Encode(pageOf(items, show, next).Body); err != nil {
				t.Fatal(err)
			}
			var got bytes.Buffer
			if err := strictJSON.Marshal(&got, messagePage{&chat.MessagePage{Items: items, Reactions: reactions}, next}); err != nil {
				t.Fatal(err)
			}
			if want := bytes.ReplaceAll(want.Bytes(), []byte("\x7f"), []byte(`\u007f`)); !bytes.Equal(got.Bytes(), want) {
				t.Errorf("wrote\n%s\nwant\n%s", &got, want)
			}
		}
	}
}
