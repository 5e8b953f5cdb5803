package presence_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/presence"
)

var ann, ben = chat.NewID(), chat.NewID()

// fakeStore is a Store in memory, of one node.
type fakeStore struct {
	presence.Store // panics where a test calls what is not there
	mu             sync.Mutex
	contacts       map[chat.ID]map[chat.ID]bool
	states         map[chat.ID]presence.State
	versions       int64
	fail           error
	strangers      bool // Acquainted says no
	blocked        [][2]chat.ID
	looked         func() // called when a page of contacts has been read; may be nil
}

func newFakeStore(friends ...chat.ID) *fakeStore {
	s := &fakeStore{contacts: map[chat.ID]map[chat.ID]bool{}, states: map[chat.ID]presence.State{}}
	for _, a := range friends {
		for _, b := range friends {
			if a != b {
				s.befriend(a, b, true)
			}
		}
	}
	return s
}

func (s *fakeStore) befriend(a, b chat.ID, yes bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, pair := range [2][2]chat.ID{{a, b}, {b, a}} {
		if s.contacts[pair[0]] == nil {
			s.contacts[pair[0]] = map[chat.ID]bool{}
		}
		s.contacts[pair[0]][pair[1]] = yes
	}
}

func (s *fakeStore) setFail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = err
}

func (s *fakeStore) state(id chat.ID) presence.State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.states[id]
}

func (s *fakeStore) of(user chat.ID) []chat.ID {
	var list []chat.ID
	for id, yes := range s.contacts[user] {
		if yes {
			list = append(list, id)
		}
	}
	slices.SortFunc(list, chat.ID.Compare)
	return list
}

func (s *fakeStore) ListContacts(_ context.Context, users, among []chat.ID) (map[chat.ID][]chat.ID, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := map[chat.ID][]chat.ID{}
	for _, u := range users {
		all[u] = slices.DeleteFunc(s.of(u), func(id chat.ID) bool { return among != nil && !slices.Contains(among, id) })
	}
	return all, s.fail
}

func (s *fakeStore) ListContactPresences(_ context.Context, user chat.ID, of []chat.ID, after chat.ID, limit int) ([]presence.State, error) {
	s.mu.Lock()
	var list []presence.State
	for _, id := range s.of(user) {
		if (of == nil || slices.Contains(of, id)) && id.Compare(after) > 0 && len(list) < limit {
			st := s.states[id]
			st.UserID = id
			list = append(list, st)
		}
	}
	err, looked := s.fail, s.looked
	s.mu.Unlock()
	if looked != nil {
		looked()
	}
	return list, err
}

func (s *fakeStore) GetPresences(_ context.Context, users []chat.ID) (map[chat.ID]presence.State, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := map[chat.ID]presence.State{}
	for _, id := range users {
		if st, ok := s.states[id]; ok {
			found[id] = st
		}
	}
	return found, s.fail
}

func (s *fakeStore) PutNodePresences(_ context.Context, _ presence.NodeID, list []presence.NodePresence) ([]presence.Outcome, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return nil, s.fail
	}
	var outcomes []presence.Outcome
	for _, p := range list {
		old := s.states[p.UserID]
		if old.Status == "" {
			old.Status = chat.Offline
		}
		st := old
		st.UserID, st.Status = p.UserID, p.Status
		if p.Invisible != nil {
			st.Invisible = *p.Invisible
		}
		if st.Invisible {
			st.Status = chat.Offline
		}
		if (!old.Invisible || !st.Invisible) && p.LastOnlineAt.After(st.LastOnlineAt) {
			st.LastOnlineAt = p.LastOnlineAt
		}
		changed := st.Status != old.Status || st.Invisible != old.Invisible
		if changed {
			s.versions++
			st.Version = s.versions
		}
		s.states[p.UserID] = st
		outcomes = append(outcomes, presence.Outcome{State: st, Changed: changed, Was: old.Status})
	}
	return outcomes, nil
}

func (s *fakeStore) Acquainted(context.Context, chat.ID, chat.ID) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.strangers, s.fail
}

func (s *fakeStore) ListBlocked(context.Context, []chat.ID) ([][2]chat.ID, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.blocked, s.fail
}

// audience remembers how users were shown to each.
type audience struct {
	mu    sync.Mutex
	heard map[[2]chat.ID][]string // by who was notified, and of whom
}

func (a *audience) signal(p chat.Presence, to []chat.ID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, u := range to {
		a.heard[[2]chat.ID{u, p.UserID}] = append(a.heard[[2]chat.ID{u, p.UserID}], string(p.Status))
	}
}

func (a *audience) says(who, of chat.ID) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return strings.Join(a.heard[[2]chat.ID{who, of}], " ")
}

// scene is a lone node that runs.
type scene struct {
	*testing.T
	*presence.Engine
	store *fakeStore
	aud   *audience
	end   func()
}

func newScene(t *testing.T, store *fakeStore) *scene {
	sc := &scene{T: t, store: store, aud: &audience{heard: map[[2]chat.ID][]string{}}}
	sc.Engine = presence.New(presence.Options{Store: store, Signal: sc.aud.signal, Node: presence.NodeID{Name: "n", ID: "1"}})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- sc.Engine.Run(ctx) }() // ends with end
	sc.end = func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	return sc
}

// after lets time pass, and what is to be told then be told.
func (sc *scene) after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

const gathered = 100 * time.Millisecond

func TestPresence(t *testing.T) {
	t.Parallel()
	phone, laptop := chat.Device{UserID: ann, ClientID: "phone"}, chat.Device{UserID: ann, ClientID: "laptop"}
	cut := presence.End{}
	for _, tt := range []struct {
		name string
		do   func(*scene)
		want string // what ben heard of ann
		own  string // and ann of herself
	}{
		{"comes and goes", func(s *scene) {
			stay := s.Connected(phone)
			s.after(gathered)
			s.Disconnected(phone, stay, presence.End{Gone: true})
		}, "online offline", "online offline"},
		{"comes and goes too fast to be told", func(s *scene) {
			s.Disconnected(phone, s.Connected(phone), presence.End{Gone: true})
			s.after(gathered)
			if s.store.state(ann).LastOnlineAt.IsZero() {
				s.Error("and it is not even stored")
			}
		}, "", "offline"},
		{"is cut off", func(s *scene) {
			stay := s.Connected(phone)
			s.after(time.Minute)
			at := time.Now()
			s.Disconnected(phone, stay, cut)
			s.after(9900 * time.Millisecond)
			if got := s.aud.says(ben, ann); got != "online" {
				s.Errorf("within the grace ben heard %q", got)
			}
			s.after(300 * time.Millisecond)
			if st := s.store.state(ann); !st.LastOnlineAt.Equal(chat.Timestamp(at)) || st.Status != chat.Offline {
				s.Errorf("stored is %+v, want that ann was here until %v", st, at)
			}
		}, "online offline", "online offline"},
		{"comes back in time", func(s *scene) {
			for range 5 {
				stay := s.Connected(phone)
				s.after(time.Second)
				s.Disconnected(phone, stay, cut)
				s.after(9 * time.Second)
			}
			s.Connected(phone)
		}, "online", "online"},
		{"comes back in time, and is away as before", func(s *scene) {
			stay := s.Connected(phone)
			s.SetStatus(phone, stay, chat.Away)
			s.after(time.Second)
			s.Disconnected(phone, stay, cut)
			s.after(9 * time.Second)
			s.Connected(phone)
		}, "away", "away"},
		{"takes over from itself", func(s *scene) {
			old := s.Connected(phone)
			s.after(gathered)
			s.Connected(phone)
			if s.Disconnected(phone, old, presence.End{Gone: true}) {
				s.Error("the older connection is taken for the newest")
			}
			s.SetStatus(phone, old, chat.Away)
		}, "online", "online"},
		{"the last of two", func(s *scene) {
			a, b := s.Connected(phone), s.Connected(laptop)
			s.SetStatus(phone, a, chat.Away)
			s.after(gathered)
			s.SetStatus(laptop, b, chat.Offline)
			s.after(gathered)
			s.Disconnected(laptop, b, presence.End{Gone: true})
			s.after(gathered)
			s.Disconnected(phone, a, presence.End{Gone: true})
		}, "online away offline", "online away offline"},
		{"invisible, and visible again", func(s *scene) {
			stay := s.Connected(phone)
			s.SetStatus(phone, stay, chat.Invisible)
			s.Connected(laptop)
			s.after(gathered)
			s.SetStatus(phone, stay, chat.Offline) // which does not show the laptop
			s.after(gathered)
			s.SetStatus(phone, stay, chat.Away)
			s.after(gathered)
		}, "online", "invisible online"},
		{"invisible for long", func(s *scene) {
			stay := s.Connected(phone)
			s.after(gathered)
			s.SetStatus(phone, stay, chat.Invisible)
			s.after(gathered)
			last := s.store.state(ann).LastOnlineAt
			s.after(time.Minute)
			s.Disconnected(phone, stay, presence.End{Gone: true})
			s.after(time.Minute)
			s.Connected(laptop)
			s.after(time.Minute)
			if st := s.store.state(ann); !st.Invisible || st.Status != chat.Offline || !st.LastOnlineAt.Equal(last) || last.IsZero() {
				s.Errorf("stored is %+v, want invisible since %v", st, last)
			}
		}, "online offline", "online invisible invisible"},
		{"a will of away", func(s *scene) {
			s.Disconnected(phone, s.Connected(phone), presence.End{Will: chat.Away, Expiry: 5 * time.Minute})
			s.after(11 * time.Second)
			if got := s.aud.says(ben, ann); got != "online away" {
				s.Errorf("after the grace ben heard %q", got)
			}
			s.after(5 * time.Minute)
		}, "online away offline", "online away offline"},
		{"a will of away for ever", func(s *scene) {
			s.Disconnected(phone, s.Connected(phone), presence.End{Will: chat.Away, Expiry: 1000 * time.Hour})
			s.after(59 * time.Minute)
			if got := s.aud.says(ben, ann); got != "online away" {
				s.Errorf("after an hour less a minute ben heard %q", got)
			}
			s.after(2 * time.Minute)
		}, "online away offline", "online away offline"},
		{"back from a will of away", func(s *scene) {
			s.Disconnected(phone, s.Connected(phone), presence.End{Will: chat.Away, Expiry: time.Hour})
			s.after(time.Minute)
			s.Connected(phone)
			s.after(2 * time.Hour)
		}, "online away online", "online away online"},
		{"a will of invisible", func(s *scene) {
			s.Disconnected(phone, s.Connected(phone), presence.End{Will: chat.Invisible})
			s.after(11 * time.Second)
			s.Connected(laptop)
			s.after(time.Second)
		}, "online offline", "online invisible"},
		{"a will with a delay", func(s *scene) {
			s.Disconnected(phone, s.Connected(phone), presence.End{Will: chat.Offline, Delay: time.Minute, Expiry: time.Hour})
			s.after(59 * time.Second)
			if got := s.aud.says(ben, ann); got != "online" {
				s.Errorf("before the delay was over ben heard %q", got)
			}
			s.after(2 * time.Second)
		}, "online offline", "online offline"},
		{"a will with a delay beyond the session", func(s *scene) {
			s.Disconnected(phone, s.Connected(phone), presence.End{Will: chat.Offline, Delay: time.Minute, Expiry: time.Second})
			s.after(11 * time.Second)
		}, "online offline", "online offline"},
		{"changes their mind all the time", func(s *scene) {
			stay := s.Connected(phone)
			for range 600 { // a minute
				s.SetStatus(phone, stay, chat.Away)
				s.after(50 * time.Millisecond)
				s.SetStatus(phone, stay, chat.Online)
				s.after(50 * time.Millisecond)
			}
			s.SetStatus(phone, stay, chat.Away)
			s.after(time.Minute)
			heard := strings.Fields(s.aud.says(ben, ann))
			if n := len(heard); n < 10 || n > 50 || heard[n-1] != "away" {
				s.Errorf("ben heard of %d changes, the last of %q", n, heard[n-1])
			}
		}, "*", "*"},
		{"connects and goes all the time", func(s *scene) {
			for range 600 {
				stay := s.Connected(phone)
				s.after(60 * time.Millisecond)
				s.Disconnected(phone, stay, presence.End{Gone: true})
				s.after(60 * time.Millisecond)
			}
			s.after(time.Minute)
			if heard := strings.Fields(s.aud.says(ben, ann)); len(heard) > 60 || heard[len(heard)-1] != "offline" {
				s.Errorf("ben heard of %d changes, the last of %q", len(heard), heard[len(heard)-1])
			}
		}, "*", "*"},
		{"while the store is away", func(s *scene) {
			s.store.setFail(errors.New("away"))
			stay := s.Connected(phone)
			s.after(time.Minute)
			s.SetStatus(phone, stay, chat.Away)
			s.store.setFail(nil)
			s.after(time.Minute)
		}, "away", "away"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newScene(t, newFakeStore(ann, ben))
				tt.do(s)
				s.after(gathered)
				for who, want := range map[chat.ID]string{ben: tt.want, ann: tt.own} {
					if got := s.aud.says(who, ann); got != want && want != "*" {
						t.Errorf("%v heard %q, want %q", who, got, want)
					}
				}
				s.end()
				if st := s.store.state(ann); st.Status != chat.Offline {
					t.Errorf("when all had ended, stored was %+v", st)
				}
			})
		})
	}
}

// Who becomes or ceases to be a contact hears how things are.
func TestPresenceOfContacts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, newFakeStore())
		cat := chat.NewID()
		s.Connected(chat.Device{UserID: ann, ClientID: "a"})
		s.Connected(chat.Device{UserID: ben, ClientID: "b"})
		s.after(gathered)
		s.store.befriend(ann, ben, true)
		s.ContactsChanged([]chat.ID{ann}, []chat.ID{ben, cat})
		s.after(gathered)
		s.store.befriend(ann, ben, false)
		s.ContactsChanged([]chat.ID{ann, ben}, []chat.ID{ann, ben})
		s.after(gathered)
		s.ContactsChanged([]chat.ID{cat}, []chat.ID{cat}) // nobody is here
		s.after(gathered)
		for who, want := range map[[2]chat.ID]string{{ann, ben}: "online offline", {ben, ann}: "online offline", {ann, cat}: "", {cat, ben}: ""} {
			if got := s.aud.says(who[0], who[1]); got != want {
				t.Errorf("%v heard of %v: %q, want %q", who[0], who[1], got, want)
			}
		}
		// A block of somebody who is a stranger would tell both that the other is here, and so
		// would leaving a group with somebody who is blocked.
		s.store.strangers = true
		s.ContactsChanged([]chat.ID{ann}, []chat.ID{ben})
		s.after(gathered)
		s.store.strangers, s.store.blocked = false, [][2]chat.ID{{ben, ann}}
		s.ContactsChanged([]chat.ID{ann}, []chat.ID{ann, ben})
		s.after(gathered)
		s.store.blocked = nil
		if got := s.aud.says(ann, ben) + s.aud.says(ben, ann); got != "online offlineonline offline" {
			t.Errorf("who were no contacts before heard of it: %q", got)
		}
		// A session that read its contacts before they changed would have the last word.
		s.store.befriend(ann, ben, true)
		s.store.looked = func() {
			s.store.looked = nil
			s.store.befriend(ann, ben, false)
			s.ContactsChanged([]chat.ID{ann}, []chat.ID{ben})
			s.after(gathered)
		}
		err := s.Feed(t.Context(), ann, []chat.ID{ben}, func(p chat.Presence) bool { s.aud.signal(p, []chat.ID{ann}); return true }, nil)
		if got := s.aud.says(ann, ben); err != nil || !strings.HasSuffix(got, "offline") {
			t.Errorf("in the end ann heard %q, %v", got, err)
		}
		s.end()
	})
}

// Ann went offline just when Ben ceased to be her contact: when she was announced he was none
// any more, and when the change of contacts was, she was offline. He was left seeing her online.
func TestOfflineWhileNoContactAnyMore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, newFakeStore())
		phone := chat.Device{UserID: ann, ClientID: "a"}
		conn := s.Connected(phone)
		s.Connected(chat.Device{UserID: ben, ClientID: "b"})
		s.after(gathered)
		s.store.befriend(ann, ben, true)
		s.ContactsChanged([]chat.ID{ann}, []chat.ID{ben})
		s.after(gathered)
		s.store.befriend(ann, ben, false)
		s.Disconnected(phone, conn, presence.End{Gone: true})
		s.after(gathered)
		s.ContactsChanged([]chat.ID{ann}, []chat.ID{ben})
		s.after(gathered)
		if got, want := s.aud.says(ben, ann), "online offline"; got != want {
			t.Errorf("Ben was notified of %q, want %q", got, want)
		}
		s.end()
	})
}

// A session with more contacts than its buffer has room for hears of each.
func TestTellPresencesByPages(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, newFakeStore())
		const n = 1234
		for range n {
			s.store.befriend(ann, chat.NewID(), true)
		}
		s.Connected(chat.Device{UserID: ann, ClientID: "a"})
		s.after(gathered)
		told := map[chat.ID]int{}
		room := 7
		err := s.Feed(t.Context(), ann, nil, func(p chat.Presence) bool {
			if room == 0 {
				return false
			}
			room--
			told[p.UserID]++
			return true
		}, func(context.Context) error { room = 7; return nil })
		if err != nil || len(told) != n+1 {
			t.Errorf("told of %d, %v; want %d and herself", len(told), err, n)
		}
		for id, times := range told {
			if times != 1 {
				t.Errorf("told %d times of %v", times, id)
			}
		}
		gone := errors.New("gone")
		if err := s.Feed(t.Context(), ann, nil, func(chat.Presence) bool { return false }, func(context.Context) error { return gone }); !errors.Is(err, gone) {
			t.Errorf("a session that ends: %v", err)
		}
		s.end()
	})
}

// Whatever happens at once, everybody knows in the end how the others are, by a naive
// model of it, and nothing is kept of those who are gone.
func TestPresenceRaces(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		seed := seeded(t)
		var users []chat.ID
		for range 6 {
			users = append(users, chat.NewID())
		}
		s := newScene(t, newFakeStore(users...))
		type device struct {
			chat.Device
			stay   presence.Connection
			here   bool
			status chat.Status
		}
		last := make([]chat.Status, len(users)) // Invisible or not, by the last who said
		devices := make([][]device, len(users))
		var wg sync.WaitGroup
		for i, u := range users {
			random := seed(i)
			wg.Go(func() { // the devices of a user take turns; users do not
				for j := range 3 {
					devices[i] = append(devices[i], device{Device: chat.Device{UserID: u, ClientID: fmt.Sprint(j)}, status: chat.Online})
				}
				for range 400 {
					d := &devices[i][random.IntN(3)]
					switch n := random.IntN(10); {
					case n < 3:
						d.stay, d.here = s.Connected(d.Device), true
					case n < 5 && d.here:
						s.Disconnected(d.Device, d.stay, presence.End{Gone: true})
						d.here, d.status = false, chat.Online
					case n < 6 && d.here:
						s.Disconnected(d.Device, d.stay, presence.End{})
						d.here = false
						if random.IntN(2) == 0 {
							time.Sleep(11 * time.Second)
							d.status = chat.Online
						} else {
							d.stay, d.here = s.Connected(d.Device), true
						}
					case n < 8 && d.here:
						status := []chat.Status{chat.Online, chat.Away, chat.Offline, chat.Invisible}[random.IntN(4)]
						s.SetStatus(d.Device, d.stay, status)
						switch status {
						case chat.Invisible:
							d.status, last[i] = chat.Online, chat.Invisible
						case chat.Offline:
							d.status = chat.Offline
						default:
							d.status, last[i] = status, ""
						}
					case n == 8:
						time.Sleep(time.Duration(random.Int64N(int64(time.Second))))
					default:
						_ = s.Feed(t.Context(), u, nil, func(chat.Presence) bool { return true }, nil)
					}
				}
			})
		}
		wg.Wait()
		s.after(2 * time.Minute)
		want := map[chat.ID]chat.Status{}
		for i, u := range users {
			want[u] = chat.Offline
			for _, d := range devices[i] {
				if last[i] != chat.Invisible && d.here && d.status != chat.Offline && want[u] != chat.Online {
					want[u] = d.status
				}
			}
		}
		for _, who := range users {
			got := map[chat.ID]chat.Status{}
			list, err := s.List(t.Context(), who, users)
			for _, p := range list {
				if p.UserID != who {
					got[p.UserID] = p.Status
				}
			}
			for of, status := range got {
				heard := strings.Fields(s.aud.says(who, of))
				if len(heard) > 0 && heard[len(heard)-1] != string(status) || len(heard) == 0 && status != chat.Offline {
					t.Errorf("%v is shown as %s, and was told to be %v", of, status, heard)
				}
				for i := 1; i < len(heard); i++ {
					if heard[i] == heard[i-1] {
						t.Errorf("heard the same twice: %v", heard)
						break
					}
				}
			}
			model := maps.Clone(want)
			delete(model, who)
			if err != nil || !maps.Equal(got, model) {
				t.Errorf("%v sees %v, %v; want %v", who, got, err, model)
			}
		}
		for i := range devices {
			for _, d := range devices[i] {
				if d.here {
					s.Disconnected(d.Device, d.stay, presence.End{Gone: true})
				}
			}
		}
		s.after(3 * time.Minute)
		if users, board := presence.Kept(s.Engine); users != 0 || board != 0 {
			t.Errorf("%d users are kept, %d on the board", users, board)
		}
		s.end()
	})
}
