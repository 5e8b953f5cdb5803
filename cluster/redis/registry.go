package redis

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/parleymq/parley/backoff"
	"github.com/parleymq/parley/chat"
)

const (
	entryTTL       = 30 * time.Minute // an entry that is not renewed ends
	renewEvery     = 10 * time.Minute // each entry is renewed
	batchUsers     = 5000             // entries written in one round trip; fewer while Redis is too slow for so many
	leastUsers     = 50               // but not fewer than this
	maxGone        = 100_000          // users who have gone and whose entry could not be removed yet; those of more end by themselves
	maxLocations   = 100              // nodes that Locate tells of one user
	maxLocating    = pool - 3         // look-ups at a time; heartbeat, send and register need connections too
	betweenRefills = 30 * time.Second // the least time between two times that everything is put there again for a missing entry
)

// registry is who is connected here, and what of it Redis may not know.
type registry struct {
	mu    sync.Mutex
	here  [256]map[chat.ID]struct{} // by the last byte of the id: a step of the slow renewal goes through one of them
	dirty map[chat.ID]struct{}      // whose entry may not be as it should be
	gone  int                       // of dirty, those who are not here any more
	redo  int                       // the buckets from here to 255 are to be put there again; 256: none

	wake    chan struct{} // one place: full means that register will look anyway
	locates chan struct{} // a place for each look-up under way
}

func (r *registry) init() {
	for i := range r.here {
		r.here[i] = map[chat.ID]struct{}{}
	}
	r.dirty = map[chat.ID]struct{}{}
	r.redo = len(r.here)
	r.wake = make(chan struct{}, 1)
	r.locates = make(chan struct{}, maxLocating)
}

func (r *registry) bucket(user chat.ID) map[chat.ID]struct{} { return r.here[user[len(user)-1]] }

// Register implements cluster.Link.
func (l *Link) Register(user chat.ID) {
	r := &l.reg
	r.mu.Lock()
	_, was := r.bucket(user)[user]
	if !was {
		r.bucket(user)[user] = struct{}{}
		if _, waits := r.dirty[user]; waits {
			r.gone--
		}
		r.dirty[user] = struct{}{}
	}
	r.mu.Unlock()
	if !was {
		signal(r.wake)
	}
}

// Unregister implements cluster.Link.
func (l *Link) Unregister(user chat.ID) {
	r := &l.reg
	r.mu.Lock()
	_, was := r.bucket(user)[user]
	if was {
		delete(r.bucket(user), user)
		if r.gone < maxGone {
			r.gone++
			r.dirty[user] = struct{}{}
		} else {
			delete(r.dirty, user)
		}
	}
	r.mu.Unlock()
	if was {
		signal(r.wake)
	}
}

// again has everything put there again.
func (r *registry) again() {
	r.mu.Lock()
	r.redo = 0
	r.mu.Unlock()
	signal(r.wake)
}

// entry is what one user's entry is to become.
type entry struct {
	user chat.ID
	here bool
	op   string // register, renew, unregister
}

// take takes the next entries to write, up to most, out of what is dirty.
func (r *registry) take(batch []entry, most int) []entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	for user := range r.dirty {
		if len(batch) >= most {
			break
		}
		delete(r.dirty, user)
		if _, here := r.bucket(user)[user]; here {
			batch = append(batch, entry{user, true, "register"})
		} else {
			r.gone--
			batch = append(batch, entry{user, false, "unregister"})
		}
	}
	// After a flush everybody, a bucket at a time.
	for len(batch) < most && r.redo < len(r.here) {
		for user := range r.here[r.redo] {
			if _, waits := r.dirty[user]; waits {
				continue
			}
			if len(batch) < most {
				batch = append(batch, entry{user, true, "register"})
			} else {
				r.dirty[user] = struct{}{}
			}
		}
		r.redo++
	}
	return batch
}

// renewals takes the entries of one bucket that are thought to be there.
func (r *registry) renewals(bucket int, batch []entry) []entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	if bucket >= r.redo {
		return batch // it is being put there again anyway
	}
	for user := range r.here[bucket] {
		if _, waits := r.dirty[user]; !waits {
			batch = append(batch, entry{user, true, "renew"})
		}
	}
	return batch
}

// back puts entries back that could not be written.
func (r *registry) back(batch []entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range batch {
		_, here := r.bucket(e.user)[e.user]
		_, waits := r.dirty[e.user]
		switch {
		case waits:
			continue
		case !here && r.gone >= maxGone:
			continue
		case !here:
			r.gone++
		}
		r.dirty[e.user] = struct{}{}
	}
}

func (r *registry) waiting() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := len(r.dirty)
	for _, bucket := range r.here[min(r.redo, len(r.here)):] {
		n += len(bucket)
	}
	return n
}

// register makes the registry say who is connected here, until ctx ends.
func (l *Link) register(ctx context.Context) {
	r := &l.reg
	wait := backoff.New(l.o.Beat/32, l.o.Beat)
	most := batchUsers
	renew := time.NewTicker(renewEvery / time.Duration(len(r.here)))
	defer renew.Stop()
	var batch []entry
	var refilled time.Time
	for bucket := 0; ; {
		batch = batch[:0]
		select {
		case <-r.wake:
		case <-renew.C:
			batch = r.renewals(bucket, batch)
			bucket = (bucket + 1) % len(r.here)
		case <-ctx.Done():
			return
		}
		for l.up.Load() && ctx.Err() == nil {
			batch = r.take(batch, most)
			if len(batch) == 0 {
				break
			}
			began := time.Now()
			missing, err := l.write(ctx, batch)
			l.metrics.waiting.Set(float64(r.waiting()))
			if missing && time.Since(refilled) > betweenRefills {
				refilled = time.Now()
				l.metrics.flushes.WithLabelValues("registry").Inc()
				l.log.Warn("Redis has lost entries; registering all users again", "redis", l.target.String())
				r.again()
				signal(l.changed)
			}
			if err != nil {
				signal(l.beatNow)
				most = max(most/2, leastUsers)
				wait.Sleep(ctx)
			} else {
				if len(batch) >= most {
					backoff.Sleep(ctx, time.Since(began)) // Redis has others to serve
				}
				wait.Reset()
				most = min(most+most/8, batchUsers) // slowly: finding out that it was too many takes a beat
			}
			batch = batch[:0]
		}
		r.back(batch) // renewals, while Redis is away
	}
}

// write makes the entries what they are to be. Those that fail are put back. missing: an
// entry that was to be renewed was not there.
func (l *Link) write(ctx context.Context, batch []entry) (missing bool, err error) {
	c := l.client.Load()
	if c == nil {
		l.reg.back(batch)
		return false, redis.ErrClosed
	}
	now := l.clock.Load().now()
	end := redis.Z{Score: float64(now + entryTTL.Milliseconds()), Member: l.o.Node.ID}
	ended := strconv.FormatInt(now, 10)
	pipe := c.Pipeline()
	cmds := make([]*redis.IntCmd, len(batch))
	for i, e := range batch {
		key := l.userKey(e.user)
		if e.here {
			cmds[i] = pipe.ZAdd(ctx, key, end)
			pipe.ZRemRangeByScore(ctx, key, "-inf", ended)
			pipe.Expire(ctx, key, entryTTL)
		} else {
			cmds[i] = pipe.ZRem(ctx, key, l.o.Node.ID)
		}
	}
	limited, cancel := context.WithTimeout(ctx, l.o.Beat)
	defer cancel()
	ran, err := exec(limited, pipe)
	var failed []entry
	for i, e := range batch {
		added, err := cmds[i].Result()
		if err != nil || !ran {
			failed = append(failed, e)
			l.metrics.registered.WithLabelValues("failed").Inc()
			continue
		}
		missing = missing || e.op == "renew" && added == 1
		l.metrics.registered.WithLabelValues(e.op).Inc()
	}
	l.reg.back(failed)
	return missing, err
}

func (l *Link) userKey(user chat.ID) string { return l.o.Prefix + "user:{" + user.String() + "}" }

// Locate implements cluster.Link. It takes a beat at most.
func (l *Link) Locate(ctx context.Context, users []chat.ID) ([][]string, error) {
	found := make([][]string, len(users))
	if len(users) == 0 {
		return found, nil
	}
	unavailable := func(err error) ([][]string, error) {
		l.metrics.unlocated.Inc()
		return found, &chat.Error{Code: chat.Unavailable, Op: "redis.Locate", Msg: "where users are connected is not known right now", Err: err}
	}
	ctx, cancel := context.WithTimeout(ctx, l.o.Beat)
	defer cancel()
	select {
	case l.reg.locates <- struct{}{}:
		defer func() { <-l.reg.locates }()
	case <-ctx.Done():
		return unavailable(ctx.Err())
	}
	c := l.client.Load()
	if c == nil {
		return unavailable(errors.New("Redis is unavailable"))
	}
	pipe := c.Pipeline()
	cmds := make([]*redis.StringSliceCmd, len(users))
	from := strconv.FormatInt(l.clock.Load().now(), 10)
	for i, user := range users {
		cmds[i] = pipe.ZRangeByScore(ctx, l.userKey(user), &redis.ZRangeBy{Min: from, Max: "+inf", Count: maxLocations})
	}
	var failed error
	if ran, err := exec(ctx, pipe); !ran {
		return unavailable(explain("redis.Locate", err))
	}
	for i, cmd := range cmds {
		ids, err := cmd.Result()
		if err != nil {
			failed = err
			continue
		}
		found[i] = make([]string, 0, len(ids))
		for _, id := range ids {
			if validID(id) {
				found[i] = append(found[i], id)
			}
		}
	}
	l.metrics.located.Add(float64(len(users)))
	if failed != nil {
		return unavailable(explain("redis.Locate", failed))
	}
	return found, nil
}
