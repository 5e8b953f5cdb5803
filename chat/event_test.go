package chat_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/parleymq/parley/chat"
)

// wire is an event as a client reads it.
type wire struct {
	Type                         string
	ConversationID, SenderID     chat.ID
	Seq                          int64
	CreatedAt                    time.Time
	ID, ClientMsgID              *chat.ID
	Content                      *string
	EditedAt, DeletedAt          *time.Time
	ReplyTo, MessageID           *chat.ID
	Attachments, UserIDs         []chat.ID
	Emoji, Op, Kind, Title, Role *string
}

func ptr[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}

func checkJSON(t *testing.T, e *chat.Event) {
	t.Helper()
	b := e.AppendJSON([]byte("prefix"), "")
	b = b[len("prefix"):]
	if !json.Valid(b) || !utf8.Valid(b) {
		t.Fatalf("not JSON: %q", b)
	}
	if strings.ContainsAny(string(b), "\x00\x1f\n\x7f") {
		t.Fatalf("control characters are left: %q", b)
	}
	dec := json.NewDecoder(strings.NewReader(string(b)))
	dec.DisallowUnknownFields()
	var got wire
	if err := dec.Decode(&got); err != nil {
		t.Fatalf("%q: %v", b, err)
	}
	want := wire{
		Type: string(e.Type), ConversationID: e.ConversationID, SenderID: e.SenderID, Seq: e.Seq, CreatedAt: chat.Timestamp(e.CreatedAt),
		ReplyTo: ptr(e.ReplyTo), MessageID: ptr(e.MessageID), Attachments: e.Attachments, UserIDs: e.UserIDs,
		Emoji: ptr(e.Emoji), Op: ptr(e.Op), Kind: ptr(string(e.Kind)), Title: ptr(e.Title), Role: ptr(string(e.Role)),
	}
	switch e.Type {
	case chat.EventMessage:
		want.ID, want.ClientMsgID, want.Content = &e.ID, &e.ClientMsgID, &e.Content
		want.EditedAt, want.DeletedAt = ptr(chat.Timestamp(e.EditedAt)), ptr(chat.Timestamp(e.DeletedAt))
	case chat.EventEdit:
		want.Content = &e.Content
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("%s\nis read as %+v\nwant %+v", b, got, want)
	}
}

// texts have what JSON, JavaScript and terminals trip over.
var texts = []string{
	"", "hello", `"quoted" \ back/slash`, "line\nbreak\r\ttab\b\f\v", "\x00\x01\x1f\x7f\u0080", "\u2028\u2029", "<script>&amp;</script>", "😀 e\u0301 \ufeff\ufffd\U0010ffff", strings.Repeat("\x01", 100),
}

func FuzzEventJSON(f *testing.F) {
	for i, s := range texts {
		f.Add(s, texts[len(texts)-1-i], int64(i), int64(1<<40+i), uint8(i))
	}
	f.Fuzz(func(t *testing.T, content, other string, seq, millis int64, shape uint8) {
		if !utf8.ValidString(content) || !utf8.ValidString(other) || millis < 0 || millis > 253402300799999 {
			t.Skip("never in a log")
		}
		at := time.UnixMilli(millis)
		e := chat.Event{
			ConversationID: chat.ID{1, 2}, SenderID: chat.ID{3}, ID: chat.ID{4}, ClientMsgID: chat.ID{5}, Seq: seq, CreatedAt: at, Content: content,
			Type: []chat.EventType{chat.EventMessage, chat.EventEdit, chat.EventDelete, chat.EventReaction, chat.EventConversation}[shape%5],
		}
		if shape&8 != 0 {
			e.EditedAt, e.ReplyTo, e.Emoji, e.Title = at, chat.ID{6}, other, other
		}
		if shape&16 != 0 {
			e.DeletedAt, e.Attachments, e.UserIDs, e.Op = at, []chat.ID{{7}, {8}}, []chat.ID{{9}}, other
		}
		if shape&32 != 0 {
			e.MessageID, e.Kind, e.Role = chat.ID{10}, chat.Kind(other), chat.Role(other)
		}
		checkJSON(t, &e)
	})
}

func TestEventJSON(t *testing.T) {
	t.Parallel()
	e := chat.Event{
		ConversationID: chat.MustParseID("0198c0de-0000-7000-8000-000000000001"), SenderID: chat.MustParseID("0198c0de-0000-7000-8000-000000000002"),
		ID: chat.MustParseID("0198c0de-0000-7000-8000-000000000003"), ClientMsgID: chat.MustParseID("0198c0de-0000-7000-8000-000000000004"),
		Type: chat.EventMessage, Seq: 7, Content: "hi", CreatedAt: time.Date(2026, 3, 4, 6, 6, 7, 89_999_999, time.FixedZone("", 3600)),
	}
	const want = `{"type":"message","conversationId":"0198c0de-0000-7000-8000-000000000001","seq":7,"senderId":"0198c0de-0000-7000-8000-000000000002","createdAt":"2026-03-04T05:06:07.089Z","id":"0198c0de-0000-7000-8000-000000000003","clientMsgId":"0198c0de-0000-7000-8000-000000000004","content":"hi"}`
	if got := string(e.AppendJSON(nil, "")); got != want {
		t.Errorf("AppendJSON =\n%s, want\n%s", got, want)
	}
	for _, s := range texts {
		e.Content, e.Title = s, s
		checkJSON(t, &e)
	}
}

func TestEventDetail(t *testing.T) {
	t.Parallel()
	full := chat.EventDetail{
		ReplyTo: chat.ID{1}, Attachments: []chat.ID{{2}, {3}}, Mentions: []chat.ID{{6}}, MessageID: chat.ID{4}, Emoji: "e", Op: "o", Kind: chat.Group, Title: "t", UserIDs: []chat.ID{{5}}, Role: chat.Owner,
		History: chat.HistoryAll,
	}
	var zero chat.EventDetail
	if !zero.IsZero() || full.IsZero() || !full.Equal(&full) || zero.Equal(&full) {
		t.Error("IsZero or Equal is wrong about none and all")
	}
	// Every field counts: also one that is added some day.
	v := reflect.ValueOf(full)
	for i := range v.NumField() {
		one, rest := chat.EventDetail{}, full
		reflect.ValueOf(&one).Elem().Field(i).Set(v.Field(i))
		reflect.ValueOf(&rest).Elem().Field(i).SetZero()
		name := v.Type().Field(i).Name
		if one.IsZero() {
			t.Errorf("IsZero overlooks %s", name)
		}
		if follows := name == "Mentions"; one.Equal(&zero) != follows || rest.Equal(&full) != follows {
			t.Errorf("Equal is wrong about %s", name)
		}
	}
	other := full
	other.Attachments = []chat.ID{{2}, {9}}
	if other.Equal(&full) {
		t.Error("Equal overlooks an attachment")
	}
}
