package chat_test

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/seedtest"
)

// signals records what members hear.
type signals struct {
	fakePublisher
	mu    sync.Mutex
	heard []string // mu guards
}

func (s *signals) list() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.heard)
}

func (s *signals) Signal(t chat.Topic, payload []byte, users []chat.ID, except func(chat.ID) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var p struct {
		ConversationID, UserID chat.ID
		Typing                 bool
		ExpiresAt              time.Time
	}
	if err := json.Unmarshal(payload, &p); err != nil || !except(p.UserID) || t != (chat.Topic{Kind: chat.TopicTyping, ID: p.ConversationID}) || !slices.Contains(users, p.UserID) {
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
		synctest.Wait() // until members have heard
	}
	say := func(w world) {
		w.Helper()
		if err := w.s.Submit(w.Context(), ann, room, &chat.Command{Type: chat.EventMessage, Content: "hi"}, chat.Source{}, &chat.Append{}); err != nil {
			w.Fatal(err)
		}
		synctest.Wait()
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
		// Whoever stopped was forgotten, and with them when members had heard last: in a
		// group of 10,000 each change of mind was told to all of them, at any rate.
		{"changes their mind all the time", func(w world) {
			for range 20 {
				set(w, phone, true)
				set(w, phone, false)
			}
			time.Sleep(time.Minute)
		}, []string{"types", "stopped"}},
		{"changes their mind all the time, and types", func(w world) {
			for range 20 {
				set(w, phone, false)
				set(w, phone, true)
			}
			time.Sleep(time.Minute)
		}, []string{"types", "stopped", "types", "stopped"}},
		{"changes their mind for long", func(w world) {
			for range 35 { // 7 s
				set(w, phone, true)
				time.Sleep(100 * time.Millisecond)
				set(w, phone, false)
				time.Sleep(100 * time.Millisecond)
			}
			time.Sleep(time.Minute)
		}, []string{"types", "stopped", "types", "stopped", "types", "stopped", "types", "stopped"}},
		{"begins again after a moment", func(w world) {
			set(w, phone, true)
			say(w)
			set(w, phone, true)
			if got := w.p.list(); len(got) != 2 {
				w.Errorf("too early: %v", got)
			}
			time.Sleep(2 * time.Second)
			synctest.Wait()
			if got := w.p.list(); len(got) != 3 {
				w.Errorf("after a while: %v", got)
			}
			w.s.DeviceLeft(phone)
		}, []string{"types", "stopped", "types", "stopped"}},
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
				s := chat.NewService(store, chat.SystemClock{}, nil)
				s.Use(&fakeLog{}, p)
				tt.do(world{t, s, p})
				synctest.Wait()
				if got := p.list(); !slices.Equal(got, tt.want) {
					t.Errorf("members heard %v, want %v", got, tt.want)
				}
			})
		})
	}
}

// A device that typed in 30,000 conversations, its own all of them, and went away
// kept everybody's messages waiting for 9 s: each was looked for among all of them.
func TestTypingInTooManyConversations(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store, p := newFakeStore(), &fakePublisher{}
		s := chat.NewService(store, chat.SystemClock{}, nil)
		s.Use(&fakeLog{}, p)
		phone, laptop := chat.Device{UserID: ann, ClientID: "phone"}, chat.Device{UserID: ann, ClientID: "laptop"}
		var rooms []chat.ID
		for range chat.MaxTyping + 1 {
			rooms = append(rooms, chat.NewID())
			store.put(rooms[len(rooms)-1], ann)
		}
		last := rooms[chat.MaxTyping]
		set := func(d chat.Device, room chat.ID, typing bool, want chat.Code) {
			t.Helper()
			if err := s.SetTyping(t.Context(), d, room, typing); chat.CodeOf(err) != want {
				t.Errorf("typing %v: %v, want %q", typing, err, want)
			}
		}
		for _, room := range rooms[:chat.MaxTyping] {
			set(phone, room, true, "")
		}
		set(phone, last, true, chat.Quota)
		set(phone, rooms[0], true, "")
		set(laptop, last, true, "")
		synctest.Wait()
		set(phone, rooms[0], false, "")
		set(phone, last, true, chat.Quota) // or it would have as many told as it likes, one after the other
		time.Sleep(2 * time.Second)
		synctest.Wait()
		set(phone, last, true, "")
		synctest.Wait()
		s.DeviceLeft(phone)
		for _, room := range rooms[:chat.MaxTyping] {
			set(phone, room, true, "")
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if typists, devices := chat.TypingKept(s); typists != 0 || devices != 0 {
			t.Errorf("%d typists and %d devices are kept", typists, devices)
		}
	})
}

// slowSignals tells nobody before it is let go.
type slowSignals struct {
	fakePublisher
	began, let chan struct{}
}

func (s *slowSignals) Signal(chat.Topic, []byte, []chat.ID, func(chat.ID) bool) {
	s.began <- struct{}{}
	<-s.let
}

// Members were told under one lock, which every message took while anybody typed
// anywhere: telling a group of 10,000 kept all senders waiting, for up to 250 ms.
func TestMessagesDoNotWaitForTyping(t *testing.T) {
	t.Parallel()
	st, p := newFakeStore(), &slowSignals{began: make(chan struct{}, 10), let: make(chan struct{})}
	elsewhere := chat.ID{0xc1}
	st.put(room, ann, ben)
	st.put(elsewhere, ann, ben)
	s := chat.NewService(st, chat.SystemClock{}, nil)
	s.Use(&fakeLog{}, p)
	done := make(chan error)
	go func() { // ends when all of it is done, or p has let go
		phone := chat.Device{UserID: ann, ClientID: "phone"}
		done <- s.SetTyping(context.Background(), phone, room, true)
		for _, conversation := range []chat.ID{elsewhere, room} {
			for _, sender := range []chat.ID{ann, ben} {
				done <- s.Submit(context.Background(), sender, conversation, &chat.Command{Type: chat.EventMessage, Content: "hi"}, chat.Source{}, &chat.Append{})
			}
		}
		done <- s.SetTyping(context.Background(), phone, elsewhere, true)
		s.DeviceLeft(phone)
		done <- nil
	}()
	<-p.began
	for i := range 7 {
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("step %d: %v", i, err)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("step %d waits for the members to be told", i)
		}
	}
	close(p.let)
}

// Whatever happens at once, members of every conversation hear that somebody types
// and that they have stopped by turns, in the end that they have stopped, and
// nothing is kept.
func TestTypingRaces(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store, p := newFakeStore(), &turns{t: t, shown: map[[2]chat.ID]bool{}}
		s := chat.NewService(store, chat.SystemClock{}, nil)
		s.Use(&discardLog{}, p)
		users, rooms := make([]chat.ID, 5), make([]chat.ID, 8)
		for i := range users {
			users[i] = chat.NewID()
		}
		for i := range rooms {
			rooms[i] = chat.NewID()
			store.put(rooms[i], slices.Clone(users)...)
		}
		var wg sync.WaitGroup
		seed := seedtest.Seed(t)
		for i := range 30 {
			wg.Go(func() {
				r := seedtest.New(seed, i)
				d := chat.Device{UserID: users[i%len(users)], ClientID: []string{"phone", "laptop"}[i%2]}
				for range 300 {
					room := rooms[r.IntN(len(rooms))]
					switch r.IntN(8) {
					case 0:
						s.DeviceLeft(d)
					case 1:
						if err := s.Submit(t.Context(), d.UserID, room, &chat.Command{Type: chat.EventMessage, Content: "x"}, chat.Source{}, &chat.Append{}); err != nil {
							t.Error(err)
						}
					case 2:
						s.EachTyping(d.UserID, nil, func(chat.ID, []byte) {})
					case 3:
						time.Sleep(time.Duration(r.Int64N(int64(3 * time.Second))))
					default:
						if err := s.SetTyping(t.Context(), d, room, r.IntN(2) == 0); err != nil {
							t.Error(err)
						}
					}
				}
			})
		}
		wg.Wait()
		time.Sleep(time.Minute)
		synctest.Wait()
		for key, shown := range p.shown {
			if shown {
				t.Errorf("%v is shown as typing for ever", key)
			}
		}
		if typists, devices := chat.TypingKept(s); typists != 0 || devices != 0 || p.n == 0 {
			t.Errorf("%d typists and %d devices are kept after %d signals", typists, devices, p.n)
		}
	})
}

// turns checks that what members hear makes sense.
type turns struct {
	fakePublisher
	t     *testing.T
	mu    sync.Mutex
	shown map[[2]chat.ID]bool
	n     int
}

func (p *turns) Signal(topic chat.Topic, payload []byte, users []chat.ID, except func(chat.ID) bool) {
	user := users[slices.IndexFunc(users, except)]
	typing := strings.Contains(string(payload), `"typing":true`)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.n++
	if key := [2]chat.ID{topic.ID, user}; !typing && !p.shown[key] {
		p.t.Error("members hear that somebody stopped who was not typing")
	} else {
		p.shown[key] = typing
	}
}

type discardLog struct{}

func (*discardLog) Append(context.Context, *chat.Append) error { return nil }

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
