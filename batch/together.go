package batch

import (
	"context"
	"sync"
)

// Together lets callers that come at the same time share one round trip. A lone caller
// goes at once. While as many batches are under way as may be, those who come gather, and the
// next batch is theirs; one of them runs it for all. It has no goroutine.
type Together[Q, A any] struct {
	do   func(ctx context.Context, questions []Q) ([]A, error)
	same func(a, b Q) bool
	most int
	runs chan struct{} // full: callers gather

	mu      sync.Mutex
	waiting []*together[Q, A] // mu guards; as many as there are callers
}

type together[Q, A any] struct {
	question Q
	done     chan struct{} // closed when the following are set
	answer   A
	err      error
}

// NewTogether returns a Together of batches of up to most questions, of which up to runs are
// under way at once. Two questions that are the same are not in one batch. do answers all
// questions of a batch, in their order, or fails for all of them; its context does not end with
// that of any caller, so it needs a deadline of its own.
func NewTogether[Q, A any](runs, most int, same func(a, b Q) bool, do func(ctx context.Context, questions []Q) ([]A, error)) *Together[Q, A] {
	return &Together[Q, A]{do: do, same: same, most: most, runs: make(chan struct{}, runs)}
}

// Do returns the answer to a question. If ctx ends first it returns the cause of that, and
// the question may be answered all the same.
func (t *Together[Q, A]) Do(ctx context.Context, question Q) (A, error) {
	c := &together[Q, A]{question: question, done: make(chan struct{})}
	t.mu.Lock()
	t.waiting = append(t.waiting, c)
	t.mu.Unlock()
	for {
		select {
		case <-c.done:
			return c.answer, c.err
		case t.runs <- struct{}{}:
			t.run(context.WithoutCancel(ctx))
			<-t.runs
		case <-ctx.Done():
			t.withdraw(c)
			var none A
			return none, context.Cause(ctx)
		}
	}
}

func (t *Together[Q, A]) run(ctx context.Context) {
	batch := t.take()
	if len(batch) == 0 {
		return // another one has taken them
	}
	questions := make([]Q, len(batch))
	for i, c := range batch {
		questions[i] = c.question
	}
	answers, err := t.do(ctx, questions)
	for i, c := range batch {
		if c.err = err; err == nil {
			c.answer = answers[i]
		}
		close(c.done)
	}
}

// take removes the questions of the next batch from those that wait.
func (t *Together[Q, A]) take() (batch []*together[Q, A]) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var left []*together[Q, A]
	for _, c := range t.waiting {
		if len(batch) == t.most || t.asked(batch, c.question) {
			left = append(left, c)
		} else {
			batch = append(batch, c)
		}
	}
	t.waiting = left
	return batch
}

func (t *Together[Q, A]) asked(batch []*together[Q, A], question Q) bool {
	for _, c := range batch {
		if t.same(c.question, question) {
			return true
		}
	}
	return false
}

func (t *Together[Q, A]) withdraw(c *together[Q, A]) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, other := range t.waiting {
		if other == c {
			t.waiting = append(t.waiting[:i:i], t.waiting[i+1:]...)
			return
		}
	}
}
