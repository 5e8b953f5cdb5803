package app_test

import (
	"fmt"
	"net/http"
	"net/url"
	"testing"

	"github.com/parleymq/parley/app/apptest"
	"github.com/parleymq/parley/broker/brokertest"
	"github.com/parleymq/parley/chat"
)

// Edits, deletions and reactions by both doors: whoever is there hears them, and a
// device that was away gets all of it in the order of the log.
func TestCommands(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	for _, version := range versions {
		t.Run(versionName(version), func(t *testing.T) {
			t.Parallel()
			ann, bob := a.User(t, "ann"), a.User(t, "bob")
			conv := a.Direct(t, ann, bob)
			kept := brokertest.Connect{ClientID: "phone", Version: version, Persistent: true, SessionExpiry: 3600}
			away := a.Device(t, bob, kept)
			away.MustSubscribe(1, "conv/+/messages")
			away.Close()
			here := a.Device(t, bob, brokertest.Connect{ClientID: "here", Version: version})
			here.MustSubscribe(1, "conv/+/messages")
			phone := a.Device(t, ann, brokertest.Connect{ClientID: "phone", Version: version})

			phone.Send(conv, "hello @"+bob.Username)
			m := here.ExpectEvent(conv, 2)
			if len(m.Mentions) != 1 || m.Mentions[0] != bob.ID.String() {
				t.Errorf("mentions: %v", m.Mentions)
			}
			phone.Send(conv, `{"type":"edit","messageId":"`+m.ID+`","content":"hello you"}`)
			if e := here.ExpectEvent(conv, 3); e.Type != "edit" || e.MessageID != m.ID || e.Content != "hello you" || e.SenderID != ann.ID.String() {
				t.Errorf("edit: %+v", e)
			}
			here.Send(conv, `{"type":"reaction","messageId":"`+m.ID+`","emoji":"👍","op":"add"}`)
			if e := here.ExpectEvent(conv, 4); e.Type != "reaction" || e.MessageID != m.ID || e.Emoji != "👍" || e.Op != "add" || e.SenderID != bob.ID.String() {
				t.Errorf("reaction: %+v", e)
			}
			if r := a.REST(t, ann, http.MethodPatch, "/api/messages/"+m.ID, map[string]string{"content": "hello again"}); r.Status != http.StatusOK || r.JSON["content"] != "hello again" || r.JSON["editedAt"] == nil {
				t.Errorf("PATCH: %s", r)
			}
			here.ExpectEvent(conv, 5)
			thumb := "/api/messages/" + m.ID + "/reactions/" + url.PathEscape("❤️")
			for range 2 {
				if r := a.REST(t, ann, http.MethodPut, thumb, nil); r.Status != http.StatusNoContent {
					t.Errorf("PUT: %s", r)
				}
			}
			if e := here.ExpectEvent(conv, 6); e.Emoji != "❤️" {
				t.Errorf("reaction by REST: %+v", e)
			}
			if ack := phone.Publish(1, conv.Topic("messages"), `{"type":"delete","messageId":"`+m.ID+`"}`); ack.Code != 0 {
				t.Errorf("delete: %+v", ack)
			}
			if e := here.ExpectEvent(conv, 7); e.Type != "delete" || e.MessageID != m.ID {
				t.Errorf("delete: %+v", e)
			}
			// There is nothing to do: it is acknowledged, and nobody hears of it.
			if ack := phone.Publish(1, conv.Topic("messages"), `{"type":"delete","messageId":"`+m.ID+`"}`); ack.Code != 0 || ack.Seq != 0 {
				t.Errorf("delete again: %+v", ack)
			}
			phone.Send(conv, "over")
			here.ExpectEvent(conv, 8)

			back := a.Device(t, bob, kept)
			for seq, want := range []string{2: "message", 3: "edit", 4: "reaction", 5: "edit", 6: "reaction", 7: "delete", 8: "message"} {
				if want == "" {
					continue
				}
				e := back.ExpectEvent(conv, int64(seq))
				if e.Type != want || seq < 8 && e.Content != "" {
					t.Errorf("event %d came as %s %q, want %s, without the text that was deleted since", seq, e.Type, e.Content, want)
				}
				if deleted := seq == 2 || seq == 3 || seq == 5; deleted != (e.DeletedAt != "") {
					t.Errorf("event %d: deletedAt %q", seq, e.DeletedAt)
				}
			}
		})
	}
}

// Each refusal of a command about a message, by both doors.
func TestBadCommands(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	r := newRig(t, a)
	eve := a.Device(t, r.eve, brokertest.Connect{ClientID: "eve"})
	old := a.Device(t, r.eve, brokertest.Connect{ClientID: "old", Version: 4})
	old.MustSubscribe(0, r.eve.Topic("errors"))
	r.near.Send(r.conv, "nan's")
	nans := r.near.ExpectEvent(r.conv, 2).ID
	r.near.Send(r.conv, "gone")
	gone := r.near.ExpectEvent(r.conv, 3).ID
	r.near.Send(r.conv, `{"type":"delete","messageId":"`+gone+`"}`)
	r.near.ExpectEvent(r.conv, 4)
	elsewhere := a.Direct(t, r.nan, a.User(t, "zoe"))
	r.near.ExpectEvent(elsewhere, 1)
	r.near.Send(elsewhere, "a secret")
	secret := r.near.ExpectEvent(elsewhere, 2).ID
	r.seq = 4
	unknown := chat.NewID().String()
	for _, tt := range []struct {
		name, payload, method, path, body string
		code                              byte // in MQTT 5
		status                            int  // of REST
		kind, detail                      string
	}{
		{
			"edit another's", `{"type":"edit","messageId":"` + nans + `","content":"x"}`, "PATCH", "/api/messages/" + nans, `{"content":"x"}`,
			0x87, 403, "forbidden", "messageId: only its sender may edit a message",
		},
		{
			"delete another's", `{"type":"delete","messageId":"` + nans + `"}`, "DELETE", "/api/messages/" + nans, "",
			0x87, 403, "forbidden", "messageId: only its sender, or an admin of the group, may delete a message",
		},
		{
			"edit what is unknown", `{"type":"edit","messageId":"` + unknown + `","content":"x"}`, "PATCH", "/api/messages/" + unknown, `{"content":"x"}`,
			0x87, 404, "not_found", "messageId: there is no message " + unknown,
		},
		{
			"react in another conversation", `{"type":"reaction","messageId":"` + secret + `","emoji":"👍","op":"add"}`, "PUT", "/api/messages/" + secret + "/reactions/%F0%9F%91%8D", "",
			0x87, 404, "not_found", "messageId: there is no message " + secret,
		},
		{
			"react to what is deleted", `{"type":"reaction","messageId":"` + gone + `","emoji":"👍","op":"add"}`, "PUT", "/api/messages/" + gone + "/reactions/%F0%9F%91%8D", "",
			0x83, 409, "conflict", "messageId: the message has been deleted",
		},
		{
			"react with what is no emoji", `{"type":"reaction","messageId":"` + nans + `","emoji":"yes","op":"add"}`, "PUT", "/api/messages/" + nans + "/reactions/yes", "",
			0x99, 400, "invalid", "emoji: must be one emoji, of at most 64 bytes",
		},
		{
			"react with two", `{"type":"reaction","messageId":"` + nans + `","emoji":"👍👍","op":"remove"}`, "DELETE", "/api/messages/" + nans + "/reactions/%F0%9F%91%8D%F0%9F%91%8D", "",
			0x99, 400, "invalid", "emoji: must be one emoji, of at most 64 bytes",
		},
		{
			"edit to nothing", `{"type":"edit","messageId":"` + nans + `","content":""}`, "PATCH", "/api/messages/" + nans, `{"content":""}`,
			0x99, 400, "invalid", "content: must not be empty; to take a message back, delete it",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ack := eve.Publish(1, r.conv.Topic("messages"), tt.payload)
			if ack.Code != tt.code || len(ack.Reason) < len(tt.detail) || ack.Reason[:len(tt.detail)] != tt.detail {
				t.Errorf("MQTT 5: %+v, want %#x, %q", ack, tt.code, tt.detail)
			}
			old.Publish(1, r.conv.Topic("messages"), tt.payload)
			if p := expectProblem(t, old); p.Code != tt.kind || len(p.Detail) < len(tt.detail) || p.Detail[:len(tt.detail)] != tt.detail {
				t.Errorf("MQTT 3.1.1: %+v, want %s, %q", p, tt.kind, tt.detail)
			}
			var body any
			if tt.body != "" {
				body = tt.body
			}
			if res := a.REST(t, r.eve, tt.method, tt.path, body); res.Status != tt.status || res.JSON["code"] != tt.kind || res.JSON["detail"] != tt.detail {
				t.Errorf("REST: %s, want %d, %q", res, tt.status, tt.detail)
			}
			r.undisturbed(t)
		})
	}
}

// A message's history of texts, and who reacts, for members only.
func TestMessageHistory(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	ann, bob, eve := a.User(t, "ann"), a.User(t, "bob"), a.User(t, "eve")
	conv := a.Direct(t, ann, bob)
	var m struct{ ID string }
	a.REST(t, ann, http.MethodPost, "/api/messages", map[string]string{"conversationId": string(conv), "content": "text 0"}).Into(&m)
	for i := range 4 {
		if r := a.REST(t, ann, http.MethodPatch, "/api/messages/"+m.ID, map[string]string{"content": fmt.Sprint("text ", i+1)}); r.Status != 200 {
			t.Fatal(r)
		}
	}
	var texts []string
	for cursor := ""; ; {
		var page struct {
			Data []struct {
				Content   string
				CreatedAt string
			}
			NextCursor string
		}
		if r := a.REST(t, bob, http.MethodGet, "/api/messages/"+m.ID+"/edits?limit=2"+cursor, nil).Into(&page); r.Status != 200 {
			t.Fatal(r)
		}
		for _, v := range page.Data {
			texts = append(texts, v.Content)
		}
		if page.NextCursor == "" {
			break
		}
		cursor = "&cursor=" + page.NextCursor
	}
	if fmt.Sprint(texts) != "[text 0 text 1 text 2 text 3 text 4]" {
		t.Errorf("texts: %v", texts)
	}
	for _, who := range []apptest.User{ann, bob} {
		for _, emoji := range []string{"👍", "🎉"} {
			if r := a.REST(t, who, http.MethodPut, "/api/messages/"+m.ID+"/reactions/"+url.PathEscape(emoji), nil); r.Status != 204 {
				t.Fatal(r)
			}
		}
	}
	a.REST(t, ann, http.MethodDelete, "/api/messages/"+m.ID+"/reactions/"+url.PathEscape("🎉"), nil)
	var got struct {
		Reactions []struct {
			Emoji string
			Count int
			Mine  bool
		}
	}
	a.REST(t, ann, http.MethodGet, "/api/messages/"+m.ID, nil).Into(&got)
	if fmt.Sprint(got.Reactions) != "[{👍 2 true} {🎉 1 false}]" {
		t.Errorf("reactions: %v", got.Reactions)
	}
	seen := map[string]bool{}
	for cursor, n := "", 0; n < 5; n++ {
		var page struct {
			Data       []struct{ Emoji, UserID string }
			NextCursor string
		}
		a.REST(t, bob, http.MethodGet, "/api/messages/"+m.ID+"/reactions?limit=1"+cursor, nil).Into(&page)
		for _, v := range page.Data {
			seen[v.Emoji+v.UserID] = true
		}
		if page.NextCursor == "" {
			break
		}
		cursor = "&cursor=" + page.NextCursor
	}
	if len(seen) != 3 || !seen["🎉"+bob.ID.String()] {
		t.Errorf("who reacts: %v", seen)
	}
	for _, path := range []string{"/edits", "/reactions", ""} {
		if r := a.REST(t, eve, http.MethodGet, "/api/messages/"+m.ID+path, nil); r.Status != 404 {
			t.Errorf("a stranger reads %s: %s", path, r)
		}
	}
	if r := a.REST(t, bob, http.MethodGet, "/api/messages/"+m.ID+"/edits?cursor=AXUx", nil); r.Status != 400 {
		t.Errorf("a forged cursor: %s", r)
	}
}
