package chat_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/parleymq/parley/chat"
)

const anID = "0198c0de-0000-7000-8000-00000000000a"

func TestParseCommand(t *testing.T) {
	t.Parallel()
	id := chat.MustParseID(anID)
	for _, test := range []struct {
		payload, contentType string
		want                 chat.Command
	}{
		{`hello`, "", chat.Command{Type: chat.EventMessage, Content: "hello"}},
		{" \t hello\n", "", chat.Command{Type: chat.EventMessage, Content: " \t hello\n"}},
		{`["not", "an object"]`, "", chat.Command{Type: chat.EventMessage, Content: `["not", "an object"]`}},
		{`"text"`, "application/json", chat.Command{Type: chat.EventMessage, Content: `"text"`}},
		{`{`, "", chat.Command{Type: chat.EventMessage, Content: `{`}},
		{`{name} is here :}`, "", chat.Command{Type: chat.EventMessage, Content: `{name} is here :}`}},
		{`{"content":"x"`, "text/json", chat.Command{Type: chat.EventMessage, Content: `{"content":"x"`}},
		{`{"content":"x"} y`, "", chat.Command{Type: chat.EventMessage, Content: `{"content":"x"} y`}},
		{"\xef\xbb\xbf{\"content\":\"x\"}", "", chat.Command{Type: chat.EventMessage, Content: "x"}},
		{`{"content":"x","clientMsgId":"` + strings.ToUpper(anID) + `"}`, "", chat.Command{Type: chat.EventMessage, Content: "x", ClientMsgID: id}},
		{`{"content":"x"}`, "text/plain", chat.Command{Type: chat.EventMessage, Content: `{"content":"x"}`}},
		{`{"content":"x"}`, " Text/Plain ; charset=utf-8", chat.Command{Type: chat.EventMessage, Content: `{"content":"x"}`}},
		{`{"content":"x"}`, "text/plainer", chat.Command{Type: chat.EventMessage, Content: "x"}},
		{"\r\n {\"content\":\"x\",\"future\":{\"a\":[1]}}", "", chat.Command{Type: chat.EventMessage, Content: "x"}},
		{`{"type":"message","content":"\u2028\"é","clientMsgId":"` + anID + `","replyTo":"` + anID + `"}`, "", chat.Command{Type: chat.EventMessage, Content: "\u2028\"é", ClientMsgID: id, ReplyTo: id}},
		{`{"clientMsgId":null,"replyTo":null,"attachments":["` + anID + `"]}`, "", chat.Command{Type: chat.EventMessage, Attachments: []chat.ID{id}}},
		{`{"type":null,"content":"x","attachments":null}`, "", chat.Command{Type: chat.EventMessage, Content: "x"}},
		{`{"type":"edit","messageId":"` + anID + `","content":"y"}`, "", chat.Command{Type: chat.EventEdit, MessageID: id, Content: "y"}},
		{`{"type":"delete","messageId":"` + anID + `"}`, "", chat.Command{Type: chat.EventDelete, MessageID: id}},
		{`{"type":"reaction","messageId":"` + anID + `","emoji":"👍","op":"remove"}`, "", chat.Command{Type: chat.EventReaction, MessageID: id, Emoji: "👍", Op: "remove"}},
	} {
		got, err := chat.ParseCommand([]byte(test.payload), test.contentType)
		if err != nil || !equal(&got, &test.want) {
			t.Errorf("ParseCommand(%q, %q) = %+v, %v, want %+v", test.payload, test.contentType, got, err, test.want)
		}
	}
}

func equal(a, b *chat.Command) bool {
	return a.Type == b.Type && a.Content == b.Content && a.ClientMsgID == b.ClientMsgID && a.ReplyTo == b.ReplyTo && a.MessageID == b.MessageID &&
		a.Emoji == b.Emoji && a.Op == b.Op && slices.Equal(a.Attachments, b.Attachments)
}

func TestParseCommandRefuses(t *testing.T) {
	t.Parallel()
	many := `["` + strings.Repeat(anID+`","`, 20) + anID + `"]`
	for _, test := range []struct {
		payload string
		code    chat.Code
		public  string
	}{
		{strings.Repeat("x", chat.MaxCommandBytes+1), chat.TooLarge, "payload: has 196609 bytes, limit 196608"},
		{strings.Repeat("x", chat.MaxContentBytes+1), chat.TooLarge, "content: has 65537 bytes, limit 65536"},
		{"\xff", chat.Invalid, "payload: must be valid UTF-8"},
		{"a\x00b", chat.Invalid, "content: must be valid UTF-8 without NUL"},
		{`{"content":"\u0000"}`, chat.Invalid, "content: must be valid UTF-8 without NUL"},
		{"", chat.Invalid, "content: must not be empty"},
		{`{}`, chat.Invalid, "content: must not be empty"},
		{`{"content":"x"` + strings.Repeat(" ", chat.MaxContentBytes), chat.TooLarge, "content: has 65550 bytes, limit 65536"},
		{`{"content":5}`, chat.Invalid, "content: must be a string, not a number"},
		{`{"content":{}}`, chat.Invalid, "content: must be a string, not an object"},
		{`{"type":5,"content":"x"}`, chat.Invalid, "type: must be a string, not a number"},
		{`{"type":"shout","content":"x"}`, chat.Invalid, `type: must be "message", "edit", "delete" or "reaction"`},
		{`{"type":"conversation","content":"x"}`, chat.Invalid, `type: must be "message", "edit", "delete" or "reaction"`},
		{`{"type":"","content":"x"}`, chat.Invalid, `type: must be "message", "edit", "delete" or "reaction"`},
		{`{"content":"x","clientMsgId":"1"}`, chat.Invalid, "clientMsgId: must be a UUID"},
		{`{"content":"x","content":"y"}`, chat.Invalid, `payload: names "content" twice in one object`},
		{`{"content":"a\ud800b"}`, chat.Invalid, `payload: has the escape \ud800, a surrogate without its other half`},
		{`{"content":"x","Content":"y"}`, chat.Invalid, `payload: names "Content", which is written "content"`},
		{`{"content":"x","\u017fenderId":1,"replyto":null}`, chat.Invalid, `payload: names "replyto", which is written "replyTo"`},
		{`{"content":"x","clientMsgId":"0198c0de-0000-0000-8000-000000000000"}`, chat.Invalid, "clientMsgId: must be a UUID of version 1 to 7"},
		{`{"content":"x","clientMsgId":"0198c0de-0000-9000-8000-000000000000"}`, chat.Invalid, "clientMsgId: must be a UUID of version 1 to 7"},
		{`{"content":"x","clientMsgId":"0198c0de-0000-8000-8000-000000000000"}`, chat.Invalid, "clientMsgId: must be a UUID of version 1 to 7"},
		{`{"content":"x","replyTo":""}`, chat.Invalid, "replyTo: must be a UUID"},
		{`{"content":"x","attachments":"` + anID + `"}`, chat.Invalid, "attachments: must be an array of ids, not a string"},
		{`{"content":"x","attachments":[1]}`, chat.Invalid, "attachments: must be an array of ids, not a number"},
		{`{"content":"x","attachments":["1"]}`, chat.Invalid, "attachments: must hold UUIDs"},
		{`{"content":"x","attachments":` + many + `}`, chat.Invalid, "attachments: has 21 ids, limit 20"},
		{`{"type":"edit","messageId":"` + anID + `"}`, chat.Invalid, "content: must not be empty; to take a message back, delete it"},
		{`{"type":"edit","content":"x"}`, chat.Invalid, "messageId: must be the id of a message"},
		{`{"type":"delete"}`, chat.Invalid, "messageId: must be the id of a message"},
		{`{"type":"delete","messageId":"00000000-0000-0000-0000-000000000000"}`, chat.Invalid, "messageId: must not be the zero id"},
		{`{"type":"reaction","messageId":"` + anID + `","emoji":"x","op":"toggle"}`, chat.Invalid, `op: must be "add" or "remove"`},
		{`{"type":"reaction","messageId":"` + anID + `","op":"add"}`, chat.Invalid, "emoji: must be one emoji, of at most 64 bytes"},
		{`{"type":"reaction","messageId":"` + anID + `","op":"add","emoji":"\u0000"}`, chat.Invalid, "emoji: must be one emoji, of at most 64 bytes"},
		{`{"type":"reaction","messageId":"` + anID + `","op":"add","emoji":"` + strings.Repeat("👍", 2) + `"}`, chat.Invalid, "emoji: must be one emoji, of at most 64 bytes"},
		{`{"type":"reaction","op":"add","emoji":"👍"}`, chat.Invalid, "messageId: must be the id of a message"},
	} {
		name := test.payload[:min(60, len(test.payload))]
		_, err := chat.ParseCommand([]byte(test.payload), "")
		if chat.CodeOf(err) != test.code || chat.PublicMessage(err) != test.public {
			t.Errorf("ParseCommand(%q): %s, %q, want %s, %q", name, chat.CodeOf(err), chat.PublicMessage(err), test.code, test.public)
		}
	}
}

// A client that says that it sends JSON is told where it is malformed.
func TestParseCommandOfMalformedJSON(t *testing.T) {
	t.Parallel()
	for _, contentType := range []string{"application/json", " Application/JSON; charset=utf-8"} {
		_, err := chat.ParseCommand([]byte(`{"content":"x"} y`), contentType)
		const want = "payload: is not a JSON object (invalid character 'y' after top-level value); send plain text with content type text/plain"
		if chat.CodeOf(err) != chat.Invalid || chat.PublicMessage(err) != want {
			t.Errorf("%s: %v, want %s", contentType, err, want)
		}
	}
}

// Also where the command is refused, its clientMsgId is known, so that the
// refusal can name it.
func TestParseCommandKeepsTheKey(t *testing.T) {
	t.Parallel()
	for _, payload := range []string{
		`{"clientMsgId":"` + anID + `","content":5}`, `{"clientMsgId":"` + anID + `","content":""}`, `{"content":[],"clientMsgId":"` + anID + `","replyTo":"x"}`, `{"clientMsgId":"` + anID + `","type":"x"}`,
	} {
		c, err := chat.ParseCommand([]byte(payload), "")
		if err == nil || c.ClientMsgID.String() != anID {
			t.Errorf("ParseCommand(%s) = %s, %v", payload, c.ClientMsgID, err)
		}
	}
}

func FuzzParseCommand(f *testing.F) {
	for _, s := range []string{
		"hello", "", "{}", `{"content":"x"}`, `{"type":"edit","messageId":"` + anID + `","content":"y"}`, `{"type":"reaction","messageId":"` + anID + `","emoji":"👍","op":"add"}`,
		`{"content":"\ud800","clientMsgId":"` + anID + `","attachments":["` + anID + `"]}`, `{"content":"a","content":null,"Content":"b"}`, "\xff", "{\"content\":\"\x00\"}", `{"content":1e999}`,
	} {
		f.Add([]byte(s), "")
		f.Add([]byte(s), "text/plain")
	}
	f.Fuzz(func(t *testing.T, payload []byte, contentType string) {
		input := bytes.Clone(payload)
		c, err := chat.ParseCommand(input, contentType)
		if err != nil {
			var e *chat.Error
			if !errors.As(err, &e) || e.Code != chat.Invalid && e.Code != chat.TooLarge || e.Field == "" || e.Msg == "" {
				t.Fatalf("ParseCommand(%q): %#v", payload, err)
			}
			return
		}
		if err := c.Validate(); err != nil {
			t.Fatalf("ParseCommand(%q) = %+v, which is %v", payload, c, err)
		}
		before := fmt.Sprintf("%+v", c)
		for i := range input {
			input[i] = '#'
		}
		if after := fmt.Sprintf("%+v", c); before != after {
			t.Fatalf("ParseCommand(%q) refers to its argument", payload)
		}
	})
}
