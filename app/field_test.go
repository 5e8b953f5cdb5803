package app_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/parleymq/parley/app/apptest"
	"github.com/parleymq/parley/broker/brokertest"
)

// An iPhone's UUID().uuidString is in upper case: it is taken wherever an id is, stands for
// the same id, and is answered in lower case (RFC 9562, 4).
func TestIDsInUpperCase(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	ann, bob := a.User(t, "ann"), a.User(t, "bob")
	conv := a.Direct(t, ann, bob)
	upper := apptest.Conv(strings.ToUpper(string(conv)))
	seq := a.LastSeq(t, ann, conv)
	for i, version := range versions {
		phone := a.Device(t, ann, brokertest.Connect{ClientID: fmt.Sprint("iphone", i), Version: version})
		phone.MustSubscribe(1, "conv/"+string(upper)+"/messages")
		key := uuid(i + 1)
		phone.Publish(1, upper.Topic("messages"), `{"content":"hi","clientMsgId":"`+strings.ToUpper(key)+`"}`)
		seq++
		e := phone.ExpectEvent(conv, seq)
		if e.ClientMsgID != key || e.Content != "hi" {
			t.Errorf("received %+v", e)
		}
		phone.Publish(1, conv.Topic("messages"), `{"content":"hi","clientMsgId":"`+key+`"}`) // the same again
		phone.Publish(1, conv.Topic("messages"), `{"type":"edit","messageId":"`+strings.ToUpper(e.ID)+`","content":"ho"}`)
		seq++
		phone.ExpectEvent(conv, seq)
		phone.Publish(1, upper.Topic("reads"), `{"messageIds":["`+strings.ToUpper(e.ID)+`"]}`)
		page := a.REST(t, ann, http.MethodGet, "/api/messages?conversationId="+string(upper)+"&limit=1", nil)
		if page.Status != http.StatusOK || !strings.Contains(string(page.Body), `"conversationId":"`+string(conv)) {
			t.Errorf("GET: %s", page)
		}
	}
	sent := a.REST(t, ann, http.MethodPost, "/api/messages", map[string]any{
		"conversationId": string(upper), "content": "hi", "clientMsgId": strings.ToUpper(uuid(3)),
	})
	if sent.Status != http.StatusCreated || !strings.Contains(string(sent.Body), uuid(3)) {
		t.Errorf("POST: %s", sent)
	}
	if last := a.LastSeq(t, ann, conv); last != seq+1 {
		t.Errorf("the log has %d events, want %d", last, seq+1)
	}
}

// What begins with a brace and is no JSON object is what somebody has typed. A byte order
// mark is no part of JSON.
func TestTextInBraces(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	ann, bob := a.User(t, "ann"), a.User(t, "bob")
	conv := a.Direct(t, ann, bob)
	for _, version := range versions {
		d := a.Device(t, ann, brokertest.Connect{ClientID: "d", Version: version})
		d.MustSubscribe(1, "conv/+/messages")
		for payload, want := range map[string]string{
			"{": "{", "{name} says hi": "{name} says hi", `{"content":"a"} b`: `{"content":"a"} b`, `{content:"a"}`: `{content:"a"}`, ` {"a":`: ` {"a":`,
			"\xef\xbb\xbf" + `{"content":"a"}`: "a", "\xef\xbb\xbfhello": "\xef\xbb\xbfhello",
		} {
			if version == 5 {
				if ack := d.Publish(1, conv.Topic("messages"), payload); ack.Code != 0 {
					t.Errorf("%q: %+v", payload, ack)
					continue
				}
			} else {
				d.Publish(1, conv.Topic("messages"), payload)
			}
			if e := d.Event(); e.Content != want {
				t.Errorf("%q was received as %q", payload, e.Content)
			}
		}
		d.Disconnect()
	}
	for body, want := range map[string]int{
		"\xef\xbb\xbf" + `{"conversationId":"` + string(conv) + `","content":"a"}`: http.StatusCreated,
		`{"conversationId":"` + string(conv) + `","content":"a","content":"b"}`:    http.StatusBadRequest,
		`{"conversationId":"` + string(conv) + `","content":"\udc00"}`:             http.StatusBadRequest,
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+a.HTTPAddr()+"/api/messages", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		if r := a.Do(t, ann, req); r.Status != want {
			t.Errorf("%q: %s", body, r)
		}
	}
}

// ❤ of one keyboard and ❤️ of another are one reaction, and either takes it back.
func TestHeartsAreOneReaction(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	ann, bob := a.User(t, "ann"), a.User(t, "bob")
	conv := a.Direct(t, ann, bob)
	d := a.Device(t, ann, brokertest.Connect{ClientID: "d", Version: 5})
	d.MustSubscribe(1, "conv/+/messages")
	id := d.Send(conv, "hello").ID
	d.Event()
	react := func(op, emoji string) {
		d.Publish(1, conv.Topic("messages"), `{"type":"reaction","messageId":"`+id+`","emoji":"`+emoji+`","op":"`+op+`"}`)
		if e := d.Event(); e.Emoji != "\u2764\ufe0f" || e.Op != op {
			t.Errorf("%s %+q: received %+v", op, emoji, e)
		}
	}
	reactions := func(want string) {
		t.Helper()
		r := a.REST(t, bob, http.MethodGet, "/api/messages/"+id, nil)
		if r.Status != http.StatusOK || strings.Contains(string(r.Body), `"reactions"`) != (want != "") || !strings.Contains(string(r.Body), want) {
			t.Errorf("%s, want %s", r, want)
		}
	}
	react("add", `\u2764`)
	if r := a.REST(t, bob, http.MethodPut, "/api/messages/"+id+"/reactions/%E2%9D%A4%EF%B8%8F", nil); r.Status != http.StatusNoContent {
		t.Errorf("PUT: %s", r)
	}
	d.Event()
	reactions(`"reactions":[{"emoji":"` + "\u2764\ufe0f" + `","count":2,"mine":true}]`)
	react("remove", `\u2764\ufe0f`)
	if r := a.REST(t, bob, http.MethodDelete, "/api/messages/"+id+"/reactions/%E2%9D%A4", nil); r.Status != http.StatusNoContent {
		t.Errorf("DELETE: %s", r)
	}
	reactions("")
}

// What was typed on one keyboard is found from another.
func TestSearchFromAnotherKeyboard(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	ann, bob := a.User(t, "ann"), a.User(t, "bob")
	conv := a.Direct(t, ann, bob)
	d := a.Device(t, ann, brokertest.Connect{ClientID: "d", Version: 5})
	for text, query := range map[string]string{"كتاب عربي": "کتاب", "پارسی": "پارسي", "سنة ۱۴۰۵": "1405", "カメラ": "かめら"} {
		id := d.Send(conv, text).ID
		apptest.Eventually(t, "the message is found", func() bool {
			r := a.REST(t, bob, http.MethodGet, "/api/messages/search?q="+url.QueryEscape(query), nil)
			return r.Status == http.StatusOK && strings.Contains(string(r.Body), id)
		})
	}
}
