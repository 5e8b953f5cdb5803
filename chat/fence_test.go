package chat_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parleymq/parley/chat"
)

// runFence runs a fence until the test ends.
func runFence(t *testing.T, find func(context.Context) error) (f *chat.Fence, stop func()) {
	f = chat.NewFence(2 * time.Second)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- f.Run(ctx, find) }()
	synctest.Wait()
	return f, func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestFence(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var found atomic.Int32
		f, stop := runFence(t, func(context.Context) error { found.Add(1); return nil })
		defer stop()
		time.Sleep(time.Minute)
		if !f.Open() || found.Load() != 0 {
			t.Errorf("open %v, although nothing happened: looked %d times", f.Open(), found.Load())
		}
		chat.StandStill(f, 3*time.Second)
		if f.Open() {
			t.Error("it is open after a pause")
		}
		if err := f.Wait(t.Context()); err != nil || found.Load() != 1 || !f.Open() {
			t.Errorf("open %v, looked %d times: %v", f.Open(), found.Load(), err)
		}
		chat.StandStill(f, time.Second)
		if !f.Open() {
			t.Error("it is closed after a moment")
		}
	})
}

// It stays closed until it is known what has moved, and whoever waits may give up.
func TestFenceWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var tries atomic.Int32
		f, stop := runFence(t, func(context.Context) error {
			if tries.Add(1) < 5 {
				return errors.New("the database is away")
			}
			time.Sleep(10 * time.Second) // slow is not standing still
			return nil
		})
		defer stop()
		chat.StandStill(f, time.Hour)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := f.Wait(ctx); chat.CodeOf(err) != chat.Unavailable || f.Open() {
			t.Errorf("open %v: %v", f.Open(), err)
		}
		if err := f.Wait(t.Context()); err != nil || tries.Load() != 5 {
			t.Errorf("after %d tries: %v", tries.Load(), err)
		}
	})
}

// What stops while the fence is closed does not go on behind it.
func TestFenceEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, stop := runFence(t, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		chat.StandStill(f, time.Hour)
		waited := make(chan error)
		go func() { waited <- f.Wait(t.Context()) }()
		synctest.Wait()
		stop()
		if err := <-waited; chat.CodeOf(err) != chat.Unavailable {
			t.Error(err)
		}
		if f.Open() || chat.CodeOf(f.Wait(t.Context())) != chat.Unavailable {
			t.Error("it has opened")
		}
		f, stop = runFence(t, func(context.Context) error { return nil })
		stop()
		time.Sleep(time.Hour)
		if err := f.Wait(t.Context()); err != nil {
			t.Errorf("nobody looks after it, and it has closed: %v", err)
		}
		if !(*chat.Fence)(nil).Open() || (*chat.Fence)(nil).Wait(t.Context()) != nil {
			t.Error("no fence is closed")
		}
	})
}
