package chat

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"unicode/utf8"
)

// Command is what a client asks of a conversation by publishing to conv/{id}/messages
// (contract, 2). Which fields are set depends on Type; see commandTypes.
type Command struct {
	Type        EventType // message, edit, delete or reaction
	Content     string    // message, edit
	ClientMsgID ID        // zero: the client sent none
	ReplyTo     ID        // message; zero: none
	Attachments []ID      // message
	MessageID   ID        // edit, delete, reaction
	Emoji       string    // reaction
	Op          string    // reaction: OpAdd or OpRemove
}

// ParseCommand reads the payload of a publish: a JSON object with the fields of the
// contract, or the text of a message, which is everything that is no JSON object, and also
// what has the contentType text/plain. What begins with "{" and has the contentType
// application/json must be an object. Unknown fields are ignored, so that new clients can use old servers. The errors
// are Invalid and name the field and what it may be; the result then still holds the
// ClientMsgID, if it could be read.
//
// The result does not refer to payload.
func ParseCommand(payload []byte, contentType string) (Command, error) {
	switch {
	case len(payload) > MaxCommandBytes:
		return Command{}, &Error{Code: TooLarge, Field: "payload", Msg: "has " + itoa(len(payload)) + " bytes, limit " + itoa(MaxCommandBytes)}
	case !utf8.Valid(payload):
		return Command{}, invalid("payload", "must be valid UTF-8")
	}
	c := Command{Type: EventMessage}
	media := mediaType(contentType)
	text := func() (Command, error) {
		c.Content = string(payload)
		return c, c.Validate()
	}
	if trimmed := bytes.TrimLeft(TrimByteOrderMark(payload), " \t\r\n"); media == "text/plain" || !bytes.HasPrefix(trimmed, []byte("{")) {
		return text()
	}
	var in struct {
		Type        *EventType `json:"type"`
		Content     string     `json:"content"`
		ClientMsgID *string    `json:"clientMsgId"`
		ReplyTo     *string    `json:"replyTo"`
		Attachments []string   `json:"attachments"`
		MessageID   *string    `json:"messageId"`
		Emoji       string     `json:"emoji"`
		Op          string     `json:"op"`
	}
	err := decodeJSON(payload, &in)
	if _, ok := errors.AsType[*json.SyntaxError](err); ok && media != "application/json" {
		return text()
	}
	if in.ClientMsgID != nil {
		c.ClientMsgID, _ = ParseID(*in.ClientMsgID)
	}
	if err != nil {
		return c, commandError(err)
	}
	if in.Type != nil {
		c.Type = *in.Type
	}
	c.Content, c.Emoji, c.Op = in.Content, in.Emoji, in.Op
	for _, f := range []struct {
		name string
		text *string
		id   *ID
	}{{"clientMsgId", in.ClientMsgID, &c.ClientMsgID}, {"replyTo", in.ReplyTo, &c.ReplyTo}, {"messageId", in.MessageID, &c.MessageID}} {
		if f.text == nil {
			continue
		}
		if *f.id, err = ParseID(*f.text); err != nil {
			return c, invalid(f.name, "must be a UUID")
		}
		if f.id.IsZero() {
			return c, invalid(f.name, zeroID)
		}
	}
	if len(in.Attachments) > MaxAttachments {
		return c, invalid("attachments", "has "+itoa(len(in.Attachments))+" ids, limit "+itoa(MaxAttachments))
	}
	for _, text := range in.Attachments {
		var id ID
		if !id.parse(text) {
			return c, invalid("attachments", "must hold UUIDs")
		}
		c.Attachments = append(c.Attachments, id)
	}
	return c, c.Validate()
}

// mediaType returns a content type in lower case without its parameters.
func mediaType(contentType string) string {
	media, _, _ := strings.Cut(contentType, ";")
	return strings.ToLower(strings.TrimSpace(media))
}

func commandError(err error) error {
	if CodeOf(err) == Invalid {
		return err
	}
	var te *json.UnmarshalTypeError
	if errors.As(err, &te) {
		field := te.Field
		if field == "" {
			field = "payload"
		}
		return invalid(field, "must be "+want(field)+", not "+withArticle(te.Value))
	}
	return invalid("payload", "is not a JSON object ("+err.Error()+`); send plain text with content type text/plain`)
}

// withArticle puts the article before a kind of JSON value ("array", "number 3", …).
func withArticle(value string) string {
	if strings.HasPrefix(value, "array") || strings.HasPrefix(value, "object") {
		return "an " + value
	}
	return "a " + value
}

func want(field string) string {
	switch field {
	case "attachments":
		return "an array of ids"
	case "payload":
		return "a JSON object"
	}
	return "a string"
}

// Validate returns the first thing wrong with the command, as Invalid (TooLarge for its
// content) with the field and its limit, or nil. It gives Emoji its one form. It does not
// depend on who sends it, or where.
func (c *Command) Validate() error {
	if len(c.Content) > MaxContentBytes {
		return &Error{Code: TooLarge, Field: "content", Msg: "has " + itoa(len(c.Content)) + " bytes, limit " + itoa(MaxContentBytes)}
	}
	if !utf8.ValidString(c.Content) || strings.IndexByte(c.Content, 0) >= 0 {
		return invalid("content", "must be valid UTF-8 without NUL")
	}
	if v := c.ClientMsgID[6] >> 4; !c.ClientMsgID.IsZero() && (v < 1 || v > 7) { // version 8: see ResendKey
		return invalid("clientMsgId", "must be a UUID of version 1 to 7")
	}
	t, ok := commandTypes[c.Type]
	if !ok {
		return invalid("type", `must be "message", "edit", "delete" or "reaction"`)
	}
	if err := t.validate(c); err != nil {
		return err
	}
	if t.decide != nil && c.MessageID.IsZero() {
		return invalid("messageId", "must be the id of a message")
	}
	return nil
}
