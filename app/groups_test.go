package app_test

import (
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/app/apptest"
	"github.com/parleymq/parley/broker/brokertest"
	"github.com/parleymq/parley/chat"
)

// members is the path of a conversation's participants, or of one of them.
func members(c apptest.Conv, of ...apptest.User) string {
	path := "/api/conversations/" + string(c) + "/participants"
	for _, u := range of {
		path += "/" + u.ID.String()
	}
	return path
}

func want(t *testing.T, status int, r *apptest.Response) *apptest.Response {
	t.Helper()
	if r.Status != status {
		t.Fatalf("got %s, want %d", r, status)
	}
	return r
}

func add(t *testing.T, a *apptest.App, by apptest.User, c apptest.Conv, users ...apptest.User) {
	t.Helper()
	ids := []string{}
	for _, u := range users {
		ids = append(ids, u.ID.String())
	}
	want(t, 200, a.REST(t, by, http.MethodPost, members(c), map[string]any{"userIds": ids}))
}

func remove(t *testing.T, a *apptest.App, by apptest.User, c apptest.Conv, u apptest.User) {
	t.Helper()
	want(t, 204, a.REST(t, by, http.MethodDelete, members(c, u), nil))
}

// Every change of a group reaches its members, connected or not, in its place in the
// log. Who was removed receives nothing more, though subscribed, and can neither read
// nor write; who comes back goes on with what they may see, without subscribing again.
func TestGroupMembers(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	for _, v := range versions {
		for _, filter := range []string{"conv/+/messages", "conv/#", "exact"} {
			t.Run(versionName(v)+" "+filter, func(t *testing.T) {
				t.Parallel()
				ann, bob, carl := a.User(t, "ann"), a.User(t, "bob"), a.User(t, "carl")
				c := a.Group(t, ann, bob)
				if filter == "exact" {
					filter = c.Topic("messages")
				}
				near := a.Device(t, ann, brokertest.Connect{ClientID: "near"})
				near.MustSubscribe(1, "conv/+/messages")
				bobs := a.Device(t, bob, brokertest.Connect{ClientID: "bobs", Version: v, Persistent: true, SessionExpiry: 3600})
				bobs.MustSubscribe(1, filter, bob.Topic("errors"))
				carls := a.Device(t, carl, brokertest.Connect{ClientID: "carls", Version: v})
				carls.MustSubscribe(1, "conv/+/messages")

				near.Send(c, "2")
				for _, d := range []*apptest.Device{near, bobs} {
					d.ExpectEvent(c, 2)
				}
				add(t, a, ann, c, carl) // 3
				near.Send(c, "4")
				remove(t, a, ann, c, bob) // 5
				near.Send(c, "6")
				want(t, 200, a.REST(t, ann, http.MethodPatch, "/api/conversations/"+string(c), `{"title":"rowing"}`)) // 7
				for seq := int64(3); seq <= 7; seq++ {
					e := near.ExpectEvent(c, seq)
					if f := carls.ExpectEvent(c, seq); f.Op != e.Op || f.Content != e.Content {
						t.Errorf("event %d is %+v to the one, and %+v to the other", seq, e, f)
					}
					if wantOp := map[int64]string{3: "joined", 5: "left", 7: "renamed"}[seq]; e.Op != wantOp {
						t.Errorf("event %d is %+v", seq, e)
					}
					if seq < 5 {
						bobs.ExpectEvent(c, seq)
					}
				}
				bobs.Ping()
				switch ack := bobs.Publish(1, c.Topic("messages"), "let me in"); {
				case v == 5 && ack.Code != packets.ErrNotAuthorized.Code:
					t.Errorf("a former member's message was answered %+v", ack)
				case v == 4:
					if p := expectProblem(t, bobs); p.Code != "forbidden" {
						t.Errorf("a former member's message was answered %+v", p)
					}
				}
				for _, path := range []string{"/api/conversations/" + string(c), "/api/messages?conversationId=" + string(c), members(c)} {
					want(t, 404, a.REST(t, bob, http.MethodGet, path, nil))
				}
				if codes := bobs.Subscribe(1, c.Topic("reads")); codes[0] < 0x80 {
					t.Errorf("a former member may subscribe: %#x", codes)
				}

				add(t, a, ann, c, bob) // 8
				near.Send(c, "9")
				for _, d := range []*apptest.Device{near, carls, bobs} {
					if e := d.ExpectEvent(c, 8); e.Op != "joined" || !slices.Equal(e.UserIDs, []string{bob.ID.String()}) {
						t.Errorf("event 8 is %+v", e)
					}
					d.ExpectEvent(c, 9)
					d.Ping()
				}
				bobs.Send(c, "10")
				near.ExpectEvent(c, 10)
				carls.ExpectEvent(c, 10)
				bobs.ExpectEvent(c, 10)

				// Away while removed and added again: no event of in between.
				bobs.Ping()
				bobs.Disconnect()
				near.Send(c, "11")
				remove(t, a, ann, c, bob) // 12
				near.Send(c, "13")
				add(t, a, ann, c, bob) // 14
				near.Send(c, "15")
				remove(t, a, carl, c, carl) // 16
				bobs = a.Device(t, bob, brokertest.Connect{ClientID: "bobs", Version: v, Persistent: true, SessionExpiry: 3600})
				for seq := int64(14); seq <= 16; seq++ {
					bobs.ExpectEvent(c, seq)
				}
				bobs.Ping()
				for seq := int64(11); seq <= 16; seq++ {
					near.ExpectEvent(c, seq)
					if seq < 16 {
						carls.ExpectEvent(c, seq)
					}
				}
				carls.Ping()

				// With all of the history, what was missed comes too.
				want(t, 200, a.REST(t, ann, http.MethodPatch, "/api/conversations/"+string(c), `{"history":"all"}`)) // 17
				bobs.ExpectEvent(c, 17)
				add(t, a, ann, c, carl) // 18
				carls.ExpectEvent(c, 16)
				carls.ExpectEvent(c, 17)
				carls.ExpectEvent(c, 18)
				dave := a.User(t, "dave")
				daves := a.Device(t, dave, brokertest.Connect{ClientID: "daves", Version: v})
				daves.MustSubscribe(1, "conv/#")
				add(t, a, ann, c, dave) // 19
				for seq := int64(1); seq <= 19; seq++ {
					daves.ExpectEvent(c, seq)
				}
				daves.Ping()
				r := want(t, 200, a.REST(t, dave, http.MethodGet, "/api/conversations/"+string(c), nil))
				if r.JSON["unreadCount"] != 0.0 || r.JSON["history"] != "all" || r.JSON["title"] != "rowing" {
					t.Errorf("who joins sees %s", r)
				}
			})
		}
	}
}

// Messages flow while somebody is removed and added again and again. They get what
// was stored while they were a member, all of it of the last time, and nothing of in
// between; those who stay get everything; and what they send is refused exactly from
// the removal on.
func TestMembersChangeWhileMessagesFlow(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	for _, v := range versions {
		t.Run(versionName(v), func(t *testing.T) {
			t.Parallel()
			ann, bob, carl := a.User(t, "ann"), a.User(t, "bob"), a.User(t, "carl")
			c := a.Group(t, ann, bob, carl)
			stays := a.Device(t, ann, brokertest.Connect{ClientID: "stays"})
			stays.MustSubscribe(1, "conv/+/messages")
			comes := a.Device(t, carl, brokertest.Connect{ClientID: "comes", Version: v})
			comes.MustSubscribe(1, "conv/+/messages", carl.Topic("errors"))
			stop := make(chan struct{})
			var wg sync.WaitGroup
			var stored atomic.Int64 // of bob's messages
			flow := func() {
				before := stored.Load()
				apptest.Eventually(t, "a message of bob's is stored", func() bool { return stored.Load() > before })
			}
			for i := range 2 {
				wg.Go(func() {
					d := a.Device(t, bob, brokertest.Connect{ClientID: fmt.Sprint("from", i)})
					for n := 0; ; n++ {
						select {
						case <-stop:
							return
						default:
						}
						d.Send(c, fmt.Sprint(i, " ", n))
						stored.Add(1)
					}
				})
			}
			acked := map[int64]bool{} // carl's messages
			wg.Go(func() {
				d := a.Device(t, carl, brokertest.Connect{ClientID: "sender", Version: 5})
				for {
					select {
					case <-stop:
						return
					default:
					}
					var ids []uint16
					for range 20 {
						ids = append(ids, d.PublishAsync(1, c.Topic("messages"), "carl's"))
					}
					for _, id := range ids {
						switch ack := d.AwaitAck(packets.Puback, id); ack.Code {
						case 0:
							acked[ack.Seq] = true
						case packets.ErrNotAuthorized.Code:
						default:
							t.Errorf("answered %+v", ack)
						}
					}
				}
			})
			for range 25 {
				remove(t, a, ann, c, carl)
				flow()
				add(t, a, ann, c, carl)
				flow()
			}
			close(stop)
			wg.Wait()

			last := a.LastSeq(t, ann, c)
			log := a.Log(t, ann, c, 0)
			visible := map[int64]bool{}
			member, joined := true, int64(0)
			for _, e := range log {
				switch e.Op {
				case "left":
					member = false
				case "joined":
					member, joined = true, e.Seq
				}
				visible[e.Seq] = member
				if e.SenderID == carl.ID {
					if !member || !acked[e.Seq] {
						t.Errorf("carl's message is event %d: member %v, acknowledged %v", e.Seq, member, acked[e.Seq])
					}
					delete(acked, e.Seq)
				}
			}
			if len(acked) > 0 {
				t.Errorf("acknowledged and not there: %v", acked)
			}
			for seq := int64(2); seq <= last; seq++ {
				stays.ExpectEvent(c, seq)
			}
			before, got := int64(1), 0
			for before < last {
				e := comes.Event()
				switch {
				case e.Seq <= before || !visible[e.Seq]:
					t.Fatalf("carl received event %d after %d; visible: %v", e.Seq, before, visible[e.Seq])
				case e.Seq > joined && e.Seq != before+1:
					t.Fatalf("carl received event %d after %d, having joined at %d", e.Seq, before, joined)
				}
				before = e.Seq
				got++
			}
			comes.Ping()
			stays.Ping()
			t.Logf("%d events, of which carl received %d", last, got)
		})
	}
}

// Who may do what in a group, and how it is said.
func TestGroupRoles(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	owner, admin, member, other, stranger := a.User(t, "owner"), a.User(t, "admin"), a.User(t, "member"), a.User(t, "other"), a.User(t, "stranger")
	c := a.Group(t, owner, admin, member, other)
	direct := a.Direct(t, owner, member)
	role := func(by, of apptest.User, role string) *apptest.Response {
		return a.REST(t, by, http.MethodPatch, members(c, of), map[string]string{"role": role})
	}
	want(t, 200, role(owner, admin, "admin"))
	conv, title := "/api/conversations/"+string(c), `{"title":"t"}`
	adds := func(role string, users ...apptest.User) map[string]any {
		ids := []string{}
		for _, u := range users {
			ids = append(ids, u.ID.String())
		}
		return map[string]any{"userIds": ids, "role": role}
	}
	for _, tt := range []struct {
		name         string
		by           apptest.User
		method, path string
		body         any
		status       int
		field        string
	}{
		{"a member renames", member, "PATCH", conv, title, 403, "conversationId"},
		{"a stranger renames", stranger, "PATCH", conv, title, 404, "conversationId"},
		{"a direct conversation is renamed", owner, "PATCH", "/api/conversations/" + string(direct), title, 400, "conversationId"},
		{"history that is not", owner, "PATCH", conv, `{"history":"none"}`, 400, "history"},
		{"a member adds", member, "POST", members(c), adds("member", stranger), 403, "conversationId"},
		{"a stranger adds themselves", stranger, "POST", members(c), adds("member", stranger), 404, "conversationId"},
		{"an admin adds an admin", admin, "POST", members(c), adds("admin", stranger), 403, "role"},
		{"an owner is added", owner, "POST", members(c), adds("owner", stranger), 400, "role"},
		{"nobody is added", owner, "POST", members(c), adds("member"), 400, "userIds"},
		{"somebody unknown is added", owner, "POST", members(c), map[string]any{"userIds": []string{uuid(1)}}, 404, "userIds"},
		{"a direct conversation gets a third", owner, "POST", members(direct), adds("member", stranger), 400, "conversationId"},
		{"a member removes another", member, "DELETE", members(c, other), nil, 403, "userId"},
		{"an admin removes the owner", admin, "DELETE", members(c, owner), nil, 403, "userId"},
		{"a stranger removes", stranger, "DELETE", members(c, other), nil, 404, "conversationId"},
		{"somebody who is not there is removed", owner, "DELETE", members(c, stranger), nil, 204, ""},
		{"a stranger leaves", stranger, "DELETE", members(c, stranger), nil, 204, ""},
		{"a direct conversation is left", owner, "DELETE", members(direct, owner), nil, 400, "conversationId"},
		{"an admin gives a role", admin, "PATCH", members(c, member), `{"role":"admin"}`, 403, "conversationId"},
		{"a stranger gets a role", owner, "PATCH", members(c, stranger), `{"role":"admin"}`, 404, "userId"},
		{"the owner steps back", owner, "PATCH", members(c, owner), `{"role":"admin"}`, 400, "role"},
		{"a role that is none", owner, "PATCH", members(c, member), `{"role":"king"}`, 400, "role"},
		{"what is so already", owner, "PATCH", members(c, admin), `{"role":"admin"}`, 200, ""},
		{"a title that is so already", owner, "PATCH", conv, `{"title":"group","history":"joined"}`, 200, ""},
		{"nothing is changed", admin, "PATCH", conv, `{}`, 200, ""},
		{"those who are there are added", admin, "POST", members(c), adds("member", member, other), 200, ""},
		{"a member lists strangers' groups", stranger, "GET", members(c), nil, 404, "conversationId"},
	} {
		r := a.REST(t, tt.by, tt.method, tt.path, tt.body)
		field := ""
		if list, ok := r.JSON["errors"].([]any); ok {
			field, _ = list[0].(map[string]any)["field"].(string)
		}
		if r.Status != tt.status || field != tt.field {
			t.Errorf("%s: %s, want %d about %q", tt.name, r, tt.status, tt.field)
		}
	}
	if n := a.LastSeq(t, owner, c); n != 2 { // created, role
		t.Errorf("the log has %d events, want 2", n)
	}

	remove(t, a, admin, c, other)
	want(t, 200, role(owner, member, "owner")) // and the old one is admin
	want(t, 403, role(owner, admin, "member"))
	remove(t, a, member, c, member)
	want(t, 403, a.REST(t, admin, http.MethodDelete, members(c, owner), nil))
	remove(t, a, owner, c, admin)
	log := logOps(a.Log(t, owner, c, 0))
	remove(t, a, owner, c, owner) // the last one
	want(t, 404, a.REST(t, owner, http.MethodGet, conv, nil))
	name := func(u apptest.User) string { return u.ID.String() }
	wanted := []string{
		"created", "role admin " + name(admin), "left " + name(other), "role owner " + name(member), "role admin " + name(owner), "left " + name(member),
		"role owner " + name(owner), "left " + name(admin), // both admins are there for as long: the one with the lower id
	}
	if !slices.Equal(log, wanted) {
		t.Errorf("the log says %q, want %q", log, wanted)
	}
}

// logOps tells what a log says of a group.
func logOps(log []chat.Event) (ops []string) {
	for _, e := range log {
		op := e.Op
		if e.Role != "" {
			op += " " + string(e.Role)
		}
		if e.Op != "created" && len(e.UserIDs) > 0 {
			op += " " + e.UserIDs[0].String()
		}
		ops = append(ops, op)
	}
	return ops
}
