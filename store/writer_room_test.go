package store_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/store"
)

// The queues were bounded by events alone: 4 shards of 4096 messages of 64 KiB are
// 1 GiB, which gathers within seconds while the database is slow.
func TestWriterQueueIsFullOfBytes(t *testing.T) {
	t.Parallel()
	r := newWriterRig(t, store.WriterOptions{Shards: 1, QueueBytes: 100})
	release := r.hold()
	a, b := r.message(r.members[0], chat.ID{}, strings.Repeat("a", 60)), r.message(r.members[0], chat.ID{}, strings.Repeat("b", 40))
	r.append(a, b)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	d := r.message(r.members[0], chat.ID{}, "d")
	wantCode(t, r.w.Append(ctx, &d.Append), chat.Unavailable)
	taken := make(chan error, 1)
	e := r.message(r.members[0], chat.ID{}, strings.Repeat("e", 200)) // larger than the limit: fits when nothing else waits
	go func() { taken <- r.w.Append(t.Context(), &e.Append) }()
	release()
	if err := <-taken; err != nil {
		t.Error(err)
	}
	r.stored(a, b, e)
	f := r.message(r.members[0], chat.ID{}, strings.Repeat("f", 100)) // all of it was given back
	r.append(f)
	r.stored(f)
	r.finish()
	if d.told.Load() != 0 {
		t.Error("an event that was not taken was told an outcome")
	}
}

// Whoever waits for room gets it as it becomes free; nobody is forgotten, and the
// limit is kept.
func TestRoom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		room := store.NewRoom(100)
		var mu sync.Mutex
		var used, most, refused int
		var wg sync.WaitGroup
		for i := range 200 {
			n := 1 + i%100
			wg.Go(func() {
				for range 20 {
					ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
					if i%10 == 0 {
						cancel() // these give up, unless there is room at once
					}
					ok := room.TryTake(n) || room.Take(ctx, n)
					cancel()
					mu.Lock()
					if !ok {
						refused++
						mu.Unlock()
						continue
					}
					used += n
					most = max(most, used)
					mu.Unlock()
					time.Sleep(time.Millisecond)
					mu.Lock()
					used -= n
					mu.Unlock()
					room.Give(n)
				}
			})
		}
		start := time.Now()
		wg.Wait()
		if most > 100 || most < 90 || refused > 20*20 || time.Since(start) > time.Minute {
			t.Errorf("%d bytes were taken at most, %d callers refused, in %v", most, refused, time.Since(start))
		}
		if !room.TryTake(100) || room.TryTake(1) {
			t.Error("what was given back is not all there")
		}
		room.Give(100)
		if !room.TryTake(1000) || room.TryTake(1) {
			t.Error("what is larger than the limit does not fit alone")
		}
	})
}
