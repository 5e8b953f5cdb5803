package redis_test

import (
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/cluster"
	"github.com/parleymq/parley/cluster/redis"
	"github.com/parleymq/parley/cluster/redistest"
)

// outage checks what holds for every kind of outage: while it lasts nothing blocks and
// nothing is sent, users who are registered meanwhile are not forgotten, and afterwards
// everything recovers by itself. The log has one line for each change.
func outage(t *testing.T, url string, begin, end func()) {
	t.Helper()
	all := together(t, url, []string{"a", "b"})
	a, b := all[0], all[1]
	u, v, w := chat.NewID(), chat.NewID(), chat.NewID()
	a.Register(u)
	a.Register(w)
	redistest.Await(t, "the user", func() bool { return b.where(t, u) == "a" && b.where(t, w) == "a" })
	reach(t, a, b, "before")
	drain(a, b)

	begin()
	redistest.Await(t, "both to notice the outage", func() bool { return !a.Healthy() && !b.Healthy() })
	for _, n := range all {
		select {
		case <-n.Changed():
		case <-time.After(redistest.Patience):
			t.Error("Changed holds no value after the outage began")
		}
	}
	redistest.Await(t, "Send to refuse", func() bool { return !a.Send("b", []byte("during")) })
	if a.value(t, "parley_redis_frames_dropped_total", "away") == 0 {
		t.Error("a frame was refused and is not counted")
	}
	redistest.Await(t, "Locate to say that it does not know", func() bool {
		found, err := b.Locate(t.Context(), []chat.ID{u})
		if err == nil && len(found[0]) != 1 || err != nil && found[0] != nil {
			t.Fatalf("Locate = %v, %v: neither where the user is nor that it is not known", found, err)
		}
		return errors.Is(err, chat.Unavailable)
	})
	a.Register(v)
	a.Unregister(w)
	redistest.Await(t, "the peers to be out of reach", func() bool { return len(a.Peers()) == 0 })
	if got := a.log.count(awayLine); got != 1 {
		t.Errorf("the log says %d times that Redis is unavailable, want once:\n%s", got, a.log.String())
	}
	if got := a.value(t, "parley_redis_up"); got != 0 {
		t.Errorf("parley_redis_up = %v, want 0", got)
	}

	end()
	whole(t, a, b)
	reach(t, a, b, "after")
	reach(t, b, a, "after")
	redistest.Await(t, "the registry as it should be", func() bool {
		return b.where(t, u) == "a" && b.where(t, v) == "a" && b.where(t, w) == ""
	})
	if got := a.log.count(backLine); got != 2 {
		t.Errorf("the log says %d times that Redis answers, want twice:\n%s", got, a.log.String())
	}
}

func drain(all ...*node) {
	for _, n := range all {
		select {
		case <-n.Changed():
		default:
		}
	}
}

func TestKilledAndRestarted(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	outage(t, s.URL(), s.Kill, s.Restart)
}

func TestKilledAndRestartedTLS(t *testing.T) {
	t.Parallel()
	s := redistest.StartTLS(t)
	outage(t, s.URL(), s.Kill, s.Restart)
}

// A server that does not answer blocks nothing.
func TestPaused(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	outage(t, s.URL(), s.Pause, s.Resume)
}

func TestReadOnly(t *testing.T) {
	t.Parallel()
	s, other := redistest.Start(t), redistest.Start(t)
	outage(t, s.URL(), func() { s.Do("REPLICAOF", "127.0.0.1", other.Port) }, func() { s.Do("REPLICAOF", "NO", "ONE") })
}

func TestFull(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	outage(t, s.URL(), func() { s.Do("CONFIG", "SET", "maxmemory", "1") }, func() { s.Do("CONFIG", "SET", "maxmemory", "0") })
}

// The user of the URL loses its permissions or its password while links are connected.
func TestRightsTaken(t *testing.T) {
	t.Parallel()
	for name, take := range map[string][]any{"commands": {"-evalsha", "-eval"}, "keys": {"resetkeys"}, "password": {"resetpass", ">other"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := redistest.Start(t)
			give := append([]any{"ACL", "SETUSER", "parley", "reset", "on", ">secret"}, acl...)
			s.Do(give...)
			outage(t, strings.Replace(s.URL(), "://", "://parley:secret@", 1), func() {
				s.Do(append([]any{"ACL", "SETUSER", "parley"}, take...)...)
				s.Do("CLIENT", "KILL", "USER", "parley")
			}, func() { s.Do(give...) })
		})
	}
}

// Another program uses the key with another type.
func TestWrongType(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	outage(t, s.URL(), func() { s.Do("SET", "parley:i:nodes", "x") }, func() { s.Do("DEL", "parley:i:nodes") })
}

func TestWholeClusterUnavailable(t *testing.T) {
	t.Parallel()
	c := redistest.StartCluster(t, 3, false)
	outage(t, c.URL(), func() {
		for _, s := range c.Masters {
			s.Pause()
		}
	}, func() {
		for _, s := range c.Masters {
			s.Resume()
		}
	})
}

// Redis is unavailable when the nodes start.
func TestUnavailableAtStart(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	s.Kill()
	a, b := start(t, s.URL(), "a"), start(t, s.URL(), "b")
	u := chat.NewID()
	a.Register(u)
	redistest.Await(t, "the line in the log", func() bool { return a.log.count(awayLine) == 1 })
	s.Restart()
	whole(t, a, b)
	reach(t, a, b, "hello")
	redistest.Await(t, "the user", func() bool { return b.where(t, u) == "a" })
}

// Redis loses all its data and goes on.
func TestFlushed(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	all := together(t, s.URL(), []string{"a", "b"}, calm)
	users := make([]chat.ID, 6000)
	for i := range users {
		users[i] = chat.NewID()
		all[0].Register(users[i])
	}
	everybody := func() bool {
		found, err := all[1].Locate(t.Context(), users)
		if err != nil {
			return false
		}
		for _, ids := range found {
			if len(ids) != 1 {
				return false
			}
		}
		return true
	}
	redistest.Await(t, "everybody", everybody)
	alone := make(chan struct{})
	stop := make(chan struct{})
	go func() { // ends with stop; waited for below
		defer close(alone)
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
			}
			if len(all[0].Peers()) != 1 {
				t.Error("the other node was forgotten with what was in Redis")
				return
			}
		}
	}()
	defer func() { close(stop); <-alone }()
	for range 3 {
		drain(all...)
		s.Do("FLUSHALL")
		redistest.Await(t, "everybody again", everybody)
		select {
		case <-all[0].Changed():
		case <-time.After(redistest.Patience):
			t.Fatal("Changed holds no value after the flush")
		}
	}
	whole(t, all...)
	// The slow renewal may find the first flush before a heartbeat does.
	if got := all[0].value(t, "parley_redis_flushes_total"); got < 3 {
		t.Errorf("flushes counted: %v, want at least 3", got)
	}
}

// One server of a Cluster loses its data, not that of the leases: the slow renewal notices.
func TestFlushedInPart(t *testing.T) {
	t.Parallel()
	c := redistest.StartCluster(t, 3, false)
	all := together(t, c.URL(), []string{"a", "b"}, calm)
	users := make([]chat.ID, 6000)
	for i := range users {
		users[i] = chat.NewID()
		all[0].Register(users[i])
	}
	missing := func() (n int) {
		found, err := all[1].Locate(t.Context(), users)
		if err != nil {
			return -1
		}
		for _, ids := range found {
			if len(ids) != 1 {
				n++
			}
		}
		return n
	}
	redistest.Await(t, "everybody", func() bool { return missing() == 0 })
	leases := c.Owner(t, c.Slot("parley:i:nodes"))
	c.Masters[(leases+1)%3].Do("FLUSHALL")
	if got := missing(); got < 1000 {
		t.Errorf("%d users are missing after a third of the Cluster was emptied, want about 2,000", got)
	}
	redistest.Await(t, "everybody again", func() bool { return missing() == 0 })
	if got := all[0].value(t, "parley_redis_flushes_total", "registry"); got != 1 {
		t.Errorf("losses found: %v, want 1", got)
	}
}

// The connections of subscriptions are closed, again and again; the others stay.
func TestSubscriptionCut(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"single", "cluster"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			var servers []*redistest.Server
			var url string
			if kind == "single" {
				servers = []*redistest.Server{redistest.Start(t)}
				url = servers[0].URL()
			} else {
				c := redistest.StartCluster(t, 3, false)
				servers, url = c.Masters, c.URL()
			}
			all := together(t, url, []string{"a", "b"})
			for _, frame := range []string{"1", "2", "3", "4", "5"} {
				before := all[1].value(t, "parley_redis_subscriptions_ended_total")
				for _, s := range servers {
					s.Do("CLIENT", "KILL", "TYPE", "pubsub")
				}
				redistest.Await(t, "the end of the subscription", func() bool { return all[1].value(t, "parley_redis_subscriptions_ended_total") > before })
				reach(t, all[0], all[1], frame)
				reach(t, all[1], all[0], frame)
			}
			whole(t, all...)
			if got := all[0].log.count(awayLine); got != 0 {
				t.Errorf("the log says that Redis is unavailable:\n%s", all[0].log.String())
			}
		})
	}
}

// All other connections are closed: publishing goes on with new ones.
func TestConnectionsCut(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	all := together(t, s.URL(), []string{"a", "b"})
	for _, frame := range []string{"1", "2", "3", "4", "5"} {
		s.Do("CLIENT", "KILL", "TYPE", "normal")
		reach(t, all[0], all[1], frame)
	}
	whole(t, all...)
}

// An address leads to another server while the old one goes on, with the subscription: that
// looks healthy, but nobody publishes there any more.
func TestDeafSubscription(t *testing.T) {
	t.Parallel()
	old, next := redistest.Start(t), redistest.Start(t)
	proxy := newProxy(t, old.Addr())
	all := together(t, "redis://"+proxy.addr(), []string{"a", "b"})
	proxy.lead(next.Addr())
	old.Do("CLIENT", "KILL", "TYPE", "normal") // pub/sub connections stay
	whole(t, all...)
	reach(t, all[0], all[1], "there")
	reach(t, all[1], all[0], "there")
	redistest.Await(t, "nobody to listen to the old server", func() bool {
		return !strings.Contains(old.Do("CLIENT", "LIST", "TYPE", "pubsub").(string), "name=parley-")
	})
}

// isMaster asks a server that may be changing its role, and closes connections then.
func isMaster(s *redistest.Server) bool {
	role, err := s.Try("ROLE")
	r, ok := role.([]any)
	return err == nil && ok && r[0] == "master"
}

func subscribed(s *redistest.Server, id string) bool {
	list, err := s.Try("CLIENT", "LIST", "TYPE", "pubsub")
	text, _ := list.(string)
	return err == nil && strings.Contains(text, "name=parley-"+id+" ")
}

// The master dies, or is told to step down; Sentinel makes the replica the master.
func TestSentinelFailover(t *testing.T) {
	t.Parallel()
	for name, begin := range map[string]func(*redistest.Sentinels){
		"killed":  func(s *redistest.Sentinels) { s.Master.Kill() },
		"paused":  func(s *redistest.Sentinels) { s.Master.Pause() },
		"ordered": func(s *redistest.Sentinels) { s.Watch[0].Do("SENTINEL", "FAILOVER", "main") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := redistest.StartSentinels(t)
			all := together(t, s.URL(), []string{"a", "b"})
			u := chat.NewID()
			all[0].Register(u)
			redistest.Await(t, "the user", func() bool { return all[1].where(t, u) == "a" })
			begin(s)
			redistest.Await(t, "the new master", func() bool { return isMaster(s.Replica) })
			redistest.Await(t, "both leases at the new master", func() bool {
				return subscribed(s.Replica, "a") && subscribed(s.Replica, "b")
			})
			whole(t, all...)
			reach(t, all[0], all[1], "after")
			reach(t, all[1], all[0], "after")
			redistest.Await(t, "the user", func() bool { return all[1].where(t, u) == "a" })
		})
	}
}

// A master of the Cluster dies, is paused, or changes places with its replica: each time
// it is the one of a node's channel.
func TestClusterFailover(t *testing.T) {
	t.Parallel()
	for name, begin := range map[string]func(master, replica *redistest.Server){
		"killed":  func(m, _ *redistest.Server) { m.Kill() },
		"paused":  func(m, _ *redistest.Server) { m.Pause() },
		"ordered": func(_, r *redistest.Server) { r.Do("CLUSTER", "FAILOVER") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := redistest.StartCluster(t, 3, true)
			all := together(t, c.URL(), []string{"a", "b"})
			users := make([]chat.ID, 100)
			for i := range users {
				users[i] = chat.NewID()
				all[0].Register(users[i])
			}
			i := c.Owner(t, c.Slot("parley:i:node:{b}"))
			begin(c.Masters[i], c.Replicas[i])
			redistest.Await(t, "the replica to be the master", func() bool {
				return isMaster(c.Replicas[i])
			})
			// A subscription that stays with the old master, now the replica, still receives:
			// sharded messages go to all servers of a shard.
			redistest.Await(t, "the subscription there", func() bool {
				return name == "ordered" || subscribed(c.Replicas[i], "b")
			})
			whole(t, all...)
			reach(t, all[0], all[1], "after")
			reach(t, all[1], all[0], "after")
			redistest.Await(t, "everybody", func() bool {
				found, err := all[1].Locate(t.Context(), users)
				for _, ids := range found {
					if err != nil || len(ids) != 1 {
						return false
					}
				}
				return true
			})
		})
	}
}

// The slots of a channel and of the leases move from master to master and back.
func TestSlotsMove(t *testing.T) {
	t.Parallel()
	c := redistest.StartCluster(t, 3, false)
	all := together(t, c.URL(), []string{"a", "b"})
	for _, key := range []string{"parley:i:node:{b}", "parley:i:nodes", "parley:i:node:{b}"} {
		slot := c.Slot(key)
		to := (c.Owner(t, slot) + 1) % 3
		before := all[1].value(t, "parley_redis_subscriptions_ended_total")
		c.MoveSlot(t, slot, to)
		if key != "parley:i:nodes" {
			redistest.Await(t, "the end of the subscription", func() bool { return all[1].value(t, "parley_redis_subscriptions_ended_total") > before })
			redistest.Await(t, "the subscription at its new place", func() bool {
				return subscribed(c.Masters[to], "b")
			})
		}
		whole(t, all...)
		reach(t, all[0], all[1], key)
		reach(t, all[1], all[0], key)
	}
}

// One master of a Cluster is down for good: users registered at the others are found.
func TestLocateInPart(t *testing.T) {
	t.Parallel()
	c := redistest.StartCluster(t, 3, false, "--cluster-require-full-coverage", "no")
	a := start(t, c.URL(), "a")
	users := make([]chat.ID, 300)
	for i := range users {
		users[i] = chat.NewID()
		a.Register(users[i])
	}
	registered := func() (nowhere, unknown int, err error) {
		found, err := a.Locate(t.Context(), users)
		for _, ids := range found {
			if ids == nil {
				unknown++
			} else if len(ids) == 0 {
				nowhere++
			}
		}
		return
	}
	redistest.Await(t, "everybody", func() bool { n, u, err := registered(); return n+u == 0 && err == nil })
	leases := c.Owner(t, c.Slot("parley:i:nodes"))
	c.Masters[(leases+1)%3].Kill()
	redistest.Await(t, "some to be unknown, and others known", func() bool {
		nowhere, unknown, err := registered()
		if nowhere > 0 {
			t.Fatalf("%d users of a server that is down are said to be nowhere", nowhere)
		}
		return errors.Is(err, chat.Unavailable) && unknown > 0 && unknown < len(users)
	})
}

// Rubbish in Redis is ignored.
func TestRubbish(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	all := together(t, s.URL(), []string{"a", "b"})
	a := all[0]
	later := time.Now().Add(time.Hour).UnixMilli()
	for _, entry := range []string{"", "|", "x", "x|", "|x", "b b|x", "b|other", "a|me again", strings.Repeat("y", 65) + "|n", "z|" + strings.Repeat("n", 129), "z|\xff", "z|a\nb"} {
		s.Do("ZADD", "parley:i:nodes", later, entry)
	}
	u := chat.NewID()
	s.Do("ZADD", "parley:i:user:{"+u.String()+"}", later, "bad id", later, "", later, "fine")
	for _, m := range []string{"", "\x01", "\x02later version", "\x01\x05wrong", "\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00", "\x01\x01b\x00\x00\x00\x00\x00\x00\x00\x00", "\x01\x01q\x00\x00\x00\x00\x00\x00\x00\x01\xff\xff\xff\xff\x0f", strings.Repeat("\x01", 2<<20)} {
		s.Do("PUBLISH", "parley:i:node:{a}", m)
	}
	redistest.Await(t, "the rubbish to be counted", func() bool {
		return a.value(t, "parley_redis_messages_ignored_total", "malformed") == 7 && a.value(t, "parley_redis_messages_ignored_total", "version") == 1
	})
	// A repeated message is dropped, and a gap is counted.
	for _, m := range []string{"\x01\x01q\x00\x00\x00\x00\x00\x00\x00\x05\x01x", "\x01\x01q\x00\x00\x00\x00\x00\x00\x00\x05\x01x", "\x01\x01q\x00\x00\x00\x00\x00\x00\x00\x08\x01y"} {
		s.Do("PUBLISH", "parley:i:node:{a}", m)
	}
	redistest.Await(t, "y", func() bool { return a.has("q", "y") })
	if got := a.received("q"); len(got) != 2 || a.value(t, "parley_redis_messages_ignored_total", "repeated") != 1 || a.value(t, "parley_redis_messages_missed_total") != 2 {
		t.Errorf("received %q, with %v repeated and %v missed", got, a.value(t, "parley_redis_messages_ignored_total", "repeated"), a.value(t, "parley_redis_messages_missed_total"))
	}
	redistest.Await(t, "a user at a node that is valid", func() bool { return a.where(t, u) == "fine" })
	reach(t, all[1], a, "still here")
	for _, p := range a.Peers() {
		if p.ID != "b" {
			t.Errorf("a peer is %+v", p)
		}
	}
	// Thousands of senders that nobody knows are forgotten, not collected.
	for i := range 5000 {
		s.Do("PUBLISH", "parley:i:node:{a}", "\x01\x06"+string([]byte{'x', 'x', byte('a' + i%26), byte('a' + i/26%26), byte('a' + i/676%26), 'x'})+"\x00\x00\x00\x00\x00\x00\x00\x01")
	}
	reach(t, all[1], a, "and still")
}

// A queue is bounded, and so is a frame.
func TestQueueFull(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	all := together(t, s.URL(), []string{"a", "b"}, func(o *redis.Options) { o.HeartbeatInterval = 10 * time.Second })
	a, b := all[0], all[1]
	if a.Send("b", make([]byte, cluster.MaxFrame+1)) {
		t.Error("Send of a frame over MaxFrame = true, want false")
	}
	if !a.Send("b", make([]byte, cluster.MaxFrame)) {
		t.Error("Send of a frame of MaxFrame = false, want true")
	}
	redistest.Await(t, "the largest frame", func() bool { return len(b.received("a")) == 1 })
	if a.Send("nobody", nil) || a.Send("a", nil) {
		t.Error("Send to nobody, or to oneself, = true, want false")
	}
	s.Pause()
	sent := 0
	for a.Send("b", make([]byte, 100<<10)) {
		if sent++; sent > 1000 {
			t.Fatal("100 MB are queued, and Send still says yes")
		}
	}
	if full := a.value(t, "parley_redis_frames_dropped_total", "full"); full != 1 {
		t.Errorf("dropped because the queue was full: %v, want 1", full)
	}
	if queued := a.value(t, "parley_redis_queue_bytes"); queued > 4<<20 || queued < 3<<20 {
		t.Errorf("%v bytes are queued, want nearly 4 MiB", queued)
	}
	s.Resume()
	redistest.Await(t, "the queue to empty", func() bool { return a.value(t, "parley_redis_queue_bytes") == 0 })
	reach(t, a, b, "after")
}

// proxy is an address that leads to one server or another.
type proxy struct {
	l  net.Listener
	mu sync.Mutex
	to string
	wg sync.WaitGroup
	on []net.Conn
}

func newProxy(t *testing.T, to string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{l: l, to: to}
	p.wg.Go(p.serve)
	t.Cleanup(func() {
		l.Close()
		p.mu.Lock()
		for _, c := range p.on {
			c.Close()
		}
		p.mu.Unlock()
		p.wg.Wait()
	})
	return p
}

func (p *proxy) addr() string { return p.l.Addr().String() }

func (p *proxy) lead(to string) {
	p.mu.Lock()
	p.to = to
	p.mu.Unlock()
}

func (p *proxy) serve() {
	for {
		near, err := p.l.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		far, err := net.Dial("tcp", p.to)
		if err != nil {
			near.Close()
		} else {
			p.on = append(p.on, near, far)
			for _, ends := range [][2]net.Conn{{near, far}, {far, near}} {
				p.wg.Go(func() {
					_, _ = io.Copy(ends[0], ends[1])
					ends[0].Close()
					ends[1].Close()
				})
			}
		}
		p.mu.Unlock()
	}
}
