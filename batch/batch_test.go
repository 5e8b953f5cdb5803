package batch_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parleymq/parley/batch"
)

func size(n int) int { return n }

func TestGather(t *testing.T) {
	t.Parallel()
	q := batch.NewQueue(batch.Limits{Items: 100, Bytes: 1000, BatchItems: 3, BatchBytes: 10}, size)
	for _, n := range []int{1, 1, 1, 1, 9, 1, 50, 2} {
		if err := q.Put(t.Context(), n); err != nil {
			t.Fatal(err)
		}
	}
	q.Close()
	q.Close()
	var got [][]int
	for b := range q.All() {
		got = append(got, slices.Clone(b))
	}
	want := [][]int{{1, 1, 1}, {1, 9}, {1, 50}, {2}}
	if !slices.EqualFunc(got, want, slices.Equal) {
		t.Errorf("batches %v, want %v", got, want)
	}
	if err := q.Put(t.Context(), 1); !errors.Is(err, batch.ErrClosed) {
		t.Errorf("Put after Close: %v, want ErrClosed", err)
	}
}

// A queue is full of items or of bytes; whoever waits is queued when there is room, or
// gives up with their context or the patience.
func TestFull(t *testing.T) {
	t.Parallel()
	for _, l := range []batch.Limits{
		{Items: 2, Bytes: 1000, BatchItems: 1, BatchBytes: 1000, Patience: time.Minute},
		{Items: 1000, Bytes: 20, BatchItems: 1, BatchBytes: 1000, Patience: time.Minute},
	} {
		synctest.Test(t, func(t *testing.T) {
			q := batch.NewQueue(l, size)
			for range 2 {
				if err := q.Put(t.Context(), 10); err != nil {
					t.Fatal(err)
				}
			}
			start := time.Now()
			if err := q.Put(t.Context(), 10); !errors.Is(err, batch.ErrFull) || time.Since(start) != time.Minute {
				t.Errorf("Put returned %v after %v, want ErrFull after 1m", err, time.Since(start))
			}
			ctx, cancel := context.WithCancelCause(t.Context())
			gone := errors.New("the caller is gone")
			time.AfterFunc(time.Second, func() { cancel(gone) })
			if err := q.Put(ctx, 10); !errors.Is(err, gone) || !errors.Is(err, batch.ErrFull) {
				t.Errorf("Put returned %v, want ErrFull with the cause", err)
			}
			put := make(chan error, 1)
			go func() { put <- q.Put(t.Context(), 10) }()
			synctest.Wait()
			go q.Close() // waits for it
			n := 0
			for range q.All() {
				n++
			}
			if err := <-put; err != nil || n != 3 {
				t.Errorf("Put returned %v, %d batches, want nil and 3", err, n)
			}
		})
	}
}

// Each item comes out once, and those of one caller in their order.
func TestRaces(t *testing.T) {
	t.Parallel()
	type item struct{ caller, n int }
	q := batch.NewQueue(batch.Limits{Items: 8, Bytes: 50, BatchItems: 5, BatchBytes: 30, Patience: time.Minute}, func(i item) int { return 1 + i.n%10 })
	var wg sync.WaitGroup
	for caller := range 20 {
		wg.Go(func() {
			for n := range 500 {
				if err := q.Put(t.Context(), item{caller, n}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	go func() { wg.Wait(); q.Close() }() // ends with them
	var next [20]int
	for b := range q.All() {
		for _, i := range b {
			if next[i.caller] != i.n {
				t.Fatalf("item %d of caller %d came out, want %d", i.n, i.caller, next[i.caller])
			}
			next[i.caller]++
		}
	}
	for caller, n := range next {
		if n != 500 {
			t.Errorf("%d items of caller %d, want 500", n, caller)
		}
	}
}

func BenchmarkPut(b *testing.B) {
	q := batch.NewQueue(batch.Limits{Items: 4096, Bytes: 1 << 24, BatchItems: 1000, BatchBytes: 1 << 20, Patience: time.Minute}, func(*int) int { return 200 })
	done := make(chan struct{})
	go func() { // ends with Close
		for range q.All() {
		}
		close(done)
	}()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		n := 0
		for pb.Next() {
			_ = q.Put(b.Context(), &n)
		}
	})
	q.Close()
	<-done
}
