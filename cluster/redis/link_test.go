package redis_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/cluster"
	"github.com/parleymq/parley/cluster/redis"
	"github.com/parleymq/parley/cluster/redistest"
)

// Three nodes send each other numbered frames, over every way to run Redis: all arrive,
// in order, and none comes back to its sender.
func TestFramesInOrder(t *testing.T) {
	t.Parallel()
	for _, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			const count = 3000
			all := together(t, kind.url(t), []string{"a", "b", "c"}, calm)
			var wg sync.WaitGroup
			for _, from := range all {
				wg.Go(func() {
					for i := range count {
						for _, to := range all {
							if to != from && !from.Send(to.id, number(i)) {
								t.Errorf("Send(%s) of frame %d = false, want true", to.id, i)
								return
							}
						}
					}
				})
			}
			wg.Wait()
			for _, to := range all {
				for _, from := range all {
					want := count
					if from == to {
						want = 0
					}
					redistest.Await(t, fmt.Sprintf("%d frames from %s at %s", want, from.id, to.id), func() bool { return len(to.received(from.id)) >= want })
					got := to.received(from.id)
					if len(got) != want {
						t.Errorf("%s received %d frames from %s, want %d", to.id, len(got), from.id, want)
					}
					for i, f := range got {
						if f != string(number(i)) {
							t.Fatalf("%s received %x from %s in place %d, want %x", to.id, f, from.id, i, number(i))
						}
					}
				}
				if n := to.value(t, "parley_redis_messages_missed_total"); n != 0 {
					t.Errorf("%s misses %v messages, want 0", to.id, n)
				}
			}
		})
	}
}

// What one node registers, another one finds, over every way to run Redis.
func TestRegistry(t *testing.T) {
	t.Parallel()
	for _, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			all := together(t, kind.url(t), []string{"a", "b"}, calm)
			a, b := all[0], all[1]
			users := make([]chat.ID, 6000) // more than one batch
			for i := range users {
				users[i] = chat.NewID()
				a.Register(users[i])
				if i%2 == 0 {
					b.Register(users[i])
				}
			}
			check := func(what string, want func(i int) int) {
				redistest.Await(t, what, func() bool {
					found, err := b.Locate(t.Context(), users)
					if err != nil {
						return false
					}
					for i, ids := range found {
						if ids == nil || len(ids) != want(i) {
							return false
						}
					}
					return true
				})
			}
			check("everybody to be found", func(i int) int { return 2 - i%2 })
			for _, u := range users {
				a.Unregister(u)
			}
			check("nobody to be found at a", func(i int) int { return 1 - i%2 })
			if got := b.where(t, users[0]); got != "b" {
				t.Errorf("Locate = %q, want b", got)
			}
			if found, err := a.Locate(t.Context(), nil); err != nil || len(found) != 0 {
				t.Errorf("Locate of nobody = %v, %v", found, err)
			}
			for range 3 { // the last word counts
				a.Register(users[1])
				a.Unregister(users[1])
				a.Register(users[1])
			}
			redistest.Await(t, "the last word", func() bool { return a.where(t, users[1]) == "a" && a.value(t, "parley_redis_registry_waiting") == 0 })
		})
	}
}

// A node that ends in order sends what it has queued, and gives up its lease.
func TestLeaving(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	all := together(t, s.URL(), []string{"a", "b"}, calm)
	a, b := all[0], all[1]
	for i := range 1000 {
		if !a.Send("b", number(i)) {
			t.Fatal("Send = false")
		}
	}
	a.stop()
	redistest.Await(t, "the last frames", func() bool { return len(b.received("a")) == 1000 })
	if entries := s.Do("ZRANGE", "parley:i:nodes", 0, -1).([]any); len(entries) != 1 {
		t.Errorf("leases after a has left: %v, want that of b", entries)
	}
	if a.Send("b", nil) || a.Healthy() || len(a.Peers()) != 0 {
		t.Error("a link that has ended sends, or calls itself healthy, or has peers")
	}
	if _, err := a.Locate(t.Context(), []chat.ID{chat.NewID()}); !errors.Is(err, chat.Unavailable) {
		t.Errorf("Locate after the end: %v, want unavailable", err)
	}
}

// Peers are those of SetPeers, by id; a frame to one that is not subscribed is counted.
func TestSetPeers(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	a := start(t, s.URL(), "a")
	redistest.Await(t, "health", a.Healthy)
	drain(a)
	dead, other := cluster.Node{ID: "dead", Name: "once"}, cluster.Node{ID: "b", Name: "two"}
	a.SetPeers([]cluster.Node{dead, other})
	if got := a.Peers(); len(got) != 2 || got[0] != other || got[1] != dead {
		t.Errorf("Peers = %v", got)
	}
	<-a.Changed()
	if !a.Send("dead", []byte("x")) {
		t.Error("Send to a peer = false, want true")
	}
	redistest.Await(t, "the count", func() bool { return a.value(t, "parley_redis_frames_dropped_total", "unheard") == 1 })
	a.SetPeers([]cluster.Node{other})
	if a.Send("dead", []byte("x")) {
		t.Error("Send to a node that left = true, want false")
	}
}

// New names the field that is wrong, and never a password.
func TestNewRefuses(t *testing.T) {
	t.Parallel()
	ok := redis.Options{URL: "redis://u:hunter2@h", Installation: "i", Node: cluster.Node{ID: "a", Name: "a"}}
	if _, err := redis.New(ok); err != nil {
		t.Fatal(err)
	}
	for field, change := range map[string]func(*redis.Options){
		"Redis URL":         func(o *redis.Options) { o.URL = "redis://u:hunter2@h:x" },
		"tls_ca":            func(o *redis.Options) { o.URL = "rediss://u:hunter2@h?tls_ca=/nowhere" },
		"Installation":      func(o *redis.Options) { o.Installation = "" },
		"Node.ID":           func(o *redis.Options) { o.Node.ID = "a b" },
		"Node.Name":         func(o *redis.Options) { o.Node.Name = "a\n" },
		"HeartbeatInterval": func(o *redis.Options) { o.HeartbeatInterval = time.Microsecond },
	} {
		o := ok
		change(&o)
		_, err := redis.New(o)
		if !errors.Is(err, chat.Invalid) || !strings.Contains(err.Error(), field) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("New with a wrong %s: %v", field, err)
		}
	}
}

// Check tells what an operator has to change from what passes by itself.
func TestCheck(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	withPassword := redistest.Start(t, "--requirepass", "right")
	secure := redistest.StartTLS(t)
	s.Do("ACL", "SETUSER", "weak", "on", ">secret", "+@all", "~other:*", "&other:*")
	s.Do("ACL", "SETUSER", "mute", "on", ">secret", "+@all", "~*", "resetchannels")
	gone := redistest.Start(t)
	gone.Kill()
	full := redistest.Start(t, "--maxmemory", "1")
	cl := redistest.StartCluster(t, 3, false)
	with := func(s *redistest.Server, userinfo string) string {
		return strings.Replace(s.URL(), "://", "://"+userinfo+"@", 1)
	}
	for _, tt := range []struct {
		name, url string
		want      error
		says      string
	}{
		{"fine", s.URL(), nil, ""},
		{"fine with a password", with(withPassword, ":right"), nil, ""},
		{"fine over TLS", secure.URL(), nil, ""},
		{"fine in a Cluster", cl.URL(), nil, ""},
		{"no password", withPassword.URL(), chat.Unauthenticated, "password"},
		{"wrong password", with(withPassword, ":hunter2"), chat.Unauthenticated, "password"},
		{"wrong user", with(s, "who:hunter2"), chat.Unauthenticated, "password"},
		{"a password where any will do", with(s, ":hunter2"), nil, ""},
		{"keys not allowed", with(s, "weak:secret"), chat.Forbidden, "keys and channels"},
		{"channels not allowed", with(s, "mute:secret"), chat.Forbidden, "keys and channels"},
		{"fine by another name", secure.URL() + "&tls_server_name=localhost", nil, ""},
		{"wrong name", secure.URL() + "&tls_server_name=example.com", chat.Invalid, "tls_server_name"},
		{"wrong name, not looked at", secure.URL() + "&tls_server_name=example.com&tls_skip_verify=true", nil, ""},
		{"not verified", "rediss://" + secure.Addr(), chat.Invalid, "certificate"},
		{"no TLS there", "rediss://" + s.Addr(), chat.Unavailable, ""},
		{"TLS there", "redis://" + secure.Addr(), chat.Unavailable, ""},
		{"nobody there", gone.URL(), chat.Unavailable, "reached"},
		{"full", full.URL(), chat.Unavailable, "full"},
		{"no such database", s.URL() + "/99", chat.Invalid, "database"},
		{"a database in a Cluster", cl.Masters[0].URL() + "/1", chat.Invalid, "database"},
		{"no Cluster", "redis+cluster://" + s.Addr(), chat.Invalid, "Cluster"},
		{"no such master", "redis+sentinel://" + s.Addr() + "/main", chat.Unavailable, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l, err := redis.New(redis.Options{URL: tt.url, Installation: "i", Node: cluster.Node{ID: "a", Name: "a"}})
			if err == nil {
				err = l.Check(t.Context())
			}
			if tt.want == nil && err != nil || tt.want != nil && (!errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.says)) {
				t.Errorf("Check: %v, want %v that says %q", err, tt.want, tt.says)
			}
			if err != nil && (strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "secret")) {
				t.Errorf("Check names the password: %v", err)
			}
		})
	}
}

// Starting and stopping leaves nothing behind and blocks nowhere, whenever it is.
func TestStartStop(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	gone := redistest.Start(t)
	gone.Kill()
	cl := redistest.StartCluster(t, 3, false)
	for i := range 20 {
		for _, url := range []string{s.URL(), gone.URL(), cl.URL()} {
			l, err := redis.New(redis.Options{URL: url, Installation: "i", Node: cluster.Node{ID: "a", Name: "a"}, HeartbeatInterval: 200 * time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*3*time.Millisecond)
			l.Register(chat.NewID())
			if err := l.Run(ctx, func(string, []byte) {}); err != nil {
				t.Errorf("Run: %v", err)
			}
			cancel()
		}
	}
}

// Two installations in one Redis have nothing in common, though their nodes have the same ids
// and take each other for peers. A node in the name of an installation that its database does
// not know is logged, once, and counted.
func TestInstallations(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	other := func(o *redis.Options) { o.Installation = "other" }
	ours := []*node{start(t, s.URL(), "a"), start(t, s.URL(), "b")}
	theirs := []*node{start(t, s.URL(), "a", other), start(t, s.URL(), "b", other)}
	whole(t, ours...)
	whole(t, theirs...)
	user := chat.NewID()
	ours[0].Register(user)
	redistest.Await(t, "the entry", func() bool { return ours[1].where(t, user) == "a" })
	reach(t, ours[0], ours[1], "ours")
	reach(t, theirs[0], theirs[1], "theirs")
	for _, n := range []*node{ours[1], theirs[1]} {
		if got := n.received("a"); len(slices.Compact(got)) != 1 {
			t.Errorf("received %q", got)
		}
	}
	if got := theirs[1].where(t, user); got != "" {
		t.Errorf("a user of another installation is at %q", got)
	}

	c := start(t, s.URL(), "c") // of a copy: nobody's database knows it
	const line = "is not in its database"
	redistest.Await(t, "the stranger to be logged", func() bool {
		return ours[0].log.count(line) == 1 && ours[0].value(t, "parley_redis_strangers") == 1
	})
	if theirs[0].log.count(line) != 0 {
		t.Error("logged at another installation")
	}
	c.stop()
	redistest.Await(t, "it to be gone", func() bool { return ours[0].value(t, "parley_redis_strangers") == 0 })
	if n := ours[0].log.count(line); n != 1 {
		t.Errorf("logged %d times", n)
	}
}
