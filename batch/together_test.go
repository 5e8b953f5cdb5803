package batch_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parleymq/parley/batch"
)

func same(a, b int) bool { return a == b }

// A lone caller goes at once; those who come meanwhile share the next batch, each gets its own
// answer, and who asks the same as another waits for the batch after that.
func TestTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var sizes []int // appended to by one run at a time
		together := batch.NewTogether(1, 50, same, func(_ context.Context, questions []int) ([]int, error) {
			sizes = append(sizes, len(questions))
			time.Sleep(time.Second)
			answers := make([]int, len(questions))
			for i, q := range questions {
				answers[i] = 10 * q
			}
			return answers, nil
		})
		ask := func(wg *sync.WaitGroup, q int) {
			wg.Go(func() {
				if a, err := together.Do(t.Context(), q); a != 10*q || err != nil {
					t.Errorf("Do(%d) = %d, %v", q, a, err)
				}
			})
		}
		var wg sync.WaitGroup
		ask(&wg, 0)
		synctest.Wait()
		for q := range 60 {
			ask(&wg, q)
		}
		synctest.Wait()
		ask(&wg, 59)
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Millisecond, errors.New("out of patience"))
		defer cancel()
		if _, err := together.Do(ctx, 100); err == nil || err.Error() != "out of patience" {
			t.Errorf("Do returned %v when its context had ended", err)
		}
		wg.Wait()
		total := 0
		for _, n := range sizes {
			total += n
		}
		if len(sizes) > 4 || total != 62 {
			t.Errorf("batches of %v, want 1 and 50 and the rest, of 62 in all", sizes)
		}
	})
}

// A batch that fails has failed for all that are in it, and for nobody else.
func TestTogetherFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		bad := errors.New("bad")
		together := batch.NewTogether(1, 10, same, func(_ context.Context, questions []int) ([]int, error) {
			time.Sleep(time.Second)
			if slices.Contains(questions, 7) {
				return nil, bad
			}
			return questions, nil
		})
		var wg sync.WaitGroup
		var failed atomic.Int64
		for q := range 40 {
			wg.Go(func() {
				a, err := together.Do(t.Context(), q)
				switch {
				case errors.Is(err, bad):
					failed.Add(1)
				case a != q || err != nil:
					t.Errorf("Do(%d) = %d, %v", q, a, err)
				}
			})
		}
		wg.Wait()
		if n := failed.Load(); n < 1 || n > 10 {
			t.Errorf("%d failed, want one batch", n)
		}
	})
}
