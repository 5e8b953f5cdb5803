package chat

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parleymq/parley/backoff"
)

const fenceTick = 100 * time.Millisecond

// Fence keeps a process that has stood still (stopped by a signal, a frozen virtual
// machine) from going on as if nothing had happened: its devices may have connected at
// other nodes meanwhile. Whoever is about to act for a connection asks whether the
// fence is open. It closes when its clock is late by more than limit, and opens when
// what has moved is known. It goes by the monotonic clock, which goes on while a
// process is stopped.
//
// A nil Fence is open: a node alone needs none. It is safe for concurrent use.
type Fence struct {
	limit time.Duration
	start time.Time
	tick  atomic.Int64 // when Run was last there, in nanoseconds since start

	mu     sync.Mutex
	closed chan struct{} // mu guards: closed when the fence opens; nil: it is open
	shut   atomic.Bool   // closed is not nil
	ended  atomic.Bool   // for good
	wake   chan struct{} // holds a value when the fence was closed
}

// NewFence returns a fence that is open; Run keeps it so.
func NewFence(limit time.Duration) *Fence {
	return &Fence{limit: limit, start: time.Now(), wake: make(chan struct{}, 1)}
}

// Open reports whether the fence is open. It costs a reading of the clock and does not
// block.
func (f *Fence) Open() bool {
	if f == nil {
		return true
	}
	if f.shut.Load() {
		return false
	}
	if time.Since(f.start)-time.Duration(f.tick.Load()) <= f.limit {
		return true
	}
	f.close()
	return false
}

// Wait returns when the fence is open: at once, nearly always. Otherwise it waits until
// then, or returns Unavailable when ctx ends or Run has ended meanwhile.
func (f *Fence) Wait(ctx context.Context) error {
	for !f.Open() {
		f.mu.Lock()
		closed := f.closed
		f.mu.Unlock()
		if f.ended.Load() {
			return &Error{Code: Unavailable, Op: "chat.Fence", Msg: "the server is stopping"}
		}
		if closed == nil {
			continue
		}
		select {
		case <-closed:
		case <-ctx.Done():
			return &Error{Code: Unavailable, Op: "chat.Fence", Msg: "the server finds out what has become of its sessions; try again", Err: context.Cause(ctx)}
		}
	}
	return nil
}

func (f *Fence) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed == nil {
		f.closed = make(chan struct{})
		f.shut.Store(true)
	}
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

func (f *Fence) open() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed != nil {
		f.shut.Store(false)
		close(f.closed)
		f.closed = nil
	}
}

// Run keeps the fence open until ctx ends; from then on it is open or closed for good.
// After a pause it calls find, which finds out what has moved, until that succeeds.
func (f *Fence) Run(ctx context.Context, find func(context.Context) error) error {
	tick := time.NewTicker(fenceTick)
	defer tick.Stop()
	defer func() {
		f.ended.Store(true)
		if f.shut.Load() {
			f.mu.Lock()
			close(f.closed) // wakes those who wait; it stays closed
			f.mu.Unlock()
		} else {
			f.tick.Store(int64(365 * 24 * time.Hour)) // nobody looks after it any more
		}
	}()
	f.tick.Store(int64(time.Since(f.start)))
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-f.wake:
		}
		if f.Open() { // late: it is closed by that
			f.tick.Store(int64(time.Since(f.start)))
			continue
		}
		for wait := backoff.New(fenceTick, 2*time.Second); !f.find(ctx, tick, find); {
			if !wait.Sleep(ctx) {
				return nil
			}
		}
		f.tick.Store(int64(time.Since(f.start)))
		f.open()
	}
}

// find calls find, and reports whether it has succeeded, and the process has not stood
// still again meanwhile.
func (f *Fence) find(ctx context.Context, tick *time.Ticker, find func(context.Context) error) bool {
	found := make(chan error, 1)
	go func() { found <- find(ctx) }() // awaited below
	still := false
	for last := time.Now(); ; {
		select {
		case <-tick.C:
			still = still || time.Since(last) > f.limit
			last = time.Now()
		case err := <-found:
			return err == nil && !still && time.Since(last) <= f.limit
		}
	}
}
