package chat

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parleymq/parley/backoff"
)

const fenceTick = 100 * time.Millisecond

// Fence keeps a process that was paused (SIGSTOP, a frozen virtual machine) from acting
// for connections whose devices have connected at other nodes meanwhile. Whatever acts for
// a connection checks it first. It closes when its ticker is late by more than limit, and
// opens when this node knows again which sessions have moved. It uses the monotonic clock,
// which runs on while a process is stopped.
//
// A nil Fence is open: a node alone needs none. It is safe for concurrent use.
type Fence struct {
	limit time.Duration
	start time.Time
	tick  atomic.Int64 // of Run, the last one; in nanoseconds since start

	mu     sync.Mutex
	closed chan struct{} // mu guards: closed when the fence opens; nil: it is open
	shut   atomic.Bool   // closed is not nil
	ended  atomic.Bool   // Run has ended
	wake   chan struct{} // holds a value when the fence was closed
}

// NewFence returns a fence that is open; Run keeps it so.
func NewFence(limit time.Duration) *Fence {
	return &Fence{limit: limit, start: time.Now(), wake: make(chan struct{}, 1)}
}

// Open reports whether the fence is open. It reads the clock, and does not block.
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

// Wait waits until the fence is open, which it nearly always is. Unavailable: ctx or Run
// has ended before.
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
			return &Error{Code: Unavailable, Op: "chat.Fence", Msg: "the server was paused and is checking which sessions have moved; try again", Err: context.Cause(ctx)}
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

// Run keeps the fence open until ctx ends; from then on it stays as it is. After a pause
// of the process it calls sync, which learns which sessions have moved, until that
// succeeds.
func (f *Fence) Run(ctx context.Context, sync func(context.Context) error) error {
	tick := time.NewTicker(fenceTick)
	defer tick.Stop()
	defer func() {
		f.ended.Store(true)
		if f.shut.Load() {
			f.mu.Lock()
			close(f.closed) // wakes those who wait; it stays closed
			f.mu.Unlock()
		} else {
			f.tick.Store(int64(365 * 24 * time.Hour)) // it stays open
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
		for wait := backoff.New(fenceTick, 2*time.Second); !f.sync(ctx, tick, sync); {
			if !wait.Sleep(ctx) {
				return nil
			}
		}
		f.tick.Store(int64(time.Since(f.start)))
		f.open()
	}
}

// sync calls sync, and reports whether it has succeeded without another pause of the
// process.
func (f *Fence) sync(ctx context.Context, tick *time.Ticker, sync func(context.Context) error) bool {
	synced := make(chan error, 1)
	go func() { synced <- sync(ctx) }() // received below
	paused := false
	for last := time.Now(); ; {
		select {
		case <-tick.C:
			paused = paused || time.Since(last) > f.limit
			last = time.Now()
		case err := <-synced:
			return err == nil && !paused && time.Since(last) <= f.limit
		}
	}
}
