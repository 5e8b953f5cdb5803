package chat_test

import (
	"encoding/json"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parleymq/parley/chat"
)

// signals records what members hear.
type signals struct {
	fakePublisher
	heard []string
}

func (s *signals) Signal(t chat.Topic, payload []byte, r *chat.Roster, except chat.ID) {
	var p struct {
		ConversationID, UserID chat.ID
		Typing                 bool
		ExpiresAt              time.Time
	}
	if err := json.Unmarshal(payload, &p); err != nil || p.UserID != except || t != (chat.Topic{Kind: chat.TopicTyping, ID: p.ConversationID}) || !r.Has(p.UserID) {
		s.heard = append(s.heard, "malformed: "+string(payload))
		return
	}
	if p.Typing {
		s.heard = append(s.heard, "types")
	} else {
		s.heard = append(s.heard, "stopped")
	}
}

func TestTyping(t *testing.T) {
	t.Parallel()
	ann, bob, room := chat.NewID(), chat.NewID(), chat.NewID()
	phone, laptop := chat.Device{UserID: ann, ClientID: "phone"}, chat.Device{UserID: ann, ClientID: "laptop"}
	type world struct {
		*testing.T
		s *chat.Service
		p *signals
	}
	set := func(w world, d chat.Device, typing bool) {
		w.Helper()
		if err := w.s.SetTyping(w.Context(), d, room, typing); err != nil {
			w.Fatal(err)
		}
	}
	say := func(w world) {
		w.Helper()
		if err := w.s.Submit(w.Context(), ann, room, &chat.Command{Type: chat.EventMessage, Content: "hi"}, chat.Source{}, &chat.Append{}); err != nil {
			w.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name string
		do   func(world)
		want []string
	}{
		{"says so once", func(w world) { set(w, phone, true); set(w, phone, true) }, []string{"types"}},
		{"goes on, and members hear so now and then", func(w world) {
			for range 5 {
				set(w, phone, true)
				time.Sleep(time.Second)
			}
		}, []string{"types", "types", "types"}},
		{"stops", func(w world) { set(w, phone, true); set(w, phone, false); set(w, phone, false) }, []string{"types", "stopped"}},
		{"ends by itself", func(w world) { set(w, phone, true); time.Sleep(chat.TypingLasts) }, []string{"types", "stopped"}},
		{"does not end while it goes on", func(w world) {
			set(w, phone, true)
			time.Sleep(chat.TypingLasts - time.Second)
			set(w, phone, true)
			time.Sleep(chat.TypingLasts - time.Second)
		}, []string{"types", "types"}},
		{"ends with the message", func(w world) { set(w, phone, true); say(w); say(w) }, []string{"types", "stopped"}},
		{"ends with the connection", func(w world) { set(w, phone, true); w.s.DeviceLeft(phone); w.s.DeviceLeft(phone) }, []string{"types", "stopped"}},
		{"two devices are one user", func(w world) {
			set(w, phone, true)
			set(w, laptop, true)
			w.s.DeviceLeft(phone)
			set(w, phone, false)
			set(w, laptop, false)
		}, []string{"types", "stopped"}},
		{"a newcomer hears of it, the typist does not", func(w world) {
			set(w, phone, true)
			for _, of := range [][]chat.ID{nil, {room}, {chat.NewID()}} {
				for user, want := range map[chat.ID]int{bob: 1, ann: 0, chat.NewID(): 0} {
					n := 0
					w.s.EachTyping(user, of, func(chat.ID, []byte) { n++ })
					if of != nil && of[0] != room {
						want = 0
					}
					if n != want {
						w.Errorf("user %v of %v hears of %d, want %d", user, of, n, want)
					}
				}
			}
		}, []string{"types"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store, p := newFakeStore(), &signals{}
				store.put(room, ann, bob)
				s := chat.NewService(store, chat.SystemClock{})
				s.Use(&fakeLog{}, p)
				tt.do(world{t, s, p})
				synctest.Wait()
				if len(p.heard) != len(tt.want) {
					t.Fatalf("members heard %v, want %v", p.heard, tt.want)
				}
				for i := range p.heard {
					if p.heard[i] != tt.want[i] {
						t.Errorf("members heard %v, want %v", p.heard, tt.want)
					}
				}
			})
		})
	}
}

func TestTypingOfAStranger(t *testing.T) {
	t.Parallel()
	s, _, _, _ := newService()
	err := s.SetTyping(t.Context(), chat.Device{UserID: chat.NewID(), ClientID: "x"}, chat.NewID(), true)
	if chat.CodeOf(err) != chat.Forbidden {
		t.Errorf("SetTyping of a stranger: %v, want forbidden", err)
	}
}

func TestParseTyping(t *testing.T) {
	t.Parallel()
	for payload, want := range map[string]string{
		`{"typing":true}`: "true", `{"typing":false,"x":1}`: "false", ` {"typing": true } `: "true",
		``: "error", `true`: "error", `{}`: "error", `{"typing":1}`: "error", `{"typing":null}`: "error", `{"typing":"true"}`: "error", "{\"typing\":true,\"x\":\"\xff\"}": "error",
	} {
		got := "false"
		typing, err := chat.ParseTyping([]byte(payload))
		if typing {
			got = "true"
		}
		if err != nil {
			got = "error"
			if chat.CodeOf(err) != chat.Invalid {
				t.Errorf("ParseTyping(%q): %v, want invalid", payload, err)
			}
		}
		if got != want {
			t.Errorf("ParseTyping(%q) = %s, want %s", payload, got, want)
		}
	}
}
