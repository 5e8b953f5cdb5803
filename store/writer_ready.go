package store

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/parleymq/parley/chat"
)

// readiness is whether the writer could commit when it last tried.
type readiness struct {
	began chan struct{} // closed when Run has begun
	turn  chan struct{} // a semaphore of one: its holder uses stmt
	stmt  statement     // a connection beside those of the shards

	mu    sync.Mutex
	at    time.Time // mu guards: of the last try
	fault error     // mu guards: of the last try; nil: it committed
}

// readyFresh is how long an outcome is believed. Those of commits under way, which are tried
// again at least once a second, are never older while the database refuses them.
const readyFresh = 2 * time.Second

// readyTry is how long a try may take. It does not end with the caller, who may be anybody: one
// that goes away must not make the others believe that the writer cannot commit.
const readyTry = 2 * time.Second

func (r *readiness) note(fault error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.at, r.fault = time.Now(), fault
}

// last returns the last outcome; known is false if it is too old.
func (r *readiness) last() (fault error, known bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.fault, time.Since(r.at) < readyFresh
}

// take waits for the turn. The caller gives it back.
func (r *readiness) take(ctx context.Context) (giveBack func(), err error) {
	select {
	case r.turn <- struct{}{}:
		return func() { <-r.turn }, nil
	case <-ctx.Done():
		return nil, translate("store.Ready", context.Cause(ctx))
	}
}

// use has tries go to the pool from now on; nil: there are none any more.
func (r *readiness) use(pool *pgxpool.Pool) {
	r.turn <- struct{}{}
	defer func() { <-r.turn }()
	r.stmt.release()
	if r.stmt.pool = pool; pool != nil {
		close(r.began)
	}
}

// Ready reports whether the writer can commit: by its last commit, or, if that is more than
// 2 s ago, by trying. It may be called often, and blocks for 2 s at most, or until ctx ends
// while another call tries. Unavailable: it cannot, or does not run; the message names the
// setting that is at fault, if one is.
func (w *Writer) Ready(ctx context.Context) error {
	giveBack, err := w.ready.take(ctx)
	if err != nil {
		return err
	}
	defer giveBack()
	if w.ready.stmt.pool == nil {
		return &chat.Error{Code: chat.Unavailable, Op: "store.Ready", Msg: "starting or stopping"}
	}
	before, known := w.ready.last()
	if known {
		return before
	}
	err = w.tryCommit(ctx)
	w.ready.note(err)
	switch log := w.opts.Logger.With("component", "writer"); {
	case err != nil && before == nil:
		log.Warn("not ready: the log cannot be written", "err", err)
	case err == nil && before != nil:
		log.Info("ready: the log can be written again")
	}
	return err
}

// Await waits for Run to begin, and then for as long as Open does until it can commit. It
// returns the errors of Open.
func (w *Writer) Await(ctx context.Context) error {
	select {
	case <-w.ready.began:
	case <-ctx.Done():
		return translate("store.Await", context.Cause(ctx))
	}
	return waitFor(ctx, 0, w.opts.Logger.With("component", "writer"), func(ctx context.Context) error {
		giveBack, err := w.ready.take(ctx)
		if err != nil {
			return err
		}
		defer giveBack()
		return w.tryCommit(ctx)
	})
}

// tryCommit runs the statement of the shards over no events, which fails where they would for
// want of a right, and commits. It also looks whether the database still meets our demands,
// which the shards' connections were asked for when they were made.
func (w *Writer) tryCommit(ctx context.Context) error {
	const op = "store.Ready"
	ctx, cancel := chat.WithDeadline(context.WithoutCancel(ctx), readyTry, op)
	defer cancel()
	s := &w.ready.stmt
	err := w.opts.Fence.Wait(ctx)
	if err == nil {
		used := s.conn != nil
		if err = s.try(ctx); err != nil && used { // a connection that was lost since says nothing of the next one
			err = s.try(ctx)
		}
	}
	if demanded := (*settingError)(nil); errors.As(err, &demanded) {
		return &chat.Error{Code: chat.Unavailable, Op: op, Field: "database", Msg: demanded.Error(), Err: err}
	}
	return translate(op, err)
}

// try is one try of tryCommit. A connection that fails is given up.
func (s *statement) try(ctx context.Context) error {
	err := s.acquire(ctx)
	if err == nil {
		err = readDemands(ctx, s.conn.Conn().PgConn(), &pgconn.Batch{})
	}
	if err == nil {
		_, err = s.insert(ctx, newGroup(), chat.Timestamp(time.Now()))
	}
	if err == nil {
		_, err = s.conn.Exec(ctx, flushSQL)
	}
	if err != nil {
		s.release()
	}
	return err
}
