package delivery

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/parleymq/parley/chat"
)

const (
	expireEvery = 30 * time.Second
	expireBatch = 1000
	saveBatch   = 5000   // cursors in one statement
	maxParts    = 50_000 // ends of connections that wait for the database; beyond that, some seconds of events are repeated
)

// Run saves the cursors of kept sessions, a batch at a time, retries what could not be
// saved at the end of a connection, and removes expired sessions, until ctx ends; then it
// saves once more.
//
// Cursors have no queue: a session is listed once however often its cursors move, nobody
// waits for them, and what could not be saved is saved with the next tick.
func (r *Router) Run(ctx context.Context) error {
	save, expire := time.NewTicker(r.every), time.NewTicker(expireEvery)
	defer save.Stop()
	defer expire.Stop()
	for {
		select {
		case <-save.C:
			r.saveAll(ctx)
		case <-expire.C:
			r.expireQueues(time.Now())
			r.expire(ctx)
		case <-ctx.Done():
			last, cancel := chat.WithDeadline(context.WithoutCancel(ctx), readTimeout, "delivery.save")
			defer cancel()
			r.saveAll(last)
			return nil
		}
	}
}

func (r *Router) noteDirty(s *Session) {
	r.dirtyMu.Lock()
	r.dirty = append(r.dirty, s)
	r.dirtyMu.Unlock()
}

// postpone keeps the end of a connection for Run, or the device's next connection,
// to save.
func (r *Router) postpone(key deviceKey, p chat.SessionPart) {
	r.dirtyMu.Lock()
	defer r.dirtyMu.Unlock()
	if have, ok := r.parts[key]; ok && have.Epoch >= p.Epoch {
		return
	} else if !ok && len(r.parts) >= maxParts {
		r.metrics.partsDropped.Inc()
		return
	}
	r.parts[key] = p
}

// save stores the end of a device's last connection, before its next one asks for the
// session: part, or if that is nil what was postponed. The caller holds the device's lock
// in taking, so that nobody asks meanwhile.
func (r *Router) save(ctx context.Context, key deviceKey, part *chat.SessionPart) error {
	r.dirtyMu.Lock()
	if late, ok := r.parts[key]; ok {
		delete(r.parts, key)
		if part == nil {
			part = &late
		}
	}
	r.dirtyMu.Unlock()
	if part == nil {
		return nil
	}
	err := r.sessions.PartSession(ctx, *part)
	if err == nil || chat.CodeOf(err) == chat.Conflict {
		return nil
	}
	r.postpone(key, *part)
	return err
}

// saveParts stores the postponed ends of connections, as many as there is time for, except
// those that the device's next connection is about to save.
func (r *Router) saveParts(ctx context.Context) error {
	r.dirtyMu.Lock()
	keys := slices.Collect(maps.Keys(r.parts))
	r.dirtyMu.Unlock()
	ctx, cancel := chat.WithDeadline(ctx, readTimeout, "delivery.saveParts")
	defer cancel()
	for _, key := range keys {
		unlock, ok := r.taking.tryLock(key)
		if !ok {
			continue
		}
		err := r.save(ctx, key, nil)
		unlock()
		if err != nil {
			return err
		}
	}
	return nil
}

// saveAll stores every cursor that has moved since the last time.
func (r *Router) saveAll(ctx context.Context) {
	if err := r.saveParts(ctx); err != nil {
		r.metrics.failures.Inc()
		r.logger.Warn("ends of connections could not be saved; trying again", "err", err)
	}
	r.dirtyMu.Lock()
	dirty := r.dirty
	r.dirty = nil
	r.dirtyMu.Unlock()
	for len(dirty) > 0 {
		dirty = r.saveSome(ctx, dirty)
	}
	if r.receipts != nil {
		r.saveDelivered(ctx)
	}
}

// saveSome stores one batch of cursors and returns the sessions that are left.
func (r *Router) saveSome(ctx context.Context, dirty []*Session) []*Session {
	var updates []chat.CursorUpdate
	var nexts []chat.PacketIDUpdate
	var batch []*Session
	for len(dirty) > 0 && len(updates) < saveBatch {
		u, next := dirty[0].takeDirty()
		batch, dirty = append(batch, dirty[0]), dirty[1:]
		updates = append(updates, u...)
		if !next.SessionID.IsZero() {
			nexts = append(nexts, next)
		}
	}
	if len(updates) == 0 && len(nexts) == 0 {
		return dirty
	}
	start := time.Now()
	ctx, cancel := chat.WithDeadline(ctx, readTimeout, "delivery.save")
	defer cancel()
	err := r.sessions.SaveCursors(ctx, updates, nexts)
	for _, s := range batch {
		s.saved(err)
	}
	if err != nil {
		r.metrics.failures.Inc()
		r.logger.Warn("session cursors could not be saved; trying again", "cursors", len(updates), "err", err)
		return dirty
	}
	r.metrics.cursors.Add(float64(len(updates)))
	r.metrics.save.Observe(time.Since(start).Seconds())
	return dirty
}

func (r *Router) expire(ctx context.Context) {
	ctx, cancel := chat.WithDeadline(ctx, expireEvery, "delivery.expire")
	defer cancel()
	for {
		n, err := r.sessions.DeleteExpiredSessions(ctx, time.Now(), expireBatch)
		if err != nil {
			r.logger.Warn("expired sessions could not be removed; trying again", "err", err)
			return
		}
		r.metrics.expired.Add(float64(n))
		if n < expireBatch {
			return
		}
	}
}

// keyedLock is a lock for each key. Unlike a mutex it may be held across I/O, and waiting
// for it ends with a context. The zero value is ready.
type keyedLock struct {
	held sync.Map // from deviceKey to chan struct{}, which is closed when the holder leaves
}

func (k *keyedLock) lock(ctx context.Context, key deviceKey) (unlock func(), err error) {
	for {
		unlock, holder := k.take(key)
		if unlock != nil {
			return unlock, nil
		}
		select {
		case <-holder:
		case <-ctx.Done():
			return nil, &chat.Error{Code: chat.Unavailable, Op: "delivery.Take", Msg: "another connection of this device is being made; try again", Err: context.Cause(ctx)}
		}
	}
}

// tryLock is lock if nobody holds the key.
func (k *keyedLock) tryLock(key deviceKey) (unlock func(), ok bool) {
	unlock, _ = k.take(key)
	return unlock, unlock != nil
}

// take returns the function that unlocks, or the channel of the holder to wait for.
func (k *keyedLock) take(key deviceKey) (unlock func(), holder chan struct{}) {
	mine := make(chan struct{})
	if holder, taken := k.held.LoadOrStore(key, mine); taken {
		return nil, holder.(chan struct{})
	}
	return func() {
		k.held.Delete(key)
		close(mine)
	}, nil
}
