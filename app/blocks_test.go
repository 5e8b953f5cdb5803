package app_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/app/apptest"
	"github.com/parleymq/parley/broker/brokertest"
)

func block(t *testing.T, a *apptest.App, method string, by, whom apptest.User) {
	t.Helper()
	want(t, 204, a.REST(t, by, method, "/api/blocks/"+whom.ID.String(), nil))
}

// A block ends what the two have to do with each other, both ways and in the same
// words, and its end brings it back. Others notice nothing.
func TestBlocks(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	for _, v := range versions {
		t.Run(versionName(v), func(t *testing.T) {
			t.Parallel()
			ann, bob, carl := a.User(t, "ann"), a.User(t, "bob"), a.User(t, "carl")
			direct, group := a.Direct(t, ann, bob), a.Group(t, carl, ann, bob)
			devices := map[string]*apptest.Device{}
			for name, u := range map[string]apptest.User{"ann": ann, "bob": bob} {
				d := a.Device(t, u, brokertest.Connect{ClientID: name, Version: v})
				d.MustSubscribe(1, "conv/+/messages", u.Topic("errors"))
				devices[name] = d
			}
			refused := func(d *apptest.Device) {
				t.Helper()
				ack := d.Publish(1, direct.Topic("messages"), "hello")
				if v == 5 && (ack.Code != packets.ErrNotAuthorized.Code || !strings.Contains(ack.Reason, "cannot write to each other")) {
					t.Errorf("a message was answered %+v", ack)
				}
				if v == 4 {
					if p := expectProblem(t, d); p.Code != "forbidden" || !strings.Contains(p.Detail, "cannot write to each other") {
						t.Errorf("a message was answered %+v", p)
					}
				}
			}
			da, db := devices["ann"], devices["bob"]
			da.Send(direct, "2")
			said := "/api/messages/" + da.ExpectEvent(direct, 2).ID
			db.ExpectEvent(direct, 2)

			block(t, a, http.MethodPut, ann, bob)
			block(t, a, http.MethodPut, ann, bob)
			refused(da)
			refused(db)
			for _, u := range []apptest.User{ann, bob} {
				body := map[string]string{"conversationId": string(direct), "content": "hello"}
				want(t, 403, a.REST(t, u, http.MethodPost, "/api/messages", body))
				if r := want(t, 200, a.REST(t, u, http.MethodGet, "/api/messages?conversationId="+string(direct), nil)); len(r.JSON["data"].([]any)) != 1 {
					t.Errorf("what was written before is gone: %s", r)
				}
			}
			want(t, 403, a.REST(t, ann, http.MethodPatch, said, `{"content":"hi"}`))
			want(t, 403, a.REST(t, bob, http.MethodPut, said+"/reactions/👍", nil))
			want(t, 204, a.REST(t, ann, http.MethodDelete, said, nil)) // taking back is no speaking
			da.ExpectEvent(direct, 3)
			db.ExpectEvent(direct, 3)
			da.Send(group, "2") // where there are others, both may write
			da.ExpectEvent(group, 2)
			db.ExpectEvent(group, 2)

			// The other one blocks too: the first one's end is not the end.
			block(t, a, http.MethodPut, bob, ann)
			block(t, a, http.MethodDelete, ann, bob)
			refused(da)
			refused(db)
			block(t, a, http.MethodDelete, bob, ann)
			block(t, a, http.MethodDelete, bob, ann)
			db.Send(direct, "4")
			da.ExpectEvent(direct, 4)
			db.ExpectEvent(direct, 4)
			da.Ping()
		})
	}
}

// Somebody who is blocked, or has blocked, cannot be reached: no new conversation, no
// group, in words that do not tell who has blocked whom.
func TestBlocksAndConversations(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	ann, bob, carl := a.User(t, "ann"), a.User(t, "bob"), a.User(t, "carl")
	mine := map[apptest.User]apptest.Conv{ann: a.Group(t, ann), bob: a.Group(t, bob)}
	block(t, a, http.MethodPut, ann, bob)
	for _, p := range [][2]apptest.User{{ann, bob}, {bob, ann}} {
		by, other := p[0], p[1]
		for path, body := range map[string]map[string]any{
			"/api/conversations":  {"otherUserId": other.ID},
			"/api/conversations#": {"userIds": []any{carl.ID, other.ID}},
			members(mine[by]):     {"userIds": []any{carl.ID, other.ID}},
		} {
			r := want(t, 403, a.REST(t, by, http.MethodPost, strings.TrimSuffix(path, "#"), body))
			if d, _ := r.JSON["detail"].(string); !strings.HasSuffix(d, "you cannot begin anything with user "+other.ID.String()) {
				t.Errorf("%s: %s", path, r)
			}
		}
	}
	a.Group(t, carl, ann, bob) // a third one may bring them together
	want(t, 400, a.REST(t, ann, http.MethodPut, "/api/blocks/"+ann.ID.String(), nil))
	want(t, 404, a.REST(t, ann, http.MethodPut, "/api/blocks/"+uuid(7), nil))
	want(t, 204, a.REST(t, ann, http.MethodDelete, "/api/blocks/"+uuid(7), nil))
	want(t, 400, a.REST(t, ann, http.MethodPut, "/api/blocks/nobody", nil))
	block(t, a, http.MethodPut, ann, carl)
	first := want(t, 200, a.REST(t, ann, http.MethodGet, "/api/blocks?limit=1", nil))
	next, _ := first.JSON["nextCursor"].(string)
	second := want(t, 200, a.REST(t, ann, http.MethodGet, "/api/blocks?limit=1&cursor="+next, nil))
	if !strings.Contains(string(first.Body), bob.Username) || !strings.Contains(string(second.Body), carl.Username) || second.JSON["nextCursor"] != nil {
		t.Errorf("ann has blocked %s and %s", first, second)
	}
	want(t, 400, a.REST(t, bob, http.MethodGet, "/api/blocks?cursor="+next, nil))
	if r := want(t, 200, a.REST(t, bob, http.MethodGet, "/api/blocks", nil)); len(r.JSON["data"].([]any)) != 0 {
		t.Errorf("bob has blocked %s", r)
	}
}

// Who is removed, or blocked, is no longer shown as typing, and sees nobody type,
// from then on.
func TestTypingAndMembers(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	ann, bob, carl := a.User(t, "ann"), a.User(t, "bob"), a.User(t, "carl")
	c, direct := a.Group(t, carl, ann, bob), a.Direct(t, ann, bob)
	devices := map[apptest.User]*apptest.Device{}
	for _, u := range []apptest.User{ann, bob, carl} {
		devices[u] = a.Device(t, u, brokertest.Connect{ClientID: "phone"})
		devices[u].MustSubscribe(1, "conv/+/typing")
	}
	types := func(u apptest.User, c apptest.Conv, typing string) {
		t.Helper()
		devices[u].Client.Send(brokertest.Publish(c.Topic("typing"), 0, 0, `{"typing":`+typing+`}`))
		devices[u].Ping()
	}
	types(ann, c, "true")
	types(ann, direct, "true")
	expectTyping(t, devices[carl], c, ann, true)
	expectBoth(t, devices[bob], c, direct, ann, true)
	block(t, a, http.MethodPut, bob, ann)
	expectBoth(t, devices[bob], c, direct, ann, false)
	types(ann, direct, "true")
	types(bob, direct, "true")
	types(bob, c, "true")
	expectTyping(t, devices[carl], c, bob, true)
	types(bob, c, "false")
	expectTyping(t, devices[carl], c, bob, false)
	late := a.Device(t, bob, brokertest.Connect{ClientID: "late"})
	late.MustSubscribe(1, "conv/#")
	late.Ping() // ann types in the group, and is not shown
	types(ann, c, "false")
	expectTyping(t, devices[carl], c, ann, false)
	devices[bob].Ping()
	devices[ann].Ping()
	block(t, a, http.MethodDelete, bob, ann)

	types(carl, c, "true")
	expectTyping(t, devices[ann], c, carl, true)
	expectTyping(t, devices[bob], c, carl, true)
	remove(t, a, carl, c, bob)
	types(carl, c, "false")
	expectTyping(t, devices[ann], c, carl, false)
	devices[bob].Ping()
	dave := a.User(t, "dave")
	add(t, a, carl, c, dave)
	devices[dave] = a.Device(t, dave, brokertest.Connect{ClientID: "phone"})
	types(dave, c, "true")
	expectTyping(t, devices[ann], c, dave, true)
	expectTyping(t, devices[carl], c, dave, true)
	remove(t, a, dave, c, dave)
	expectTyping(t, devices[ann], c, dave, false)
	expectTyping(t, devices[carl], c, dave, false)
	if ack := devices[dave].Publish(1, c.Topic("typing"), `{"typing":true}`); ack.Code != packets.ErrNotAuthorized.Code {
		t.Errorf("a former member's typing was answered %+v", ack)
	}
	devices[bob].Ping()
}

// expectBoth is expectTyping in two conversations, in any order.
func expectBoth(t *testing.T, d *apptest.Device, one, two apptest.Conv, by apptest.User, typing bool) {
	t.Helper()
	seen := map[string]bool{}
	for range 2 {
		pk := d.Expect(packets.Publish)
		body := string(pk.Payload)
		seen[pk.TopicName] = strings.Contains(body, by.ID.String()) && strings.Contains(body, `"typing":true`) == typing
	}
	if !seen[one.Topic("typing")] || !seen[two.Topic("typing")] {
		t.Errorf("heard %v", seen)
	}
}
