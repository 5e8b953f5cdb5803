package cluster_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/cluster"
)

// lease is a Lease whose answers the test gives.
type lease struct {
	mu       sync.Mutex
	err      error
	beat     chat.Heartbeat
	outbox   []chat.OutboxEntry
	partly   bool // the outbox does not reach back far enough
	evicted  []string
	released []string
	rejoined int
	beats    int
	ended    bool
}

func (p *lease) with(f func()) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		f()
	}
	return p.err
}

func (p *lease) Heartbeat(context.Context) (b chat.Heartbeat, err error) {
	return b, p.with(func() { p.beats++; b = p.beat; p.beat.Evicted = false })
}
func (p *lease) Rejoin(context.Context) error { return p.with(func() { p.rejoined++ }) }
func (p *lease) Evict(_ context.Context, n chat.NodeState) (won bool, err error) {
	return true, p.with(func() {
		p.evicted = append(p.evicted, n.Name)
		p.beat.Others = slices.DeleteFunc(p.beat.Others, func(o chat.NodeState) bool { return o == n })
	})
}

func (p *lease) Released(_ context.Context, node string) error {
	return p.with(func() {
		p.released = append(p.released, node)
		p.beat.Unreleased = slices.DeleteFunc(p.beat.Unreleased, func(n chat.NodeState) bool { return n.Name == node })
	})
}

func (p *lease) ReadOutbox(context.Context) (list []chat.OutboxEntry, whole bool, err error) {
	err = p.with(func() { list, whole = p.outbox, !p.partly; p.outbox, p.partly = nil, false })
	return list, whole, err
}
func (p *lease) PruneOutbox(context.Context) error { return p.with(func() {}) }
func (p *lease) Close(context.Context) error       { return p.with(func() { p.ended = true }) }

// sessions notes what is told to the sessions of a node, and to its rules.
type sessions struct {
	rules
	mu         sync.Mutex
	hinted     []int64
	superseded []string
	moved      []int64
	gaveUp     int
	rechecks   int
	fails      int           // rechecks that fail first
	slow       time.Duration // that each MembersChanged takes
}

func (s *sessions) note(f func()) { s.mu.Lock(); f(); s.mu.Unlock() }

func (s *sessions) HintFollowers(_ chat.ID, seq int64) {
	s.note(func() { s.hinted = append(s.hinted, seq) })
}

func (s *sessions) ReceiveNotice(_ context.Context, _ string, n chat.Notice) {
	s.note(func() { s.superseded = append(s.superseded, n.Superseded.ClientID) })
}
func (s *sessions) DisconnectAll() { s.note(func() { s.gaveUp++ }) }
func (s *sessions) Recheck(context.Context) (err error) {
	s.note(func() {
		if s.rechecks++; s.rechecks <= s.fails {
			err = errors.New("the database is unavailable")
		}
	})
	return err
}

func (s *sessions) MembersChanged(ctx context.Context, _ chat.ID, seq, _ int64) {
	select {
	case <-time.After(s.slow):
	case <-ctx.Done():
	}
	s.note(func() { s.moved = append(s.moved, seq) })
}

// runKeeper runs a keeper in a bubble; stop ends it and returns what Run has.
func runKeeper(t *testing.T, p *lease, s *sessions, release func(context.Context, chat.NodeState) error) (k *cluster.Keeper, stop func() error) {
	t.Helper()
	k = cluster.NewKeeper(cluster.KeeperOptions{
		Lease: p, Bus: cluster.NewBus(cluster.BusOptions{Link: newNetwork().join("x")}), Sessions: s, Rules: s, Rejoined: func() {}, Release: release,
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	return k, func() error { cancel(); return <-done }
}

// A node whose lease has expired is evicted and then released, with repeated attempts, but
// not by a node that has not sent heartbeats itself.
func TestKeeperEvicts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, s := &lease{}, &sessions{}
		dead := chat.NodeState{Name: "dead", ID: "1"}
		p.beat.Others = []chat.NodeState{{Name: "alive", ID: "2", Alive: true}, dead}
		p.err = errors.New("the database is unavailable")
		var mu sync.Mutex
		var tries []string
		_, stop := runKeeper(t, p, s, func(_ context.Context, n chat.NodeState) error {
			mu.Lock()
			defer mu.Unlock()
			if tries = append(tries, n.Name); len(tries) == 1 {
				return errors.New("the database is unavailable")
			}
			return nil
		})
		time.Sleep(time.Minute)
		p.mu.Lock()
		p.err = nil
		p.mu.Unlock()
		time.Sleep(cluster.LeaseDuration - time.Second)
		p.mu.Lock()
		if len(p.evicted) > 0 {
			t.Error("a node was evicted by one that had just come back itself")
		}
		p.mu.Unlock()
		time.Sleep(5 * time.Second)
		p.mu.Lock()
		if !slices.Equal(p.evicted, []string{"dead"}) || len(p.released) > 0 {
			t.Errorf("evicted %v, released %v", p.evicted, p.released)
		}
		p.beat.Unreleased = []chat.NodeState{{Name: "dead"}} // as the database says then
		p.mu.Unlock()
		time.Sleep(time.Minute)
		p.mu.Lock()
		if !slices.Equal(p.released, []string{"dead"}) {
			t.Errorf("released %v after %v", p.released, tries)
		}
		p.mu.Unlock()
		if err := stop(); err != nil || !p.ended {
			t.Errorf("ended %v: %v", p.ended, err)
		}
	})
}

// What is read in the outbox reaches the sessions, twice; if it may not be all, every
// session is looked at, until that succeeds.
func TestKeeperReads(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, s := &lease{partly: true}, &sessions{fails: 2}
		k, stop := runKeeper(t, p, s, nil)
		time.Sleep(10 * time.Second)
		s.note(func() {
			if s.rechecks != 3 {
				t.Errorf("looked at all sessions %d times", s.rechecks)
			}
		})
		p.mu.Lock()
		p.outbox = []chat.OutboxEntry{{Seq: 7}, {Seq: 8, Members: true}, {Superseded: &chat.SupersededNotice{ClientID: "phone"}}}
		p.mu.Unlock()
		if err := k.Sync(t.Context()); err != nil {
			t.Error(err)
		}
		s.note(func() {
			if !slices.Equal(s.hinted, []int64{7}) || !slices.Equal(s.moved, []int64{8}) || !slices.Equal(s.superseded, []string{"phone"}) {
				t.Errorf("when Sync has returned: %+v", s)
			}
		})
		time.Sleep(10 * time.Second)
		s.note(func() {
			if !slices.Equal(s.hinted, []int64{7, 7}) || len(s.moved) != 2 || len(s.superseded) != 2 || s.rechecks != 3 {
				t.Errorf("later: %+v", s)
			}
		})
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

// A node that was evicted itself ends its connections before it rejoins; one whose name
// another one has taken ends.
func TestKeeperIsLost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, s := &lease{}, &sessions{}
		k, stop := runKeeper(t, p, s, nil)
		time.Sleep(10 * time.Second)
		p.mu.Lock()
		p.beat.Evicted = true
		p.mu.Unlock()
		time.Sleep(3 * time.Second)
		_ = p.with(func() {
			if p.rejoined != 1 {
				t.Errorf("rejoined %d times", p.rejoined)
			}
		})
		s.note(func() {
			if s.gaveUp != 1 {
				t.Errorf("ended all connections %d times", s.gaveUp)
			}
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		p.mu.Lock()
		p.err = &chat.Error{Code: chat.Unavailable}
		p.mu.Unlock()
		if err := k.Sync(ctx); chat.CodeOf(err) != chat.Unavailable {
			t.Errorf("Sync, without a database: %v", err)
		}
		p.mu.Lock()
		p.err = &chat.Error{Code: chat.Conflict}
		p.mu.Unlock()
		time.Sleep(5 * time.Second)
		if err := stop(); chat.CodeOf(err) != chat.Conflict {
			t.Errorf("the name is another node's, and it ended with %v", err)
		}
	})
}

// Nobody has to stop a keeper whose lease another node has: it ends, and the process with it.
func TestKeeperEndsByItself(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, s := &lease{err: &chat.Error{Code: chat.Conflict}}, &sessions{}
		k := cluster.NewKeeper(cluster.KeeperOptions{Lease: p, Sessions: s, Rules: s})
		ended := make(chan error, 1)
		go func() { ended <- k.Run(t.Context()) }()
		if err := <-ended; chat.CodeOf(err) != chat.Conflict {
			t.Errorf("it ended with %v", err)
		}
	})
}

// Many changes of members, each of which waits for a database that is slow, hold up
// neither the heartbeat, by which the others know that this node lives, nor what else
// the outbox says. The campaign over several nodes had messages wait for it.
func TestKeeperDoesNotWaitForMembers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, s := &lease{}, &sessions{slow: time.Second}
		_, stop := runKeeper(t, p, s, nil)
		time.Sleep(3 * time.Second)
		_ = p.with(func() {
			p.beats = 0
			for seq := range int64(60) {
				p.outbox = append(p.outbox, chat.OutboxEntry{Seq: seq, Members: true})
			}
		})
		time.Sleep(3 * time.Second)
		_ = p.with(func() {
			p.outbox = []chat.OutboxEntry{{Seq: 100}, {Superseded: &chat.SupersededNotice{ClientID: "phone"}}}
		})
		time.Sleep(5 * time.Second)
		s.note(func() {
			if !slices.Contains(s.hinted, 100) || !slices.Contains(s.superseded, "phone") {
				t.Errorf("after 5 s the sessions have hints of %v, and these devices were superseded: %v", s.hinted, s.superseded)
			}
		})
		_ = p.with(func() {
			if p.beats < 3 {
				t.Errorf("%d heartbeats in 8 s", p.beats)
			}
		})
		time.Sleep(2 * time.Minute)
		s.note(func() {
			if n := len(s.moved); n != 120 { // each twice
				t.Errorf("%d changes of members were acted upon", n)
			}
		})
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}
