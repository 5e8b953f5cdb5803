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

// place is a Place whose answers the test gives.
type place struct {
	mu       sync.Mutex
	err      error
	beat     chat.Heartbeat
	journal  []chat.OutboxEntry
	partly   bool // the journal does not reach back far enough
	buried   []string
	released []string
	begun    int
	beats    int
	ended    bool
}

func (p *place) with(f func()) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		f()
	}
	return p.err
}

func (p *place) Beat(context.Context) (b chat.Heartbeat, err error) {
	return b, p.with(func() { p.beats++; b = p.beat; p.beat.Lost = false })
}
func (p *place) Begin(context.Context) error { return p.with(func() { p.begun++ }) }
func (p *place) Bury(_ context.Context, n chat.NodeState) (won bool, err error) {
	return true, p.with(func() {
		p.buried = append(p.buried, n.Name)
		p.beat.Others = slices.DeleteFunc(p.beat.Others, func(o chat.NodeState) bool { return o == n })
	})
}

func (p *place) Released(_ context.Context, node string) error {
	return p.with(func() {
		p.released = append(p.released, node)
		p.beat.Left = slices.DeleteFunc(p.beat.Left, func(s string) bool { return s == node })
	})
}

func (p *place) ReadJournal(context.Context) (list []chat.OutboxEntry, whole bool, err error) {
	err = p.with(func() { list, whole = p.journal, !p.partly; p.journal, p.partly = nil, false })
	return list, whole, err
}
func (p *place) PruneJournal(context.Context) error { return p.with(func() {}) }
func (p *place) End(context.Context) error          { return p.with(func() { p.ended = true }) }

// sessions notes what is told to the sessions of a node, and to its rules.
type sessions struct {
	rules
	mu       sync.Mutex
	heard    []int64
	passed   []string
	moved    []int64
	gaveUp   int
	rechecks int
	fails    int           // rechecks that fail first
	slow     time.Duration // that each MembersChanged takes
}

func (s *sessions) note(f func()) { s.mu.Lock(); f(); s.mu.Unlock() }

func (s *sessions) HintFollowers(_ chat.ID, seq int64) {
	s.note(func() { s.heard = append(s.heard, seq) })
}
func (s *sessions) DropSuperseded(n chat.SupersededNotice) bool {
	s.note(func() { s.passed = append(s.passed, n.ClientID) })
	return true
}
func (s *sessions) DisconnectAll() { s.note(func() { s.gaveUp++ }) }
func (s *sessions) Recheck(context.Context) (n int, err error) {
	s.note(func() {
		if s.rechecks++; s.rechecks <= s.fails {
			err = errors.New("the database is away")
		}
	})
	return 0, err
}

func (s *sessions) MembersChanged(ctx context.Context, _ chat.ID, seq, _ int64) {
	select {
	case <-time.After(s.slow):
	case <-ctx.Done():
	}
	s.note(func() { s.moved = append(s.moved, seq) })
}

// runKeeper runs a keeper in a bubble; stop ends it and returns what Run has.
func runKeeper(t *testing.T, p *place, s *sessions, release func(context.Context, string) error) (k *cluster.Keeper, stop func() error) {
	t.Helper()
	k = cluster.NewKeeper(cluster.KeeperOptions{Place: p, Link: newNetwork().join("x", nil), Sessions: s, Rules: s, Renewed: func() {}, Release: release})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	return k, func() error { cancel(); return <-done }
}

// A node that is not heard of is given up, and what it had is released until that
// succeeds; but by nobody who was away himself.
func TestKeeperBuries(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, s := &place{}, &sessions{}
		dead := chat.NodeState{Name: "dead", ID: "1"}
		p.beat.Others = []chat.NodeState{{Name: "alive", ID: "2", Alive: true}, dead}
		p.err = errors.New("the database is away")
		var mu sync.Mutex
		var tries []string
		_, stop := runKeeper(t, p, s, func(_ context.Context, node string) error {
			mu.Lock()
			defer mu.Unlock()
			if tries = append(tries, node); len(tries) == 1 {
				return errors.New("the database is away")
			}
			return nil
		})
		time.Sleep(time.Minute)
		p.mu.Lock()
		p.err = nil
		p.mu.Unlock()
		time.Sleep(cluster.Lease - time.Second)
		p.mu.Lock()
		if len(p.buried) > 0 {
			t.Error("a node was given up by one that had just come back itself")
		}
		p.mu.Unlock()
		time.Sleep(5 * time.Second)
		p.mu.Lock()
		if !slices.Equal(p.buried, []string{"dead"}) || len(p.released) > 0 {
			t.Errorf("given up %v, released %v", p.buried, p.released)
		}
		p.beat.Left = []string{"dead"} // as the database says then
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

// What is read in the journal reaches the sessions, twice; if it may not be all, every
// session is looked at, until that succeeds.
func TestKeeperReads(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, s := &place{partly: true}, &sessions{fails: 2}
		k, stop := runKeeper(t, p, s, nil)
		time.Sleep(10 * time.Second)
		s.note(func() {
			if s.rechecks != 3 {
				t.Errorf("looked at all sessions %d times", s.rechecks)
			}
		})
		p.mu.Lock()
		p.journal = []chat.OutboxEntry{{Seq: 7}, {Seq: 8, Members: true}, {Superseded: &chat.SupersededNotice{ClientID: "phone"}}}
		p.mu.Unlock()
		if err := k.Look(t.Context()); err != nil {
			t.Error(err)
		}
		s.note(func() {
			if !slices.Equal(s.heard, []int64{7}) || !slices.Equal(s.moved, []int64{8}) || !slices.Equal(s.passed, []string{"phone"}) {
				t.Errorf("when Look has returned: %+v", s)
			}
		})
		time.Sleep(10 * time.Second)
		s.note(func() {
			if !slices.Equal(s.heard, []int64{7, 7}) || len(s.moved) != 2 || len(s.passed) != 2 || s.rechecks != 3 {
				t.Errorf("later: %+v", s)
			}
		})
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

// A node that was given up itself ends its connections before it begins anew; one
// whose place another one has taken ends.
func TestKeeperIsLost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, s := &place{}, &sessions{}
		k, stop := runKeeper(t, p, s, nil)
		time.Sleep(10 * time.Second)
		p.mu.Lock()
		p.beat.Lost = true
		p.mu.Unlock()
		time.Sleep(3 * time.Second)
		_ = p.with(func() {
			if p.begun != 1 {
				t.Errorf("began anew %d times", p.begun)
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
		if err := k.Look(ctx); chat.CodeOf(err) != chat.Unavailable {
			t.Errorf("Look, without a database: %v", err)
		}
		p.mu.Lock()
		p.err = &chat.Error{Code: chat.Conflict}
		p.mu.Unlock()
		time.Sleep(5 * time.Second)
		if err := stop(); chat.CodeOf(err) != chat.Conflict {
			t.Errorf("the place is another node's, and it ended with %v", err)
		}
	})
}

// Many changes of members, each of which waits for a database that is slow, hold up
// neither the heartbeat, by which the others know that this node lives, nor what else
// the journal says. The campaign over several nodes had messages wait for it.
func TestKeeperDoesNotWaitForMembers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, s := &place{}, &sessions{slow: time.Second}
		_, stop := runKeeper(t, p, s, nil)
		time.Sleep(3 * time.Second)
		_ = p.with(func() {
			p.beats = 0
			for seq := range int64(60) {
				p.journal = append(p.journal, chat.OutboxEntry{Seq: seq, Members: true})
			}
		})
		time.Sleep(3 * time.Second)
		_ = p.with(func() {
			p.journal = []chat.OutboxEntry{{Seq: 100}, {Superseded: &chat.SupersededNotice{ClientID: "phone"}}}
		})
		time.Sleep(5 * time.Second)
		s.note(func() {
			if !slices.Contains(s.heard, 100) || !slices.Contains(s.passed, "phone") {
				t.Errorf("after 5 s the sessions have heard of %v, and of devices %v", s.heard, s.passed)
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
