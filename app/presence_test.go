package app_test

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/app"
	"github.com/parleymq/parley/app/apptest"
	"github.com/parleymq/parley/broker/brokertest"
	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/store/storetest"
)

// soon is a grace that tests can wait for.
func soon(o *app.Options) { o.PresenceGrace = 300 * time.Millisecond }

// never is a grace that no test waits for: what is heard was heard at once.
func never(o *app.Options) { o.PresenceGrace = time.Hour }

// seen is what contacts receive on user/{id}/presence, and REST answers.
type seen struct {
	UserID, Status string
	LastOnlineAt   *time.Time
}

func readSeen(t *testing.T, pk packets.Packet) seen {
	t.Helper()
	var s seen
	if err := json.Unmarshal(pk.Payload, &s); err != nil || pk.TopicName != "user/"+s.UserID+"/presence" || pk.FixedHeader.Qos != 0 {
		t.Fatalf("got %s, %v; want presence", brokertest.Describe(pk), err)
	}
	return s
}

// expectSeen awaits how a user is shown next.
func expectSeen(t *testing.T, d *apptest.Device, of apptest.User, status string) seen {
	t.Helper()
	s := readSeen(t, d.Await(packets.Publish))
	if s.UserID != of.ID.String() || s.Status != status {
		t.Fatalf("%s heard %+v, want %s is %s", d.User.Username, s, of.Username, status)
	}
	if status != "offline" && s.LastOnlineAt != nil {
		t.Errorf("%+v: here, and gone since", s)
	}
	return s
}

func say(t *testing.T, d *apptest.Device, status string) {
	t.Helper()
	if ack := d.Publish(1, d.User.Topic("presence"), `{"status":"`+status+`"}`); ack.Code != 0 {
		t.Fatalf("%q was answered %+v", status, ack)
	}
}

// settled waits until it is stored that users are online, and everybody was notified: who
// subscribes after that hears of it once.
func settled(t *testing.T, a *apptest.App, users ...apptest.User) {
	t.Helper()
	for _, u := range users {
		apptest.Eventually(t, "it is stored that "+u.Username+" is online", func() bool {
			st, err := a.DB.GetPresences(t.Context(), []chat.ID{u.ID})
			return err == nil && st[u.ID].Status == chat.Online
		})
	}
	apptest.Eventually(t, "everybody was notified", func() bool {
		return strings.Contains(a.Metrics(t), "\nparley_presence_queue 0\n")
	})
}

// watcher is a device of u that has heard how u is, who is online, and all of the
// others, who are not.
func watcher(t *testing.T, a *apptest.App, u apptest.User, version byte, others ...apptest.User) (*apptest.Device, map[string]seen) {
	t.Helper()
	d := a.Device(t, u, brokertest.Connect{ClientID: "watcher", Version: version})
	settled(t, a, u)
	d.MustSubscribe(0, "user/+/presence")
	heard := map[string]seen{}
	for range len(others) + 1 {
		s := readSeen(t, d.Await(packets.Publish))
		heard[s.UserID] = s
	}
	if heard[u.ID.String()].Status != "online" {
		t.Errorf("%s heard %+v", u.Username, heard)
	}
	for _, other := range others {
		if heard[other.ID.String()].Status != "offline" {
			t.Errorf("%s heard %+v", u.Username, heard)
		}
	}
	return d, heard
}

func TestPresence(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t, never)
	for _, v := range versions {
		t.Run(versionName(v), func(t *testing.T) {
			t.Parallel()
			ann, bob, eve := a.User(t, "ann"), a.User(t, "bob"), a.User(t, "eve")
			a.Direct(t, ann, bob)
			bobs, heard := watcher(t, a, bob, v, ann)
			if s := heard[ann.ID.String()]; s.LastOnlineAt != nil {
				t.Errorf("before ann ever came: %+v", s)
			}
			eves, _ := watcher(t, a, eve, v)
			eves.MustSubscribe(0, ann.Topic("presence"), eve.Topic("errors"))

			phone := a.Device(t, ann, brokertest.Connect{ClientID: "phone", Version: v})
			expectSeen(t, bobs, ann, "online")
			laptop := a.Device(t, ann, brokertest.Connect{ClientID: "laptop", Version: v})
			laptop.MustSubscribe(0, ann.Topic("presence"))
			expectSeen(t, laptop, ann, "online")
			say(t, laptop, "away") // the phone is online
			say(t, phone, "away")
			expectSeen(t, bobs, ann, "away")
			expectSeen(t, laptop, ann, "away")
			say(t, phone, "invisible")
			if s := expectSeen(t, bobs, ann, "offline"); s.LastOnlineAt == nil || time.Since(*s.LastOnlineAt) > time.Minute {
				t.Errorf("invisible is shown as %+v", s)
			}
			expectSeen(t, laptop, ann, "invisible")
			say(t, laptop, "online")
			expectSeen(t, bobs, ann, "online")
			expectSeen(t, laptop, ann, "online")
			say(t, laptop, "offline") // the phone is online
			phone.Disconnect()
			last := expectSeen(t, bobs, ann, "offline")
			expectSeen(t, laptop, ann, "offline")

			late := a.Device(t, bob, brokertest.Connect{ClientID: "late", Version: v})
			late.MustSubscribe(0, ann.Topic("presence"))
			if s := expectSeen(t, late, ann, "offline"); s.LastOnlineAt == nil || !s.LastOnlineAt.Equal(*last.LastOnlineAt) {
				t.Errorf("who comes late hears %+v, want %+v", s, last)
			}

			if v == 5 {
				if ack := eves.Publish(1, ann.Topic("presence"), `{"status":"away"}`); ack.Code != packets.ErrNotAuthorized.Code {
					t.Errorf("ann's presence from eve was answered %+v", ack)
				}
				if ack := eves.Publish(1, eve.Topic("presence"), `{"status":"asleep"}`); ack.Code != packets.ErrPayloadFormatInvalid.Code || !strings.HasPrefix(ack.Reason, "status: must be") {
					t.Errorf("a status that is none was answered %+v", ack)
				}
			}
			eves.Ping() // and has heard nothing of ann, nor of anybody
			bobs.Ping()
		})
	}
}

// What becomes of a user whose one device goes, in every way there is.
func TestPresenceEnds(t *testing.T) {
	t.Parallel()
	patient, hasty := apptest.Start(t, never), apptest.Start(t, soon)
	for _, tt := range []struct {
		name    string
		version byte // 0: both
		connect brokertest.Connect
		end     func(*testing.T, *apptest.App, *apptest.Device)
		want    string // what is heard at once; with a "…" before it, after the grace
	}{
		{"DISCONNECT", 0, brokertest.Connect{}, disconnect, "offline"},
		{"DISCONNECT, though there is a will", 0, brokertest.Connect{WillPayload: `{"status":"away"}`}, disconnect, "offline"},
		{"cut", 0, brokertest.Connect{}, cut, "…offline"},
		{"cut, with a will", 0, brokertest.Connect{WillPayload: `{"status":"offline"}`}, cut, "…offline"},
		{"cut, away for no time", 0, brokertest.Connect{WillPayload: `{"status":"away"}`}, cut, "…offline"},
		{"cut, away", 4, brokertest.Connect{Persistent: true, WillPayload: `{"status":"away"}`}, cut, "…away"},
		{"cut, away", 5, brokertest.Connect{SessionExpiry: 3600, WillPayload: `{"status":"away"}`}, cut, "…away"},
		{"cut, away for a second", 5, brokertest.Connect{SessionExpiry: 1, WillPayload: `{"status":"away"}`}, func(t *testing.T, a *apptest.App, d *apptest.Device) { cut(t, a, d) }, "…away…offline"},
		{"cut, invisible", 0, brokertest.Connect{WillPayload: `{"status":"invisible"}`}, cut, "…offline"},
		{"DISCONNECT with will", 5, brokertest.Connect{}, func(_ *testing.T, _ *apptest.App, d *apptest.Device) {
			d.SendBytes([]byte{packets.Disconnect << 4, 2, packets.CodeDisconnectWillMessage.Code, 0})
		}, "…offline"},
		{"DISCONNECT with will, in the short form", 5, brokertest.Connect{}, func(_ *testing.T, _ *apptest.App, d *apptest.Device) {
			d.SendBytes([]byte{packets.Disconnect << 4, 1, packets.CodeDisconnectWillMessage.Code})
		}, "…offline"},
		{"a packet that is none", 0, brokertest.Connect{}, func(_ *testing.T, _ *apptest.App, d *apptest.Device) { d.SendBytes([]byte{0, 0}) }, "…offline"},
		{"silence", 0, brokertest.Connect{KeepAlive: 1}, func(*testing.T, *apptest.App, *apptest.Device) {}, "…offline"},
		{"the password changed", 0, brokertest.Connect{SessionExpiry: 60, WillPayload: `{"status":"away"}`}, func(t *testing.T, a *apptest.App, d *apptest.Device) {
			r := a.REST(t, d.User, http.MethodPatch, "/api/users/me", map[string]string{"password": "another horse battery", "currentPassword": apptest.Password})
			if r.Status != http.StatusOK {
				t.Fatal(r)
			}
		}, "offline"},
	} {
		for _, v := range versions {
			if tt.version != 0 && tt.version != v {
				continue
			}
			t.Run(tt.name+", "+versionName(v), func(t *testing.T) {
				t.Parallel()
				a := patient
				if strings.HasPrefix(tt.want, "…") {
					a = hasty
				}
				ann, bob := a.User(t, "ann"), a.User(t, "bob")
				a.Direct(t, ann, bob)
				bobs, _ := watcher(t, a, bob, v, ann)
				o := tt.connect
				o.ClientID, o.Version = "phone", v
				if o.WillPayload != "" {
					o.WillTopic = ann.Topic("presence")
				}
				phone := a.Device(t, ann, o)
				expectSeen(t, bobs, ann, "online")
				tt.end(t, a, phone)
				for status := range strings.SplitSeq(strings.TrimPrefix(tt.want, "…"), "…") {
					expectSeen(t, bobs, ann, status)
				}
				bobs.Ping()
			})
		}
	}
}

func disconnect(_ *testing.T, _ *apptest.App, d *apptest.Device) { d.Disconnect() }

func cut(_ *testing.T, _ *apptest.App, d *apptest.Device) { d.Close() }

// A device that comes back, or takes over from itself, is not noticed.
func TestPresenceDoesNotFlap(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t, func(o *app.Options) { o.PresenceGrace = 2 * time.Second })
	ann, bob := a.User(t, "ann"), a.User(t, "bob")
	a.Direct(t, ann, bob)
	bobs, _ := watcher(t, a, bob, 5, ann)
	phone := a.Device(t, ann, brokertest.Connect{ClientID: "phone"})
	expectSeen(t, bobs, ann, "online")
	for range 5 {
		phone.Close()
		phone = a.Device(t, ann, brokertest.Connect{ClientID: "phone"})
	}
	old := phone
	phone = a.Device(t, ann, brokertest.Connect{ClientID: "phone", Version: 4})
	old.ExpectDisconnect(packets.ErrSessionTakenOver.Code)
	start := time.Now()
	if pk, err := bobs.Recv(3 * time.Second); err == nil { // the grace of each of those ends has passed
		t.Fatalf("after %v bob heard %s", time.Since(start), brokertest.Describe(pk))
	}
	phone.Disconnect()
	expectSeen(t, bobs, ann, "offline")
}

// A session that is resumed hears how things are now.
func TestPresenceAfterResuming(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t, never)
	for _, v := range versions {
		ann, bob := a.User(t, "ann"), a.User(t, "bob")
		a.Direct(t, ann, bob)
		o := brokertest.Connect{ClientID: "bobs", Version: v, Persistent: true, SessionExpiry: 60}
		bobs := a.Device(t, bob, o)
		bobs.MustSubscribe(1, ann.Topic("presence"))
		expectSeen(t, bobs, ann, "offline")
		bobs.Close()
		phone := a.Device(t, ann, brokertest.Connect{ClientID: "phone"})
		settled(t, a, ann)
		bobs = a.Device(t, bob, o)
		expectSeen(t, bobs, ann, "online")
		phone.Disconnect()
		expectSeen(t, bobs, ann, "offline")
		bobs.Disconnect()
	}
}

func TestPresenceRetainHandling(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t, never)
	ann, bob := a.User(t, "ann"), a.User(t, "bob")
	a.Direct(t, ann, bob)
	bobs := a.Device(t, bob, brokertest.Connect{ClientID: "bobs"})
	for _, tt := range []struct {
		handling byte
		told     bool
	}{{2, false}, {1, false}, {0, true}, {1, false}} {
		bobs.Client.Send(packets.Packet{
			FixedHeader: packets.FixedHeader{Type: packets.Subscribe}, PacketID: bobs.NextID(),
			Filters: packets.Subscriptions{{Filter: ann.Topic("presence"), RetainHandling: tt.handling}},
		})
		bobs.Expect(packets.Suback)
		if tt.told {
			expectSeen(t, bobs, ann, "offline")
		}
		bobs.Ping()
	}
}

func TestPresenceREST(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t, never)
	ann, bob, eve := a.User(t, "ann"), a.User(t, "bob"), a.User(t, "eve")
	a.Direct(t, ann, bob)
	bobs, _ := watcher(t, a, bob, 5, ann)
	phone := a.Device(t, ann, brokertest.Connect{ClientID: "phone"})
	a.Device(t, eve, brokertest.Connect{ClientID: "eves"})
	expectSeen(t, bobs, ann, "online")
	settled(t, a, eve)
	get := func(as apptest.User, query string) map[string]seen {
		t.Helper()
		var page struct{ Data []seen }
		if r := a.REST(t, as, http.MethodGet, "/api/presence?"+query, nil).Into(&page); r.Status != http.StatusOK {
			t.Fatal(r)
		}
		all := map[string]seen{}
		for _, s := range page.Data {
			all[s.UserID] = s
		}
		if len(all) != len(page.Data) {
			t.Errorf("somebody comes twice: %+v", page)
		}
		return all
	}
	everybody := "userIds=" + ann.ID.String() + "," + bob.ID.String() + "&userIds=" + eve.ID.String() + "&userIds=" + uuid(1)
	got := get(bob, everybody)
	if len(got) != 2 || got[ann.ID.String()].Status != "online" || got[bob.ID.String()].Status != "online" {
		t.Errorf("bob sees %+v", got)
	}
	if got := get(eve, everybody); len(got) != 1 {
		t.Errorf("eve sees %+v", got)
	}
	say(t, phone, "invisible")
	expectSeen(t, bobs, ann, "offline")
	if got := get(bob, everybody)[ann.ID.String()]; got.Status != "offline" || got.LastOnlineAt == nil {
		t.Errorf("bob sees %+v of ann, who is invisible", got)
	}
	if got := get(ann, everybody)[ann.ID.String()]; got.Status != "invisible" || got.LastOnlineAt != nil {
		t.Errorf("ann sees %+v of herself", got)
	}
	for _, query := range []string{"", "userIds=", "userIds=x", "userIds=" + ann.ID.String() + ",", "userIds=" + strings.Repeat(ann.ID.String()+",", 100) + bob.ID.String()} {
		r := a.REST(t, bob, http.MethodGet, "/api/presence?"+query, nil)
		if r.Status != http.StatusBadRequest || !strings.Contains(string(r.Body), "userIds") {
			t.Errorf("%.60q: %s", query, r)
		}
	}
	if r := a.REST(t, apptest.User{}, http.MethodGet, "/api/presence?"+everybody, nil); r.Status != http.StatusUnauthorized {
		t.Errorf("nobody: %s", r)
	}
}

// Who is invisible is so after a restart, and when somebody was here last is known.
func TestPresenceOutlivesTheServer(t *testing.T) {
	t.Parallel()
	dsn := storetest.DSN(t)
	a := apptest.StartOn(t, dsn, never)
	ann, bob, cat := a.User(t, "ann"), a.User(t, "bob"), a.User(t, "cat")
	a.Group(t, ann, bob, cat)
	bobs, _ := watcher(t, a, bob, 5, ann, cat)
	phone := a.Device(t, ann, brokertest.Connect{ClientID: "phone"})
	expectSeen(t, bobs, ann, "online")
	say(t, phone, "invisible")
	hidden := expectSeen(t, bobs, ann, "offline")
	a.Device(t, cat, brokertest.Connect{ClientID: "cats"})
	expectSeen(t, bobs, cat, "online")
	settled(t, a, cat)
	before := time.Now()
	if err := a.Stop(context.Background()); err != nil {
		t.Fatal(err)
	}

	b := apptest.StartOn(t, dsn, never)
	bobs, states := watcher(t, b, bob, 5, ann, cat)
	if s := states[ann.ID.String()]; s.LastOnlineAt == nil || !s.LastOnlineAt.Equal(*hidden.LastOnlineAt) {
		t.Errorf("ann, who was invisible: %+v, want %+v", s, hidden)
	}
	if s := states[cat.ID.String()]; s.LastOnlineAt == nil || s.LastOnlineAt.Before(before.Truncate(time.Millisecond)) {
		t.Errorf("cat, who was here until the server stopped at %v: %+v", before, s)
	}
	again := b.Device(t, ann, brokertest.Connect{ClientID: "phone"})
	again.MustSubscribe(0, ann.Topic("presence"))
	expectSeen(t, again, ann, "invisible")
	bobs.Ping()
	say(t, again, "online")
	expectSeen(t, bobs, ann, "online")
}

// After a crash everybody was here for as long as the node was seen alive.
func TestPresenceAfterACrash(t *testing.T) {
	t.Parallel()
	dsn := storetest.DSN(t)
	a := apptest.StartOn(t, dsn, never)
	ann, bob := a.User(t, "ann"), a.User(t, "bob")
	a.Direct(t, ann, bob)
	began := time.Now().Add(-time.Minute) // at the earliest
	a.Device(t, ann, brokertest.Connect{ClientID: "phone"})
	settled(t, a, ann)
	a.Crash(t)
	b := apptest.StartOn(t, dsn, never)
	_, heard := watcher(t, b, bob, 4, ann)
	if last := heard[ann.ID.String()].LastOnlineAt; last == nil || last.Before(began) || last.After(time.Now()) {
		t.Errorf("ann was here until %v", last)
	}
}

// Two who become contacts hear how the other is, without asking.
func TestPresenceOfNewContacts(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t, never)
	ann, bob, cat := a.User(t, "ann"), a.User(t, "bob"), a.User(t, "cat")
	anns, _ := watcher(t, a, ann, 5)
	bobs, _ := watcher(t, a, bob, 4)
	a.Direct(t, ann, bob)
	expectSeen(t, bobs, ann, "online")
	expectSeen(t, anns, bob, "online")
	a.Group(t, cat, ann)
	for { // what answers their SUBSCRIBE may still be read when they become contacts, and says the same again
		s := readSeen(t, anns.Await(packets.Publish))
		if s.UserID == cat.ID.String() && s.Status == "offline" {
			break
		}
		if s.UserID != bob.ID.String() || s.Status != "online" {
			t.Fatalf("ann heard %+v", s)
		}
	}
	bobs.SendBytes([]byte{packets.Pingreq << 4, 0})
	for {
		pk, err := bobs.Recv(brokertest.Patience)
		if err != nil || pk.FixedHeader.Type == packets.Pingresp {
			if err != nil {
				t.Error(err)
			}
			break
		}
		if s := readSeen(t, pk); s.UserID != ann.ID.String() || s.Status != "online" {
			t.Errorf("bob heard %+v", s)
		}
	}
}

// A client whose buffer has no room for all it is to hear hears all of it, as it reads.
func TestPresenceOfManyContacts(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t, never, func(o *app.Options) { o.Limits.HighWater = 1 << 10 })
	makeRing(t, a.DSN(), 101, 50)
	d := brokertest.Open(t, a.MQTTAddr(), brokertest.Connect{ClientID: "x", Password: a.Token(t, "ring0")})
	d.MustSubscribe(0, "user/+/presence")
	for heard := map[string]bool{}; len(heard) < 101; {
		heard[readSeen(t, d.Await(packets.Publish)).UserID] = true
	}
}

// Who blocks, or is blocked, ceases to see the other, in the same way as when that one
// goes; a stranger hears nothing of it.
func TestPresenceAndBlocks(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t, never)
	ann, bob, eve := a.User(t, "ann"), a.User(t, "bob"), a.User(t, "eve")
	conv := a.Group(t, ann, bob)
	anns, bobs := a.Device(t, ann, brokertest.Connect{ClientID: "anns"}), a.Device(t, bob, brokertest.Connect{ClientID: "bobs", Version: 4})
	settled(t, a, ann, bob)
	for _, d := range []*apptest.Device{anns, bobs} {
		d.MustSubscribe(0, "user/+/presence")
		for range 2 {
			if s := readSeen(t, d.Await(packets.Publish)); s.Status != "online" {
				t.Fatalf("at first, %s hears %+v", d.User.Username, s)
			}
		}
	}
	eves, _ := watcher(t, a, eve, 5)
	do := func(method, path string) {
		t.Helper()
		if r := a.REST(t, bob, method, path, nil); r.Status/100 != 2 {
			t.Fatal(r)
		}
	}
	do(http.MethodPut, "/api/blocks/"+eve.ID.String())
	do(http.MethodPut, "/api/blocks/"+ann.ID.String())
	expectSeen(t, anns, bob, "offline")
	expectSeen(t, bobs, ann, "offline")
	say(t, anns, "away")
	expectSeen(t, anns, ann, "away")
	do(http.MethodDelete, "/api/blocks/"+ann.ID.String())
	expectSeen(t, anns, bob, "online")
	expectSeen(t, bobs, ann, "away")
	do(http.MethodDelete, "/api/conversations/"+string(conv)+"/participants/"+bob.ID.String())
	expectSeen(t, anns, bob, "offline")
	expectSeen(t, bobs, ann, "offline")
	eves.Ping()
	bobs.Ping()
}
